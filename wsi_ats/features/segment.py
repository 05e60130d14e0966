"""A file of rows of one kind, appended by one process: what a `FeatureStore` is made of.

A line of text (dtype, shape, the whole of `made_by`), then records of equal size: CRC-32 of the line and of what
follows, item, row. A record that a killed process left torn, that was damaged, or whose file is another's is as if it
were not there.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

LINE = re.compile(rb'wsi-ats rows 1 ([<>|][biufc][0-9]+) \[([0-9, ]*)\] (".*")\n')
"""First line of a segment: dtype, shape, `made_by` as JSON."""
HEAD = struct.Struct("<Qq")
"""Head of a record: its CRC and its item; 16 bytes, so that the row after it is aligned."""
FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
"""Flags of opening: a link is not followed, and opening a pipe does not wait for its other end."""


class Segment(NamedTuple):
    """A file of records, as far as it was known at the last look."""

    path: Path
    line: bytes
    items: np.ndarray = np.empty(0, np.int64)
    """Items (N,) int64, in the order of the records; whether those are whole is seen when they are read."""

    @classmethod
    def of(cls, path: Path, made_by: bytes) -> Segment | None:
        """The segment, with no items yet; None where the file is something else."""
        with _open(path) as file:
            line = (file.read(len(made_by) + 1024) or b"").partition(b"\n")[0] + b"\n"
        found = LINE.fullmatch(line)
        with suppress(ValueError, TypeError):
            if found and found[3] == made_by and cls(path, line).kind:
                return cls(path, line)
        return None

    @property
    def kind(self) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
        """Kind of the rows: their dtype and shape, and the bytes of a record."""
        name, numbers = json.loads(LINE.sub(rb'["\1", [\2]]', self.line))
        dtype, shape = np.dtype(name), tuple(numbers)
        return dtype, shape, HEAD.size + math.prod(shape) * dtype.itemsize

    def up_to(self, size: int) -> Segment:
        """The segment with all whole records of a file of `size` bytes."""
        record = self.kind[2]
        known, count = len(self.items), max(0, size - len(self.line)) // record
        if count <= known:
            return self._replace(items=self.items[:count])
        with _open(self.path) as file:
            items = b"".join(
                file.read(8) or b"" for n in range(known, count) if file.seek(len(self.line) + n * record + 8)
            )
        fresh = np.frombuffer(items[: len(items) // 8 * 8], "<i8")  # fewer, where it was cut just now
        return self._replace(items=np.append(self.items, fresh.astype(np.int64)))

    def read(self, wanted: set[int], found: dict[int, np.ndarray]) -> None:
        """Put the wanted rows that are whole into `found`. Raises OSError."""
        places = np.flatnonzero(np.isin(self.items, list(wanted))).tolist()
        if not places:
            return
        dtype, shape, size = self.kind
        salt = zlib.crc32(self.line)
        with _open(self.path) as file:
            for place in places:
                record = np.empty(size, np.uint8)
                file.seek(len(self.line) + place * size)
                complete = file.readinto(record.data) == size
                crc, item = HEAD.unpack_from(record.data)
                if complete and item in wanted and crc == zlib.crc32(record.data[8:], salt):
                    found[item] = record[HEAD.size :].view(dtype).reshape(shape)

    def write(self, items: list[int], records: bytes) -> Segment:
        """Append records; what a call that was interrupted left torn is cut off first. Raises OSError."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | FLAGS, 0o666)
        try:
            size = os.fstat(fd).st_size
            left = self.items[: max(0, size - len(self.line)) // self.kind[2]]
            end = len(self.line) + len(left) * self.kind[2] if len(left) else 0
            if end < size:
                os.ftruncate(fd, end)
            rest = memoryview(records if end else self.line + records)
            while rest:
                rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)
        return self._replace(items=np.append(left, np.array(items, np.int64)))


def line_of(made_by: str, rows: Sequence[np.ndarray]) -> bytes:
    """First line of a segment of such rows. Raises ValueError."""
    dtype, shape = rows[0].dtype, rows[0].shape
    if dtype.kind not in "biufc" or any((row.dtype, row.shape) != (dtype, shape) for row in rows):
        kinds = sorted({f"{row.dtype} {row.shape}" for row in rows})
        raise ValueError(f"rows of {', '.join(kinds)}: give numbers of one dtype and one shape")
    return f"wsi-ats rows 1 {dtype.str} {list(shape)} {json.dumps(made_by)}\n".encode()


def record_of(line: bytes, item: int, row: np.ndarray) -> bytes:
    """A row with its CRC and its item, as it stands in a segment."""
    content = item.to_bytes(8, "little", signed=True) + row.tobytes()
    return zlib.crc32(content, zlib.crc32(line)).to_bytes(8, "little") + content


def _open(path: Path) -> FileIO:
    return FileIO(path, "r", opener=lambda name, flags: os.open(name, flags | FLAGS))
