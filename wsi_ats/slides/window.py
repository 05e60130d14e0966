"""The part of a JPEG tile that is wanted, without the work for the rest of it.

This is the door to an optional compiled part, `_window.c`. It gives the pixels that a full decode gives, or none:
whoever asks then decodes the whole tile, as everybody does who has not got the compiled part. So what is installed
decides how long reading takes, never what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from wsi_ats.geometry import Box

Encoded = bytes | memoryview
Colourspace = Literal["RGB", "YCBCR"]
Decode = Callable[[Encoded, Encoded, str, int, int, int, int, np.ndarray], bool]
"""`decode` of the compiled part: data, tables, colour space, size of the tile, corner of the window, its pixels."""

SAMPLE = (56, 72)  # rows and columns of the tiles for `_same_pixels`: whole MCUs and a part of one each way


class Compiled(NamedTuple):
    """The compiled part; `decode` is None where it cannot be used, and `state` says how it stands."""

    decode: Decode | None
    state: str


def decode_window(
    encoded: Encoded,
    tables: Encoded | None,
    colourspace: Colourspace,
    window: Box,
    tile: UInt8[np.ndarray, "h w 3"],
) -> bool:
    """Fill the window of `tile`, (h, w, 3) uint8, that has the size of the encoded one; say whether that was done.

    tables: JPEGTables of the TIFF; colourspace: of the stream, by the TIFF's photometric tag; window: in px of the
    tile. False: decode the whole tile. That is so where the compiled part is missing, where the window is the tile,
    for other streams than sequential ones of three 8-bit components, and for a stream that is damaged above or in
    the window: what becomes of it must not depend on the compiled part. Damage below the window is not seen.
    """
    height, width, _ = tile.shape
    decode = compiled().decode
    if decode is None or (window.width, window.height) == (width, height):
        return False
    pixels = tile[window.y : window.y + window.height, window.x : window.x + window.width]
    try:
        return decode(encoded, tables or b"", colourspace, width, height, window.x, window.y, pixels)
    except ValueError:
        return False


@lru_cache(maxsize=1)
def compiled() -> Compiled:
    """The compiled part, found and tried once a process."""
    try:
        # By name: it need not be there.
        decode: Decode = import_module("wsi_ats.slides._window").decode
    except ImportError as error:
        return Compiled(None, f"not installed, tiles are decoded whole ({error})")
    if not _same_pixels(decode):
        return Compiled(None, "its libjpeg gives other pixels than imagecodecs, tiles are decoded whole")
    return Compiled(decode, "compiled")


def _same_pixels(decode: Decode) -> bool:
    """Whether windows have imagecodecs' pixels here: the compiled part has the libjpeg of the machine."""
    from imagecodecs import jpeg8_decode

    height, width = SAMPLE
    for encoded, colourspace in _samples():
        whole = jpeg8_decode(encoded, colorspace=colourspace, outcolorspace="RGB")
        for x, y in ((0, 0), (15, 17), (33, 30), (width - 5, height - 3)):
            expected = whole[y : y + 21, x : x + 19]
            pixels = np.zeros_like(expected)
            try:
                done = decode(encoded, b"", colourspace, width, height, x, y, pixels)
            except ValueError:
                return False
            if not (done and np.array_equal(pixels, expected)):
                return False
    return True


def _samples() -> Iterator[tuple[bytes, Colourspace]]:
    """Small tiles of coarse noise, with chroma sampled in every way that the compiled part takes."""
    from imagecodecs import jpeg8_encode

    pixels = np.random.default_rng(0).integers(0, 256, (*SAMPLE, 3), np.uint8)
    for factors in ("444", "422", "440", "420"):
        yield bytes(jpeg8_encode(pixels, 80, outcolorspace="YCbCr", subsampling=factors)), "YCBCR"
    yield bytes(jpeg8_encode(pixels, 80, outcolorspace="RGB")), "RGB"
