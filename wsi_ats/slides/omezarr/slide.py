"""OME-Zarr slides: NGFF 0.4 and 0.5, in a folder or behind a URL.

Levels that are stored as chunks of c, y, x (in any order) with the usual codecs are read chunk by chunk here, like
the tiles of a TIFF. What is stored in other ways is read with zarr-python, several times more slowly, and
`backend_reason` says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Box, Level, Size
from wsi_ats.regular import is_folder
from wsi_ats.slides.base import DEFAULTS, OpenOptions, Slide, SlideAddress, SlideFacts
from wsi_ats.slides.omezarr.array import storage_of
from wsi_ats.slides.omezarr.codecs import UnsupportedLayout
from wsi_ats.slides.omezarr.group import GROUP_FILES, Group, Json, read_arrays, read_group
from wsi_ats.slides.omezarr.metadata import array_facts
from wsi_ats.slides.omezarr.ngff import Multiscale, parse_multiscale, pyramid_of
from wsi_ats.slides.omezarr.tiles import Tiles, rgb_axes
from wsi_ats.slides.scale import Reading, scale_of
from wsi_ats.slides.storage.opening import ByteRange, ByteSource, is_url, open_source
from wsi_ats.slides.tiled import Buffers, Encoded, TiledSlide, Tiling, UndecodableTile

if TYPE_CHECKING:
    import zarr  # takes a third of a second to import, and most slides never need it

BLOCK = 512
"""Side in px of what is called a tile of levels that zarr-python reads."""
METADATA_ERRORS = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
"""Errors that metadata of another form than the standard's lead to."""


def is_zarr(path_or_url: str | Path) -> bool:
    """Whether it is the folder of a Zarr store, or a URL that names one (`.zarr` at the end of a folder's name)."""
    text = str(path_or_url)
    if is_url(text):
        return re.search(r"\.zarr(/|$)", re.split("[?#]", text)[0]) is not None
    return is_folder(text) and any(os.path.lexists(f"{text}/{name}") for name in GROUP_FILES)


@dataclass(frozen=True, slots=True)
class ZarrAddress(SlideAddress):
    """An OME-Zarr image: absolute path of its folder, or its URL."""

    path: str
    name: str
    options: OpenOptions = DEFAULTS

    def open(self) -> ZarrSlide:
        """Open the slide. Raises SlideError with the path, the cause and a remedy where that fails."""
        return ZarrSlide(self)


class ZarrSlide(TiledSlide):
    """A slide stored as OME-Zarr."""

    backend = "zarr"

    def __init__(self, address: ZarrAddress, group: Group | None = None) -> None:
        """group: taken instead of what the store says of its root, as while it is being written."""
        try:
            self._source = open_source(address.path)
        except OSError as error:
            raise SlideError(
                f"slide {address.name!r} cannot be opened: {error.strerror or error}: {address.path}",
                "check the path; relative paths start at the current folder",
            ) from error
        try:
            self._group = group or read_group(self._source, address.name)
            self._image = parse_multiscale(self._group.attributes, address.name)
            facts = self._find_levels(address)
        except OSError as error:
            self._source.close()
            raise SlideError(f"slide {address.name!r} cannot be opened: {error}", "try again") from error
        except BaseException:
            self._source.close()
            raise
        super().__init__(address, facts, address.options.tolerate_bad_tiles)
        self._remote = self._source.remote
        self.backend_reason = _reason(self._image, self._group, self._tiles)
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def close(self) -> None:
        """Release files and connections."""
        self._source.close()

    def _find_levels(self, address: ZarrAddress) -> SlideFacts:
        """How the levels are stored, and what is known of the slide."""
        group, image = self._group, self._image
        arrays = read_arrays(self._source, group, [d.path for d in image.datasets], address.name)
        self._buffers = Buffers()
        self._tiles: list[Tiles | UnsupportedLayout] = []
        sizes = []
        for dataset, metadata in zip(image.datasets, arrays, strict=True):
            try:
                shape, dtype = array_facts(metadata)
                self._yxc = rgb_axes([axis.name for axis in image.axes], shape, dtype, address.name)
                self._tiles.append(self._tiles_of(group.prefix + dataset.path, metadata))
            except METADATA_ERRORS as error:
                raise SlideError(
                    f"slide {address.name!r}: the metadata of level {dataset.path!r} cannot be used: "
                    f"{type(error).__name__} {error}",
                    "copy it again from its source, or convert it again",
                ) from error
            sizes.append(Size(shape[self._yxc[1]], shape[self._yxc[0]]))
        pyramid, doubts = pyramid_of(image, sizes, address.name)
        stated = [] if image.mpp_xy is None else [Reading(image.mpp_xy, "ngff scale")]
        scale = scale_of(stated, address.options.mpp, address.options.default_mpp)
        return SlideFacts(
            pyramid=pyramid,
            mpp_xy=scale.mpp,
            mpp_source=scale.source,
            properties=_properties(image, group, arrays[0]) | doubts,
            associated_names=tuple(group.notes.get("associated", ())),
            icc_profile=_icc_profile(self._source, group),
            notes=scale.notes,
        )

    def _tiles_of(self, key: str, metadata: Json) -> Tiles | UnsupportedLayout:
        try:
            return Tiles(self._source, storage_of(key, metadata), self._yxc, self._buffers)
        except UnsupportedLayout as reason:
            return reason

    def encoded_tiles(self, level: int, tiles: Sequence[int]) -> Iterator[bytes]:
        """Tiles as they are stored, each in one chunk; empty where they are not. Raises SlideError."""
        try:
            for encoded in self._tiles_at(self.levels[level]).fetch(tiles):
                yield bytes(encoded)
        except (UndecodableTile, OSError) as error:
            raise SlideError(f"slide {self.name!r}: level {level} cannot be read: {error}") from error

    def _fill(
        self, level: Level, boxes: Sequence[Box], targets: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> None:
        try:
            if isinstance(self._tiles[level.index], Tiles):
                super()._fill(level, boxes, targets)
            else:
                Slide._fill(self, level, boxes, targets)
        except OSError as error:
            raise SlideError(
                f"slide {self.name!r}: level {level.index} cannot be read: {error}",
                "read inside the `with` block; else check the disk or the connection",
            ) from error

    def _tiles_at(self, level: Level) -> Tiles:
        tiles = self._tiles[level.index]
        assert isinstance(tiles, Tiles)
        return tiles

    def _tiling(self, level: Level) -> Tiling:
        tiles = self._tiles[level.index]
        if isinstance(tiles, Tiles):
            return tiles.tiling
        width, height = level.size.width, level.size.height
        return Tiling(BLOCK, BLOCK, -(-width // BLOCK), -(-height // BLOCK))

    def _in_storage_order(self, level: Level, indices: Sequence[int]) -> Sequence[int]:
        return self._tiles_at(level).in_storage_order(indices)

    def _fetch(self, level: Level, indices: Sequence[int]) -> Iterator[Encoded]:
        return self._tiles_at(level).fetch(indices)

    def _decode(
        self, level: Level, index: int, encoded: Encoded, window: Box | None
    ) -> tuple[UInt8[np.ndarray, "_ _ 3"], int, int]:
        return self._tiles_at(level).decode(encoded, window), 0, 0

    def _release(self, pixels: UInt8[np.ndarray, "_ _ 3"]) -> None:
        self._buffers.give(pixels)

    def _pixels(self, level: Level, x: int, y: int, size: Size) -> UInt8[np.ndarray, "h w 3"]:
        """With zarr-python."""
        from wsi_ats.slides.omezarr.fallback import FAILURES

        parts = (slice(y, y + size.height), slice(x, x + size.width), slice(3))
        where = dict(zip(self._yxc, parts, strict=True))
        try:
            array = self._array(self._image.datasets[level.index].path)
            pixels = np.asarray(array[tuple(where.get(axis, 0) for axis in range(array.ndim))])
        except FAILURES as error:
            raise SlideError(
                f"slide {self.name!r}: level {level.index} cannot be read at x={x}, y={y} (px of the level), "
                f"{size.width} x {size.height} px: {type(error).__name__} {error}",
                "it is damaged there, or stored with a codec that zarr-python does not have here",
            ) from error
        # What is left of the axes keeps their order.
        return pixels.transpose([sorted(self._yxc).index(axis) for axis in self._yxc])

    def _associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        from wsi_ats.slides.omezarr.fallback import FAILURES, read_whole

        try:
            return read_whole(self._array(self._group.notes["associated"][name])).transpose(1, 2, 0)
        except FAILURES as error:
            raise SlideError(f"slide {self.name!r}: image {name!r} cannot be read: {error}") from error

    def _array(self, path: str) -> zarr.Array[Any]:
        """An array as zarr-python sees it."""
        from wsi_ats.slides.omezarr.fallback import open_array

        if path not in self._arrays:
            self._arrays[path] = open_array(self._source, self._group.prefix + path, self._group.zarr_format)
        return self._arrays[path]


def _reason(image: Multiscale, group: Group, levels: Sequence[Tiles | UnsupportedLayout]) -> str:
    text = f"OME-Zarr {image.version} (Zarr v{group.zarr_format})"
    slow = [
        f"level {i} with zarr-python: {t}" for i, t in enumerate(levels) if isinstance(t, UnsupportedLayout)
    ]
    return "; ".join([text, *slow])


def _properties(image: Multiscale, group: Group, array: Json) -> dict[str, str]:
    """What people may want to know, and what `convert` kept of its source."""
    kept = group.notes.get("properties")
    return {
        **({str(key): str(value) for key, value in kept.items()} if isinstance(kept, dict) else {}),
        "ngff.version": image.version,
        "ngff.name": image.name,
        "ngff.axes": ", ".join(f"{axis.name} ({axis.unit or 'no unit'})" for axis in image.axes),
        "zarr.format": str(group.zarr_format),
        "zarr.codecs": str(array.get("codecs", array.get("compressor"))),
    }


def _icc_profile(source: ByteSource, group: Group) -> bytes | None:
    """The profile that `convert` kept, the one chunk of an array of bytes."""
    key = group.notes.get("icc_profile")
    try:
        return source.read(ByteRange(group.prefix + key)) if isinstance(key, str) else None
    except FileNotFoundError:
        return None
