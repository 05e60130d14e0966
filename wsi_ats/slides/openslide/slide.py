"""Slides of every format that OpenSlide knows: SVS, NDPI, MRXS, SCN, BIF, DICOM, CZI, tiled TIFF and more."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import openslide
from jaxtyping import UInt8
from PIL import Image

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Box, Level, Pyramid, Size
from wsi_ats.slides.associated import associated_image, whole_level
from wsi_ats.slides.base import DEFAULTS, WHITE, OpenOptions, Rgb, Slide, SlideAddress, SlideFacts
from wsi_ats.slides.content import digest_of
from wsi_ats.slides.openslide.admission import Choice, admitted, check_values, choose_levels, properties_in
from wsi_ats.slides.openslide.exact import common, spans, tile_size, tiles_under, window
from wsi_ats.slides.scale import expected_power, readings_of, scale_of, unread_of
from wsi_ats.slides.storage.local import refuse_irregular
from wsi_ats.slides.tiff.families import Contents
from wsi_ats.slides.tiff.tags import Refused

CACHE_BYTES = 64 * 2**20
"""Bytes of decoded tiles kept, for all slides of a process together."""

DAMAGED = (
    "the file is damaged there or was cut short: copy it again from its source, or allow a few bad tiles "
    "(--tolerate-bad-tiles, or tolerate_bad_tiles=... of open_slide)"
)

_abandoned: list[openslide.OpenSlide] = []


@dataclass(frozen=True, slots=True)
class OpenSlideAddress(SlideAddress):
    """A file to be opened with OpenSlide."""

    path: str
    name: str
    options: OpenOptions = DEFAULTS

    def open(self) -> OpenSlideSlide:
        """Open the slide. Raises SlideError with the path, the cause and a remedy where that fails."""
        return OpenSlideSlide(self)

    def digest(self) -> str:
        """Digest of the file (`slides/content.py`); empty behind a URL."""
        return digest_of(self.path)


class OpenSlideSlide(Slide):
    """A slide read by OpenSlide.

    One OpenSlide handle serves all threads (the library is thread-safe). It is opened again where it must not
    be used any more: after pickling, after a fork, and after an error, which OpenSlide makes terminal.
    """

    backend = "openslide"
    threads = min(8, 2 * (os.cpu_count() or 1))

    def __init__(self, address: OpenSlideAddress) -> None:
        try:
            contents = _admitted(address)
            handle = _open(address)
            choice = choose_levels(handle, contents)
            check_values(address.path, choice.levels[-1], contents)
        except Refused as error:
            raise error.named(address.name, address.path) from error
        super().__init__(address, _facts(handle, address, choice))
        self.bounds = bounds_of(self.properties)
        self._choice = choice
        self._downsamples = [handle.level_downsamples[level] for level in choice.levels]
        self._tolerated = address.options.tolerate_bad_tiles
        self._bad: frozenset[tuple[int, int, int]] = frozenset()
        self._reopen = address
        self._handle: openslide.OpenSlide | None = handle
        self._pid = os.getpid()
        self._closed = False

    def close(self) -> None:
        """Drop the handle; the file is closed when the last thread that reads from it is done."""
        self._closed = True
        self._handle = None

    @property
    def bad_tiles(self) -> tuple[tuple[int, int, int], ...]:
        """Tiles (level, column, row) met so far that could not be read and were tolerated.

        They are blocks of 256 px where OpenSlide does not say how the level is tiled.
        """
        return tuple(sorted(self._bad))

    def _pixels(self, level: Level, x: int, y: int, size: Size) -> UInt8[np.ndarray, "h w 3"]:
        return self._copied(level, Box(x, y, size.width, size.height), self._block)

    def _copied(
        self, level: Level, box: Box, read: Callable[[Level, Box], UInt8[np.ndarray, "h w 3"]]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a box, read in parts that OpenSlide copies and does not blend."""
        downsample = self._downsamples[level.index]
        columns = spans(box.x, box.width, downsample)
        out = np.empty((box.height, box.width, 3), np.uint8)
        for top, bottom, above in spans(box.y, box.height, downsample):
            for left, right, before in columns:
                part = Box(left, top, right - left, bottom - top)
                more = Box(before, above, right - before, bottom - above)
                window(out, box, part)[:] = window(read(level, more), more, part)
        return out

    def _block(self, level: Level, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a box that is small enough to be read at once."""
        tiles = (
            tiles_under(box, tile_size(self.properties, self._choice.levels[level.index]), level.size)
            if self._tolerated
            else {}
        )
        if self._bad.isdisjoint((level.index, *tile) for tile in tiles):
            try:
                return self._region(level, box)
            except openslide.OpenSlideError as error:
                if not tiles:
                    raise self._unreadable(level, box, error) from error
        return self._patchwork(level, box, tiles)

    def _patchwork(
        self, level: Level, box: Box, tiles: Mapping[tuple[int, int], Box]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a box, tile by tile; those that cannot be read are background, and are counted."""
        out = np.empty((box.height, box.width, 3), np.uint8)
        out[:] = self.background
        for (col, row), tile in tiles.items():
            if (level.index, col, row) not in self._bad:
                pixels = self._tile(level, tile, (level.index, col, row))
                part = common(tile, box)
                window(out, box, part)[:] = window(pixels, tile, part)
        return out

    def _tile(self, level: Level, tile: Box, key: tuple[int, int, int]) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of one tile, background where it cannot be read."""
        try:
            return self._copied(level, tile, self._region)
        except openslide.OpenSlideError:
            pass  # perhaps not of this tile: positions between pixels need its neighbours
        try:
            return self._inner(level, tile)
        except openslide.OpenSlideError as error:
            self._tolerate(key, error)
            return np.full((tile.height, tile.width, 3), self.background, np.uint8)

    def _inner(self, level: Level, tile: Box) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a tile read from the first position inside it, be it between pixels, and ending inside it."""
        downsample = self._downsamples[level.index]
        x, y = math.ceil(tile.x * downsample), math.ceil(tile.y * downsample)
        width = max(1, tile.width - (x > tile.x * downsample))
        height = max(1, tile.height - (y > tile.y * downsample))
        pixels = self._read((x, y), level, (width, height))
        return np.pad(pixels, ((0, tile.height - height), (0, tile.width - width), (0, 0)), "edge")

    def _tolerate(self, key: tuple[int, int, int], error: openslide.OpenSlideError) -> None:
        """Count a damaged tile. Raises SlideError, with its coordinates, where it is one too many."""
        with self._lock:
            if len(self._bad | {key}) <= self._tolerated:
                self._bad = self._bad | {key}
                return
        place = f"level {key[0]}, tile column {key[1]}, row {key[2]} cannot be read"
        raise SlideError(
            f"slide {self.name!r}: {place}: {error}; {self._tolerated} such tile(s) are allowed", DAMAGED
        ) from error

    def _region(self, level: Level, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a box as OpenSlide gives them. Raises OpenSlideError where they cannot be read."""
        return self._read(self._location(level, box), level, (box.width, box.height))

    def _read(
        self, location: tuple[int, int], level: Level, size: tuple[int, int]
    ) -> UInt8[np.ndarray, "h w 3"]:
        number = self._choice.levels[level.index]
        return opaque(self._use(lambda h: h.read_region(location, number, size)), self.background)

    def _location(self, level: Level, box: Box) -> tuple[int, int]:
        # OpenSlide divides by its own downsample, the mean of both axes: multiply by it to land on a pixel.
        downsample = self._downsamples[level.index]
        return round(box.x * downsample), round(box.y * downsample)

    def _unreadable(self, level: Level, box: Box, error: openslide.OpenSlideError) -> SlideError:
        x, y = self._location(level, box)
        return SlideError(
            f"slide {self.name!r}: level {level.index} cannot be read at x={x}, y={y} (level-0 px), "
            f"{box.width} x {box.height} px: {error}",
            DAMAGED,
        )

    def _associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        try:
            level = self._choice.beside.get(name)
            if level is not None:
                return opaque(self._use(lambda handle: whole_level(handle, level)), self.background)
            return opaque(self._use(lambda handle: associated_image(handle, name)), WHITE)
        except openslide.OpenSlideError as error:
            raise SlideError(f"slide {self.name!r}: image {name!r} cannot be read: {error}") from error

    def _use(self, read: Callable[[openslide.OpenSlide], Image.Image]) -> Image.Image:
        """Read with the shared handle; where that fails, once more with one that nobody else uses.

        An error is final for a handle and hits every thread that reads with it at the time. Only the second
        error is sure to be about these very pixels.
        """
        handle = self._current()
        try:
            return read(handle)
        except openslide.OpenSlideError:
            with self._lock:
                if self._handle is handle:
                    self._handle = None
        with _open(self._reopen) as own:
            return read(own)

    def _current(self) -> openslide.OpenSlide:
        """The handle of this process, opened if need be."""
        if self._closed:
            raise SlideError(f"slide {self.name!r} is closed", "read inside the `with` block")
        if self._pid != os.getpid():
            self._abandon()
        with self._lock:
            if self._handle is None:
                self._handle = _open(self._reopen)
            return self._handle

    def _abandon(self) -> None:
        """Leave handle and lock to the parent: a thread of it may have held their mutexes when it forked."""
        if self._handle is not None:
            _abandoned.append(self._handle)
        self._handle, self._lock, self._pid = None, threading.Lock(), os.getpid()


def _admitted(address: OpenSlideAddress) -> Contents | None:
    """What is known of the file before OpenSlide opens it. Raises Refused, and SlideError where it cannot be read."""
    try:
        refuse_irregular(address.path)
        with Path(address.path).open("rb") as file:
            empty = not file.read(1)
        if empty:
            raise SlideError(f"slide {address.name!r} is an empty file: {address.path}", "copy it again")
        return admitted(address.path)
    except OSError as error:
        raise SlideError(
            f"slide {address.name!r} cannot be opened: {error.strerror or error}: {address.path}",
            "check the path; relative paths start at the current folder",
        ) from error


def _open(address: OpenSlideAddress) -> openslide.OpenSlide:
    path = Path(address.path)
    try:
        handle = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(
            f"slide {address.name!r} is in no format that OpenSlide {openslide.__library_version__} knows, "
            f"or it is cut short: {address.path}",
            "check that it is a whole slide image and was copied completely",
        ) from error
    except openslide.OpenSlideError as error:
        raise SlideError(
            f"slide {address.name!r} cannot be opened: {error}: {address.path}",
            "the file is damaged or was cut short: copy it again from its source",
        ) from error
    handle.set_cache(_cache(os.getpid()))
    return handle


@lru_cache(maxsize=1)
def _cache(pid: int) -> openslide.OpenSlideCache:
    """The cache of tiles that all slides of a process share: memory does not grow with open slides."""
    return openslide.OpenSlideCache(CACHE_BYTES)


def _facts(handle: openslide.OpenSlide, address: OpenSlideAddress, choice: Choice) -> SlideFacts:
    properties = properties_in(handle)
    power = expected_power(properties)
    stated, unread = readings_of(properties), unread_of(properties)
    scale = scale_of(stated, address.options.mpp, address.options.default_mpp, power, unread)
    return SlideFacts(
        pyramid=Pyramid.of_sizes([handle.level_dimensions[level] for level in choice.levels]),
        mpp_xy=scale.mpp,
        mpp_source=scale.source,
        properties=properties,
        background=colour_of(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "")),
        associated_names=(*handle.associated_images, *choice.beside),
        # A region without pixels carries the profile, too, as it is in the file, be it damaged.
        icc_profile=handle.read_region((0, 0), 0, (0, 0)).info.get("icc_profile"),
        notes=choice.notes + scale.notes,
    )


def bounds_of(properties: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    """Rectangle (x, y, width, height) in level-0 px of the part of the slide that was scanned, where it says so."""
    texts = [properties.get(f"openslide.bounds-{name}", "") for name in ("x", "y", "width", "height")]
    if not all(re.fullmatch("[0-9]{1,15}", text) for text in texts):
        return None
    x, y, width, height = map(int, texts)
    return x, y, width, height


def colour_of(text: str) -> Rgb:
    """Colour of a text RRGGBB in hexadecimal, or white."""
    if not re.fullmatch("[0-9a-fA-F]{6}", text):
        return WHITE
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def opaque(image: Image.Image, background: Rgb) -> UInt8[np.ndarray, "h w 3"]:
    """An RGBA image as RGB on the background: (0, 0, 0, 0), where a slide has no tile, is not black but nothing."""
    rgba = np.asarray(image)
    if rgba[..., 3].min() == 255:
        return rgba[..., :3]
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(image, mask=image.getchannel("A"))
    return np.asarray(canvas)
