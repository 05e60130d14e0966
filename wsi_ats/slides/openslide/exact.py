"""A region in parts: what OpenSlide must be given so that its pixels are right, and tiles to do without.

All in px of one level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from wsi_ats.geometry import Box, Size

LONGEST = 4096
"""Longest read in px: OpenSlide cuts longer ones itself, at positions between the pixels of a level."""
NEAR = (1 / 512, 1 / 256)
"""Distances: how near OpenSlide's position must be to one of the level's (px) for it to copy pixels; to be off
by one grey level at most. Elsewhere it blends neighbours."""
REACH = 128
"""Pixels to look back for a position at which OpenSlide copies."""

BLOCK = 256
"""Side, in px of the level, of what is given up at once where OpenSlide does not say how a level is tiled."""


class Span(NamedTuple):
    """Pixels `start` to `stop` of one axis, which are to be read from pixel `read_from` on."""

    start: int
    stop: int
    read_from: int


def spans(start: int, length: int, downsample: float) -> list[Span]:
    """`length` px from `start` on in spans that OpenSlide copies, each read as at most LONGEST px.

    OpenSlide takes positions in whole level-0 px, so with a `downsample` that is no whole number most pixels of a
    level cannot be named, and are blended of two. A span is read from the nearest one before it that can; from its
    own start where none is near.
    """
    found: list[Span] = []
    left, end = start, start + length
    while left < end:
        read_from = _start_near(left, downsample)
        found.append(Span(left, min(read_from + LONGEST, end), read_from))
        left = found[-1].stop
    return found


def _start_near(pixel: int, downsample: float) -> int:
    behind = np.arange(pixel, max(pixel - REACH, 0) - 1, -1)
    off = np.abs(np.round(behind * downsample) / downsample - behind)
    for limit in NEAR:
        if (off < limit).any():
            return int(behind[np.argmax(off < limit)])
    return pixel


def tile_size(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    """Width and height (px) of a level's tiles, as OpenSlide's properties have them; else of blocks to do without."""
    texts = [properties.get(f"openslide.level[{level}].tile-{side}", "") for side in ("width", "height")]
    if not all(text.isdecimal() and int(text) for text in texts):
        return BLOCK, BLOCK
    return int(texts[0]), int(texts[1])


def tiles_under(box: Box, tile: tuple[int, int], level: Size) -> dict[tuple[int, int], Box]:
    """The tiles of size (width, height) that a box touches, by (column, row); those at the border are smaller."""
    width, height = tile
    tiles = {}
    for row in range(box.y // height, (box.y + box.height - 1) // height + 1):
        for col in range(box.x // width, (box.x + box.width - 1) // width + 1):
            x, y = col * width, row * height
            tiles[col, row] = Box(x, y, min(width, level.width - x), min(height, level.height - y))
    return tiles


def common(one: Box, other: Box) -> Box:
    """The rectangle that two boxes share; they must overlap."""
    x, y = max(one.x, other.x), max(one.y, other.y)
    right, bottom = (
        min(one.x + one.width, other.x + other.width),
        min(one.y + one.height, other.y + other.height),
    )
    return Box(x, y, right - x, bottom - y)


def window(pixels: UInt8[np.ndarray, "_ _ 3"], box: Box, part: Box) -> UInt8[np.ndarray, "_ _ 3"]:
    """The part of `pixels`, which are those of `box`, that shows `part`; a view."""
    left, top = part.x - box.x, part.y - box.y
    return pixels[top : top + part.height, left : left + part.width]
