"""Slides: open any of them and read pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsi_ats.arguments import in_short, positive_number, some_path, whole_number
from wsi_ats.errors import ConfigError
from wsi_ats.geometry import Pair
from wsi_ats.slides.base import OpenOptions, Slide, SlideAddress
from wsi_ats.slides.memory import MemoryAddress
from wsi_ats.slides.opening import open_path

SOURCES = "give the path or the URL of a slide, or arrays (h, w, 3) of uint8"

__all__ = ["Slide", "SlideAddress", "open_slide"]


def open_slide(
    source: str | Path | np.ndarray | Sequence[np.ndarray],
    backend: str | None = None,
    mpp: float | int | Pair | None = None,
    name: str | None = None,
    srgb: bool = False,
    tolerate_bad_tiles: int = 0,
    default_mpp: float | int | Pair | None = None,
) -> Slide:
    """Open a slide: a context manager that reads pixels of any region and level.

    source: a path, a URL (of a tiled TIFF or an OME-Zarr), an (h, w, 3) uint8 array, or a sequence of such arrays
        that are the levels of a pyramid.
    backend: "tiff", "zarr", "openslide" or "memory"; None takes the one that fits the source, and
        `slide.backend_reason` says why.
    mpp: micrometres per level-0 pixel, one number or (x, y); wins over what the slide says, and `slide.notes` tells
        where they differ.
    name: shown in messages and results; the file's name by default.
    srgb: turn colours to sRGB by the slide's ICC profile, where it has one.
    tolerate_bad_tiles: how many damaged tiles may be read as background; `slide.bad_tiles` lists them.
    default_mpp: micrometres per level-0 pixel if the slide does not say; without effect on one that does.
    Raises SlideError, with the path, the cause and a remedy, where the slide cannot be opened, ConfigError for an
    argument that makes no sense.

    >>> slide = open_slide(np.full((300, 400, 3), 240, np.uint8), mpp=0.5, name="made")
    >>> slide
    <Slide 'made': 400 x 300 px, 1 levels, 0.5 um/px, memory>
    >>> slide.read((-2, 0), (4, 1))[0, :, 0].tolist()  # what lies beyond the slide is background
    [255, 255, 240, 240]
    """
    tolerated = whole_number("tolerate_bad_tiles", tolerate_bad_tiles, 0)
    options = OpenOptions(_pair("mpp", mpp), _pair("default_mpp", default_mpp), bool(srgb), tolerated)
    if isinstance(source, str | Path):
        return open_path(str(some_path("source", source, SOURCES)), name, options, backend)
    if backend not in (None, "memory"):
        raise ConfigError(f"backend={backend!r} cannot read arrays", "leave backend away")
    levels = [source] if isinstance(source, np.ndarray) else _arrays(source)
    return MemoryAddress(tuple(levels), name or "array", options.mpp or options.default_mpp).open()


def _arrays(source: object) -> list[np.ndarray]:
    """The levels of a pyramid: arrays, or what has a shape and a type as they have."""
    try:
        levels: list[Any] = list(source)  # type: ignore[call-overload]
    except TypeError:
        levels = [None]
    if not all(hasattr(level, "ndim") and hasattr(level, "dtype") for level in levels):
        raise ConfigError(
            f"source is {in_short(source)}; it must be a path, a URL, or one or more arrays", SOURCES
        )
    return levels


def _pair(name: str, mpp: float | int | Pair | None) -> tuple[float, float] | None:
    if mpp is None:
        return None
    values = tuple(mpp) if isinstance(mpp, tuple | list) else (mpp, mpp)
    if len(values) != 2:
        raise ConfigError(
            f"{name} is {in_short(mpp)}; it must be one number, or two: (x, y)",
            "give micrometres per pixel, 0.5 for example",
        )
    x, y = (positive_number(name, value, " of micrometres per pixel") for value in values)
    return x, y
