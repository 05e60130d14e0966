"""Headers of JPEG tiles: what is decoded has the size that the slide says, and its end."""

from __future__ import annotations

import numpy as np
import pytest
from imagecodecs import jpeg8_decode, jpeg8_encode

from tests.support.tiffs import picture
from wsi_ats.slides.codecs import JPEG, SCAN, Coding, decode
from wsi_ats.slides.tiled import UndecodableTile

PIXELS = picture(48, 64)
ENCODED = bytes(jpeg8_encode(PIXELS, 80, colorspace="RGB", outcolorspace="YCbCr"))
CODING = Coding(JPEG, ycbcr=True)


def with_comment(text: bytes) -> bytes:
    return ENCODED[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text + ENCODED[2:]


@pytest.mark.parametrize(
    "encoded",
    [
        ENCODED,
        with_comment(b"what stands for a scan: " + SCAN + b" and more"),
        with_comment(SCAN),
        ENCODED[:2] + b"\xff\xff" + ENCODED[2:],
        ENCODED + b"\0\xff\0",
    ],
)
def test_tiles_with_any_header_are_decoded(encoded: bytes) -> None:
    for _ in range(2):  # a header that was met before is not read again
        out = np.zeros_like(PIXELS)
        decode(CODING, encoded, out)
        np.testing.assert_array_equal(out, jpeg8_decode(ENCODED))


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (b"\0" + ENCODED, "no JPEG begins here"),
        (ENCODED[:2] + b"\0" + ENCODED[3:], "its header is damaged"),
        (ENCODED[:40], "(JPEG)"),
        (ENCODED[: ENCODED.index(SCAN)], "(JPEG)"),
        (ENCODED[:-2], "the end of the stream is missing"),
    ],
)
def test_what_is_damaged_is_refused(encoded: bytes, said: str) -> None:
    for _ in range(2):
        with pytest.raises(UndecodableTile, match=said):
            decode(CODING, encoded, np.zeros_like(PIXELS))


def test_another_size_is_refused() -> None:
    decode(CODING, ENCODED, np.zeros_like(PIXELS))
    with pytest.raises(UndecodableTile, match="an image of 64 x 48 px, not of 48 x 64"):
        decode(CODING, ENCODED, np.zeros((64, 48, 3), np.uint8))
