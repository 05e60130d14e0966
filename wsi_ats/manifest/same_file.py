"""Rows that stand for one slide: a slide is its content, however its name is spelt and wherever a copy of it lies."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

SAMPLE = 64 << 10
"""Bytes read at the beginning, in the middle and at the end of files of one size, before they are compared whole."""
SEVERAL_FILES = (".mrxs", ".dcm", ".dicom", ".vms", ".vmu")
"""Slides of several files: one file alone does not tell them apart."""


@dataclass(frozen=True)
class Twin:
    """Two rows for one slide, by their positions."""

    first: int
    second: int
    copy: bool
    """Whether they name two files that hold the same bytes, rather than one file."""


@runtime_checkable
class OfFile(Protocol):
    """What stands for a slide's file."""

    @property
    def path(self) -> str:
        """Path or URL of the file."""

    @property
    def file(self) -> Hashable:
        """Key that all names of the file share."""

    @property
    def size(self) -> int:
        """Bytes of a regular file; 0 where it is none, or not there."""


def twins(entries: Sequence[OfFile]) -> list[Twin]:
    """Rows that stand for a slide of an earlier row, in order: links, other spellings, and copies.

    Copies are looked for among files of one size; only these are opened.
    """
    first: dict[Hashable, int] = {}
    same: list[Twin] = []
    for position, entry in enumerate(entries):
        earlier = first.setdefault(entry.file, position)
        if earlier != position:
            same.append(Twin(earlier, position, copy=False))
    return sorted([*same, *_copies(entries, list(first.values()))], key=lambda twin: twin.second)


def _copies(entries: Sequence[OfFile], positions: Sequence[int]) -> list[Twin]:
    by_size: dict[int, list[int]] = defaultdict(list)
    for position in positions:
        entry = entries[position]
        if entry.size and not entry.path.lower().endswith(SEVERAL_FILES):
            by_size[entry.size].append(position)
    found = []
    for size, alike in by_size.items():
        by_sample: dict[bytes, list[int]] = defaultdict(list)
        for position in alike if len(alike) > 1 else ():
            path = entries[position].path
            firsts = by_sample[_sample(path, size)]
            earlier = next((p for p in firsts if _equal(entries[p].path, path)), None)
            if earlier is None:
                firsts.append(position)
            else:
                found.append(Twin(earlier, position, copy=True))
    return found


def _sample(path: str, size: int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            for start in (0, size // 2, max(0, size - SAMPLE)):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    except OSError:
        return os.fsencode(path)  # it fails later, alone
    return digest.digest()


def _equal(one: str, other: str) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
