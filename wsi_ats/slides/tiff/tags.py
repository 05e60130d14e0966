"""Directories of a TIFF file and their tags, strictly: a file that is damaged or cut short is never read in part.

tifffile is the better parser for files that break the rules; it also carries on where a chain of directories is
broken, and a pyramid that lost its last levels looks like a smaller one. Here every offset must lie in the file.
Classic TIFF and BigTIFF, both byte orders. Source: TIFF 6.0 and the BigTIFF design (libtiff).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Num

from wsi_ats.errors import SlideError
from wsi_ats.slides.storage.opening import ByteRange, ByteSource, as_file

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first four bytes of a TIFF: little or big endian, classic or BigTIFF."""
MAX_DIRECTORIES = 1 << 12
MAX_ENTRIES = 4096
"""Most tags of a directory: those of real files have fewer than a hundred."""
MAX_TEXT = 1 << 23
"""Most bytes of a text or of opaque data (descriptions, XMP, colour profiles): parsing takes many times as much."""
MAX_NUMBERS = 1 << 27
"""Most bytes of the numbers of a tag: 16 million tiles have that many."""
NDPI = 65420
"""Tag by which NDPI is known: a classic TIFF, but for 8 bytes where a directory points at the next one."""
COPY_AGAIN = "the file is damaged or was cut short: copy it again from its source"

NUMBERS = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 11: "f4", 12: "f8", 13: "u4", 16: "u8"}
NUMBERS |= {17: "i8", 18: "u8"}
BYTES = (1, 2, 6, 7)
RATIONALS = {5: "u4", 10: "i4"}
SIZES = {kind: np.dtype(code).itemsize for kind, code in NUMBERS.items()} | {2: 1, 7: 1, 5: 8, 10: 8}
"""Bytes of one value, by the number of its type."""


class UnsupportedLayout(Exception):
    """Tiles of a file are not read directly; the message says why, in a clause such as "NDPI has no tiles".

    OpenSlide may read it.
    """


class Refused(Exception):
    """A file that none is to read: it contradicts itself, or every reader here would give other pixels than are meant.

    The message says why, in a clause, and `remedy` what to do about it.
    """

    def __init__(self, message: str, remedy: str = COPY_AGAIN) -> None:
        super().__init__(message)
        self.remedy = remedy

    def named(self, slide: str, path: str) -> SlideError:
        """The error for people."""
        return SlideError(f"slide {slide!r} cannot be read: {self}: {path}", self.remedy)


class Directory:
    """A directory: the tags of one image."""

    def __init__(self, tiff: Tiff, entries: dict[int, tuple[int, int, int]]) -> None:
        self._tiff = tiff
        self._entries = entries  # tag -> type, number of values, where they lie

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def count(self, tag: int) -> int:
        """Number of values of a tag, read or not."""
        return self._entries.get(tag, (0, 0, 0))[1]

    def numbers(self, tag: int) -> Num[np.ndarray, " n"]:
        """All values of a tag, fractions as floats; empty where there is no such tag, or it holds no numbers."""
        kind, count, _ = self._entries.get(tag, (0, 0, 0))
        if kind in NUMBERS:
            return np.frombuffer(self._bytes(tag), self._tiff.order + NUMBERS[kind])
        if kind in RATIONALS:
            pairs = np.frombuffer(self._bytes(tag), self._tiff.order + RATIONALS[kind]).reshape(count, 2)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray(pairs[:, 0] / pairs[:, 1])
        return np.empty(0)

    def whole(self, tag: int, default: int = 0) -> int:
        """The first value of a tag as a whole number."""
        values = self.numbers(tag)
        return int(values[0]) if len(values) and np.isfinite(values[0]) else default

    def text(self, tag: int) -> str:
        """The text of a tag up to its first NUL; "" where there is none."""
        raw = self.raw(tag).partition(b"\0")[0]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    def check_text(self, tag: int) -> None:
        """Raises Refused where a text or opaque data is too long to be read."""
        if self.count(tag) > MAX_TEXT:
            raise Refused(f"tag {tag} has {self.count(tag)} values; at most {MAX_TEXT} are read")

    def raw(self, tag: int) -> bytes:
        """The bytes of a text or of opaque data; empty where there are none."""
        return self._bytes(tag) if self._entries.get(tag, (0, 0, 0))[0] in BYTES else b""

    def _bytes(self, tag: int) -> bytes:
        kind, count, at = self._entries[tag]
        size, most = count * SIZES[kind], MAX_TEXT if kind in BYTES else MAX_NUMBERS
        if size > most:
            raise Refused(f"tag {tag} has {size} bytes; at most {most} are read")
        return self._tiff.read(at, size)


class Tiff:
    """A TIFF file, for the time it takes to read its tags; for one thread."""

    def __init__(self, source: ByteSource) -> None:
        """Read the header.

        Raises UnsupportedLayout where the source is no TIFF, Refused where it is a damaged one, OSError where it cannot
        be read.
        """
        self._source = source
        self.size = source.stamp()[0]
        self._file = as_file(source)
        if self.size < 8 or (magic := self.read(0, 4)) not in MAGICS:
            raise UnsupportedLayout("not a TIFF")
        self.order = "<" if magic[:1] == b"I" else ">"
        self.big = b"+" in magic
        self._word = 8 if self.big else 4  # bytes of an offset
        self._next_word = self._word  # bytes of the position of the next directory
        if self.big and self._number(4, 2) != 8:
            raise Refused("it is a BigTIFF whose offsets do not have 8 bytes")
        self._first = self._number(8 if self.big else 4, self._word)
        if self.order == "<" and not self.big and self._is_ndpi():
            self._first, self._next_word = self._number(4, 8), 8

    @property
    def ndpi(self) -> bool:
        """Whether it is an NDPI: beyond 4 GiB the positions of its values are not what its directories say."""
        return self._next_word > self._word

    def directories(self) -> Iterator[Directory]:
        """The directories of the main chain, in order. Raises Refused where the chain is broken."""
        at = self._first
        seen: set[int] = set()
        while at:
            if at in seen or len(seen) == MAX_DIRECTORIES:
                raise Refused("its directories run in a circle or are too many")
            seen.add(at)
            directory, at = self._directory(at)
            yield directory

    def _is_ndpi(self) -> bool:
        """Whether the first directory, at a position of 8 bytes, has the tag of NDPI."""
        try:
            return NDPI in self._directory(self._number(4, 8))[0]
        except Refused:
            return False

    def below(self, parent: Directory) -> list[Directory]:
        """The directories that tag 330 (SubIFDs) of another names."""
        offsets = parent.numbers(330)
        if len(offsets) > MAX_DIRECTORIES:
            raise Refused("its directories are too many")
        return [self._directory(int(offset))[0] for offset in offsets]

    def read(self, at: int, count: int) -> bytes:
        """Bytes of the file. Raises Refused where they do not all lie in it."""
        if not 0 <= at <= at + count <= self.size:
            raise Refused(f"it points at {count} bytes from byte {at} on, and has {self.size} bytes")
        if count > 1 << 16:  # one request to a server, not one a block
            return self._source.read(ByteRange("", at, count))
        self._file.seek(at)
        return self._file.read(count)

    def _directory(self, at: int) -> tuple[Directory, int]:
        """The directory at a position, and the position of the next one."""
        head, width = (8, 20) if self.big else (2, 12)
        count = self._number(at, head)
        if count > MAX_ENTRIES:
            raise Refused(f"its directory at byte {at} has {count} tags; at most {MAX_ENTRIES} are read")
        table = np.frombuffer(self.read(at + head, count * width), np.uint8).reshape(count, width)
        o = self.order
        tags, kinds = (_column(table, start, f"{o}u2") for start in (0, 2))
        counts = _column(table, 4, f"{o}u{self._word}")
        values = _column(table, 4 + self._word, f"{o}u{self._word}")
        entries: dict[int, tuple[int, int, int]] = {}
        for row, (tag, kind, n, value) in enumerate(zip(tags, kinds, counts, values, strict=True)):
            size = n * SIZES.get(kind, 0)
            # Values that fit into the place of their offset are there.
            inline = size <= self._word
            entries[tag] = kind, n, at + head + row * width + 4 + self._word if inline else value
        return Directory(self, entries), self._number(at + head + count * width, self._next_word)

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self.read(at, size), "little" if self.order == "<" else "big")


def _column(table: Num[np.ndarray, "n width"], start: int, code: str) -> list[int]:
    """One field of all entries of a directory."""
    size = np.dtype(code).itemsize
    return [int(n) for n in np.ascontiguousarray(table[:, start : start + size]).view(code)[:, 0]]
