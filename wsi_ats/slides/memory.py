"""Arrays as a slide: for tests, notebooks and as the oracle of the other backends."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from wsi_ats.errors import ConfigError
from wsi_ats.geometry import Level, Pyramid, Size
from wsi_ats.slides.base import Slide, SlideAddress, SlideFacts
from wsi_ats.slides.scale import scale_of

GRID = 512
"""Pixels along each side, at least, that a digest is made of."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryAddress(SlideAddress):
    """RGB arrays (h, w, 3) uint8, finest level first. Pickling it carries the pixels along."""

    levels: tuple[np.ndarray, ...]
    name: str = "array"
    mpp: tuple[float, float] | None = None
    """Micrometres per level-0 pixel (x, y), where known."""

    def open(self) -> MemorySlide:
        """The slide of these arrays; its pixels are the arrays themselves, not copies."""
        return MemorySlide(self)

    def digest(self) -> str:
        """Digest of the finest array: its shape, and its pixels or those of a grid over it."""
        level = self.levels[0]
        rows, cols = (max(1, side // GRID) for side in level.shape[:2])
        some = np.ascontiguousarray(level[::rows, ::cols])
        shape = str(level.shape).encode()
        return f"pixels {hashlib.blake2b(shape + some.tobytes(), digest_size=16).hexdigest()}"


class MemorySlide(Slide):
    """A slide made of RGB arrays."""

    backend = "memory"

    def __init__(self, address: MemoryAddress) -> None:
        self._levels = address.levels
        for level in self._levels:
            if level.ndim != 3 or level.shape[2] != 3 or level.dtype != np.uint8:
                raise ConfigError(
                    f"slide {address.name!r}: shape {level.shape}, type {level.dtype} is no image",
                    "give (h, w, 3) uint8 RGB arrays",
                )
        if not self._levels:
            raise ConfigError(f"slide {address.name!r} has no levels", "give at least one array")
        pyramid = Pyramid.of_sizes([(level.shape[1], level.shape[0]) for level in self._levels])
        scale = scale_of((), address.mpp)
        super().__init__(
            address, SlideFacts(pyramid, scale.mpp, scale.source, properties={}, notes=scale.notes)
        )

    def close(self) -> None:
        """Release nothing: the arrays are the caller's."""

    def _pixels(self, level: Level, x: int, y: int, size: Size) -> UInt8[np.ndarray, "h w 3"]:
        return np.asarray(self._levels[level.index][y : y + size.height, x : x + size.width])

    def _associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        raise KeyError(name)
