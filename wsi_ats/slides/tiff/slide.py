"""Tiled TIFFs, read directly: the tiles that are needed, by their place in the file, decoded in threads.

SVS, generic tiled TIFF, OME-TIFF and Philips TIFF, from a disk or by URL. What does not fit is `UnsupportedLayout`, and
whoever opens the slide leaves it to OpenSlide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import openslide
from jaxtyping import UInt8

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Box, Level, Pyramid
from wsi_ats.slides.associated import MAX_PIXELS, associated_image
from wsi_ats.slides.base import DEFAULTS, WHITE, OpenOptions, SlideAddress, SlideFacts
from wsi_ats.slides.codecs import APERIO_YCBCR
from wsi_ats.slides.content import digest_of
from wsi_ats.slides.openslide.slide import opaque
from wsi_ats.slides.scale import expected_power, readings_of, scale_of, unread_of
from wsi_ats.slides.storage.opening import ByteSource, open_source
from wsi_ats.slides.tiff import cache as tiff_cache
from wsi_ats.slides.tiff.check import compared
from wsi_ats.slides.tiff.families import read_index
from wsi_ats.slides.tiff.index import TiffImage, TiffIndex
from wsi_ats.slides.tiff.planes import decode_tile, stored
from wsi_ats.slides.tiff.tags import Refused, UnsupportedLayout
from wsi_ats.slides.tiled import Buffers, Encoded, TiledSlide, Tiling, UndecodableTile


@dataclass(frozen=True, slots=True)
class TiffAddress(SlideAddress):
    """A tiled TIFF: an absolute path or a URL.

    Once the slide was opened, its address carries the index along, also to other processes: nothing is parsed
    again as long as the file is the same.
    """

    path: str
    name: str
    options: OpenOptions = DEFAULTS
    index: TiffIndex | None = field(default=None, compare=False, repr=False)

    def open(self) -> TiffSlide:
        """Open the slide. Raises SlideError where it cannot be read directly, with the reason."""
        try:
            return TiffSlide(self)
        except UnsupportedLayout as error:
            raise SlideError(
                f"slide {self.name!r} cannot be read as a tiled TIFF: {error}: {self.path}",
                "leave the backend away, so that OpenSlide reads it, or copy the file again from its source",
            ) from error

    def digest(self) -> str:
        """Digest of the file (`slides/content.py`); empty behind a URL."""
        return digest_of(self.path)


class TiffSlide(TiledSlide):
    """A slide whose tiles are read from a TIFF by their place in the file."""

    backend = "tiff"

    def __init__(self, address: TiffAddress) -> None:
        """Open it.

        Raises UnsupportedLayout where the file is for another backend, SlideError where it is damaged, or for none.
        """
        source = _open(address)
        try:
            index = _index(address, source)
            tolerated = address.options.tolerate_bad_tiles
            super().__init__(replace(address, index=index), _facts(address, index), tolerated)
        except OSError as error:
            source.close()
            raise _unreadable(address, error) from error
        except Refused as error:
            source.close()
            raise error.named(address.name, address.path) from error
        except BaseException:
            source.close()
            raise
        self.backend_reason = index.reason
        self._source = source
        self._remote = source.remote
        self._index = index
        self._tilings = [Tiling(i.tile_width, i.tile_height, i.cols, i.rows) for i in index.levels]
        self._buffers = Buffers()
        self._closed = False

    def close(self) -> None:
        """Close the file as soon as no read is under way."""
        self._closed = True
        self._source.close()

    def _tiling(self, level: Level) -> Tiling:
        return self._tilings[level.index]

    def _in_storage_order(self, level: Level, indices: Sequence[int]) -> Sequence[int]:
        tiles = np.asarray(indices, np.int64)
        ordered: list[int] = tiles[self._index.levels[level.index].offsets[tiles].argsort()].tolist()
        return ordered

    def _fetch(self, level: Level, indices: Sequence[int]) -> Iterator[Encoded | None]:
        if self._closed:
            raise SlideError(f"slide {self.name!r} is closed", "read inside the `with` block")
        try:
            yield from stored(self._source, self._index.levels[level.index], indices)
        except OSError as error:
            raise SlideError(
                f"slide {self.name!r}: level {level.index} cannot be read: {error}",
                "check that the file, its disk or its server is still there",
            ) from error

    def _decode(
        self, level: Level, index: int, encoded: Encoded, window: Box | None
    ) -> tuple[UInt8[np.ndarray, "_ _ 3"], int, int]:
        image = self._index.levels[level.index]
        pixels = self._buffers.take(image.shape(index))
        decode_tile(image, encoded, pixels, window)
        return pixels, 0, 0

    def _release(self, pixels: UInt8[np.ndarray, "_ _ 3"]) -> None:
        self._buffers.give(pixels)

    def _associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        address = self._index_address()
        try:
            if name in self._index.associated:
                return _whole(self._source, self._index.associated[name])
            with openslide.OpenSlide(address.path) as handle:
                return opaque(associated_image(handle, name), WHITE)
        except (OSError, openslide.OpenSlideError, UndecodableTile) as error:
            raise SlideError(f"slide {self.name!r}: image {name!r} cannot be read: {error}") from error

    def _index_address(self) -> TiffAddress:
        assert isinstance(self.address, TiffAddress)
        return self.address


def _open(address: TiffAddress) -> ByteSource:
    try:
        return open_source(address.path)
    except OSError as error:
        raise _unreadable(address, error) from error


def _unreadable(address: TiffAddress, error: OSError) -> SlideError:
    return SlideError(
        f"slide {address.name!r} cannot be opened: {error.strerror or error}: {address.path}",
        "check the path; relative paths start at the current folder",
    )


def _index(address: TiffAddress, source: ByteSource) -> TiffIndex:
    """The index that came with the address, if the file is still the same; else the file's own."""
    if address.index is not None and address.index.stamp == source.stamp():
        return address.index
    if source.remote:
        return _remote_index(source)

    def read(image: TiffImage, tile: int) -> Encoded:
        return next(stored(source, image, [tile])) or b""

    return compared(address.path, read_index(source), read)


def _remote_index(source: ByteSource) -> TiffIndex:
    """The index of a file that OpenSlide cannot open, since it is no local one."""
    index = tiff_cache.load(source.address, source.stamp())
    if index is None:
        index = read_index(source)
        if any(level.coding.compression == APERIO_YCBCR for level in index.levels):
            raise UnsupportedLayout(
                "Aperio's JPEG 2000 is read only where it can be compared with OpenSlide: copy the file"
            )
        tiff_cache.keep(source.address, index)
    return index


def _facts(address: TiffAddress, index: TiffIndex) -> SlideFacts:
    options = address.options
    power = expected_power(index.properties)
    stated, unread = readings_of(index.properties), unread_of(index.properties)
    scale = scale_of(stated, options.mpp, options.default_mpp, power, unread)
    return SlideFacts(
        pyramid=Pyramid.of_sizes([(level.width, level.height) for level in index.levels]),
        mpp_xy=scale.mpp,
        mpp_source=scale.source,
        properties=index.properties,
        associated_names=(*index.by_openslide, *index.associated),
        icc_profile=index.icc_profile,
        notes=index.notes + scale.notes,
    )


def _whole(source: ByteSource, image: TiffImage) -> UInt8[np.ndarray, "h w 3"]:
    """All of an image. Raises UndecodableTile, OSError."""
    if image.width * image.height > MAX_PIXELS:
        raise UndecodableTile(f"{image.width} x {image.height} px are too many")
    out = np.full((image.rows * image.tile_height, image.cols * image.tile_width, 3), 255, np.uint8)
    tiles = range(image.cols * image.rows)
    for tile, encoded in zip(tiles, stored(source, image, tiles), strict=True):
        if encoded is not None:
            row, col = divmod(tile, image.cols)
            pixels = np.empty(image.shape(tile), np.uint8)
            decode_tile(image, encoded, pixels)
            top, left = row * image.tile_height, col * image.tile_width
            out[top : top + len(pixels), left : left + image.tile_width] = pixels
    return out[: image.height, : image.width]
