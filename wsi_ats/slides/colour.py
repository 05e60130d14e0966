"""Colours as they are meant: a slide's ICC profile applied, so that slides of different scanners are comparable.

The rendering intent is the profile's own, as OpenSlide advises, but absolute colorimetric becomes relative: empty
glass stays white. For scanners' matrix profiles all intents are one. Where a profile has tables, perceptual squeezes
colours that sRGB cannot show, with all others, and relative colorimetric clips those alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms

from wsi_ats.errors import SlideError

Conversion = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w 3"]]


def to_srgb(profile: bytes, name: str) -> Conversion:
    """A conversion of pixels of a slide with this ICC profile to sRGB, (h, w, 3) uint8 each; threads may share it.

    name: the slide's. Raises SlideError where the profile is damaged or not one of RGB colours.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            intent_of(source),
            # The cache of the last colour is what threads could trip over.
            ImageCms.Flags.NOCACHE,
        )
    except (OSError, ValueError, ImageCms.PyCMSError) as error:
        raise SlideError(
            f"slide {name!r}: its ICC profile of {len(profile)} bytes cannot be used: {error}",
            "open it without srgb (slide.srgb = false), or copy it again from its source",
        ) from error

    def convert(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(ImageCms.applyTransform(image, transform))

    return convert


def intent_of(profile: ImageCms.ImageCmsProfile) -> ImageCms.Intent:
    """The rendering intent that a profile asks for; relative where it asks for absolute colorimetric."""
    intent = ImageCms.Intent(ImageCms.getDefaultIntent(profile))
    absolute = intent == ImageCms.Intent.ABSOLUTE_COLORIMETRIC
    return ImageCms.Intent.RELATIVE_COLORIMETRIC if absolute else intent


def convert_all(convert: Conversion, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], threads: int) -> None:
    """Convert images in place, in up to `threads` threads: the work is done outside the interpreter's lock."""

    def convert_one(image: UInt8[np.ndarray, "h w 3"]) -> None:
        image[:] = convert(image)

    if threads == 1 or len(images) < 2:
        for image in images:
            convert_one(image)
    else:
        with ThreadPoolExecutor(min(threads, len(images))) as pool:
            list(pool.map(convert_one, images))
