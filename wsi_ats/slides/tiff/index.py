"""Index of a TIFF: where each tile lies and how it is encoded. Read once, then carried along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from jaxtyping import Int64

from wsi_ats.slides.codecs import CODECS, JPEG, JPEG2000S, LOSSY, Coding
from wsi_ats.slides.tiff.tags import Directory, Refused, Tiff, UnsupportedLayout

MAX_TILE_PIXELS = 1 << 26
"""Most pixels of a tile (192 MiB decoded): larger ones are no tiles."""

MAX_GROWTH = 2
"""Most bytes of an encoded tile, in sizes of its pixels: no codec makes them much longer than they are."""
MAX_HEADER = 1 << 16
"""Most bytes of headers beside those of an encoded tile."""
GREY, RGB, YCBCR = 1, 2, 6
"""Photometric interpretations that are read."""


class Tag(IntEnum):
    """Numbers of TIFF tags."""

    SUBFILE_TYPE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    DOCUMENT_NAME = 269
    DESCRIPTION = 270
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_COUNTS = 279
    X_RESOLUTION = 282
    Y_RESOLUTION = 283
    PLANAR = 284
    PAGE_NAME = 285
    RESOLUTION_UNIT = 296
    SOFTWARE = 305
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_COUNTS = 325
    SUB_DIRECTORIES = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    XMP = 700
    DEPTH = 32997
    ICC_PROFILE = 34675


@dataclass(frozen=True, slots=True, eq=False)
class TiffImage:
    """An image of a TIFF, cut into tiles or strips that are numbered row by row."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    cols: int
    rows: int
    offsets: Int64[np.ndarray, " n"]
    """Position of each tile's first byte in the file."""
    counts: Int64[np.ndarray, " n"]
    """Number of bytes of each tile; 0: it is not stored."""
    coding: Coding
    strips: bool = False
    """True for strips, which end with the image; tiles have their full size also where they overhang it."""
    planes: int = 1
    """1 where a tile holds red, green and blue; 3 where they are encoded one by one: the offsets and counts of all red
    tiles come first, then those of the green and of the blue ones."""

    def shape(self, index: int) -> tuple[int, int, int]:
        """Shape (height, width, 3) of a tile."""
        height = self.tile_height
        if self.strips:
            height = min(height, self.height - index * height)
        return height, self.tile_width, 3

    @property
    def sizes(self) -> Int64[np.ndarray, " tiles"]:
        """Number of bytes of each tile, all its planes together."""
        return self.counts if self.planes == 1 else self.counts.reshape(self.planes, -1).sum(axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class TiffIndex:
    """The index of a TIFF: all that is known of a slide without decoding it."""

    stamp: tuple[int, int]
    """Fingerprint of the file it was read from: an index of another version of the file is worthless."""
    family: str
    """Family whose rules say which images are levels: "Aperio", "Philips", "OME-TIFF" or "generic TIFF"."""
    levels: tuple[TiffImage, ...]
    properties: Mapping[str, str]
    associated: Mapping[str, TiffImage] = field(default_factory=dict)
    """Associated images by name that OpenSlide does not read."""
    icc_profile: bytes | None = None
    note: str = ""
    """Anything else there is to say of how the slide is read."""
    by_openslide: tuple[str, ...] = ()
    """Names of the associated images that OpenSlide reads."""
    first_page: bool = True
    """Whether the slide is the first image of the file, whose tags OpenSlide goes by."""
    sound: bool = True
    """Whether all tiles and strips have lengths that they can have, so that OpenSlide survives them."""
    notes: tuple[str, ...] = ()
    """Clauses on which of the file's images are read, where that is not obvious."""

    @property
    def reason(self) -> str:
        """Reason why the slide's tiles are read directly, for people."""
        codecs = dict.fromkeys(CODECS[level.coding.compression] for level in self.levels)
        return f"tiled {' and '.join(codecs)} TIFF, {self.family}{self.note}"


def is_tiled(directory: Directory) -> bool:
    """Whether the image of a directory is cut into tiles."""
    return Tag.TILE_WIDTH in directory and Tag.TILE_HEIGHT in directory


def image_of(tiff: Tiff, *directories: Directory, strips: bool = False) -> TiffImage:
    """The image of a directory, or of those of its red, green and blue plane.

    Raises UnsupportedLayout, with the reason, where its tiles are not read directly, Refused where they are damaged.
    """
    images = [_image_of(tiff, directory, strips, 3 // len(directories)) for directory in directories]
    if len(images) == 1:
        return images[0]
    first = images[0]
    if any(image.coding != first.coding or image.shape(0) != first.shape(0) for image in images):
        raise Refused("its three planes are not stored in the same way", "write it again as RGB")
    return replace(
        first,
        offsets=np.concatenate([image.offsets for image in images]),
        counts=np.concatenate([image.counts for image in images]),
        planes=3,
    )


def _image_of(tiff: Tiff, directory: Directory, strips: bool, samples: int) -> TiffImage:
    planes = 3 if samples == 3 and directory.whole(Tag.PLANAR, 1) == 2 else 1
    coding = _coding(directory, samples, planes)
    width, height = directory.whole(Tag.WIDTH), directory.whole(Tag.HEIGHT)
    if strips:
        tile = width, min(directory.whole(Tag.ROWS_PER_STRIP, height), height)
        offsets, counts = (directory.numbers(tag) for tag in (Tag.STRIP_OFFSETS, Tag.STRIP_COUNTS))
    else:
        tile = directory.whole(Tag.TILE_WIDTH), directory.whole(Tag.TILE_HEIGHT)
        offsets, counts = (directory.numbers(tag) for tag in (Tag.TILE_OFFSETS, Tag.TILE_COUNTS))
    if min(width, height, *tile) < 1 or tile[0] * tile[1] > MAX_TILE_PIXELS:
        raise UnsupportedLayout(f"an image of {width} x {height} px in tiles of {tile[0]} x {tile[1]} px")
    cols, rows = -(-width // tile[0]), -(-height // tile[1])
    if not len(offsets) == len(counts) == cols * rows * planes:
        raise UnsupportedLayout(f"{len(offsets)} offsets and {len(counts)} sizes for {cols} x {rows} tiles")
    longest = MAX_GROWTH * 3 * tile[0] * tile[1] + MAX_HEADER
    where, sizes = _positions(offsets, tiff.size), _positions(counts, min(tiff.size, longest))
    return TiffImage(width, height, *tile, cols, rows, where, sizes, coding, strips, planes)


def _positions(values: np.ndarray, most: int) -> Int64[np.ndarray, " n"]:
    """Offsets or byte counts, at most `most`: beyond the file there is nothing to read, and a tile whose size is
    damaged must not take the memory of all that follows it."""
    if values.dtype.kind != "u":
        raise UnsupportedLayout("offsets that are no whole numbers")
    return np.asarray(np.minimum(values, np.uint64(most)), np.int64)


def _coding(directory: Directory, samples: int, planes: int) -> Coding:
    """How the image is encoded; UnsupportedLayout for all but 8-bit samples and codecs known to be read right.

    samples: values that a pixel must have; planes: in as many they are encoded.
    """
    compression = directory.whole(Tag.COMPRESSION, 1)
    photometric = directory.whole(Tag.PHOTOMETRIC, -1)
    predictor = directory.whole(Tag.PREDICTOR, 1)
    bits, found = directory.numbers(Tag.BITS), directory.whole(Tag.SAMPLES, 1)
    if found != samples or len(bits) == 0 or (bits != 8).any():
        raise UnsupportedLayout(
            f"{found} sample(s) of {'/'.join(str(n) for n in bits[:8]) or 1} bits a pixel, not {samples} of 8"
        )
    grey = samples == 1 or planes > 1
    if compression not in CODECS or (grey and compression in JPEG2000S):
        raise UnsupportedLayout(f"compression {compression}")
    allowed = (GREY,) if samples == 1 else (RGB, YCBCR) if compression in LOSSY and not grey else (RGB,)
    if photometric not in allowed:
        raise UnsupportedLayout(f"photometric interpretation {photometric} with {CODECS[compression]}")
    if compression not in LOSSY and predictor not in (1, 2):
        raise UnsupportedLayout(f"predictor {predictor}")
    for tag in (Tag.FILL_ORDER, Tag.ORIENTATION, Tag.SAMPLE_FORMAT, Tag.DEPTH):
        if (directory.numbers(tag) != 1).any():
            raise UnsupportedLayout(f"{tag.name.lower().replace('_', ' ')} is not 1")
    if compression in LOSSY:
        tables = directory.raw(Tag.JPEG_TABLES) if compression == JPEG else b""
        return Coding(compression, ycbcr=photometric == YCBCR, tables=tables, grey=grey)
    return Coding(compression, predictor=predictor == 2, grey=grey)
