"""Decoding of a tile of a TIFF: from its bytes to RGB pixels, outside the interpreter's lock.

imagecodecs decodes. What it lets pass is refused here: it fills up with grey what is missing at the end of a JPEG,
and it would trust the size that the tile's own header claims.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from jaxtyping import UInt8

from wsi_ats.geometry import Box
from wsi_ats.slides.tiled import Encoded, UndecodableTile
from wsi_ats.slides.window import decode_window

# Its stubs do not say that it reads memoryviews and decodes into arrays.
_codecs: Any = imagecodecs

RAW, LZW, JPEG, DEFLATE, DEFLATE_OLD, ZSTD = 1, 5, 7, 8, 32946, 50000
APERIO_YCBCR, APERIO_RGB, JPEG2000 = 33003, 33005, 34712
CODECS = {
    RAW: "uncompressed",
    LZW: "LZW",
    JPEG: "JPEG",
    DEFLATE: "deflate",
    DEFLATE_OLD: "deflate",
    ZSTD: "zstd",
    APERIO_YCBCR: "JPEG 2000 (YCbCr)",
    APERIO_RGB: "JPEG 2000",
    JPEG2000: "JPEG 2000",
}
"""TIFF compressions that are decoded here."""
JPEG2000S = (APERIO_YCBCR, APERIO_RGB, JPEG2000)
LOSSY = (JPEG, *JPEG2000S)
"""Compressions with a predictor of their own, or none, and decoders that may round differently."""

JPEG_GREY, JPEG_RGB, JPEG_YCBCR = 1, 2, 3
"""libjpeg's numbers of colour spaces."""
SCAN = b"\xff\xda"
"""Marker of JPEG that ends the header."""
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of JPEG that are followed by the size of the image."""
LONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
CODESTREAM = b"\xff\x4f\xff\x51"
"""First bytes of the image of a JPEG 2000 stream, after boxes or none."""


class Coding(NamedTuple):
    """Coding: how the tiles of an image are encoded."""

    compression: int
    ycbcr: bool = False
    """Whether colours of JPEG are YCbCr, else RGB."""
    recoloured: bool = False
    """Whether the tags of the TIFF say the other of RGB and YCbCr than its JPEG tiles, which are believed."""
    predictor: bool = False
    """Whether values are differences to the pixel on their left."""
    tables: bytes = b""
    """Tables of JPEG that all tiles share."""
    grey: bool = False
    """Whether a tile holds one of the three colours alone: `out` is then (h, w, 1)."""


def decode(
    coding: Coding, encoded: Encoded, out: UInt8[np.ndarray, "h w colours"], window: Box | None = None
) -> None:
    """Decode a tile into `out`, a contiguous array of the tile's size.

    window: the only part of `out` that must be filled; None: all of it.
    Raises UndecodableTile where the bytes are damaged or hold an image of another size.
    """
    try:
        if coding.compression == JPEG:
            _decode_jpeg(coding, encoded, out, window)
        elif coding.compression in JPEG2000S:
            _decode_jpeg2000(coding, encoded, out)
        else:
            _decode_lossless(coding, encoded, out)
    except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
        # imagecodecs raises RuntimeErrors for damage, ValueErrors for sizes; IndexErrors are ends of the bytes.
        raise UndecodableTile(f"{' '.join(str(error).split())} ({CODECS[coding.compression]})") from error


def _decode_jpeg(
    coding: Coding, encoded: Encoded, out: UInt8[np.ndarray, "h w colours"], window: Box | None
) -> None:
    _check_jpeg(bytes(encoded), out.shape)
    tables = coding.tables or None
    if coding.grey:
        _codecs.jpeg8_decode(
            encoded, tables=tables, colorspace=JPEG_GREY, outcolorspace=JPEG_GREY, out=out[..., 0]
        )
        return
    if window is not None and decode_window(encoded, tables, "YCBCR" if coding.ycbcr else "RGB", window, out):
        return
    space = JPEG_YCBCR if coding.ycbcr else JPEG_RGB
    _codecs.jpeg8_decode(encoded, tables=tables, colorspace=space, outcolorspace=JPEG_RGB, out=out)


def _check_jpeg(encoded: bytes, shape: tuple[int, ...]) -> None:
    """Raise ValueError where the image has another size, or where its end is missing; IndexError within its header."""
    end = encoded.find(SCAN)
    try:
        size = _frame_size(encoded if end < 0 else encoded[: end + len(SCAN)])
    except IndexError:  # what was found is part of a table
        size = _frame_size(encoded)
    _check_size(size, shape)
    # Some writers pad tiles; in the scan itself 0xFF is always followed by another byte than 0xD9.
    if encoded[-2:] != b"\xff\xd9" and not encoded.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise ValueError("the end of the stream is missing")


@lru_cache(maxsize=16)  # the tiles of a level have one and the same header
def _frame_size(header: bytes) -> tuple[int, int]:
    """(height, width) of a JPEG, from its bytes up to the first scan. Raises ValueError, IndexError."""
    if header[:2] != b"\xff\xd8":
        raise ValueError("no JPEG begins here")
    at, size = 2, (-1, -1)
    while (marker := header[at + 1]) != SCAN[1]:
        if header[at] != 0xFF:
            raise ValueError("its header is damaged")
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in LONE_MARKERS:
            at += 2
        else:
            if marker in FRAMES:
                size = int.from_bytes(header[at + 5 : at + 7]), int.from_bytes(header[at + 7 : at + 9])
            at += 2 + int.from_bytes(header[at + 2 : at + 4])
    return size


def said_colours(header: bytes) -> str:
    """What the beginning of a JPEG says of its colours: "RGB", "YCbCr", or "" where it does not say.

    Files with JFIF headers are YCbCr by definition; libjpeg numbers red, green and blue by their letters.
    """
    if header[:2] != b"\xff\xd8":
        return ""
    at, said = 2, ""
    while header[at : at + 1] == b"\xff" and (marker := header[at + 1 : at + 2]) not in (b"", SCAN[1:]):
        if marker == b"\xe0" and header[at + 4 : at + 9] == b"JFIF\0":
            return "YCbCr"
        if marker[0] in FRAMES and header[at + 10 : at + 17 : 3] == b"RGB":
            said = "RGB"
        at += 2 + int.from_bytes(header[at + 2 : at + 4])
    return said


def _check_size(size: tuple[int, int], shape: tuple[int, ...]) -> None:
    if size != shape[:2]:
        raise ValueError(f"it holds an image of {size[1]} x {size[0]} px, not of {shape[1]} x {shape[0]}")


def _decode_jpeg2000(coding: Coding, encoded: Encoded, out: UInt8[np.ndarray, "h w 3"]) -> None:
    head = bytes(encoded[:256])
    at = head.index(CODESTREAM)
    width, height, left, top = (int.from_bytes(head[at + i : at + i + 4]) for i in (8, 12, 16, 20))
    _check_size((height - top, width - left), out.shape)
    _codecs.jpeg2k_decode(encoded, numthreads=1, out=out)
    if coding.compression == APERIO_YCBCR:
        out[:] = _rgb_of_ycbcr(out)


def _rgb_of_ycbcr(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """ITU-R BT.601, full range, rounded as libjpeg and OpenSlide do."""
    luma, blue, red = (pixels[..., channel].astype(np.int32) for channel in range(3))
    blue, red = blue - 128, red - 128
    half = 1 << 15
    rgb = (
        luma + ((91881 * red + half) >> 16),
        luma + ((-22554 * blue - 46802 * red + half) >> 16),
        luma + ((116130 * blue + half) >> 16),
    )
    return np.stack(rgb, axis=-1).clip(0, 255).astype(np.uint8)


def _decode_lossless(coding: Coding, encoded: Encoded, out: UInt8[np.ndarray, "h w colours"]) -> None:
    flat = out.reshape(-1)
    match coding.compression:
        case 1:
            done = np.frombuffer(encoded, np.uint8, min(len(encoded), flat.size))
            flat[: len(done)] = done
        case 5:
            done = _codecs.lzw_decode(encoded, out=flat)
        case 8 | 32946:
            done = _codecs.deflate_decode(encoded, out=flat)
        case _:
            done = _codecs.zstd_decode(encoded, out=flat)
    if len(done) != flat.size:
        raise ValueError(f"{len(done)} bytes came out, the tile has {flat.size}")
    if coding.predictor:
        _codecs.delta_decode(out, axis=-2, out=out)
