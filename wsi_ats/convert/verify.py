"""Verification: what was written is read back and compared with the slide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wsi_ats.convert.jpeg import JpegTiles
from wsi_ats.convert.plan import Plan
from wsi_ats.errors import SlideError
from wsi_ats.geometry import Box
from wsi_ats.slides.base import Slide
from wsi_ats.slides.omezarr.slide import ZarrSlide

SIDE = 1024
"""Side in px of a box that is compared at a time."""
SAMPLE = 16
"""Number of boxes a level, and of times as many copied tiles, that are compared by default."""

Say = Callable[[str, int, int], None]
T = TypeVar("T")


def check(slide: Slide, written: ZarrSlide, plan: Plan, jpeg: JpegTiles | None, say: Say) -> None:
    """Compare levels with what they were made of. Raises SlideError, with the place, where they differ."""
    if plan.settings.verify == "none":
        return
    everything = plan.settings.verify == "all"
    rng = np.random.default_rng(0)
    for level in range(len(plan.arrays)):
        if jpeg is not None and level < plan.copied:
            _check_tiles(written, plan, jpeg, level, everything, rng)
        blocks = _some(list(_blocks(plan, level)), SAMPLE, everything and level >= plan.copied, rng)
        for done, block in enumerate(blocks, 1):
            expected = (
                read_box(slide, level, block)
                if level < max(plan.copied, 1)
                else reduced(written, level - 1, block)
            )
            if not np.array_equal(read_box(written, level, block), expected):
                raise _differs(plan, level, f"x={block.x}, y={block.y}, {block.width} x {block.height} px")
            say(f"reading level {level} back", done, len(blocks))


def _check_tiles(
    written: ZarrSlide, plan: Plan, jpeg: JpegTiles, level: int, everything: bool, rng: np.random.Generator
) -> None:
    """Compare copied tiles byte by byte."""
    tiles = _some(range(jpeg.count(level)), SAMPLE**2, everything, rng)
    for start in range(0, len(tiles), SAMPLE**2):
        some = tiles[start : start + SAMPLE**2]
        for tile, found, original in zip(
            some, written.encoded_tiles(level, some), jpeg.tiles(level, some), strict=True
        ):
            if found != (original or b""):
                raise _differs(plan, level, f"tile {tile}")


def _differs(plan: Plan, level: int, where: str) -> SlideError:
    return SlideError(
        f"slide {plan.slide!r} does not read back as it was written: level {level}, {where} in {plan.root}",
        "the disk or the slide changed meanwhile: convert again with --overwrite",
    )


def _blocks(plan: Plan, level: int) -> Iterator[Box]:
    array = plan.arrays[level]
    for y in range(0, array.height, SIDE):
        for x in range(0, array.width, SIDE):
            yield Box(x, y, min(SIDE, array.width - x), min(SIDE, array.height - y))


def _some(items: Sequence[T], count: int, everything: bool, rng: np.random.Generator) -> list[T]:
    if everything or len(items) <= count:
        return list(items)
    return [items[i] for i in sorted(rng.choice(len(items), count, replace=False))]


def read_box(
    slide: Slide, level: int, box: Box, out: UInt8[np.ndarray, "h w 3"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a box of a level, (h, w, 3) uint8; box in px of the level."""
    corner = slide.levels[level].location_of(np.asarray([[box.x, box.y]], np.int64))
    found = slide.read_many(corner, (box.width, box.height), level, None if out is None else out[None])
    return np.asarray(found[0])


def reduced(slide: Slide, level: int, box: Box) -> UInt8[np.ndarray, "h w 3"]:
    """A box of the level that is half as fine as `level`: means of 2 x 2 px, of what there is at the border."""
    size = slide.levels[level].size
    width, height = min(2 * box.width, size.width - 2 * box.x), min(2 * box.height, size.height - 2 * box.y)
    return np.asarray(
        Image.fromarray(read_box(slide, level, Box(2 * box.x, 2 * box.y, width, height))).reduce(2)
    )
