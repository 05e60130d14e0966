"""TIFF files made tag by tag, to say what no writer would."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

ASCII, SHORT, LONG, LONG8 = 2, 3, 4, 16
Entry = tuple[int, int, int, int]
"""A tag: its number, type, number of values, and its value or where the values lie."""


def directory(entries: Sequence[Entry], following: int = 0) -> bytes:
    """A directory of a classic TIFF, and where the next one lies."""
    parts = [struct.pack("<H", len(entries))]
    for tag, kind, count, value in sorted(entries):
        packed = (
            struct.pack("<HH", value & 0xFFFF, value >> 16) if kind == SHORT else struct.pack("<I", value)
        )
        parts.append(struct.pack("<HHI", tag, kind, count) + packed)
    return b"".join([*parts, struct.pack("<I", following)])


def big_directory(entries: Sequence[Entry], following: int = 0) -> bytes:
    """A directory of a BigTIFF."""
    parts = [struct.pack("<Q", len(entries))]
    parts += [struct.pack("<HHQQ", tag, kind, count, value) for tag, kind, count, value in sorted(entries)]
    return b"".join([*parts, struct.pack("<Q", following)])


def write_handmade(
    path: Path, entries: Sequence[Entry], size: int = 0, big: bool = False, following: int = 0
) -> Path:
    """A TIFF of one directory, padded with zeros to `size` bytes, which take no place on the disk."""
    if big:
        content = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + big_directory(entries, following)
    else:
        content = struct.pack("<2sHIQ", b"II", 42, 16, 0) + directory(entries, following)
    with path.open("wb") as file:
        file.write(content)
        file.truncate(max(size, len(content)))
    return path


def tiled(
    width: int, height: int, tile: tuple[int, int], tiles: int, at: int, kind: int = LONG
) -> list[Entry]:
    """Tags of an uncompressed RGB image in tiles, whose offsets and sizes lie at `at`."""
    value = (lambda n: n) if tiles > 1 else (lambda n: 0)
    return [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, 3, 0),
        (259, SHORT, 1, 1),
        (262, SHORT, 1, 2),
        (277, SHORT, 1, 3),
        (322, LONG, 1, tile[0]),
        (323, LONG, 1, tile[1]),
        (324, kind, tiles, value(at)),
        (325, kind, tiles, value(at)),
    ]
