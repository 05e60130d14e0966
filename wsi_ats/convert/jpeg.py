"""The JPEG tiles of a tiled TIFF, to be copied as they are: no generation of loss, and as fast as the disk.

A tile of the TIFF becomes a chunk, byte for byte. The tables that its tiles share go into the metadata of the array,
where the codec `imagecodecs_jpeg` looks for them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from jaxtyping import UInt8

from wsi_ats.convert.zarr_write import Codec
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.geometry import Box
from wsi_ats.slides.base import Slide
from wsi_ats.slides.codecs import JPEG, Coding
from wsi_ats.slides.omezarr.codecs import JPEG as NAME
from wsi_ats.slides.storage.opening import ByteRange, open_source
from wsi_ats.slides.tiff.index import TiffImage
from wsi_ats.slides.tiff.slide import TiffAddress

REMEDY = "leave --codec jpeg away: zstd stores the pixels of any slide without loss"


class JpegTiles:
    """The JPEG tiles of a slide, by level."""

    def __init__(self, slide: Slide) -> None:
        """Take a slide. Raises ConfigError, with the reason, where it has no tiles that can be copied."""
        address = slide.address
        if not isinstance(address, TiffAddress) or address.index is None:
            raise ConfigError(
                f"slide {slide.name!r} is read by the backend {slide.backend!r}, {slide.backend_reason or 'as it is'}: "
                "codec='jpeg' copies the JPEG tiles of a tiled TIFF or SVS",
                REMEDY,
            )
        if address.options.srgb:
            raise ConfigError(
                f"slide {slide.name!r} is opened with srgb: its JPEG tiles are of other colours", REMEDY
            )
        images = address.index.levels
        copied = 0
        while copied < len(images) and _is_copied(images[copied]):
            copied += 1
        if not copied:
            raise ConfigError(
                f"slide {slide.name!r} is a {address.index.reason}: its tiles are no JPEGs", REMEDY
            )
        self._name = slide.name
        self._images = images[:copied]
        self._source = open_source(address.path)
        if address.index.stamp != self._source.stamp():
            self._source.close()
            raise SlideError(f"slide {slide.name!r} changed since it was opened", "open it again")

    @property
    def levels(self) -> list[tuple[Codec, tuple[int, int]]]:
        """Codec and tile size (height, width) of each level that is copied."""
        return [(_codec(image.coding), (image.tile_height, image.tile_width)) for image in self._images]

    def tiles(self, level: int, tiles: Sequence[int]) -> list[bytes | None]:
        """Bytes of tiles; None for those that the TIFF does not store. Raises SlideError."""
        image = self._images[level]
        stored = [tile for tile in tiles if image.counts[tile]]
        parts = [ByteRange("", int(image.offsets[tile]), int(image.counts[tile])) for tile in stored]
        found: dict[int, bytes] = {}
        try:
            for tile, part, encoded in zip(stored, parts, self._source.read_many(parts), strict=True):
                if encoded is None or len(encoded) != part.count:
                    row, col = divmod(tile, image.cols)
                    raise SlideError(
                        f"slide {self._name!r}: the file ends before level {level}, tile column {col}, row {row}",
                        "it was cut short: copy it again from its source",
                    )
                found[tile] = encoded
        except OSError as error:
            raise SlideError(
                f"slide {self._name!r}: level {level} cannot be read: {error}",
                "check that the file and its disk are still there",
            ) from error
        return [found.get(tile) for tile in tiles]

    def chunks(self, level: int, boxes: Sequence[Box]) -> list[bytes | None]:
        """The tiles of a level that lie at these boxes."""
        cols = self._images[level].cols
        return self.tiles(level, [box.y // box.height * cols + box.x // box.width for box in boxes])

    def count(self, level: int) -> int:
        """Number of tiles of a level."""
        return len(self._images[level].counts)

    def close(self) -> None:
        """Close the file."""
        self._source.close()


def _is_copied(image: TiffImage) -> bool:
    return image.coding.compression == JPEG and not image.strips and image.planes == 1


def _codec(coding: Coding) -> Codec:
    config = {
        "colorspace_data": "RGB",
        "colorspace_jpeg": "YCBCR" if coding.ycbcr else "RGB",
        **({"tables": base64.b64encode(coding.tables).decode()} if coding.tables else {}),
    }
    # An array is of c, y, x; a JPEG of y, x, c.
    turned = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
    return Codec([turned, {"name": NAME, "configuration": config}], _never)


def _never(pixels: UInt8[np.ndarray, " ..."]) -> NoReturn:
    raise AssertionError("tiles are copied, never encoded")
