"""Bytes by position, wherever a slide lies: open a source, read parts of it, or see it as a file."""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from typing import cast
from urllib.parse import unquote, urlsplit

from wsi_ats.regular import is_folder
from wsi_ats.slides.storage.local import FileSource, FolderSource
from wsi_ats.slides.storage.source import ByteRange, ByteSource

__all__ = ["ByteRange", "ByteSource", "as_file", "is_url", "open_source"]

KEPT_BYTES = 32 << 20
"""Blocks that a file view remembers: many times what the metadata of a slide needs."""
FIRST_AHEAD, MOST_AHEAD = 256 << 10, 4 << 20
"""Bytes that a file view fetches from a server at once: the first where a parser jumps to a new place (a round
trip lasts as long as about so many bytes), twice as many each time it reads on from there."""


def is_url(text: str) -> bool:
    """Whether the text begins like a URL (`https://`, `s3://`), and not like a path."""
    return re.match("[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def open_source(address: str) -> ByteSource:
    """The bytes behind the path of a file or folder, or behind a URL (https, http, s3, gs, az, file).

    A server is not asked yet. Raises FileNotFoundError where a path does not exist, OSError where it cannot be
    opened, ConfigError for a URL of another kind and where obstore is not installed.
    """
    if is_url(address):
        if not address.lower().startswith("file://"):
            # Here, because most processes need no event loop.
            from wsi_ats.slides.storage.remote import RemoteSource

            return RemoteSource(address)
        address = unquote(urlsplit(address).path)
    return FolderSource(address) if is_folder(address) else FileSource(address)


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
        self._ahead = FIRST_AHEAD
        self._blocks = 1 << 62
        self.name = source.address
        if source.remote:
            # Every parser begins here, and with the first answer a server tells the size, too.
            self._load(0, 1)
        self._size = source.stamp()[0]
        self._blocks = -(-self._size // block)

    def readable(self) -> bool:
        """Whether the file can be read: always."""
        return True

    def seekable(self) -> bool:
        """Whether positions can be chosen: always."""
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

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` as far as one fetch or what is remembered goes; the caller asks again for the rest."""
        end = min(self._at + len(buffer), self._size)
        if self._at >= end:
            return 0
        index, stop = self._at // self._block, -(-end // self._block)
        if index not in self._kept:
            self._load(index, stop)
        done = 0
        while index < stop and index in self._kept:
            self._kept.move_to_end(index)
            within = self._at + done - index * self._block
            piece = self._kept[index][within : within + end - self._at - done]
            if not piece:
                break
            buffer[done : done + len(piece)] = piece
            done += len(piece)
            index += 1
        self._at += done
        return done

    def _load(self, index: int, stop: int) -> None:
        """Fetch blocks `index` to `stop`, and from a server some more: twice as many each time one goes on."""
        if self._source.remote:
            reads_on = index - 1 in self._kept
            self._ahead = min(2 * self._ahead, MOST_AHEAD) if reads_on else FIRST_AHEAD
            stop = max(stop, index + -(-self._ahead // self._block))
        stop = min(stop, index + KEPT_BYTES // self._block, self._blocks)
        stop = next((n for n in range(index, stop) if n in self._kept), stop)
        data = self._source.read(ByteRange("", index * self._block, (stop - index) * self._block))
        for number in range(index, stop):
            first = (number - index) * self._block
            self._kept[number] = data[first : first + self._block]
            self._kept.move_to_end(number)
        while len(self._kept) * self._block > KEPT_BYTES:
            self._kept.popitem(last=False)
