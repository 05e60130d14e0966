from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.helpers import shared_data
from tests.support.strategies import pyramids
from wsi_ats.errors import ConfigError, MissingMppError, SlideError
from wsi_ats.geometry import Box, Grid, Level, Pyramid, Size
from wsi_ats.lowres import view as view_module
from wsi_ats.lowres.view import boxes, frame_view, read_view, resolve_downsample
from wsi_ats.slides import Slide, SlideAddress, open_slide
from wsi_ats.slides.base import SlideFacts
from wsi_ats.slides.resample import read_boxes

moderate = settings(deadline=None, max_examples=60)


@moderate
@given(pyramids(), st.floats(1, 9), st.floats(1, 9), st.integers(1, 6))
def test_the_view_covers_the_grid(arrays: list[np.ndarray], x: float, y: float, stride: int) -> None:
    slide = open_slide(arrays)
    view = read_view(slide, (x, y), stride)
    assert view.pixels.shape == (view.grid.rows * stride, view.grid.cols * stride, 3)
    assert view.grid.cell == (stride * view.downsample[0], stride * view.downsample[1])
    assert view.grid == Grid.covering(slide.pyramid.size, view.grid.cell)
    assert view.downsample == pytest.approx((x, y), rel=0.011)


@pytest.mark.parametrize("block", [20, 33, 64])
@pytest.mark.parametrize("scale", [1.0, 1.7, 3.0, 5.3])
def test_a_view_read_in_blocks_equals_one_read_at_once(
    monkeypatch: pytest.MonkeyPatch, block: int, scale: float
) -> None:
    slide = open_slide(np.random.default_rng(3).integers(0, 255, (150, 131, 3), np.uint8))
    downsample = (scale, scale * 1.1)
    monkeypatch.setattr(view_module, "BLOCK", block)
    view = read_view(slide, downsample, 4)
    height, width = view.pixels.shape[:2]
    whole = read_boxes(slide, np.zeros((1, 2)), (width, height), view.downsample)[0]
    # Pillow rounds after each axis, in an order of its choice. One pixel of noise off would be far more.
    assert np.abs(view.pixels.astype(int) - whole).max() <= 1
    monkeypatch.undo()
    assert np.array_equal(view.pixels, read_view(slide, downsample, 4).pixels)


@moderate
@given(pyramids(longest=70), st.floats(1, 9), st.floats(1, 9), st.integers(1, 6), st.data())
def test_any_box_of_a_view_has_the_pixels_of_the_view(
    arrays: list[np.ndarray], x: float, y: float, stride: int, data: st.DataObject
) -> None:
    slide = open_slide(arrays)
    view, frame = read_view(slide, (x, y), stride), frame_view(slide, (x, y), stride)
    height, width = frame.shape
    assert (view.shape, view.grid, view.downsample) == (frame.shape, frame.grid, frame.downsample)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(left, top, data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top)))
    assert np.array_equal(frame.read(slide, box), view.crop(box))


@pytest.mark.parametrize("side", [1, 7, 16, 100])
def test_boxes_cover_a_view_once(side: int) -> None:
    seen = np.zeros((33, 50), int)
    for box in boxes(seen.shape, side):
        assert max(box.width, box.height) <= side
        seen[box.y : box.y + box.height, box.x : box.x + box.width] += 1
    assert (seen == 1).all()


def test_a_level_that_matches_is_taken_as_it_is() -> None:
    rng = np.random.default_rng(0)
    levels = [rng.integers(0, 255, shape, np.uint8) for shape in ((403, 401, 3), (100, 100, 3))]
    view = read_view(open_slide(levels), (4.0, 4.0), 8)
    assert view.downsample == (4.01, 4.03)
    assert view.pixels.shape == (104, 104, 3)
    assert np.array_equal(view.pixels[:100, :100], levels[1])
    assert (view.pixels[100:] == 255).all()


def test_cells_of_the_view_lie_over_their_level_0_pixels() -> None:
    pixels = np.full((300, 420, 3), 255, np.uint8)
    grid = read_view(open_slide(pixels), (5.3, 5.1), 4).grid
    cell = 7 * grid.cols + 11
    (left, top), (right, bottom) = grid.corners(np.asarray([cell, cell + grid.cols + 1]))
    pixels[top:bottom, left:right] = 0
    view = read_view(open_slide(pixels), (5.3, 5.1), 4)
    darkness = 255 - view.pixels[..., 0].astype(float)
    share = darkness.reshape(grid.rows, 4, grid.cols, 4).sum(axis=(1, 3)).ravel() / darkness.sum()
    assert share.argmax() == cell
    assert share[cell] > 0.7
    assert np.flatnonzero(darkness.any(axis=0)).mean() == pytest.approx(11.5 * 4 - 0.5, abs=0.51)
    assert np.flatnonzero(darkness.any(axis=1)).mean() == pytest.approx(7.5 * 4 - 0.5, abs=0.51)


class EmptyAddress(SlideAddress):
    name = "empty"

    def open(self) -> Slide:
        return EmptySlide(EmptyAddress(), SlideFacts(Pyramid.of_sizes([(12_000, 9_000)]), None, "none", {}))


class EmptySlide(Slide):
    """A large slide of one level that holds no pixels in memory."""

    backend = "empty"

    def close(self) -> None:
        pass

    def _pixels(self, level: Level, x: int, y: int, size: Size) -> np.ndarray:
        return np.full((size.height, size.width, 3), 100, np.uint8)

    def _associated(self, name: str) -> np.ndarray:
        raise KeyError(name)


def test_a_slide_without_a_pyramid_is_never_held_in_memory() -> None:
    slide = EmptyAddress().open()
    tracemalloc.start()
    try:
        view = read_view(slide, (40.0, 40.0), 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (view.pixels[2:220, 2:295] == 100).all()
    assert slide.bytes_read >= 3 * 12_000 * 9_000
    assert peak < 120e6 < 3 * 12_000 * 9_000


# ---- resolve_downsample


def blank(mpp: float | tuple[float, float] | None = None) -> Slide:
    return open_slide(np.zeros((8, 8, 3), np.uint8), mpp=mpp, name="blank")


def test_scales() -> None:
    assert resolve_downsample(blank((0.25, 0.5)), mpp=8, downsample=None, setting="view") == (32, 16)
    assert resolve_downsample(blank(), mpp=None, downsample=16, setting="view") == (16, 16)
    # 0.5 um/px asked of a slide of 0.503 um/px: its own pixels, not finer ones.
    assert resolve_downsample(blank(0.503), mpp=0.5, downsample=None, setting="tile") == (1, 1)


@pytest.mark.parametrize(("mpp", "downsample"), [(None, None), (0.5, 2.0)])
def test_exactly_one_scale_is_set(mpp: float | None, downsample: float | None) -> None:
    with pytest.raises(ConfigError, match=f"tile.mpp={mpp} and tile.downsample={downsample}"):
        resolve_downsample(blank(0.5), mpp=mpp, downsample=downsample, setting="tile")


def test_a_missing_mpp_is_an_error_with_three_remedies() -> None:
    with pytest.raises(MissingMppError, match=r"'blank'.*view\.mpp=8") as caught:
        resolve_downsample(blank(), mpp=8, downsample=None, setting="view")
    assert all(word in caught.value.remedy for word in ("`mpp` column", "--mpp", "view.downsample"))


def test_pixels_finer_than_the_slide_are_an_error() -> None:
    with pytest.raises(SlideError, match=r"'blank' \(0.5 um/px, given\).*tile\.mpp=0.25"):
        resolve_downsample(blank(0.5), mpp=0.25, downsample=None, setting="tile")
    with pytest.raises(SlideError, match=r"tile\.downsample=0.5"):
        resolve_downsample(blank(0.5), mpp=None, downsample=0.5, setting="tile")


# ---- real slides


def test_the_view_of_an_aperio_slide_without_a_pyramid() -> None:
    with open_slide(shared_data("slides/aperio-cmu1-small/CMU-1-Small-Region.svs")) as slide:
        view = read_view(slide, resolve_downsample(slide, mpp=8, downsample=None, setting="view"), 4)
        assert slide.bytes_read >= 3 * 2220 * 2967
    assert (view.grid.rows, view.grid.cols) == (47, 35)
    assert view.grid.cell == pytest.approx((4 * 8 / 0.499, 4 * 8 / 0.499), rel=1e-3)
    assert 150 < view.pixels.mean() < 240


def test_the_view_of_a_pyramid_reads_a_small_level() -> None:
    with open_slide(shared_data("slides/hamamatsu-fluorescence/dapi.ndpi")) as slide:
        view = read_view(slide, resolve_downsample(slide, mpp=8, downsample=None, setting="view"), 4)
        assert slide.bytes_read <= 3 * 248 * 304 * 1.1
    assert view.downsample == pytest.approx((35.06, 35.06), abs=0.01)
