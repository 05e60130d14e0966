"""A region in parts: every pixel once, read from where OpenSlide copies."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_ats.geometry import Box, Size
from wsi_ats.slides.openslide.exact import LONGEST, NEAR, REACH, common, spans, tiles_under, window

moderate = settings(deadline=None, max_examples=150)
downsamples = st.sampled_from([1.0, 2.0, 4.0, 4.0001, 16.0]) | st.floats(1, 70)


def rank(pixel: int, downsample: float) -> int:
    """In whole numbers: 0 where OpenSlide copies from this pixel on, 1 where it nearly does, else 2."""
    position = Fraction(pixel) * Fraction(downsample)
    off = abs(round(position) - position) / Fraction(downsample)
    return sum(off >= Fraction(limit) for limit in NEAR)


@moderate
@given(st.integers(0, 100_000), st.integers(1, 12_000), downsamples)
def test_spans_cover_every_pixel_once_and_begin_where_pixels_are_copied(
    start: int, length: int, downsample: float
) -> None:
    found = spans(start, length, downsample)
    assert [pixel for s in found for pixel in (s.start, s.stop)][1:-1:2] == [s.start for s in found[1:]]
    assert (found[0].start, found[-1].stop) == (start, start + length)
    for span in found:
        assert span.start < span.stop <= span.read_from + LONGEST
        assert 0 <= span.read_from <= span.start <= span.read_from + REACH
        ranks = [rank(pixel, downsample) for pixel in range(span.start, max(span.start - REACH, 0) - 1, -1)]
        best = 0 if min(ranks) == 2 else ranks.index(min(ranks))
        assert span.start - span.read_from == best


def test_at_a_whole_downsample_nothing_is_read_beside_what_is_wanted() -> None:
    assert [tuple(s) for s in spans(1001, 5000, 4.0)] == [(1001, 5097, 1001), (5097, 6001, 5097)]


@moderate
@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(1, 30),
    st.data(),
)
def test_tiles_under_a_box_are_those_that_share_pixels_with_it(
    x: int, y: int, width: int, height: int, side: int, data: st.DataObject
) -> None:
    box = Box(x, y, width, height)
    level = Size(x + width + data.draw(st.integers(0, 20)), y + height + data.draw(st.integers(0, 20)))
    tile = side, data.draw(st.integers(1, 30))
    numbers = np.arange(level.height)[:, None] // tile[1] * 1000 + np.arange(level.width) // tile[0]
    tiles = tiles_under(box, tile, level)
    assert {row * 1000 + col for col, row in tiles} == set(
        np.unique(numbers[y : y + height, x : x + width]).tolist()
    )
    rgb = np.random.default_rng(0).integers(0, 255, (level.height, level.width, 3), np.uint8)
    whole = Box(0, 0, level.width, level.height)
    out = np.zeros((height, width, 3), np.uint8)
    for (col, row), place in tiles.items():
        assert (numbers == row * 1000 + col).sum() == place.width * place.height
        part = common(place, box)
        window(out, box, part)[:] = window(window(rgb, whole, place), place, part)
    assert np.array_equal(out, rgb[y : y + height, x : x + width])
