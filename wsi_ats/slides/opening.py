"""Choice of the backend that reads a file: a rule that follows from the file alone.

OME-Zarr is read as such. The tiles of a tiled TIFF are read directly if they are as its family has them and a few
of them equal OpenSlide's (`tiff`). All else is read by OpenSlide, and `backend_reason` says why. A TIFF that
contradicts itself, or of which OpenSlide would make other pixels than are meant, is read by none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.regular import is_folder
from wsi_ats.shown import url_id
from wsi_ats.slides.base import OpenOptions, Slide
from wsi_ats.slides.openslide.slide import OpenSlideAddress
from wsi_ats.slides.storage.opening import is_url
from wsi_ats.slides.tiff.slide import TiffAddress, TiffSlide
from wsi_ats.slides.tiff.tags import Refused, UnsupportedLayout

REASONS = {
    "hamamatsu": "NDPI has no tiles",
    "trestle": "Trestle's tiles overlap",
    "ventana": "Ventana's tiles overlap",
    "leica": "Leica SCN has several areas",
}
"""Reasons by OpenSlide's vendor: what is wrong with formats that look like a damaged or an ordinary TIFF at first."""


@dataclass(frozen=True)
class Reader:
    """A backend: how it opens a path or a URL, and by what it knows its own without being asked for by name."""

    open: Callable[[str, str, OpenOptions], Slide]
    recognises: Callable[[str], bool] | None = None
    """Whether a path is the reader's; None: a file that no other recognises, as the tiled TIFF and OpenSlide share."""
    takes_urls: bool = True


def open_path(path: str, name: str | None, options: OpenOptions, backend: str | None) -> Slide:
    """Open the slide in a file, a folder or behind a URL; arguments and errors as of `open_slide`."""
    path = _located(path)
    name = name or (url_id(path) if is_url(path) else path).rstrip("/").rpartition("/")[2]
    if backend is None:
        own = (reader.open for reader in READERS.values() if reader.recognises and reader.recognises(path))
        return next(own, _file)(path, name, options)
    if backend not in READERS:
        raise ConfigError(f"backend={backend!r} cannot open {path}", f"choose one of {', '.join(READERS)}")
    if is_url(path) and not READERS[backend].takes_urls:
        raise ConfigError(f"backend={backend!r} cannot open the URL {path}", "copy the slide to a disk")
    slide = READERS[backend].open(path, name, options)
    slide.backend_reason = slide.backend_reason or "as asked for"
    return slide


def _located(path: str) -> str:
    """An absolute path, which holds in processes that work in other folders, or a URL, without blanks: where these
    end, messages would take the URL to end (`shown.redacted`)."""
    if not is_url(path):
        return str(Path(path).absolute())
    if path.lower().startswith("file://"):
        return unquote(urlsplit(path).path)
    return re.sub(r"\s", lambda blank: quote(blank[0]), path)


def _is_zarr(path: str) -> bool:
    # What is neither a folder nor behind a URL is not asked: zarr is slow to import.
    if not (is_url(path) or is_folder(path)):
        return False
    from wsi_ats.slides.omezarr.slide import is_zarr

    return is_zarr(path)


def _zarr(path: str, name: str, options: OpenOptions) -> Slide:
    from wsi_ats.slides.omezarr.slide import ZarrAddress

    return ZarrAddress(path, name, options).open()


def _file(path: str, name: str, options: OpenOptions) -> Slide:
    """The fast path where it fits, else OpenSlide, with the reason."""
    address = TiffAddress(path, name, options)
    if is_url(path):
        return address.open()
    try:
        return TiffSlide(address)
    except UnsupportedLayout as error:
        reason = str(error)
    try:
        slide = OpenSlideAddress(path, name, options).open()
    except SlideError as error:
        if reason == "not a TIFF" or isinstance(error.__cause__, Refused):
            raise
        raise SlideError(
            f"{error.message}; as a tiled TIFF it cannot be read, either: {reason}", error.remedy
        ) from error
    if reason != "not a TIFF":
        reason = REASONS.get(slide.properties.get("openslide.vendor", ""), reason)
    slide.backend_reason = f"OpenSlide: {reason}"
    return slide


READERS: Mapping[str, Reader] = {
    "zarr": Reader(_zarr, _is_zarr),
    "tiff": Reader(lambda path, name, options: TiffAddress(path, name, options).open()),
    "openslide": Reader(
        lambda path, name, options: OpenSlideAddress(path, name, options).open(), takes_urls=False
    ),
}
"""Readers by the name of the backend. An entry more is a reader more (docs/backends.md)."""
