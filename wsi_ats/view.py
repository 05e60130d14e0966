"""The low-resolution view: the whole slide at a few micrometres per pixel, cut to the attention grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from wsi_ats.errors import ConfigError, MissingMppError, SlideError
from wsi_ats.geometry import MATCH, Grid, Pair
from wsi_ats.slides.base import Slide
from wsi_ats.slides.resample import matching_level, read_boxes

BLOCK = 2048
"""Side, in px of the level that is read, of the blocks that a view is put together from."""


@dataclass(frozen=True, slots=True)
class View:
    """A slide at low resolution.

    pixels: (rows * stride, cols * stride, 3) uint8; stride x stride of them are a cell of the grid, and what
    lies beyond the slide is background. downsample: level-0 px per view pixel (x, y), so that
    grid.cell == stride * downsample.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    grid: Grid
    stride: int
    downsample: Pair


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
            f"slide {slide.name!r} does not say its micrometres per pixel, which {setting}.mpp={mpp} needs",
            f"add an `mpp` column to the manifest, give --mpp, or use a model trained with {setting}.downsample "
            f"instead of {setting}.mpp (train --set {setting}.downsample=...)",
        )
    if not min(wanted) >= 1 - MATCH:
        asked = f"{setting}.downsample={downsample}" if mpp is None else f"{setting}.mpp={mpp}"
        raise SlideError(
            f"slide {slide.name!r} ({slide.mpp} um/px) has no pixels as fine as {asked} asks for",
            f"choose a coarser {setting}.mpp, or check the slide's mpp",
        )
    return max(wanted[0], 1.0), max(wanted[1], 1.0)


def read_view(slide: Slide, downsample: Pair, stride: int) -> View:
    """Read the view of a slide at `downsample` level-0 px per pixel (x, y), for cells of stride x stride px.

    Where a level matches within 1 %, the view takes that level's pixels and its exact downsample. Otherwise
    it is resampled from the nearest finer level, read in blocks: memory stays at the view and a few blocks
    even where that level is the full slide.
    """
    level = matching_level(slide.pyramid, downsample)
    if level is not None:
        downsample = level.downsample
    grid = Grid.covering(slide.pyramid.size, (stride * downsample[0], stride * downsample[1]))
    width, height = grid.cols * stride, grid.rows * stride
    finer = slide.pyramid.nearest_finer(downsample).downsample
    lefts, block_w = _blocks(width, downsample[0] / finer[0])
    tops, block_h = _blocks(height, downsample[1] / finer[1])
    pixels = np.empty((height, width, 3), np.uint8)
    for top in tops:
        corners = np.stack([lefts, np.full_like(lefts, top)], axis=1) * np.asarray(downsample)
        row = pixels[top : top + block_h]
        for left, block in zip(
            lefts, read_boxes(slide, corners, (block_w, block_h), downsample), strict=True
        ):
            target = row[:, left : left + block_w]
            target[:] = block[: target.shape[0], : target.shape[1]]
    return View(pixels, grid, stride, downsample)


def _blocks(length: int, scale: float) -> tuple[np.ndarray, int]:
    """Starts and length of equal blocks of at most BLOCK level px, `scale` level px a view pixel."""
    count = math.ceil(length / max(1, int(BLOCK / scale)))
    size = math.ceil(length / count)
    return np.arange(0, length, size), size
