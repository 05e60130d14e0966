"""Label, macro and thumbnail: by name, and as OpenSlide reads them, with a look at their size first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import openslide
from jaxtyping import UInt8
from PIL import Image

MAX_PIXELS = 1 << 27
"""Larger associated images are taken for damage: memory is not to follow what a header says."""


def associated_image(handle: openslide.OpenSlide, name: str) -> Image.Image:
    """An associated image, RGBA. Raises OpenSlideError where it cannot be read or says that it is huge."""
    sides = (
        handle.properties.get(f"openslide.associated.{name}.{side}", "0") for side in ("width", "height")
    )
    width, height = map(int, sides)
    if width * height > MAX_PIXELS:
        raise openslide.OpenSlideError(f"{width} x {height} px are too many")
    return handle.associated_images[name]


def whole_level(handle: openslide.OpenSlide, level: int) -> Image.Image:
    """A level that is an image of its own, RGBA. Raises OpenSlideError where it cannot be read or is huge."""
    width, height = handle.level_dimensions[level]
    if width * height > MAX_PIXELS:
        raise openslide.OpenSlideError(f"{width} x {height} px are too many")
    return handle.read_region((0, 0), level, (width, height))


class AssociatedImages(Mapping[str, UInt8[np.ndarray, "h w 3"]]):
    """Associated images by name, (h, w, 3) uint8, each read when asked for. Raises SlideError where that fails."""

    def __init__(self, names: tuple[str, ...], read: Callable[[str], UInt8[np.ndarray, "h w 3"]]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
