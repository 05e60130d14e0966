"""Slides for benchmarks/fuzz.py, and what is done to their bytes: all follows from the seed and the case's number."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from fuzz_stores import odd_file, strange_value
from read_slide import APERIO

from wsi_ats.convert.plan import Settings
from wsi_ats.convert.run import convert
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.synthetic.phantom import Phantom, write_phantom

SIZE = 1000
"""Side of the slides in px."""
FORMATS = ("svs", "deflate", "zarr-crc32c", "svs", "lzw", "zarr-zstd", "zarr-v2")
"""Of the cases, in turn: SVS, other TIFF, and OME-Zarr (in shards, and of Zarr v2, a file a chunk)."""
CHECKED = ("deflate", "zarr-crc32c", "zarr-zstd")
"""Formats whose pixels have checksums: adler32, crc32c, zstd's own (xxhash)."""
MUTATIONS = ("flip header", "flip data", "flip anywhere", "truncate", "splice", "zero")
"""What is done to the bytes of any slide."""
OF_STORES = ("strange value", "odd file")
"""What else is done to an OME-Zarr: a value of its metadata becomes another, a file something that is none."""


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


def mutations(kind: str) -> tuple[str, ...]:
    """What is done to slides of a format, in turn."""
    return MUTATIONS + OF_STORES if kind.startswith("zarr") else MUTATIONS


def kind_of(case: int) -> tuple[str, str]:
    """Format of a case, and what is done to it."""
    kind = FORMATS[case % len(FORMATS)]
    return kind, mutations(kind)[case // len(FORMATS) % len(mutations(kind))]


def write_originals(folder: Path, size: int = SIZE) -> None:
    """One slide of each format, of the same picture. The SVS has a label (LZW) and a macro image (JPEG)."""
    folder.mkdir(parents=True, exist_ok=True)
    svs = folder / "svs"
    write_phantom(svs, Phantom(size=size, seed=3), (1, 4), APERIO.format(size=size))
    with open_slide(svs) as slide:
        levels = [whole(slide, i) for i in range(len(slide.levels))]
        for codec, kind in (("blosc", "zarr-crc32c"), ("zstd", "zarr-zstd")):
            convert(slide, folder / kind, Settings(codec=codec))
        convert(slide, folder / "zarr-v2", Settings(codec="zstd", ngff="0.4"))
    with tifffile.TiffWriter(svs, append=True) as tiff:
        for kind, name, compression in ((1, "label", "lzw"), (9, "macro", "jpeg")):
            text = f"Aperio Image Library v12.0.15\n{name} 200x150"
            options = {"photometric": "rgb", "subfiletype": kind, "rowsperstrip": 16, "metadata": None}
            tiff.write(levels[1][:150, :200], description=text, compression=compression, **options)
    for name, compression in (("deflate", "zlib"), ("lzw", "lzw")):
        with tifffile.TiffWriter(folder / name) as tiff:
            for i, level in enumerate(levels):
                options = {
                    "predictor": True,
                    "photometric": "rgb",
                    "metadata": None,
                    "subfiletype": int(i > 0),
                }
                tiff.write(level, tile=(256, 256), compression=compression, **options)


def whole(slide: Slide, level: int) -> np.ndarray:
    """All pixels of a level."""
    size = slide.levels[level].size
    return slide.read((0, 0), (size.width, size.height), level)


class Originals:
    """The slides as they were written, and where their pixels lie in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tiles = {kind: _tiles(folder / kind) for kind in set(FORMATS) if "zarr" not in kind}

    def mutate(self, seed: int, case: int, to: Path) -> tuple[str, Mutation]:
        """Write the mutated slide of a case to `to`; its format, and what was done."""
        kind, how = kind_of(case)
        rng = np.random.default_rng((seed, case))
        if "zarr" not in kind:
            data = np.fromfile(self.folder / kind, np.uint8)
            others = [k for k in self._tiles if k != kind]
            donor = np.fromfile(self.folder / others[int(rng.integers(len(others)))], np.uint8)
            found, text = _mutated(data, how, rng, self._tiles[kind], donor)
            found.tofile(to)
            told = how == "truncate" or (kind in CHECKED and _only_in(data, found, self._tiles[kind]))
            return kind, Mutation(how, "", told, text)
        files = sorted(p.relative_to(self.folder / kind).as_posix() for p in _files(self.folder / kind))
        metadata = [name for name in files if _is_metadata(name)]
        pixels = [name for name in files if name not in metadata]
        chosen = {"flip header": metadata, "flip data": pixels, "strange value": metadata}.get(
            how, metadata if rng.random() < 0.3 else pixels
        )
        name = chosen[int(rng.integers(len(chosen)))]
        shutil.copytree(self.folder / kind, to, copy_function=os.link)
        if how in OF_STORES:
            change = odd_file if how == "odd file" else strange_value
            return kind, Mutation(how, name, how == "odd file", change(to / name, rng))
        data = np.fromfile(self.folder / kind / name, np.uint8)
        donor = np.fromfile(self._donor(kind, name, files, rng), np.uint8)
        found, text = _mutated(data, how, rng, np.ones(len(data), bool), donor)
        (to / name).unlink()
        found.tofile(to / name)
        told = (kind in CHECKED and name in pixels) or how == "truncate"
        return kind, Mutation(how, name, told, text)

    def _donor(self, kind: str, name: str, files: list[str], rng: np.random.Generator) -> Path:
        """A file of the same kind: of another level, or the same one of the other OME-Zarr."""
        same = [f for f in files if f != name and _is_metadata(f) == _is_metadata(name)]
        paths = [self.folder / kind / f for f in same]
        paths += [p / name for p in self.folder.glob("zarr-*") if p.name != kind and (p / name).exists()]
        return paths[int(rng.integers(len(paths)))]


def _is_metadata(name: str) -> bool:
    return name.endswith(".json") or Path(name).name in (".zarray", ".zattrs", ".zgroup")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _tiles(path: Path) -> np.ndarray:
    """Which bytes of a TIFF are those of tiles or strips."""
    inside = np.zeros(path.stat().st_size, bool)
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
    length = min(int(2 ** rng.uniform(0, 15)), len(data))
    if how == "splice":
        length = min(length, len(donor))
        found[:length] = donor[:length]
        return found, f"the first {length} bytes are another slide's"
    start = int(rng.integers(max(1, len(data) - length)))
    start = 0 if rng.random() < 0.2 else start
    found[start : start + length] = 0
    return found, f"{length} bytes from byte {start} are zero"
