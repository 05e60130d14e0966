"""Slides of every layout, the arrays that their levels are, and what a region read from them must be.

The arrays come from OpenSlide's own reads, from tifffile where OpenSlide refuses the file, or are those that were
written. Used by test_equality.py and benchmarks/equality.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
import tifffile
from hypothesis import strategies as st

from tests.support.tiffs import drop_tiles, picture, write_aperio, write_ome, write_philips, write_pyramid
from wsi_ats.convert.plan import Settings
from wsi_ats.convert.run import convert
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.slides.openslide.slide import opaque
from wsi_ats.synthetic.phantom import Phantom, write_phantom

WIDTH, HEIGHT = 331, 277
KINDS = (
    "jpeg-420", "jpeg-420+tables", "jpeg-444", "jpeg-422+tables", "jpeg-rgb", "jpeg-rgb+tables",
    "raw", "lzw", "lzw+predictor", "deflate", "deflate+predictor",
)  # fmt: skip
LONGEST = 4096
"""OpenSlide cuts longer reads at positions that fall between the pixels of a level."""
BEYOND = 40
"""Pixels by which regions may begin before the slide, or behind it."""
SHIFTS = ((-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass(frozen=True)
class Subject:
    """A slide, and what it must be."""

    name: str
    path: Path
    levels: tuple[np.ndarray, ...]
    """All pixels of each level, (h, w, 3) uint8."""
    truth: str
    """Where they come from."""
    backend: str = "tiff"
    bound: int = 0
    """Grey levels by which a value may differ."""


@dataclass(frozen=True)
class Part:
    """A region in px of its level."""

    level: int
    x: int
    y: int
    width: int
    height: int


@st.composite
def parts(draw: st.DrawFn, subject: Subject) -> Part:
    """Regions of a slide, small and large, inside it, over its border and beyond."""
    level = draw(st.integers(0, len(subject.levels) - 1))
    height, width, _ = subject.levels[level].shape
    x, y = (draw(st.integers(-BEYOND, side + BEYOND)) for side in (width, height))
    return Part(level, x, y, draw(st.integers(1, 300)), draw(st.integers(1, 300)))


def expected(subject: Subject, part: Part, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The pixels of a region, white beyond the slide; of one that lies by `shift` px beside it."""
    whole = subject.levels[part.level]
    out = np.full((part.height, part.width, 3), 255, np.uint8)
    x, y = part.x + shift[0], part.y + shift[1]
    left, right = (int(np.clip(v, 0, whole.shape[1])) for v in (x, x + part.width))
    top, bottom = (int(np.clip(v, 0, whole.shape[0])) for v in (y, y + part.height))
    out[top - y : bottom - y, left - x : right - x] = whole[top:bottom, left:right]
    return out


def found(slide: Slide, part: Part) -> np.ndarray:
    """The pixels of a region as a slide gives them."""
    level = slide.levels[part.level]
    ((x, y),) = level.location_of(np.array([[part.x, part.y]]))
    return slide.read((x, y), (part.width, part.height), part.level)


def difference(pixels: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two values, grey levels."""
    return int(np.abs(pixels.astype(np.int16) - other).max())


def is_equal(pixels: np.ndarray, subject: Subject, part: Part) -> bool:
    """Are these the pixels of the region, within the subject's bound, and not nearer to those one px beside it?"""
    here = expected(subject, part)
    if difference(pixels, here) > subject.bound:
        return False
    off = _total(pixels, here)
    return off == 0 or all(off < _total(pixels, expected(subject, part, shift)) for shift in SHIFTS)


def _total(pixels: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(pixels.astype(np.int16) - other).sum())


# ---- subjects


def whole_levels(count: int = 3) -> list[np.ndarray]:
    whole = picture(HEIGHT, WIDTH)
    return [np.ascontiguousarray(whole[:: 2**i, :: 2**i]) for i in range(count)]


def by_openslide(path: Path) -> tuple[np.ndarray, ...]:
    """Every pixel of every level: read in one piece, since OpenSlide blends other reads of coarse levels."""
    with openslide.OpenSlide(path) as handle:
        return tuple(_level(handle, index) for index in range(handle.level_count))


def _level(handle: openslide.OpenSlide, index: int) -> np.ndarray:
    width, height = handle.level_dimensions[index]
    assert index == 0 or max(width, height) <= LONGEST
    out = np.empty((height, width, 3), np.uint8)
    for y in range(0, height, LONGEST):
        for x in range(0, width, LONGEST):
            size = min(LONGEST, width - x), min(LONGEST, height - y)
            pixels = opaque(handle.read_region((x, y), index, size), (255, 255, 255))
            out[y : y + size[1], x : x + size[0]] = pixels
    return out


def by_tifffile(path: Path) -> tuple[np.ndarray, ...]:
    """The levels of a TIFF's first image."""
    with tifffile.TiffFile(path) as tiff:
        return tuple(level.asarray() for level in tiff.series[0].levels)


def layouts(folder: Path) -> Iterator[Subject]:
    """One slide of every layout that the package reads directly, and one for OpenSlide."""
    for kind in KINDS:
        path = write_pyramid(folder / f"{kind}.tif", whole_levels(), kind)
        yield Subject(f"TIFF, {kind}", path, by_openslide(path), "OpenSlide")
    for side in ((96, 128), (240, 240), (512, 512)):
        path = write_pyramid(folder / f"{side[1]}.tif", whole_levels(), "jpeg-420+tables", side)
        yield Subject(f"TIFF, tiles of {side[1]} x {side[0]} px", path, by_openslide(path), "OpenSlide")
    path = write_pyramid(folder / "big.tif", whole_levels(), "jpeg-420", options={"bigtiff": True})
    yield Subject("BigTIFF", path, by_openslide(path), "OpenSlide")
    for kind in ("deflate", "zstd"):
        path = write_pyramid(folder / f"swapped-{kind}.tif", whole_levels(), kind, options={"byteorder": ">"})
        yield Subject(f"TIFF, big endian, {kind}", path, tuple(whole_levels()), "what was written")
    path = write_pyramid(folder / "gaps.tif", whole_levels(), "jpeg-420")
    drop_tiles(path, 0, [0, 7, 8])
    yield Subject("TIFF with missing tiles", path, by_openslide(path), "OpenSlide")
    yield from _families(folder)


def _families(folder: Path) -> Iterator[Subject]:
    path = write_aperio(folder / "a.svs", whole_levels())
    yield Subject("SVS, JPEG", path, by_openslide(path), "OpenSlide")
    for kind in ("jp2k-rgb", "jp2k-ycbcr"):
        path = write_aperio(folder / f"{kind}.svs", whole_levels(), kind)
        yield Subject(f"SVS, {kind}", path, by_openslide(path), "OpenSlide")
    path = write_ome(folder / "a.ome.tif", whole_levels(), "deflate")
    yield Subject("OME-TIFF, SubIFDs", path, tuple(whole_levels()), "what was written")
    path = folder / "philips.tiff"
    write_philips(path, picture(448, 640))
    yield Subject("Philips", path, by_openslide(path), "OpenSlide")
    path = folder / "phantom.svs"
    write_phantom(path, Phantom(size=900, seed=4), (1, 4), "Aperio Image Library v12.0\r\n900x900|MPP = 0.5")
    yield Subject("phantom, SVS", path, by_openslide(path), "OpenSlide")
    with open_slide(path) as slide:
        convert(slide, folder / "phantom.ome.zarr", Settings())
    copied = by_openslide(path)[:1]
    yield Subject("phantom, OME-Zarr", folder / "phantom.ome.zarr", copied, "the SVS it was made of", "zarr")


REAL: Sequence[tuple[str, Callable[[Path], tuple[np.ndarray, ...]], str, str]] = (
    ("aperio-cmu1-small/CMU-1-Small-Region.svs", by_openslide, "OpenSlide", "tiff"),
    ("hamamatsu-fluorescence/dapi.ndpi", by_openslide, "OpenSlide", "openslide"),
    ("dicom/raw.dicom", by_openslide, "OpenSlide", "openslide"),
    ("dicom/jpeg.dicom", by_openslide, "OpenSlide", "openslide"),
    ("ometiff/OS-2-ndpi.ome.tif", by_tifffile, "tifffile", "tiff"),
    ("ometiff/OS-2-vsi.ome.tif", by_tifffile, "tifffile", "tiff"),
)
"""Slides of the shared test data: below slides/, how to get their pixels, and what reads them here."""


def real(slides: Path, which: int) -> Subject:
    """One of the real slides, in a folder that holds them all."""
    name, levels, truth, backend = REAL[which]
    return Subject(name, slides / name, levels(slides / name), truth, backend)
