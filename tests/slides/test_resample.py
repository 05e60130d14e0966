from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.helpers import shared_data
from tests.support.strategies import pyramids
from wsi_ats.errors import ConfigError, MissingMppError
from wsi_ats.slides import Slide, open_slide, resample
from wsi_ats.slides.resample import matching_level, read_boxes

moderate = settings(deadline=None, max_examples=60)
scales = st.floats(1.02, 9)


def triangle(line: np.ndarray, start: float, scale: float, n: int) -> np.ndarray:
    """One axis of the oracle: output j is centred on start + (j + 1/2) * scale; white beyond the line."""
    out = np.empty((n, *line.shape[1:]))
    for j in range(n):
        centre = start + (j + 0.5) * scale
        reach = range(math.floor(centre - scale) - 1, math.ceil(centre + scale) + 2)
        weights = np.maximum(0, 1 - np.abs(np.asarray(reach) + 0.5 - centre) / scale)
        values = np.stack([line[i] if 0 <= i < len(line) else np.full(line.shape[1:], 255.0) for i in reach])
        out[j] = np.tensordot(weights / weights.sum(), values, axes=1)
    return out


def slow_box(
    level: np.ndarray, start: tuple[float, float], scale: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    rows = triangle(level.astype(float), start[1], scale[1], size[1])
    return triangle(rows.swapaxes(0, 1), start[0], scale[0], size[0]).swapaxes(0, 1)


@moderate
@given(pyramids(longest=40), scales, scales, st.floats(-20, 50), st.floats(-20, 50))
def test_boxes_equal_a_slow_triangle_filter(
    arrays: list[np.ndarray], scale_x: float, scale_y: float, x: float, y: float
) -> None:
    slide = open_slide(arrays)
    level = slide.pyramid.nearest_finer((scale_x, scale_y))
    if matching_level(slide.pyramid, (scale_x, scale_y)):
        return
    (ratio_x, ratio_y), pixels = level.downsample, arrays[level.index]
    got = read_boxes(slide, np.asarray([[x, y]]), (6, 5), (scale_x, scale_y))[0]
    start, scale = (x / ratio_x, y / ratio_y), (scale_x / ratio_x, scale_y / ratio_y)
    # Where an axis of the level is a bit too coarse, a filter of one level pixel is the narrowest there is.
    if min(scale) >= 1:
        assert np.abs(got - slow_box(pixels, start, scale, (6, 5))).max() <= 1.5


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows by one a pixel to the right, green by one a pixel down: a pixel tells its own position."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


@moderate
@given(st.floats(1.02, 6), st.floats(1.02, 6), st.floats(20, 60), st.floats(20, 60))
def test_boxes_are_not_shifted(scale_x: float, scale_y: float, x: float, y: float) -> None:
    slide = open_slide(ramp(200, 220))
    box = read_boxes(slide, np.asarray([[x, y]]), (20, 20), (scale_x, scale_y))[0].astype(float)
    steps = np.arange(20) + 0.5
    # The pixel that holds position p has the value floor(p), so on average p - 1/2.
    assert np.abs(box[..., 0] - (x + steps * scale_x - 0.5)).max() <= 0.51 + 0.01
    assert np.abs(box[..., 1] - (y + steps * scale_y - 0.5)[:, None]).max() <= 0.51 + 0.01


@moderate
@given(pyramids(), st.data())
def test_a_matching_level_is_copied(arrays: list[np.ndarray], data: st.DataObject) -> None:
    slide = open_slide(arrays)
    level = data.draw(st.sampled_from(slide.levels))
    off = data.draw(st.floats(0.991, 1.009))
    downsample = (level.downsample[0] * off, level.downsample[1] / off)
    match = matching_level(slide.pyramid, downsample)
    assert match is not None
    xy = np.asarray(data.draw(st.lists(st.tuples(*[st.integers(-20, 70)] * 2), min_size=1, max_size=4)))
    assert np.array_equal(read_boxes(slide, xy, (8, 9), downsample), slide.read_many(xy, (8, 9), match.index))


def whole_at_once(pixels: np.ndarray, scale: float, size: tuple[int, int]) -> np.ndarray:
    """Pillow's resize of the whole image on a white margin."""
    margin = math.ceil(2 * scale) + 2
    end = [math.ceil(n * scale) + margin for n in size]
    canvas = np.full((margin + end[1], margin + end[0], 3), 255, np.uint8)
    canvas[margin : margin + pixels.shape[0], margin : margin + pixels.shape[1]] = pixels
    box = (margin, margin, margin + size[0] * scale, margin + size[1] * scale)
    return np.asarray(Image.fromarray(canvas).resize(size, Image.Resampling.BILINEAR, box))


@moderate
@given(st.floats(1.02, 7), st.integers(3, 11), st.integers(0, 99))
def test_neighbouring_boxes_agree_with_resizing_the_whole_slide(scale: float, side: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (83, 97, 3), np.uint8)
    cols, rows = (math.ceil(n / scale / side) for n in (97, 83))
    corners = np.asarray([(i * side * scale, j * side * scale) for j in range(rows) for i in range(cols)])
    boxes = read_boxes(open_slide(pixels), corners, (side, side), (scale, scale))
    joined = boxes.reshape(rows, cols, side, side, 3).swapaxes(1, 2).reshape(rows * side, cols * side, 3)
    expected = whole_at_once(pixels, scale, (cols * side, rows * side))
    # Pillow rounds after each axis: a tie may go the other way, twice.
    assert np.abs(joined.astype(int) - expected).max() <= 2


def test_boxes_are_the_same_however_few_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = open_slide(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    corners = np.random.default_rng(1).uniform(-20, 200, (9, 2))
    together = read_boxes(slide, corners, (16, 16), (3.3, 3.3))
    monkeypatch.setattr(resample, "CHUNK_BYTES", 1)
    assert np.array_equal(read_boxes(slide, corners, (16, 16), (3.3, 3.3)), together)


def test_no_boxes() -> None:
    slide = open_slide(np.zeros((50, 50, 3), np.uint8))
    for scale in (1.0, 3.3):
        assert read_boxes(slide, np.zeros((0, 2)), (16, 8), (scale, scale)).shape == (0, 8, 16, 3)


@pytest.fixture
def slide() -> Slide:
    pixels = ramp(200, 240)
    halves = np.asarray(Image.fromarray(pixels).reduce(2))
    return open_slide([pixels, halves], mpp=0.25)


def test_read_at_mpp_takes_the_nearest_finer_level(slide: Slide) -> None:
    assert np.array_equal(slide.read_at_mpp((10, 20), (30, 40), 0.25), slide.read((10, 20), (30, 40)))
    assert np.array_equal(slide.read_at_mpp((10, 20), (30, 40), 0.5), slide.read((10, 20), (30, 40), 1))
    before = slide.bytes_read
    quarter = slide.read_at_mpp((16, 16), (8, 8), 1.0)
    assert slide.bytes_read - before <= 3 * (8 * 2 + 7) ** 2  # of level 1, not of level 0
    assert quarter.shape == (8, 8, 3)
    assert np.abs(quarter[0, :, 0] - (16 + (np.arange(8) + 0.5) * 4 - 0.5)).max() <= 1


def test_read_at_mpp_keeps_the_two_axes_apart() -> None:
    slide = open_slide(ramp(200, 240), mpp=(0.25, 0.5))
    pixels = slide.read_at_mpp((8, 8), (10, 10), 1.0).astype(int)
    assert set(np.diff(pixels[0, :, 0])) == {4}
    assert set(np.diff(pixels[:, 0, 1])) == {2}


def test_read_at_mpp_never_guesses(slide: Slide) -> None:
    with pytest.raises(ConfigError, match=r"mpp=0.2 is finer .* 0.25 um/px"):
        slide.read_at_mpp((0, 0), (8, 8), 0.2)
    with pytest.raises(MissingMppError, match="'array' has no mpp"):
        open_slide(ramp(50, 50)).read_at_mpp((0, 0), (8, 8), 0.2)


def test_at_one_mpp_a_field_looks_the_same_from_two_levels() -> None:
    with open_slide(shared_data("slides/hamamatsu-fluorescence/dapi.ndpi")) as slide:
        from_finer = read_boxes(slide, np.asarray([[1024.0, 1024.0]]), (128, 128), (7.9, 7.9))[0]
        from_level = read_boxes(slide, np.asarray([[1024.0, 1024.0]]), (128, 128), (8.0, 8.0))[0]
    correlation = np.corrcoef(from_finer[:64, :64, 2].ravel(), from_level[:64, :64, 2].ravel())[0, 1]
    assert correlation > 0.9
