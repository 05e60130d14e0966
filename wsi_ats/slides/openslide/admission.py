"""What OpenSlide may be given: files that it reads as they are meant, with sizes that it survives.

It allocates what a header says and ends the process where that fails, so a TIFF is looked through before it is opened.
What other formats say of their levels is looked at when they are open, and before the first pixel is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import openslide
from jaxtyping import UInt8

from wsi_ats.geometry import Pyramid
from wsi_ats.slides.storage.opening import open_source
from wsi_ats.slides.tiff.families import Contents, contents_of
from wsi_ats.slides.tiff.index import MAX_TILE_PIXELS
from wsi_ats.slides.tiff.pictures import MAX_PIXELS, MAX_SIDE, REWRITE, fits_file, has_16_bits, has_alpha
from wsi_ats.slides.tiff.tags import Refused, Tiff, UnsupportedLayout

PLAIN = ("generic-tiff", "aperio")
"""Vendors whose levels are the tiled images of a TIFF, one by one."""
SLACK = 0.01
"""Share by which sides of levels of other vendors may be off: theirs are made of tiles that overlap."""
LOOKED_AT = 4096
"""Longest side in px of what is looked at of a level."""
DIM = 128
"""Brightest value, of 255, of a level that does not use all of its 16 bits: glass is brighter."""
OPAQUE = "take the alpha channel away, for example with `vips extract_band IN OUT.tif[tile,pyramid] 0 --n 3`"
SCALED = "write it with 8 bits a value, scaled so that glass is nearly white"


def admitted(path: str) -> Contents | None:
    """The images of a TIFF whose levels are as OpenSlide has them, or should have; None for all other files.

    Raises Refused where OpenSlide must not be given the file, OSError where it cannot be read.
    """
    contents = None
    with open_source(path) as source:
        try:
            tiff = Tiff(source)
        except UnsupportedLayout:
            return None
        with suppress(UnsupportedLayout):
            contents = contents_of(tiff)
        _check_lengths(tiff)
    if contents is not None and len(contents.levels[0].directories) > 1:
        raise Refused(
            "its red, green and blue are images of their own, in a layout that is not read", REWRITE
        )
    return contents


def _check_lengths(tiff: Tiff) -> None:
    for number, directory in enumerate(() if tiff.ndpi else tiff.directories()):
        if not fits_file(tiff, directory):
            raise Refused(f"its image {number + 1} has tiles of more bytes than the file or a tile can have")


def properties_in(handle: openslide.OpenSlide) -> dict[str, str]:
    """Properties of a slide; those whose damaged names OpenSlide does not find again are left out."""
    names = list(handle.properties)
    return {name: text for name in names if (text := handle.properties.get(name)) is not None}


class Choice(NamedTuple):
    """What is made of OpenSlide's levels, which are numbered as it numbers them."""

    levels: tuple[int, ...]
    """Levels of the slide, finest first."""
    beside: Mapping[str, int]
    """Levels that are none, by the names of the images that they are."""
    notes: tuple[str, ...]
    """Clauses on the choice."""


def choose_levels(handle: openslide.OpenSlide, contents: Contents | None) -> Choice:
    """OpenSlide's levels that are levels of the slide.

    Raises Refused where they cannot be, or where OpenSlide takes another image for the slide.
    """
    sizes = list(handle.level_dimensions)
    _check_sizes(handle)
    plain = handle.properties.get("openslide.vendor") in PLAIN
    levels = Pyramid.fitting(sizes, 0.0 if plain else SLACK)
    names: dict[tuple[int, int], str] = {}
    if contents is not None and plain:
        slide = contents.levels[0]
        if sizes[0] != slide.size:
            raise Refused(
                f"OpenSlide reads {sizes[0][0]} x {sizes[0][1]} px of it instead of {slide}", REWRITE
            )
        known = {level.size for level in contents.levels}
        levels = [level for level in levels if sizes[level] in known]
        names = {other.size: name for name, other in contents.others.items() if other.tiled}
    beside: dict[str, int] = {}
    for level, size in enumerate(sizes):
        if level not in levels:
            name = names.get(size, f"level {level}")
            beside[name if name not in {*beside, *handle.associated_images} else f"{name} {level}"] = level
    if contents is not None:
        return Choice(tuple(levels), beside, contents.notes)
    told = [f"{sizes[level][0]} x {sizes[level][1]} px" for level in beside.values()]
    notes = (f"level(s) of {', '.join(told)} left out: not of the slide's proportions",) if told else ()
    return Choice(tuple(levels), beside, notes)


def _check_sizes(handle: openslide.OpenSlide) -> None:
    for level, (width, height) in enumerate(handle.level_dimensions):
        tile = _tile_pixels(handle.properties, level)
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
            raise Refused(f"its level {level} of {width} x {height} px is too large to be one")
        if tile > MAX_TILE_PIXELS:
            raise Refused(f"its level {level} is in tiles of {tile} px; at most {MAX_TILE_PIXELS} are read")


def check_values(path: str, level: int, contents: Contents | None) -> None:
    """Raises Refused where nothing of the slide is opaque, or its values leave most of their bits unused.

    level: the coarsest, of which up to 4,096 x 4,096 px are looked at, and only where there can be any doubt.
    """
    slide = None if contents is None else contents.levels[0]
    if slide is None or not (has_alpha(slide) or has_16_bits(slide)):
        return
    try:
        with openslide.OpenSlide(path) as handle:  # its own: an error ends the handle
            pixels = _middle(handle, level)
    except openslide.OpenSlideError:
        return  # reading says so, with the place
    if has_alpha(slide) and not pixels[..., 3].any():
        raise Refused("its alpha channel is 0, so all of it is transparent", OPAQUE)
    if has_16_bits(slide) and pixels[..., :3].max() < DIM:
        raise Refused(
            f"its values have 16 bits and do not use them (the brightest is {pixels[..., :3].max() / 255:.0%} of "
            "white), as those of a camera of 12 bits",
            SCALED,
        )


def _middle(handle: openslide.OpenSlide, level: int) -> UInt8[np.ndarray, "h w 4"]:
    width, height = handle.level_dimensions[level]
    size = min(width, LOOKED_AT), min(height, LOOKED_AT)
    scale = handle.level_downsamples[level]
    corner = int((width - size[0]) / 2 * scale), int((height - size[1]) / 2 * scale)
    return np.asarray(handle.read_region(corner, level, size))


def _tile_pixels(properties: Mapping[str, str], level: int) -> int:
    sides = (properties.get(f"openslide.level[{level}].tile-{side}", "") for side in ("width", "height"))
    width, height = (int(text) if text.isdecimal() and len(text) < 16 else 1 for text in sides)
    return width * height
