"""The fast path against OpenSlide: when a slide is opened, a few tiles of it are compared before it is trusted."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import openslide
from jaxtyping import UInt8

from wsi_ats.slides.codecs import APERIO_YCBCR, DEFLATE, DEFLATE_OLD, LOSSY, decode
from wsi_ats.slides.tiff.index import TiffImage, TiffIndex
from wsi_ats.slides.tiff.tags import UnsupportedLayout
from wsi_ats.slides.tiled import Encoded, UndecodableTile

LOSSY_BOUND = 2
"""Grey levels by which two decoders of one JPEG may differ: their arithmetic is free in the last bits. As both are
libjpeg-turbo and OpenJPEG they hardly ever do."""
VENDORS = {
    "Aperio": "aperio",
    "Philips": "philips",
    "generic TIFF": "generic-tiff",
    "OME-TIFF": "generic-tiff",
}
"""OpenSlide's names of the families."""

Read = Callable[[TiffImage, int], Encoded]
"""The bytes of a tile, by its number."""


def compared(path: str, index: TiffIndex, read: Read) -> TiffIndex:
    """The index with OpenSlide's properties, after a look whether both have the same levels and pixels.

    Raises UnsupportedLayout where they do not. OME-TIFF and generic TIFF that OpenSlide cannot read are accepted: big
    endian ones, and codecs it has not got.
    """
    try:
        handle = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        return _refused(index, error)
    with handle:
        vendor = handle.properties.get("openslide.vendor", "")
        if vendor != VENDORS[index.family]:
            raise UnsupportedLayout(
                f"OpenSlide takes it for {vendor or 'nothing it knows'}, not for {index.family}"
            )
        sizes = [(level.width, level.height) for level in index.levels]
        # Levels of an OME-TIFF in SubIFDs are unknown to OpenSlide.
        missing = index.family == "OME-TIFF" and set(handle.level_dimensions) <= set(sizes)
        if sizes != list(handle.level_dimensions) and not (missing and sizes[0] == handle.dimensions):
            raise UnsupportedLayout(
                f"OpenSlide has levels of {handle.level_dimensions} px, not {tuple(sizes)}"
            )
        agreed = replace(
            index,
            properties=dict(handle.properties),
            associated={},
            by_openslide=tuple(handle.associated_images),
        )
        _compare_pixels(handle, index, read)  # last: an error of OpenSlide's ends the handle
        return agreed


def _refused(index: TiffIndex, error: openslide.OpenSlideError) -> TiffIndex:
    """The index of a file that OpenSlide does not open, if that is for reasons that do not matter here."""
    unknown = isinstance(error, openslide.OpenSlideUnsupportedFormatError)
    if VENDORS[index.family] != "generic-tiff" or not (
        unknown or "Unsupported TIFF compression" in str(error)
    ):
        raise UnsupportedLayout(f"OpenSlide refuses it: {error}") from error
    for number, level in enumerate(index.levels):
        beyond = int((level.offsets + level.counts > index.stamp[0]).sum())
        if beyond:
            raise UnsupportedLayout(
                f"cut short: {beyond} tile(s) of level {number} lie beyond the end"
            ) from error
        if level.coding.compression == APERIO_YCBCR:
            raise UnsupportedLayout("JPEG 2000 as Aperio has it, but not Aperio's") from error
    return replace(index, note=f"{index.note}; OpenSlide does not read it")


def _compare_pixels(handle: openslide.OpenSlide, index: TiffIndex, read: Read) -> None:
    known = list(handle.level_dimensions)
    for number, tile in _samples(index):
        level = index.levels[number]
        if (level.width, level.height) not in known:
            continue  # a SubIFD of an OME-TIFF
        row, col = divmod(tile, level.cols)
        left, top = col * level.tile_width, row * level.tile_height
        size = min(level.tile_width, level.width - left), min(level.tile_height, level.height - top)
        ours = _decoded(level, tile, read)
        if ours is None and _fails_its_checksum(level, tile, read):
            continue  # OpenSlide would not look at it, and give pixels all the same: reading will say so
        try:
            place = known.index((level.width, level.height))
            theirs = np.asarray(handle.read_region((left, top), place, size))
        except openslide.OpenSlideError as error:
            if ours is None:
                return  # both see the damage, and it ends OpenSlide's handle
            raise UnsupportedLayout(f"OpenSlide finds a tile damaged: {error}") from error
        where = f"level {number}, tile column {col}, row {row}"
        if ours is None:
            raise UnsupportedLayout(f"only OpenSlide can decode {where}")
        difference = _difference(ours[: size[1], : size[0]], theirs)
        if difference > (LOSSY_BOUND if level.coding.compression in LOSSY else 0):
            raise UnsupportedLayout(
                f"OpenSlide has other pixels, by up to {difference} grey levels, in {where}"
            )


def _samples(index: TiffIndex) -> Iterator[tuple[int, int]]:
    """(level, tile): the one of most bytes, so with most to see, and the last one of level 0; the first of the
    coarsest level, since OpenSlide resamples all others of a level whose downsample is no whole number."""
    counts = index.levels[0].counts
    coarsest = len(index.levels) - 1
    tiles = [(0, int(counts.argmax())), (0, len(counts) - 1), (coarsest, 0)]
    yield from (t for t in dict.fromkeys(tiles) if index.levels[t[0]].counts[t[1]])


def _decoded(level: TiffImage, tile: int, read: Read) -> UInt8[np.ndarray, "h w 3"] | None:
    """A tile's pixels, in the colours that the TIFF's tags say, as OpenSlide takes them; None where it is damaged."""
    coding = level.coding
    out = np.empty(level.shape(tile), np.uint8)
    try:
        decode(coding._replace(ycbcr=coding.ycbcr and not coding.jfif), read(level, tile), out)
    except UndecodableTile:
        return None
    return out


def _fails_its_checksum(level: TiffImage, tile: int, read: Read) -> bool:
    """Is a deflated tile damaged (zlib's adler32), and not just unlike what is read here?

    libtiff stops where the tile is full, before the checksum.
    """
    if level.coding.compression not in (DEFLATE, DEFLATE_OLD):
        return False
    try:
        zlib.decompress(read(level, tile))
    except zlib.error:
        return True
    return False


def _difference(ours: UInt8[np.ndarray, "h w 3"], theirs: UInt8[np.ndarray, "h w 4"]) -> int:
    if theirs[..., 3].min() < 255:
        return 255
    if np.array_equal(ours, theirs[..., :3]):
        return 0
    return int(np.abs(ours.astype(np.int16) - theirs[..., :3]).max())
