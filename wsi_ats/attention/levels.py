"""What tiles are drawn from: the attention over a slide's cells, on one level or on two.

On two levels (F. Kong, R. Henao, CVPR 2022) the attention of a cell is that of its region times that of the cell among
the cells of its region. The first comes from the coarse view, the second from the fine view of the regions that are
drawn; of other regions nothing is read, and the log-probabilities of their cells are not known. Those that are known
do not sum to 1. The estimators need no more: the weights of a draw (`sampling/nested.py`) make up for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from wsi_ats.attention.blockwise import Read, cell_logits, surroundings
from wsi_ats.attention.networks import ConvAttention
from wsi_ats.cache import Memory
from wsi_ats.geometry import Box
from wsi_ats.lowres.prepare import Scene
from wsi_ats.lowres.regions import Inside
from wsi_ats.lowres.view import View
from wsi_ats.prefetch import read_ahead
from wsi_ats.sampling import Draws, draw, smooth
from wsi_ats.sampling.nested import opened, through
from wsi_ats.sampling.nested import proposal as within
from wsi_ats.slides.base import Slide

REGION_BYTES = 64 << 20
"""Memory for the pixels of regions between finding their tissue, their logits and the gradient."""


class Proposal:
    """Attention over the tissue cells of a scene, with its graph."""

    def __init__(self, scene: Scene, log_p: Float[Tensor, " K"]) -> None:
        self.scene = scene
        """Its `tissue` are the cells that `log_p` is about and draws index into."""
        self.log_p = log_p

    @property
    def log_opened(self) -> Float64[Tensor, " K"] | None:
        """Log-weights of the regions of the cells in the last draw (`sampling.opened`); None on one level."""
        return None

    def draw(self, n: int, sampler: str, generator: torch.Generator) -> Draws:
        """Draw n cells. May add cells to the end of `log_p`; earlier draws stay right."""
        order = torch.from_numpy(self.scene.order).to(self.log_p.device)
        return draw(self.log_p, n, sampler, generator=generator, order=order)

    def exceeds(self, n: int) -> bool:
        """Whether the slide has more than n tissue cells."""
        return len(self.log_p) > n

    def exhausted_by(self, n: int) -> bool:
        """Whether a draw of n cells takes every cell."""
        return not self.exceeds(n)

    def attention(self) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
        """The slide's tissue cells, ascending, and their attention, which sums to 1."""
        return self.scene.tissue, self.log_p.detach().exp().float().cpu().numpy()


class NestedProposal(Proposal):
    """Attention over regions and, as far as they were opened, over the cells inside them.

    scene: of the coarse view. log_a (R,): of its tissue regions. net: gives the logits of cells; None: even inside a
    region. each: tiles drawn a region that is opened. memory: keeps the regions' pixels, for the gradient too.
    """

    def __init__(
        self,
        scene: Scene,
        log_a: Float[Tensor, " R"],
        net: ConvAttention | None,
        *,
        smoothing: float = 0.0,
        each: float = 1.0,
        memory: Memory | None = None,
    ) -> None:
        assert scene.inside is not None
        self._coarse, self._log_a, self._inside = scene, log_a, scene.inside
        self._net, self._smoothing, self._each = net, smoothing, each
        self._source = partial(
            _reading, scene, scene.inside, Memory(REGION_BYTES) if memory is None else memory
        )
        self._known: set[int] = set()
        self._owners = torch.empty(0, dtype=torch.int64, device=log_a.device)
        self._log_opened: Float64[Tensor, " K"] | None = None
        none = np.empty(0, np.int64)
        super().__init__(
            replace(scene, view=scene.inside.frame, tissue=none, order=none, inside=None), log_a[:0]
        )

    @property
    def log_opened(self) -> Float64[Tensor, " K"] | None:
        """Log-weights (K,) of the regions in the last draw, -inf for cells of those that were not in it."""
        return self._log_opened

    def draw(self, n: int, sampler: str, generator: torch.Generator) -> Draws:
        """Draw regions, open those that are not open yet, draw n cells in them."""
        order = torch.from_numpy(self._coarse.order).to(self._log_a.device)
        regions = draw(self._log_a, self._regions_for(n), sampler, generator=generator, order=order)
        self._open(regions.cells.tolist())
        self._log_opened = opened(self._owners, regions)
        order = torch.from_numpy(self.scene.order).to(self._log_a.device)
        log_q = within(self.log_p, self._log_opened)
        return through(draw(log_q, n, sampler, generator=generator, order=order), self._log_opened)

    def exceeds(self, n: int) -> bool:
        """Whether the slide has more than n tissue cells; to know, all regions are opened where that many cells are
        possible: never more regions than n."""
        closed = len(self._log_a) - len(self._known)
        if len(self.log_p) + closed > n:  # no region is empty
            return True
        self._open(range(len(self._log_a)))
        return super().exceeds(n)

    def exhausted_by(self, n: int) -> bool:
        """Whether a draw of n cells takes every cell: it must take every region, too."""
        return self._regions_for(n) >= len(self._log_a) and super().exhausted_by(n)

    def attention(self) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]:
        """The attention of a region that was not opened is spread evenly over what the coarse view shows of tissue."""
        cells, values = super().attention()
        coarse = self._log_a.detach().exp().float().cpu().numpy()
        closed = [i for i in range(len(coarse)) if i not in self._known]
        believed = [self._believed(i) for i in closed]
        spread = [
            np.full(len(b), coarse[i] / len(b), np.float32) for i, b in zip(closed, believed, strict=True)
        ]
        cells, values = np.concatenate([cells, *believed]), np.concatenate([values, *spread])
        order = np.argsort(cells)
        return cells[order], values[order]

    def _believed(self, position: int) -> Int64[np.ndarray, " n"]:
        assert isinstance(self._coarse.view, View)
        return self._inside.believed(self._coarse.view, int(self._coarse.tissue[position]))

    def _regions_for(self, n: int) -> int:
        return math.ceil(n / self._each)

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
        cells = np.concatenate([self.scene.tissue, *found])
        self.scene = replace(self.scene, tissue=cells, order=self._inside.frame.grid.hilbert_order(cells))

    def _cells_of(self, positions: list[int]) -> list[Int64[np.ndarray, " n"]]:
        regions = [int(self._coarse.tissue[i]) for i in positions]
        with self._source() as read:
            return [
                self._inside.tissue_of(region, pixels)
                for region, pixels in read_ahead(lambda region: self._pixels(read, region), regions)
            ]

    def _pixels(self, read: Read, region: int) -> np.ndarray:
        """Those of the region itself, from what the network sees of it: it is read once."""
        cells, stride = self._inside.cells(region), self._inside.frame.stride
        own = Box(*(stride * n for n in cells))
        box = own if self._net is None else surroundings(self._net, self._inside.frame.grid, cells)[0]
        left, top = own.x - box.x, own.y - box.y
        return read(box)[top : top + own.height, left : left + own.width]

    def _logits(self, cells: Int64[np.ndarray, " K"]) -> Float[Tensor, " K"]:
        frame = self._inside.frame
        if self._net is None:
            return self._log_a.new_zeros(len(cells))
        block = self._inside.side * frame.stride
        return cell_logits(self._net, self._source, frame.grid, cells, block, self.scene.tones)


@contextmanager
def _reading(scene: Scene, inside: Inside, memory: Memory) -> Iterator[Read]:
    """Gives the pixels of boxes of the fine view, from memory where it has them: the slide is opened when needed."""
    with ExitStack() as stack:
        slides: list[Slide] = []

        def read(box: Box) -> np.ndarray:
            def make(_: list[int]) -> np.ndarray:
                if not slides:
                    slides.append(stack.enter_context(scene.open()))
                return inside.frame.read(slides[0], box)[None]

            pixels: np.ndarray = memory.recall([(scene.address, box)], make)[0]
            return pixels

        yield read
