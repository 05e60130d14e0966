from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.strategies import noise, pyramids
from wsi_ats.errors import ConfigError
from wsi_ats.slides import open_slide

moderate = settings(deadline=None, max_examples=100)


def slow_read(level: np.ndarray, x: int, y: int, w: int, h: int) -> np.ndarray:
    """Pixel by pixel, white outside."""
    out = np.full((h, w, 3), 255, np.uint8)
    for j in range(h):
        for i in range(w):
            if 0 <= y + j < level.shape[0] and 0 <= x + i < level.shape[1]:
                out[j, i] = level[y + j, x + i]
    return out


@moderate
@given(pyramids(), st.data())
def test_read_equals_a_slow_oracle(arrays: list[np.ndarray], data: st.DataObject) -> None:
    slide = open_slide(arrays)
    level = data.draw(st.sampled_from(slide.levels))
    x, y = (data.draw(st.integers(-30, n + 30)) for n in slide.size)
    w, h = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    left, top = (int(np.floor(n / scale + 0.5)) for n, scale in zip((x, y), level.downsample, strict=True))
    expected = slow_read(arrays[level.index], left, top, w, h)
    assert np.array_equal(slide.read((x, y), (w, h), level.index), expected)


@moderate
@given(pyramids(), st.lists(st.tuples(st.integers(-40, 80), st.integers(-40, 80)), max_size=6), st.data())
def test_read_many_equals_reads(
    arrays: list[np.ndarray], corners: list[tuple[int, int]], data: st.DataObject
) -> None:
    slide = open_slide(arrays)
    level = data.draw(st.integers(0, len(slide.levels) - 1))
    xy = np.asarray(corners, np.int64).reshape(-1, 2)
    many = slide.read_many(xy, (9, 7), level)
    assert many.shape == (len(corners), 7, 9, 3)
    assert all(
        np.array_equal(one, slide.read(corner, (9, 7), level))
        for one, corner in zip(many, corners, strict=True)
    )


def test_read_many_fills_the_array_given() -> None:
    slide = open_slide(noise(50, 60))
    out = np.zeros((2, 8, 8, 3), np.uint8)
    xy = np.asarray([[3, 4], [-2, 45]])
    assert slide.read_many(xy, (8, 8), out=out) is out
    assert np.array_equal(out, slide.read_many(xy, (8, 8)))
    with pytest.raises(ConfigError, match=r"\(2, 8, 8, 3\).*\(2, 8, 9, 3\)"):
        slide.read_many(xy, (9, 8), out=out)


def test_bytes_read_counts_the_pixels_inside_the_slide() -> None:
    slide = open_slide(noise(50, 60))
    slide.read((0, 0), (10, 20))
    assert slide.bytes_read == 3 * 10 * 20
    slide.read((55, 40), (10, 20))  # 5 x 10 of it lie on the slide
    slide.read((500, 40), (10, 20))
    assert slide.bytes_read == 3 * (200 + 50)


@pytest.mark.parametrize("level", [-1, 1])
def test_levels_that_do_not_exist_are_refused(level: int) -> None:
    with pytest.raises(ConfigError, match="levels 0 to 0"):
        open_slide(noise(5, 5)).read((0, 0), (2, 2), level)


def test_what_a_slide_says_of_itself() -> None:
    slide = open_slide([noise(40, 60), noise(20, 30)], mpp=(0.25, 0.5), name="mine")
    assert (slide.name, slide.size, slide.backend, slide.mpp) == ("mine", (60, 40), "memory", 0.375)
    assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2)]
    assert repr(slide) == "<Slide 'mine': 60 x 40 px, 2 levels, 0.25 x 0.5 um/px, memory>"
    assert not slide.associated_images
    assert open_slide(noise(4, 4)).mpp is None


def test_a_memory_slide_survives_pickling_and_its_address_opens_it() -> None:
    slide = open_slide(noise(40, 60), mpp=0.5, name="mine")
    unpickled = pickle.loads(pickle.dumps(slide))  # noqa: S301
    for other in (unpickled, slide.address.open()):
        assert (other.name, other.mpp) == ("mine", 0.5)
        assert np.array_equal(other.read((5, 5), (9, 9)), slide.read((5, 5), (9, 9)))


@pytest.mark.parametrize(
    "arrays",
    [[], np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
    ids=["none", "grey", "rgba", "float"],
)
def test_arrays_that_are_no_image_are_refused(arrays: np.ndarray | list[np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="'array'"):
        open_slide(arrays)


@pytest.mark.parametrize("mpp", [0, -0.5, float("nan"), float("inf"), (0.5, 0)])
def test_an_impossible_mpp_is_refused(mpp: float) -> None:
    with pytest.raises(ConfigError, match="mpp is"):
        open_slide(noise(4, 4), mpp=mpp)


def test_backends_must_fit_the_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'openslide'"):
        open_slide(noise(4, 4), backend="openslide")
    with pytest.raises(ConfigError, match="'nonsense'"):
        open_slide(tmp_path / "a.svs", backend="nonsense")
