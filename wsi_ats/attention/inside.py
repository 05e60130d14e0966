"""`Inside`, what is inside the regions of a slide: their cells, and the logits of these, read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from wsi_ats.attention.blockwise import Read, cell_logits, surroundings
from wsi_ats.attention.networks import ConvAttention
from wsi_ats.cache import Key, TileCache
from wsi_ats.geometry import Box
from wsi_ats.lowres.prepare import PreparedSlide
from wsi_ats.lowres.view import View
from wsi_ats.prefetch import prefetch
from wsi_ats.slides.base import Slide


class Inside:
    """The inside of the regions of a slide.

    slide: prepared with two levels of attention. net: gives the logits of cells; None: uniform inside a region. cache:
    keeps the regions' pixels between finding their tissue, their logits and the gradient.
    """

    def __init__(self, slide: PreparedSlide, net: ConvAttention | None, cache: TileCache) -> None:
        assert slide.regions is not None
        self._slide, self._regions, self._net, self._cache = slide, slide.regions, net, cache

    def cells_of(self, regions: Sequence[int]) -> list[Int64[np.ndarray, " n"]]:
        """Tissue cells of each region, flat indices into the grid of the fine view."""
        with self._source() as read:
            return [
                self._regions.tissue_of(region, pixels)
                for region, pixels in prefetch(lambda region: self._pixels(read, region), regions)
            ]

    def shown(self, region: int) -> Int64[np.ndarray, " n"]:
        """Cells of a region that was not opened, as the coarse view shows its tissue."""
        assert isinstance(self._slide.view, View)
        return self._regions.tissue_from_coarse(self._slide.view, region)

    def logits(self, cells: Int64[np.ndarray, " K"], like: Tensor) -> Float[Tensor, " K"]:
        """Logits of cells, on the device of `like`."""
        frame = self._regions.frame
        if self._net is None:
            return like.new_zeros(len(cells))
        block = self._regions.side * frame.stride
        return cell_logits(self._net, self._source, frame.grid, cells, block, self._slide.stain_table)

    def _pixels(self, read: Read, region: int) -> np.ndarray:
        """Pixels of the region itself, cut from what the network sees of it: it is read once."""
        cells, stride = self._regions.cells(region), self._regions.frame.stride
        own = Box(*(stride * n for n in cells))
        box = own if self._net is None else surroundings(self._net, self._regions.frame.grid, cells)[0]
        left, top = own.x - box.x, own.y - box.y
        return read(box)[top : top + own.height, left : left + own.width]

    @contextmanager
    def _source(self) -> Iterator[Read]:
        """Gives the pixels of boxes of the fine view, from the cache where it has them: the slide is opened when
        needed."""
        frame = self._regions.frame
        made_by = ("view", self._slide.address, frame)
        with ExitStack() as stack:
            slides: list[Slide] = []

            def read(box: Box) -> np.ndarray:
                def make(_: list[int]) -> np.ndarray:
                    if not slides:
                        slides.append(stack.enter_context(self._slide.open()))
                    return frame.read(slides[0], box)[None]

                pixels: np.ndarray = self._cache.get_or_make([Key(made_by, box)], make)[0]
                return pixels

            yield read
