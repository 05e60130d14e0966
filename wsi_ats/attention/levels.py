"""`SlideAttention`: the attention over a slide's cells that tiles are drawn from, on one level or on two.

On two levels (F. Kong, R. Henao, CVPR 2022) the attention of a cell is that of its region times that of the cell among
the cells of its region. The first comes from the coarse view, the second from the fine view of the regions that are
drawn; of other regions nothing is read, and the log-probabilities of their cells are not known. Those that are known
do not sum to 1. The estimators need no more: the weights of a draw (`sampling/nested.py`) make up for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from wsi_ats.attention.inside import Inside
from wsi_ats.attention.networks import ConvAttention
from wsi_ats.cache import TileCache
from wsi_ats.lowres.patient import Prepared
from wsi_ats.sampling import Draws, draw, every_cell, smooth
from wsi_ats.sampling.growing import draw_growing
from wsi_ats.sampling.nested import opened, through, within_regions

REGION_BYTES = 64 << 20
"""Memory for the pixels of regions between finding their tissue, their logits and the gradient."""

MOST_DRAWS = 64
"""Draws that are made, where regions are opened as it comes to them, to find as many different cells as asked for."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The tiles drawn from a slide's attention. Later draws from the same attention leave it as it is."""

    slide: Prepared
    """The prepared slide or patient, whose `tissue` are the cells that `log_p` is about and that `draws` index into."""
    log_p: Float[Tensor, " K"]
    """Log-attention of the K tissue cells, with its graph; with two levels, of the cells that are known."""
    draws: Draws
    """The N drawn cells, as positions in `slide.tissue`, and their weights."""
    log_opened: Float64[Tensor, " K"] | None = None
    """Log-weight of the region of each cell (`sampling.opened`), with two levels of attention; None with one."""
    owners: Int64[Tensor, " K"] | None = None
    """Region of each cell, with two levels of attention; None with one."""
    log_each: Float[Tensor, "M K"] | None = None
    """Log-attention of each of M models whose mean `log_p` is (`attention/mixed.py`); None where there is one."""

    def of(self, draws: Draws) -> Drawn:
        """Other draws from this attention, as far as it is known here."""
        return replace(self, draws=draws)

    @property
    def cells(self) -> Int64[np.ndarray, " N"]:
        """Flat indices of the drawn cells in the slide's grid, or in those of a patient's slides (`slide.locate`)."""
        cells: np.ndarray = self.slide.tissue[self.draws.cells.cpu().numpy()]
        return cells


class SlideAttention:
    """Attention over the tissue cells of a slide, or of all slides of a patient, with its graph.

    slide: the prepared slide or patient, whose `tissue` are the K cells. log_p (K,): their log-probabilities. log_each:
    those of each of M models whose mean it is.
    """

    def __init__(
        self, slide: Prepared, log_p: Float[Tensor, " K"], log_each: Float[Tensor, "M K"] | None = None
    ) -> None:
        self.slide = slide
        self.log_p = log_p
        self.log_each = log_each

    def draw(self, n: int, sampler: str, generator: torch.Generator) -> Drawn:
        """Draw n cells, or all where there are no more. Raises `ConfigError` as `sampling.draw` does."""
        order = torch.from_numpy(self.slide.order).to(self.log_p.device)
        return self._drawn(draw(self.log_p, n, sampler, generator=generator, order=order))

    def draw_each(
        self, sizes: Sequence[int], sampler: str, generator: torch.Generator
    ) -> Iterator[list[Drawn]]:
        """So many cells drawn, ascending, one number after the other: the independent draws that make up each.

        Here that is one draw, which holds all cells of the one before.
        """
        order = torch.from_numpy(self.slide.order).to(self.log_p.device)
        for draws in draw_growing(self.log_p, sizes, sampler, generator=generator, order=order):
            yield [self._drawn(draws)]

    def all(self) -> Drawn:
        """The draw of every cell, with weight 1."""
        return self._drawn(every_cell(self.log_p))

    def exceeds(self, n: int) -> bool:
        """Whether the slide has more than n tissue cells."""
        return len(self.log_p) > n

    def by_cell(self) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
        """The slide's tissue cells, ascending, and their attention, which sums to 1."""
        return self.slide.tissue, self.log_p.detach().exp().float().cpu().numpy()

    def _drawn(self, draws: Draws) -> Drawn:
        return Drawn(self.slide, self.log_p, draws, log_each=self.log_each)


class TwoLevelAttention(SlideAttention):
    """Attention over regions and, as far as they were opened, over the cells inside them.

    coarse: the slide or patient, whose cells are regions. log_a (R,): log-attention of its tissue regions. net: gives
    the logits of cells; None: uniform inside a region. tiles_per_region: cells drawn a region that is opened. cache:
    keeps the regions' pixels, for the gradient too. `slide` and `log_p` are of the cells that are known, those of
    opened regions: cells are added at their end, so that what was drawn before stays right.
    """

    def __init__(
        self,
        coarse: Prepared,
        log_a: Float[Tensor, " R"],
        net: ConvAttention | None,
        *,
        smoothing: float = 0.0,
        tiles_per_region: float = 1.0,
        cache: TileCache | None = None,
    ) -> None:
        self.coarse, self.log_a = coarse, log_a
        self._owner, self._region = coarse.locate(coarse.tissue)
        self._smoothing, self.tiles_per_region = smoothing, tiles_per_region
        self.cache = TileCache(REGION_BYTES) if cache is None else cache
        self._inside = [Inside(slide, net, self.cache) for slide in coarse.slides]
        self._known: set[int] = set()
        self._owners = torch.empty(0, dtype=torch.int64, device=log_a.device)
        super().__init__(coarse.fine, log_a[:0])

    def draw(self, n: int, sampler: str, generator: torch.Generator) -> Drawn:
        """Draw regions, open those that are not open yet, draw n cells in them."""
        order = torch.from_numpy(self.coarse.order).to(self.log_a.device)
        regions = draw(self.log_a, self._regions_for(n), sampler, generator=generator, order=order)
        self._open(regions.cells.tolist())
        log_opened = opened(self._owners, regions)
        order = torch.from_numpy(self.slide.order).to(self.log_a.device)
        log_q = within_regions(self.log_p, log_opened)
        inner = draw(log_q, n, sampler, generator=generator, order=order)
        drawn = self._drawn(through(inner, log_opened))
        return replace(drawn, log_opened=log_opened, owners=self._owners)

    def draw_each(
        self, sizes: Sequence[int], sampler: str, generator: torch.Generator
    ) -> Iterator[list[Drawn]]:
        """So many cells drawn at most, ascending, one number after the other: the independent draws that make up each.

        Each number adds draws to those before, so that regions are opened as it comes to them. What two draws share
        leaves room for another one: where attention is on a few cells, hardly any are new, and `MOST_DRAWS` is the end.
        """
        drawn: list[Drawn] = []
        found: set[int] = set()
        for n in sizes:
            for _ in range(MOST_DRAWS):
                if len(found) < n:
                    drawn.append(self.draw(n - len(found), sampler, generator))
                    found.update(drawn[-1].draws.cells.tolist())
            yield list(drawn)

    def exceeds(self, n: int) -> bool:
        """Whether the slide has more than n tissue cells; to know, all regions are opened where that many cells are
        possible: never more regions than n."""
        closed = len(self.log_a) - len(self._known)
        if len(self.log_p) + closed > n:  # no region is empty
            return True
        self._open(range(len(self.log_a)))
        return super().exceeds(n)

    def by_cell(self) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
        """All tissue cells, ascending, and their attention, which sums to 1.

        That of a region that was not opened is spread evenly over what the coarse view shows of tissue.
        """
        cells, values = super().by_cell()
        coarse = self.log_a.detach().exp().float().cpu().numpy()
        closed = [i for i in range(len(coarse)) if i not in self._known]
        shown = [self._shown(i) for i in closed]
        spread = [np.full(len(s), coarse[i] / len(s), np.float32) for i, s in zip(closed, shown, strict=True)]
        cells, values = np.concatenate([cells, *shown]), np.concatenate([values, *spread])
        order = np.argsort(cells)
        return cells[order], values[order]

    def _shown(self, position: int) -> Int64[np.ndarray, " n"]:
        """Cells of a region that was not opened, as far as the coarse view shows them."""
        number = int(self._owner[position])
        shown = self._inside[number].shown(int(self._region[position]))
        return np.asarray(self.slide.first_cells[number] + shown, np.int64)

    def _regions_for(self, n: int) -> int:
        return math.ceil(n / self.tiles_per_region)

    def _open(self, positions: Iterable[int]) -> None:
        """Find the cells of regions, given by their positions in `log_a`, and their attention."""
        new = [i for i in positions if i not in self._known]
        if not new:
            return
        found = self._cells_of(np.array(new, np.int64))
        counts = torch.tensor([len(cells) for cells in found])
        owners = torch.tensor(new).repeat_interleave(counts).to(self.log_a.device)
        self._attend_to(np.concatenate(found), counts, owners)
        self._known.update(new)
        self._owners = torch.cat([self._owners, owners])
        self.slide = self.slide.with_cells(np.concatenate([self.slide.tissue, *found]))

    def _attend_to(
        self, cells: Int64[np.ndarray, " K"], counts: Int64[Tensor, " r"], owners: Int64[Tensor, " K"]
    ) -> None:
        """Add the log-attention of all cells of r regions, so many in each, which is the owner of its cells."""
        self.log_p = torch.cat([self.log_p, self.of_cells(cells, counts, owners)])

    def of_cells(
        self, cells: Int64[np.ndarray, " K"], counts: Int64[Tensor, " r"], owners: Int64[Tensor, " K"]
    ) -> Float[Tensor, " K"]:
        """Log-attention of all cells of r regions, by their place in `log_a`, likewise."""
        logits = torch.tensor_split(self._logits(cells), counts.cumsum(0)[:-1])
        inside = torch.cat([smooth(torch.log_softmax(part, 0), self._smoothing) for part in logits])
        return self.log_a[owners] + inside

    def _cells_of(self, positions: Int64[np.ndarray, " r"]) -> list[Int64[np.ndarray, " n"]]:
        """Cells of the regions at these positions, each as the patient's fine grids count them."""
        found: dict[int, Int64[np.ndarray, " n"]] = {}
        for number, inside in enumerate(self._inside):
            mine = positions[self._owner[positions] == number]
            cells = inside.cells_of(self._region[mine].tolist()) if len(mine) else []
            first = self.slide.first_cells[number]
            found |= {i: first + some for i, some in zip(mine.tolist(), cells, strict=True)}
        return [found[i] for i in positions.tolist()]

    def _logits(self, cells: Int64[np.ndarray, " K"]) -> Float[Tensor, " K"]:
        owners, local = self.slide.locate(cells)
        parts = [np.flatnonzero(owners == number) for number in range(len(self._inside))]
        pairs = zip(self._inside, parts, strict=True)
        logits = torch.cat([inside.logits(local[mine], self.log_a) for inside, mine in pairs if len(mine)])
        back = torch.from_numpy(np.argsort(np.concatenate(parts))).to(logits.device)
        return logits[back]
