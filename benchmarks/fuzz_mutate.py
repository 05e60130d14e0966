"""What benchmarks/fuzz.py does to the bytes of slides: all follows from the seed and the case's number.

- flip header, flip data, flip anywhere: 1, 4 or 32 bits, in what describes the slide, in what is pixels, or in both;
- field: one value of a tag of a TIFF, or of the JSON of an OME-Zarr, becomes another plausible or an absurd one;
- odd file: a file of an OME-Zarr is a folder, a pipe, a device or a link;
- truncate: the end is missing; splice: the beginning is another slide's; zero: a range of bytes is zero.

Not made: damage to several files of an OME-Zarr at once, files that are missing (absent chunks are background by
Zarr's rules), and damage that keeps a checksum right.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from fuzz_sources import CHECKED, REAL, SOURCES
from fuzz_stores import odd_file, strange_value

MUTATIONS = ("flip header", "flip data", "flip anywhere", "field", "truncate", "splice", "zero")
ABSURD = (0, 1, 2, 3, 7, 255, 256, 65535, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
"""Numbers that a field of a TIFF becomes; or its own, halved, doubled or one off."""
OF_STORES = ("odd file",)
"""What else is done to an OME-Zarr: something that is no file takes the place of one."""


def mutations(kind: str) -> tuple[str, ...]:
    """What is done to slides of a layout, in turn."""
    return MUTATIONS + OF_STORES if "zarr" in kind else MUTATIONS


@dataclass(frozen=True)
class Mutation:
    """What was done to a slide."""

    kind: str
    file: str
    """Of an OME-Zarr: which one; else empty."""
    told: bool
    """Other pixels than the original's must be noticed: bytes were cut off, or only those that a checksum covers."""
    text: str
    """Which bytes, for people."""


class Originals:
    """The slides as they were written, and where their pixels lie in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kinds = tuple(kind for kind in (*SOURCES, *REAL) if (folder / kind).exists())
        """Sources, in the order in which cases take them in turn."""
        self._tiles = {kind: _tiles(folder / kind) for kind in self.kinds if "zarr" not in kind}

    def place(self, case: int) -> tuple[str, str]:
        """Source and mutation of a case."""
        kind = self.kinds[case % len(self.kinds)]
        return kind, mutations(kind)[case // len(self.kinds) % len(mutations(kind))]

    def mutate(self, seed: int, case: int, to: Path) -> tuple[str, Mutation]:
        """Write the mutated slide of a case to `to`; its source, and what was done."""
        kind, how = self.place(case)
        rng = np.random.default_rng((seed, case))
        if "zarr" in kind:
            return kind, self._mutate_store(kind, how, rng, to)
        data = np.fromfile(self.folder / kind, np.uint8)
        others = [k for k in self._tiles if k != kind]
        donor = np.fromfile(self.folder / others[int(rng.integers(len(others)))], np.uint8)
        if how == "field":
            found, text = _other_tag(data, rng)
        else:
            found, text = _mutated(data, how, rng, self._tiles[kind], donor)
        found.tofile(to)
        told = how == "truncate" or (kind in CHECKED and _only_in(data, found, self._tiles[kind]))
        return kind, Mutation(how, "", told and "dicom" not in kind, text)

    def _mutate_store(self, kind: str, how: str, rng: np.random.Generator, to: Path) -> Mutation:
        """A copy of an OME-Zarr with one file mutated."""
        files = sorted(p.relative_to(self.folder / kind).as_posix() for p in _files(self.folder / kind))
        metadata = [name for name in files if name.rpartition("/")[2] in METADATA]
        pixels = [name for name in files if name not in metadata]
        chosen = {"flip header": metadata, "field": metadata, "flip data": pixels}.get(
            how, metadata if rng.random() < 0.3 else pixels
        )
        name = chosen[int(rng.integers(len(chosen)))]
        shutil.copytree(self.folder / kind, to, copy_function=os.link)
        if how in ("field", "odd file"):
            change = odd_file if how == "odd file" else strange_value
            text = change(to / name, rng)
            # Only the link to nothing leaves nothing, which is background by Zarr's rules.
            return Mutation(how, name, how == "odd file" and text != "a link to nothing", text)
        data = np.fromfile(self.folder / kind / name, np.uint8)
        donor = np.fromfile(self._donor(kind, name, files, rng), np.uint8)
        found, text = _mutated(data, how, rng, np.ones(len(data), bool), donor)
        (to / name).unlink()
        found.tofile(to / name)
        checked = kind in CHECKED and name in pixels
        return Mutation(how, name, checked or (how == "truncate" and kind in CHECKED), text)

    def _donor(self, kind: str, name: str, files: list[str], rng: np.random.Generator) -> Path:
        """A file of the same kind: of another level, or the same one of the other OME-Zarr."""
        metadata = name.rpartition("/")[2] in METADATA
        same = [f for f in files if f != name and (f.rpartition("/")[2] in METADATA) == metadata]
        paths = [self.folder / kind / f for f in same]
        paths += [p / name for p in self.folder.glob("zarr-*") if p.name != kind and (p / name).exists()]
        return paths[int(rng.integers(len(paths)))]


PIXEL_DATA = b"\xe0\x7f\x10\x00"
"""Tag (7FE0,0010) of DICOM, little endian."""
METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
"""Files of an OME-Zarr that describe it."""


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _tiles(path: Path) -> np.ndarray:
    """Which bytes of a TIFF are those of tiles or strips, or of DICOM those of its pixel data."""
    inside = np.zeros(path.stat().st_size, bool)
    if "dicom" in path.name:
        inside[path.read_bytes().rindex(PIXEL_DATA) + 12 :] = True
        return inside
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                inside[offset : offset + count] = True
    return inside


def _only_in(data: np.ndarray, found: np.ndarray, inside: np.ndarray) -> bool:
    """Are all bytes that differ those of tiles?"""
    common = min(len(data), len(found))
    return len(found) == len(data) and bool(inside[:common][data[:common] != found[:common]].all())


def _mutated(
    data: np.ndarray, how: str, rng: np.random.Generator, tiles: np.ndarray, donor: np.ndarray
) -> tuple[np.ndarray, str]:
    """Other bytes, and what was done."""
    found = data.copy()
    if how.startswith("flip"):
        places = np.arange(len(data))
        if how == "flip header" and not tiles.all():
            places = np.flatnonzero(~tiles)
        elif how == "flip data":
            places = np.flatnonzero(tiles)
        count = int(rng.choice([1, 1, 1, 4, 32]))
        at = places[rng.integers(len(places), size=count)]
        for byte, bit in zip(at.tolist(), rng.integers(8, size=count).tolist(), strict=True):
            found[byte] ^= 1 << bit
        return found, f"{count} bit(s) from byte {int(at.min())} to {int(at.max())}"
    if how == "truncate":
        # Half of the cuts are near an end, where headers and indices are.
        near = int(2 ** rng.uniform(0, np.log2(len(data))))
        end = [near, len(data) - near, int(rng.integers(len(data)))][int(rng.integers(3))]
        return found[:end], f"{end} of {len(data)} bytes are left"
    length = min(int(2 ** rng.uniform(4, 15)), len(data))
    if how == "splice":
        length = min(length, len(donor))
        found[:length] = donor[:length]
        return found, f"the first {length} bytes are another slide's"
    start = int(rng.integers(max(1, len(data) - length)))
    start = 0 if rng.random() < 0.2 else start
    found[start : start + length] = 0
    return found, f"{length} bytes from byte {start} are zero"


def _other_tag(data: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The file with the type, the count or the value of one tag changed; where it is no TIFF, with 4 bytes changed."""
    found = bytearray(data.tobytes())
    entries = list(_entries(bytes(found)))
    if not entries:
        at = int(rng.integers(min(len(found) - 4, 2000)))
        found[at : at + 4] = rng.bytes(4)
        return np.frombuffer(bytes(found), np.uint8), f"4 bytes from byte {at} are random"
    at, order, width = entries[int(rng.integers(len(entries)))]
    place, size = [(at + 2, 2), (at + 4, width), (at + 4 + width, 4), (at + 4 + width, 4)][
        int(rng.integers(4))
    ]
    own = int.from_bytes(found[place : place + size], "little" if order == "<" else "big")
    wanted = (*ABSURD, own // 2, 2 * own, own + 1, abs(own - 1))
    values = [value for value in (number % (1 << 8 * size) for number in wanted) if value != own]
    value = values[int(rng.integers(len(values)))]
    found[place : place + size] = value.to_bytes(size, "little" if order == "<" else "big")
    tag = int.from_bytes(found[at : at + 2], "little" if order == "<" else "big")
    text = f"tag {tag}: bytes {place} to {place + size} are {value}, not {own}"
    return np.frombuffer(bytes(found), np.uint8), text


def _entries(data: bytes) -> Iterator[tuple[int, str, int]]:
    """Position of each entry of the chain of directories of a TIFF, byte order, width of its count."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    if not order:
        return
    (version,) = struct.unpack(order + "H", data[2:4])
    if version not in (42, 43):
        return
    big = version == 43
    head, entry, word = ("Q", 20, 8) if big else ("H", 12, 4)
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    while at:
        (count,) = struct.unpack_from(order + head, data, at)
        first = at + struct.calcsize(head)
        for number in range(count):
            yield first + number * entry, order, word
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, first + count * entry)
