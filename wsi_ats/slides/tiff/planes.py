"""Tiles of a TIFF as they are stored: red, green and blue together, or in three parts, one a colour."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from wsi_ats.geometry import Box
from wsi_ats.slides.codecs import decode
from wsi_ats.slides.storage.opening import ByteRange, ByteSource
from wsi_ats.slides.tiff.index import TiffImage
from wsi_ats.slides.tiled import Encoded

LENGTHS = struct.Struct("<3q")
"""Lengths of the three parts of a tile, before them; -1: the part is not stored."""


def stored(source: ByteSource, image: TiffImage, tiles: Sequence[int]) -> Iterator[Encoded | None]:
    """The bytes of tiles, in that order; None for those that are not stored. Raises OSError."""
    if image.planes == 1:
        yield from _parts(source, image, tiles)
        return
    step = image.cols * image.rows
    parts = _parts(source, image, [tile + step * plane for tile in tiles for plane in range(3)])
    for three in zip(parts, parts, parts, strict=True):
        yield None if three == (None, None, None) else _join(three)


def decode_tile(
    image: TiffImage, encoded: Encoded, out: UInt8[np.ndarray, "h w 3"], window: Box | None = None
) -> None:
    """Decode what `stored` gave into `out`; arguments and errors as of `decode`.

    A colour that is not stored is white, as is what no colour is stored of.
    """
    if image.planes == 1:
        decode(image.coding, encoded, out, window)
        return
    for plane, part in enumerate(_split(encoded)):
        colour = np.full((*out.shape[:2], 1), 255, np.uint8)
        if part is not None:
            decode(image.coding, part, colour)
        out[..., plane] = colour[..., 0]


def _parts(source: ByteSource, image: TiffImage, places: Sequence[int]) -> Iterator[Encoded | None]:
    where, counts = image.offsets[places].tolist(), image.counts[places].tolist()
    if all(counts):
        yield from source.read_many([ByteRange("", at, n) for at, n in zip(where, counts, strict=True)])
        return
    found = source.read_many([ByteRange("", at, n) for at, n in zip(where, counts, strict=True) if n])
    for count in counts:
        yield next(found) if count else None


def _join(parts: tuple[Encoded | None, ...]) -> bytes:
    lengths = (-1 if part is None else len(part) for part in parts)
    return b"".join([LENGTHS.pack(*lengths), *(part or b"" for part in parts)])


def _split(encoded: Encoded) -> Iterator[Encoded | None]:
    data, at = memoryview(encoded), LENGTHS.size
    for length in LENGTHS.unpack(data[:at]):
        yield None if length < 0 else data[at : at + length]
        at += max(length, 0)
