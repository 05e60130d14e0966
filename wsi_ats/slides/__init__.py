"""Slides: open any of them and read pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsi_ats.errors import ConfigError
from wsi_ats.geometry import Pair
from wsi_ats.slides.base import Opening, Slide, SlideAddress
from wsi_ats.slides.memory import MemoryAddress
from wsi_ats.slides.openslide import OpenSlideAddress

__all__ = ["Slide", "SlideAddress", "open_slide"]

BACKENDS = {"openslide": OpenSlideAddress}
"""Backends that open a path, by name; arrays are always read by "memory"."""


def open_slide(
    source: str | Path | np.ndarray | Sequence[np.ndarray],
    backend: str | None = None,
    mpp: float | int | Pair | None = None,
    name: str | None = None,
) -> Slide:
    """Open a slide.

    source: a path, an (h, w, 3) uint8 array, or a sequence of such arrays that are the levels of a pyramid.
    backend: "openslide" or "memory"; None takes the one that fits the source.
    mpp: micrometres per level-0 pixel, one number or (x, y); wins over what the slide says.
    name: shown in messages and results; the file's name by default.
    Raises SlideError, with the path, the cause and a remedy, where the slide cannot be opened.
    """
    scale = None if mpp is None else _check_mpp(mpp)
    if not isinstance(source, str | Path):
        if backend not in (None, "memory"):
            raise ConfigError(f"backend={backend!r} cannot read arrays", "leave backend away")
        levels = [source] if isinstance(source, np.ndarray) else list(source)
        return MemoryAddress(tuple(levels), name or "array", scale).open()
    path = Path(source).absolute()  # the address must hold in processes that work in other folders
    chosen = "openslide" if backend is None else backend
    if chosen not in BACKENDS:
        raise ConfigError(f"backend={backend!r} cannot open the file {path}", f"choose of {sorted(BACKENDS)}")
    return BACKENDS[chosen](str(path), name or path.name, Opening(mpp=scale)).open()


def _check_mpp(mpp: float | int | Pair) -> tuple[float, float]:
    x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    if not (0 < x < math.inf and 0 < y < math.inf):
        raise ConfigError(f"mpp={mpp} is not a positive number of micrometres per pixel")
    return float(x), float(y)
