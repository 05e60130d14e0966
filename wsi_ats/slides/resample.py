"""Pixels at any scale: boxes of the slide, resampled from the nearest finer level."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64, Num, UInt8
from PIL import Image

from wsi_ats.geometry import MATCH, Level, Pair, Pyramid

CHUNK_BYTES = 64 * 2**20
"""Pixels held at a time while boxes are resampled; a single larger box is still read whole."""


@runtime_checkable
class Reader(Protocol):
    """The part of a `Slide` that resampling needs."""

    pyramid: Pyramid

    def read_many(
        self,
        xy: Int64[np.ndarray, "N 2"],
        size: tuple[int, int],
        level: int = 0,
        out: UInt8[np.ndarray, "N h w 3"] | None = None,
    ) -> UInt8[np.ndarray, "N h w 3"]:
        """Pixels of regions of one size at level-0 positions `xy`."""


def matching_level(pyramid: Pyramid, downsample: Pair) -> Level | None:
    """The level whose downsample is within 1 % of `downsample` in both axes, if there is one."""
    level = pyramid.nearest_finer(downsample)
    same = all(abs(want / have - 1) <= MATCH for want, have in zip(downsample, level.downsample, strict=True))
    return level if same else None


def read_boxes(
    slide: Reader,
    corners: Num[np.ndarray, "N 2"],
    out_size: tuple[int, int],
    downsample: Pair,
) -> UInt8[np.ndarray, "N h w 3"]:
    """N boxes of `out_size` (width, height) px, each pixel spanning `downsample` (x, y) level-0 px.

    corners: (x, y) in level-0 px, whole or not. Where a level matches within 1 %, its pixels are copied,
    starting at the one nearest to the corner. Otherwise the nearest finer level is resampled; neighbouring
    boxes agree with resampling the whole slide at once, as each is read with a margin as wide as the filter.
    Raises SlideError where the slide cannot be read.
    """
    level = matching_level(slide.pyramid, downsample)
    if level is not None:
        nearest = np.floor(corners / np.asarray(level.downsample) + 0.5).astype(np.int64)
        return slide.read_many(level.location_of(nearest), out_size, level.index)
    level = slide.pyramid.nearest_finer(downsample)
    starts = corners / np.asarray(level.downsample)
    scale = (downsample[0] / level.downsample[0], downsample[1] / level.downsample[1])
    out = np.empty((len(corners), out_size[1], out_size[0], 3), np.uint8)
    width, height = (_patch(n, s) for n, s in zip(out_size, scale, strict=True))
    step = max(1, CHUNK_BYTES // (3 * width * height))
    for at in range(0, len(corners), step):
        _resample(slide, level, starts[at : at + step], scale, out[at : at + step])
    return out


def _margin(scale: float) -> int:
    """Pixels that the filter reaches beyond the box, and one for rounding."""
    return math.ceil(max(scale, 1.0)) + 1


def _patch(n: int, scale: float) -> int:
    """Level px to read for n output px: their span, a fractional start, a margin on both sides."""
    return math.ceil(n * scale) + 1 + 2 * _margin(scale)


def _resample(
    slide: Reader,
    level: Level,
    starts: Float64[np.ndarray, "N 2"],
    scale: tuple[float, float],
    out: UInt8[np.ndarray, "N h w 3"],
) -> None:
    """Fill `out` with boxes that start at `starts` (level px, fractional), `scale` level px per output px."""
    _, height, width, _ = out.shape
    origins = np.floor(starts).astype(np.int64) - [_margin(s) for s in scale]
    patch = (_patch(width, scale[0]), _patch(height, scale[1]))
    patches = slide.read_many(level.location_of(origins), patch, level.index)
    for pixels, (left, top), target in zip(patches, starts - origins, out, strict=True):
        box = (left, top, left + width * scale[0], top + height * scale[1])
        # BILINEAR is a triangle two output pixels wide: no aliasing when shrinking, no ringing (overshoot
        # would invent stain), and unlike BOX no steps where a box starts at a fraction of a pixel.
        target[:] = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box)
