"""The fast path against OpenSlide: when a slide is opened, a few tiles of it are compared before it is trusted."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import openslide
from jaxtyping import UInt8

from wsi_ats.slides.codecs import APERIO_YCBCR, DEFLATE, DEFLATE_OLD, LOSSY
from wsi_ats.slides.openslide.admission import properties_in
from wsi_ats.slides.scale import OME_IMAGE
from wsi_ats.slides.tiff.index import TiffImage, TiffIndex
from wsi_ats.slides.tiff.planes import decode_tile
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

    Raises UnsupportedLayout where they do not. What OpenSlide cannot read or takes for another image is accepted: big
    endian files and codecs it has not got, planes that are colours, files whose largest image is not the first.
    """
    if not index.sound:
        return replace(
            index, note=f"{index.note}; OpenSlide is not asked, since it would fail on damaged tiles"
        )
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
        if not _is_same_image(handle, index):
            return replace(index, note=f"{index.note}; OpenSlide takes another image for the slide")
        _compare_levels(handle, index)
        names = tuple(handle.associated_images)
        agreed = replace(
            index,
            properties=properties_in(handle) | _chosen(index),
            associated={name: image for name, image in index.associated.items() if name not in names},
            by_openslide=names,
        )
        if index.levels[0].planes == 1 or index.family != "OME-TIFF":
            _compare_pixels(handle, index, read)  # last: an error of OpenSlide's ends the handle
        return agreed


def _is_same_image(handle: openslide.OpenSlide, index: TiffIndex) -> bool:
    first = index.levels[0]
    return index.first_page and handle.dimensions == (first.width, first.height)


def _chosen(index: TiffIndex) -> dict[str, str]:
    """What OpenSlide does not know: which image of an OME-XML it is."""
    return {OME_IMAGE: index.properties[OME_IMAGE]} if OME_IMAGE in index.properties else {}


def _compare_levels(handle: openslide.OpenSlide, index: TiffIndex) -> None:
    """Raises UnsupportedLayout where OpenSlide lacks a level. What it has beside them is no level: see `families`."""
    sizes = [(level.width, level.height) for level in index.levels]
    # Levels of an OME-TIFF in SubIFDs are unknown to OpenSlide, as are those of a TIFF that do not say what they are.
    if VENDORS[index.family] != "generic-tiff" and not set(sizes) <= set(handle.level_dimensions):
        raise UnsupportedLayout(f"OpenSlide has levels of {handle.level_dimensions} px, not {tuple(sizes)}")


def _refused(index: TiffIndex, error: openslide.OpenSlideError) -> TiffIndex:
    """The index of a file that OpenSlide does not open, if that is for reasons that do not matter here."""
    unknown = isinstance(error, openslide.OpenSlideUnsupportedFormatError)
    # It also refuses a pyramid with an image that is no level between the levels.
    disordered = unknown and any(not image.strips for image in index.associated.values())
    accepted = VENDORS[index.family] == "generic-tiff" and (
        unknown or "Unsupported TIFF compression" in str(error)
    )
    if not (accepted or disordered):
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
    counts = index.levels[0].sizes
    coarsest = len(index.levels) - 1
    tiles = [(0, int(counts.argmax())), (0, len(counts) - 1), (coarsest, 0)]
    yield from (t for t in dict.fromkeys(tiles) if index.levels[t[0]].sizes[t[1]])


def _decoded(level: TiffImage, tile: int, read: Read) -> UInt8[np.ndarray, "h w 3"] | None:
    """A tile's pixels, in the colours that the TIFF's tags say, as OpenSlide takes them; None where it is damaged."""
    coding = level.coding
    out = np.empty(level.shape(tile), np.uint8)
    try:
        said = replace(level, coding=coding._replace(ycbcr=coding.ycbcr != coding.recoloured))
        decode_tile(said, read(level, tile), out)
    except UndecodableTile:
        return None
    return out


def _fails_its_checksum(level: TiffImage, tile: int, read: Read) -> bool:
    """Is a deflated tile damaged (zlib's adler32), and not just unlike what is read here?

    libtiff stops where the tile is full, before the checksum.
    """
    if level.coding.compression not in (DEFLATE, DEFLATE_OLD) or level.planes > 1:
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
