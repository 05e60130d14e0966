"""`SlideAttention`: the attention over a slide's cells that tiles are drawn from, on one level or on two.

On two levels (F. Kong, R. Henao, CVPR 2022) the attention of a cell is that of its region times that of the cell among
the cells of its region. The first comes from the coarse view, the second from the fine view of the regions that are
drawn; of other regions nothing is read, and the log-probabilities of their cells are not known. Those that are known
do not sum to 1. The estimators need no more: the weights of a draw (`sampling/nested.py`) make up for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from wsi_ats.attention.blockwise import Read, cell_logits, surroundings
from wsi_ats.attention.networks import ConvAttention
from wsi_ats.cache import Key, TileCache
from wsi_ats.geometry import Box
from wsi_ats.lowres.prepare import PreparedSlide
from wsi_ats.lowres.regions import RegionGrid
from wsi_ats.lowres.view import View
from wsi_ats.prefetch import prefetch
from wsi_ats.sampling import Draws, draw, every_cell, smooth
from wsi_ats.sampling.growing import draw_growing
from wsi_ats.sampling.nested import opened, through, within_regions
from wsi_ats.slides.base import Slide

REGION_BYTES = 64 << 20
"""Memory for the pixels of regions between finding their tissue, their logits and the gradient."""

MOST_DRAWS = 64
"""Draws that are made, where regions are opened as it comes to them, to find as many different cells as asked for."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The tiles drawn from a slide's attention. Later draws from the same attention leave it as it is."""

    slide: PreparedSlide
    """The prepared slide, whose `tissue` are the cells that `log_p` is about and that `draws` index into."""
    log_p: Float[Tensor, " K"]
    """Log-attention of the K tissue cells, with its graph; with two levels, of the cells that are known."""
    draws: Draws
    """The N drawn cells, as positions in `slide.tissue`, and their weights."""
    log_opened: Float64[Tensor, " K"] | None = None
    """Log-weight of the region of each cell (`sampling.opened`), with two levels of attention; None with one."""
    owners: Int64[Tensor, " K"] | None = None
    """Region of each cell, with two levels of attention; None with one."""

    def of(self, draws: Draws) -> Drawn:
        """Other draws from this attention, as far as it is known here."""
        return replace(self, draws=draws)

    @property
    def cells(self) -> Int64[np.ndarray, " N"]:
        """Flat indices of the drawn cells in the slide's grid."""
        cells: np.ndarray = self.slide.tissue[self.draws.cells.cpu().numpy()]
        return cells


class SlideAttention:
    """Attention over the tissue cells of a slide, with its graph.

    slide: the prepared slide, whose `tissue` are the K cells. log_p (K,): their log-probabilities.
    """

    def __init__(self, slide: PreparedSlide, log_p: Float[Tensor, " K"]) -> None:
        self.slide = slide
        self.log_p = log_p

    def draw(self, n: int, sampler: str, generator: torch.Generator) -> Drawn:
        """Draw n cells, or all where there are no more. Raises `ConfigError` as `sampling.draw` does."""
        order = torch.from_numpy(self.slide.order).to(self.log_p.device)
        return Drawn(self.slide, self.log_p, draw(self.log_p, n, sampler, generator=generator, order=order))

    def draw_each(
        self, sizes: Sequence[int], sampler: str, generator: torch.Generator
    ) -> Iterator[list[Drawn]]:
        """So many cells drawn, ascending, one number after the other: the independent draws that make up each.

        Here that is one draw, which holds all cells of the one before.
        """
        order = torch.from_numpy(self.slide.order).to(self.log_p.device)
        for draws in draw_growing(self.log_p, sizes, sampler, generator=generator, order=order):
            yield [Drawn(self.slide, self.log_p, draws)]

    def all(self) -> Drawn:
        """The draw of every cell, with weight 1."""
        return Drawn(self.slide, self.log_p, every_cell(self.log_p))

    def exceeds(self, n: int) -> bool:
        """Whether the slide has more than n tissue cells."""
        return len(self.log_p) > n

    def by_cell(self) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
        """The slide's tissue cells, ascending, and their attention, which sums to 1."""
        return self.slide.tissue, self.log_p.detach().exp().float().cpu().numpy()


class TwoLevelAttention(SlideAttention):
    """Attention over regions and, as far as they were opened, over the cells inside them.

    coarse: the slide, whose cells are regions. log_a (R,): log-attention of its tissue regions. net: gives the logits
    of cells; None: uniform inside a region. tiles_per_region: cells drawn a region that is opened. cache: keeps the
    regions' pixels, for the gradient too. `slide` and `log_p` are of the cells that are known, those of opened
    regions: cells are added at their end, so that what was drawn before stays right.
    """

    def __init__(
        self,
        coarse: PreparedSlide,
        log_a: Float[Tensor, " R"],
        net: ConvAttention | None,
        *,
        smoothing: float = 0.0,
        tiles_per_region: float = 1.0,
        cache: TileCache | None = None,
    ) -> None:
        assert coarse.regions is not None
        self._coarse, self._log_a, self._regions = coarse, log_a, coarse.regions
        self._net, self._smoothing, self._tiles_per_region = net, smoothing, tiles_per_region
        cache = TileCache(REGION_BYTES) if cache is None else cache
        self._source = partial(_reading, coarse, coarse.regions, cache)
        self._known: set[int] = set()
        self._owners = torch.empty(0, dtype=torch.int64, device=log_a.device)
        none = np.empty(0, np.int64)
        super().__init__(
            replace(coarse, view=coarse.regions.frame, tissue=none, order=none, regions=None), log_a[:0]
        )

    def draw(self, n: int, sampler: str, generator: torch.Generator) -> Drawn:
        """Draw regions, open those that are not open yet, draw n cells in them."""
        order = torch.from_numpy(self._coarse.order).to(self._log_a.device)
        regions = draw(self._log_a, self._regions_for(n), sampler, generator=generator, order=order)
        self._open(regions.cells.tolist())
        log_opened = opened(self._owners, regions)
        order = torch.from_numpy(self.slide.order).to(self._log_a.device)
        log_q = within_regions(self.log_p, log_opened)
        inner = draw(log_q, n, sampler, generator=generator, order=order)
        return Drawn(self.slide, self.log_p, through(inner, log_opened), log_opened, self._owners)

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
        closed = len(self._log_a) - len(self._known)
        if len(self.log_p) + closed > n:  # no region is empty
            return True
        self._open(range(len(self._log_a)))
        return super().exceeds(n)

    def by_cell(self) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
        """All tissue cells, ascending, and their attention, which sums to 1.

        That of a region that was not opened is spread evenly over what the coarse view shows of tissue.
        """
        cells, values = super().by_cell()
        coarse = self._log_a.detach().exp().float().cpu().numpy()
        closed = [i for i in range(len(coarse)) if i not in self._known]
        shown = [self._shown(i) for i in closed]
        spread = [np.full(len(s), coarse[i] / len(s), np.float32) for i, s in zip(closed, shown, strict=True)]
        cells, values = np.concatenate([cells, *shown]), np.concatenate([values, *spread])
        order = np.argsort(cells)
        return cells[order], values[order]

    def _shown(self, position: int) -> Int64[np.ndarray, " n"]:
        assert isinstance(self._coarse.view, View)
        return self._regions.tissue_from_coarse(self._coarse.view, int(self._coarse.tissue[position]))

    def _regions_for(self, n: int) -> int:
        return math.ceil(n / self._tiles_per_region)

    def _open(self, positions: Iterable[int]) -> None:
        """Find the cells of regions, given by their positions in `log_a`, and their attention."""
        new = [i for i in positions if i not in self._known]
        if not new:
            return
        found = self._cells_of(new)
        counts = torch.tensor([len(cells) for cells in found])
        logits = torch.tensor_split(self._logits(np.concatenate(found)), counts.cumsum(0)[:-1])
        inside = torch.cat([smooth(torch.log_softmax(part, 0), self._smoothing) for part in logits])
        owners = torch.tensor(new).repeat_interleave(counts).to(self._log_a.device)
        self._known.update(new)
        self._owners = torch.cat([self._owners, owners])
        self.log_p = torch.cat([self.log_p, self._log_a[owners] + inside])
        cells = np.concatenate([self.slide.tissue, *found])
        self.slide = replace(self.slide, tissue=cells, order=self._regions.frame.grid.hilbert_order(cells))

    def _cells_of(self, positions: list[int]) -> list[Int64[np.ndarray, " n"]]:
        regions = [int(self._coarse.tissue[i]) for i in positions]
        with self._source() as read:
            return [
                self._regions.tissue_of(region, pixels)
                for region, pixels in prefetch(lambda region: self._pixels(read, region), regions)
            ]

    def _pixels(self, read: Read, region: int) -> np.ndarray:
        """Pixels of the region itself, cut from what the network sees of it: it is read once."""
        cells, stride = self._regions.cells(region), self._regions.frame.stride
        own = Box(*(stride * n for n in cells))
        box = own if self._net is None else surroundings(self._net, self._regions.frame.grid, cells)[0]
        left, top = own.x - box.x, own.y - box.y
        return read(box)[top : top + own.height, left : left + own.width]

    def _logits(self, cells: Int64[np.ndarray, " K"]) -> Float[Tensor, " K"]:
        frame = self._regions.frame
        if self._net is None:
            return self._log_a.new_zeros(len(cells))
        block = self._regions.side * frame.stride
        return cell_logits(self._net, self._source, frame.grid, cells, block, self.slide.stain_table)


@contextmanager
def _reading(slide: PreparedSlide, regions: RegionGrid, cache: TileCache) -> Iterator[Read]:
    """Gives the pixels of boxes of the fine view, from the cache where it has them: the slide is opened when needed."""
    made_by = ("view", slide.address, regions.frame)
    with ExitStack() as stack:
        slides: list[Slide] = []

        def read(box: Box) -> np.ndarray:
            def make(_: list[int]) -> np.ndarray:
                if not slides:
                    slides.append(stack.enter_context(slide.open()))
                return regions.frame.read(slides[0], box)[None]

            pixels: np.ndarray = cache.get_or_make([Key(made_by, box)], make)[0]
            return pixels

        yield read
