"""Bytes by position, wherever a slide lies: open a source, read parts of it, or see it as a file."""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

from wsi_ats.errors import ConfigError
from wsi_ats.slides.local import FileSource, FolderSource
from wsi_ats.slides.source import ByteSource, Part

__all__ = ["ByteSource", "Part", "as_file", "is_url", "open_source"]

KEPT_BYTES = 32 << 20
"""Blocks that a file view remembers: many times what the metadata of a slide needs."""


def is_url(text: str) -> bool:
    """Does the text begin like a URL (`https://`, `s3://`), and not like a path?"""
    return re.match("[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def open_source(address: str) -> ByteSource:
    """The bytes behind the path of a file or folder, or behind a URL (https, http, s3, gs, az, file).

    Raises FileNotFoundError where a path does not exist, OSError where it cannot be opened, ConfigError for a
    URL of another kind.
    """
    if is_url(address):
        parts = urlsplit(address)
        if parts.scheme.lower() != "file":
            raise ConfigError(f"{parts.scheme}:// is not a kind of URL that slides are read from")
        address = unquote(parts.path)
    return FolderSource(address) if Path(address).is_dir() else FileSource(address)


def as_file(source: ByteSource, block: int = 1 << 16) -> io.BufferedReader:
    """A seekable read-only view of a one-file source, for parsers; not for several threads at once.

    It reads whole blocks of `block` bytes and remembers the last of them. Closing it leaves the source open.
    Raises FileNotFoundError, OSError as `source.read` does.
    """
    return io.BufferedReader(cast(io.RawIOBase, _Blocks(source, block)), buffer_size=1 << 12)


class _Blocks(io.RawIOBase):
    """A file made of blocks of a source."""

    def __init__(self, source: ByteSource, block: int) -> None:
        super().__init__()
        self._source, self._block = source, block
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._at = 0
        self._size = source.stamp()[0]
        self.name = source.address

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, also beyond the end."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"{self.name}: position {at} lies before the file")
        self._at = at
        return at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer`; fewer bytes only at the end."""
        count = max(min(len(buffer), self._size - self._at), 0)
        done = 0
        for index in range(self._at // self._block, -(-(self._at + count) // self._block)):
            within = self._at + done - index * self._block
            piece = self._piece(index)[within : within + count - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        self._at += done
        return done

    def _piece(self, index: int) -> bytes:
        if index not in self._kept:
            self._kept[index] = self._source.read(Part("", index * self._block, self._block))
            while len(self._kept) * self._block > max(KEPT_BYTES, self._block):
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index]
