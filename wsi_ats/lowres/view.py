"""The low-resolution view: the whole slide at a few micrometres per pixel, cut to the attention grid.

A view that is small is an array (`View`); of a large one only the frame is kept (`LazyView`) and its pixels come
from the slide, box by box, whenever they are needed. Both give the same pixels, whatever boxes are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wsi_ats.errors import ConfigError, MissingMppError, SlideError
from wsi_ats.geometry import MATCH, Box, Grid, Level, Pair
from wsi_ats.slides.base import Slide
from wsi_ats.slides.resample import matching_level

BLOCK = 2048
"""Side, in px of the level that is read, of the blocks that a view is put together from."""

STEPS = 1024
"""Steps per level px: where a view is resampled, its pixels are a whole number of 1 / STEPS level px wide. The
resampling filter takes its positions as 32-bit floats; so they are exact, and a pixel is the same in whatever box it
is read."""

Read = Callable[[Box], UInt8[np.ndarray, "h w 3"]]
"""Pixels of a box, in view px, that lies inside a view."""


@dataclass(frozen=True, slots=True)
class LazyView:
    """A slide at low resolution, of which no pixel is in memory.

    The view is `shape` px large, (rows * stride, cols * stride); stride x stride px are a cell of the grid, and what
    lies beyond the slide is background. downsample: level-0 px per view pixel (x, y), so that
    grid.cell == stride * downsample.
    """

    grid: Grid
    stride: int
    downsample: Pair

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the view in px."""
        return self.grid.rows * self.stride, self.grid.cols * self.stride

    @property
    def frame(self) -> LazyView:
        """The view without pixels: this one."""
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of the view's pixels in memory."""
        return 0

    def read(self, slide: Slide, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a box of the view, from the slide that this is a view of.

        Memory stays at the box and a few blocks of the level even where that level is the full slide. Raises
        SlideError where the slide cannot be read.
        """
        level = slide.pyramid.nearest_finer(self.downsample)
        scale = (self.downsample[0] / level.downsample[0], self.downsample[1] / level.downsample[1])
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        for part in boxes(
            (box.height, box.width), (max(1, int(BLOCK / scale[1])), max(1, int(BLOCK / scale[0])))
        ):
            target = pixels[part.y : part.y + part.height, part.x : part.x + part.width]
            place = Box(box.x + part.x, box.y + part.y, part.width, part.height)
            if self._is(level):
                corner = level.location_of(np.asarray([[place.x, place.y]], np.int64))[0]
                target[:] = slide.read((corner[0], corner[1]), (place.width, place.height), level.index)
            else:
                target[:] = _resampled(slide, level, place, scale)
        return pixels

    def _is(self, level: Level) -> bool:
        """Whether its pixels are those of `level`, to the far end: a scale alike is not enough on a wide slide."""
        scales = zip(self.downsample, level.downsample, reversed(self.shape), strict=True)
        return all(abs(mine / its - 1) <= min(MATCH, 0.5 / n) for mine, its, n in scales)

    def load(self, slide: Slide) -> View:
        """The view with its pixels in memory. Raises SlideError where the slide cannot be read."""
        height, width = self.shape
        return View(self.read(slide, Box(0, 0, width, height)), self.grid, self.stride, self.downsample)


@dataclass(frozen=True, slots=True)
class View:
    """A slide at low resolution, in memory: a `LazyView` with its pixels, (*shape, 3) uint8."""

    pixels: UInt8[np.ndarray, "h w 3"]
    grid: Grid
    stride: int
    downsample: Pair

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the view in px."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def frame(self) -> LazyView:
        """The view without its pixels."""
        return LazyView(self.grid, self.stride, self.downsample)

    @property
    def nbytes(self) -> int:
        """Bytes of the view's pixels in memory."""
        return self.pixels.nbytes

    def crop(self, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a box of the view; not copied."""
        return self.pixels[box.y : box.y + box.height, box.x : box.x + box.width]


def boxes(shape: tuple[int, int], side: int | tuple[int, int]) -> Iterator[Box]:
    """Boxes of side x side px, or of (height, width), less at the far edges, that cover `shape` (h, w), row by row."""
    height, width = shape
    down, right = (side, side) if isinstance(side, int) else side
    for y in range(0, height, down):
        for x in range(0, width, right):
            yield Box(x, y, min(right, width - x), min(down, height - y))


def resolve_downsample(
    slide: Slide, *, mpp: float | int | None, downsample: float | int | None, setting: str
) -> tuple[float, float]:
    """Level-0 px per pixel (x, y) for a scale given as `mpp` or as `downsample`; exactly one of them is.

    setting: "view" or "tile", for messages: the settings are then view.mpp and view.downsample.
    Raises MissingMppError where the slide does not know its mpp, SlideError where it has no such fine pixels.
    """
    if (mpp is None) == (downsample is None):
        raise ConfigError(
            f"{setting}.mpp={mpp} and {setting}.downsample={downsample}: exactly one of them must be set"
        )
    if downsample is not None:
        wanted = (float(downsample), float(downsample))
    elif mpp is not None and slide.mpp_xy is not None:
        wanted = (mpp / slide.mpp_xy[0], mpp / slide.mpp_xy[1])
    else:
        raise MissingMppError(
            f"slide {slide.name!r} does not say its micrometres per pixel, which {setting}.mpp={mpp} needs"
            f"{slide.mpp_doubts}",
            f"add an `mpp` column to the manifest, give --mpp, or use a model trained with {setting}.downsample "
            f"instead of {setting}.mpp (train --set {setting}.downsample=...)",
        )
    if not min(wanted) >= 1 - MATCH:
        asked = f"{setting}.downsample={downsample}" if mpp is None else f"{setting}.mpp={mpp}"
        own = "mpp unknown" if slide.mpp is None else f"{slide.mpp:.4g} um/px, {slide.mpp_source}"
        raise SlideError(
            f"slide {slide.name!r} ({own}) has no pixels as fine as {asked} asks for{slide.mpp_doubts}",
            f"choose a coarser {setting}.mpp, or check the slide's mpp: wrong by 2.54, it is of inches taken for "
            "centimetres or the other way round, by 2, 4 or 16 that of another level (--override-mpp)",
        )
    return max(wanted[0], 1.0), max(wanted[1], 1.0)


def frame_view(slide: Slide, downsample: Pair, stride: int) -> LazyView:
    """The view of a slide at `downsample` level-0 px per pixel (x, y), for cells of stride x stride px; no pixels.

    Where a level matches within 1 %, the view takes that level's pixels and its exact downsample. Otherwise it is
    resampled from the nearest finer level, at a scale that is `downsample` within 1 / (2 * STEPS) level px.

    >>> from wsi_ats import open_slide
    >>> slide = open_slide(np.full((700, 1000, 3), 240, np.uint8))
    >>> frame = frame_view(slide, downsample=(8, 8), stride=16)
    >>> frame.shape, frame.grid  # whole cells: a little more than the slide's 87.5 x 125 view px
    ((96, 128), Grid(rows=6, cols=8, cell=(128.0, 128.0)))
    """
    level = matching_level(slide.pyramid, downsample)
    if level is not None:
        downsample = level.downsample
    else:
        finer = slide.pyramid.nearest_finer(downsample).downsample
        x, y = (round(d / f * STEPS) / STEPS * f for d, f in zip(downsample, finer, strict=True))
        downsample = (x, y)
    grid = Grid.covering(slide.pyramid.size, (stride * downsample[0], stride * downsample[1]))
    return LazyView(grid, stride, downsample)


def read_view(slide: Slide, downsample: Pair, stride: int) -> View:
    """The view of a slide as an array: `frame_view` with its pixels. Raises SlideError where they cannot be read.

    >>> from wsi_ats import open_slide
    >>> view = read_view(open_slide(np.full((700, 1000, 3), 240, np.uint8)), downsample=(8, 8), stride=16)
    >>> view.pixels.shape, view.pixels[1, 1].tolist(), view.pixels[-1, -1].tolist()  # slide, and beyond it
    ((96, 128, 3), [240, 240, 240], [255, 255, 255])
    """
    return frame_view(slide, downsample, stride).load(slide)


def _resampled(
    slide: Slide, level: Level, box: Box, scale: tuple[float, float]
) -> UInt8[np.ndarray, "h w 3"]:
    """A box of a view whose pixels are `scale` px of `level` wide and high.

    As `slides.resample` does it, but with the axes in a fixed order: Pillow chooses one by the shape of the box and
    rounds in between, so that a pixel could differ by 1 with the box it is read in.
    """
    starts = (box.x * scale[0], box.y * scale[1])
    # What the filter reaches beyond the box, a px for the fraction at its start and one for that at its end.
    margins = [math.ceil(max(s, 1.0)) + 1 for s in scale]
    origin = [math.floor(start) - margin for start, margin in zip(starts, margins, strict=True)]
    spans = (box.width * scale[0], box.height * scale[1])
    size = [math.ceil(span) + 1 + 2 * margin for span, margin in zip(spans, margins, strict=True)]
    corner = level.location_of(np.asarray([origin], np.int64))[0]
    picture = Image.fromarray(slide.read((corner[0], corner[1]), (size[0], size[1]), level.index))
    left, top = starts[0] - origin[0], starts[1] - origin[1]
    # BILINEAR is a triangle two view pixels wide: no aliasing when shrinking, no ringing.
    across = picture.resize(
        (box.width, size[1]), Image.Resampling.BILINEAR, (left, 0, left + spans[0], size[1])
    )
    both = across.resize(
        (box.width, box.height), Image.Resampling.BILINEAR, (0, top, box.width, top + spans[1])
    )
    return np.asarray(both)
