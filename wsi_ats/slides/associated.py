"""Label, macro and thumbnail as OpenSlide reads them, with a look at their size first."""

from __future__ import annotations

import openslide
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
