"""OME-Zarr slides: NGFF 0.4 and 0.5, in a folder or behind a URL.

Levels that are stored as chunks of c, y, x (in any order) with the usual codecs are read chunk by chunk here, like
the tiles of a TIFF. What is stored in other ways is read with zarr-python, several times more slowly, and
`backend_reason` says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Box, Level, Pyramid, Size
from wsi_ats.regular import is_folder
from wsi_ats.slides.associated import MAX_PIXELS
from wsi_ats.slides.base import DEFAULTS, OpenOptions, Slide, SlideAddress, SlideFacts
from wsi_ats.slides.channels import BRIGHT_FIELD, are_rgb, named
from wsi_ats.slides.ome import ome_images
from wsi_ats.slides.omezarr.array import storage_of
from wsi_ats.slides.omezarr.codecs import UnsupportedLayout
from wsi_ats.slides.omezarr.group import GROUP_FILES, Group, Json, read_arrays
from wsi_ats.slides.omezarr.metadata import array_facts
from wsi_ats.slides.omezarr.ngff import Multiscale, channels_of, parse_multiscale, pyramid_of
from wsi_ats.slides.omezarr.series import Series, Store, open_store
from wsi_ats.slides.omezarr.tiles import Tiles, rgb_axes
from wsi_ats.slides.scale import OME_IMAGE, Reading, expected_power, parse_xml, readings_of, scale_of
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
            store = _given(group, address.name) if group else open_store(self._source, address.name)
            self._group, self._image = store.slide.group, store.slide.image
            self._beside = _names_of(store)
            facts = self._find_levels(address, store)
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

    def _find_levels(self, address: ZarrAddress, store: Store) -> SlideFacts:
        """How the levels are stored, and what is known of the slide."""
        group, image = self._group, self._image
        _refuse_other_colours(group.attributes, address.name)
        arrays = read_arrays(self._source, group, [d.path for d in image.datasets], address.name)
        self._buffers = Buffers()
        tiles: list[Tiles | UnsupportedLayout] = []
        sizes = []
        for dataset, metadata in zip(image.datasets, arrays, strict=True):
            try:
                shape, dtype = array_facts(metadata)
                self._yxc = rgb_axes([axis.name for axis in image.axes], shape, dtype, address.name)
                tiles.append(self._tiles_of(group.prefix + dataset.path, metadata))
            except METADATA_ERRORS as error:
                raise SlideError(
                    f"slide {address.name!r}: the metadata of level {dataset.path!r} cannot be used: "
                    f"{type(error).__name__} {error}",
                    "copy it again from its source, or convert it again",
                ) from error
            sizes.append(Size(shape[self._yxc[1]], shape[self._yxc[0]]))
        kept = _kept(sizes)
        self._tiles = [tiles[index] for index in kept]
        self._image = replace(image, datasets=tuple(image.datasets[index] for index in kept))
        pyramid, doubts = pyramid_of(self._image, [sizes[index] for index in kept], address.name)
        properties = _properties(image, group, arrays[0]) | doubts
        stated = [] if image.mpp_xy is None else [Reading(image.mpp_xy, "ngff scale")]
        stated += readings_of({"ome.xml": store.xml, OME_IMAGE: str(store.slide.number)}) if store.xml else []
        power = expected_power(properties | ({"ome.xml": store.xml} if store.xml else {}))
        scale = scale_of(stated, address.options.mpp, address.options.default_mpp, power)
        left_out = [dataset.path for dataset in image.datasets if dataset not in self._image.datasets]
        profile = _icc_profile(self._source, group)
        lost = (NO_PROFILE,) if profile is None and group.notes.get("icc_profile") else ()
        return SlideFacts(
            pyramid=pyramid,
            mpp_xy=scale.mpp,
            mpp_source=scale.source,
            properties=properties,
            associated_names=(*group.notes.get("associated", ()), *self._beside),
            icc_profile=profile,
            notes=(*store.notes, *_told(left_out, doubts), *lost, *scale.notes),
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
            if name in self._beside:
                return self._read_beside(self._beside[name])
            return read_whole(self._array(self._group.notes["associated"][name])).transpose(1, 2, 0)
        except FAILURES as error:
            raise SlideError(f"slide {self.name!r}: image {name!r} cannot be read: {error}") from error

    def _read_beside(self, series: Series) -> UInt8[np.ndarray, "h w 3"]:
        """Another image of the store, whole. Raises SlideError where it is not RGB, ValueError where it is huge."""
        from wsi_ats.slides.omezarr.fallback import open_array

        image = series.image
        array = open_array(
            self._source, series.group.prefix + image.datasets[0].path, series.group.zarr_format
        )
        yxc = rgb_axes([axis.name for axis in image.axes], array.shape, str(array.dtype), self.name)
        if array.shape[yxc[0]] * array.shape[yxc[1]] > MAX_PIXELS:
            raise ValueError(f"{series.size[0]} x {series.size[1]} px are too many")
        pixels = np.asarray(array[tuple(slice(None) if axis in yxc else 0 for axis in range(array.ndim))])
        return pixels.transpose([sorted(yxc).index(axis) for axis in yxc])

    def _array(self, path: str) -> zarr.Array[Any]:
        """An array as zarr-python sees it."""
        from wsi_ats.slides.omezarr.fallback import open_array

        if path not in self._arrays:
            self._arrays[path] = open_array(self._source, self._group.prefix + path, self._group.zarr_format)
        return self._arrays[path]


def _refuse_other_colours(attributes: Json, slide: str) -> None:
    """Raises SlideError where three channels are said to be others than red, green and blue."""
    channels = channels_of(attributes)
    if len(channels) == 3 and not are_rgb(channels):
        raise SlideError(
            f"slide {slide!r} has three channels{named(channels)} that are not red, green and blue",
            BRIGHT_FIELD,
        )


def _given(group: Group, slide: str) -> Store:
    return Store(Series(group, parse_multiscale(group.attributes, slide), 0))


def _names_of(store: Store) -> dict[str, Series]:
    """The other images of a store by name, each name once."""
    root = parse_xml(store.xml)
    images = {} if root is None else {image.number: image.name for image in ome_images(root)}
    found: dict[str, Series] = {}
    for series in store.beside:
        name = images.get(series.number) or series.image.name or f"image {series.number + 1}"
        found[name if name not in found else f"{name} {series.number + 1}"] = series
    return found


def _kept(sizes: Sequence[Size]) -> list[int]:
    """Levels that can be ones of the first, or are larger, so that the metadata is wrong."""
    full = sizes[0]
    fitting = Pyramid.fitting([(size.width, size.height) for size in sizes])
    larger = [i for i, size in enumerate(sizes) if size.width > full.width or size.height > full.height]
    return sorted({*fitting, *larger})


def _told(left_out: Sequence[str], doubts: Mapping[str, str]) -> Iterator[str]:
    if left_out:
        yield f"level(s) {', '.join(left_out)} left out: they have not the proportions of level 0, or its size"
    if doubts:
        yield "the scales of its levels contradict their sizes, which are taken"


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


NO_PROFILE = "its ICC profile is missing: colours stay as they are, also where sRGB is asked for"
"""Note on a store whose metadata names a profile that is not in it."""


def _icc_profile(source: ByteSource, group: Group) -> bytes | None:
    """The profile that `convert` kept, the one chunk of an array of bytes."""
    key = group.notes.get("icc_profile")
    try:
        return source.read(ByteRange(group.prefix + key)) if isinstance(key, str) else None
    except FileNotFoundError:
        return None
