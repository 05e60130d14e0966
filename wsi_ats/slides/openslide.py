"""Every format that OpenSlide knows: SVS, NDPI, MRXS, SCN, BIF, DICOM, CZI, tiled TIFF and more."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import openslide
from jaxtyping import UInt8
from PIL import Image

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Level, Pyramid, Size
from wsi_ats.slides.base import AS_IT_IS, WHITE, Opening, Rgb, Slide, SlideAddress, SlideFacts
from wsi_ats.slides.scale import mpp_of

CACHE_BYTES = 64 * 2**20
"""Decoded tiles kept, for all slides of a process together."""

_abandoned: list[openslide.OpenSlide] = []


@dataclass(frozen=True, slots=True)
class OpenSlideAddress(SlideAddress):
    """A file to be opened with OpenSlide."""

    path: str
    name: str
    opening: Opening = AS_IT_IS

    def open(self) -> OpenSlideSlide:
        """Open the slide. Raises SlideError with the path, the cause and a remedy where that fails."""
        return OpenSlideSlide(self)


class OpenSlideSlide(Slide):
    """A slide read by OpenSlide.

    One OpenSlide handle serves all threads (the library is thread-safe). It is opened again where it must not
    be used any more: after pickling, after a fork, and after an error, which OpenSlide makes terminal.
    """

    backend = "openslide"
    threads = min(8, 2 * (os.cpu_count() or 1))

    def __init__(self, address: OpenSlideAddress) -> None:
        handle = _open(address)
        super().__init__(address, _facts(handle, address))
        self._downsamples = handle.level_downsamples
        self._reopen = address
        self._handle: openslide.OpenSlide | None = handle
        self._pid = os.getpid()
        self._closed = False

    def close(self) -> None:
        """Drop the handle; the file is closed when the last thread that reads from it is done."""
        self._closed = True
        self._handle = None

    def _pixels(self, level: Level, x: int, y: int, size: Size) -> UInt8[np.ndarray, "h w 3"]:
        # OpenSlide divides by its own downsample, the mean of both axes: multiply by it to land on a pixel.
        downsample = self._downsamples[level.index]
        location = round(x * downsample), round(y * downsample)
        try:
            image = self._use(
                lambda handle: handle.read_region(location, level.index, (size.width, size.height))
            )
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"slide {self.name!r}: level {level.index} cannot be read at x={location[0]}, "
                f"y={location[1]} (level-0 px), {size.width} x {size.height} px: {error}",
                "the file is damaged there or was cut short: copy it again from its source",
            ) from error
        return opaque(image, self.background)

    def _associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        try:
            return opaque(self._use(lambda handle: handle.associated_images[name]), WHITE)
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


def _open(address: OpenSlideAddress) -> openslide.OpenSlide:
    path = Path(address.path)
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise SlideError(
            f"slide {address.name!r} cannot be opened: {error.strerror}: {address.path}",
            "check the path; relative paths start at the current folder",
        ) from error
    if empty:
        raise SlideError(f"slide {address.name!r} is an empty file: {address.path}", "copy it again")
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


def _facts(handle: openslide.OpenSlide, address: OpenSlideAddress) -> SlideFacts:
    properties = dict(handle.properties)
    mpp, source = (address.opening.mpp, "given") if address.opening.mpp else mpp_of(properties)
    return SlideFacts(
        pyramid=Pyramid.of_sizes(list(handle.level_dimensions)),
        mpp_xy=mpp,
        mpp_source=source,
        properties=properties,
        background=colour_of(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "")),
        associated_names=tuple(handle.associated_images),
    )


def colour_of(text: str) -> Rgb:
    """RRGGBB in hexadecimal, or white."""
    if not re.fullmatch("[0-9a-fA-F]{6}", text):
        return WHITE
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def opaque(image: Image.Image, background: Rgb) -> UInt8[np.ndarray, "h w 3"]:
    """RGBA -> RGB on the background: (0, 0, 0, 0), where a slide has no tile, is not black but nothing."""
    rgba = np.asarray(image)
    if rgba[..., 3].min() == 255:
        return rgba[..., :3]
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(image, mask=image.getchannel("A"))
    return np.asarray(canvas)
