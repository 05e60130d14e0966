"""Every region of every slide has the pixels that OpenSlide, tifffile or the writer of the slide says it has.

A few regions each; benchmarks/equality.py reads 1,000 of each slide.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.equality import REAL, Part, Subject, found, is_equal, layouts, parts, real
from tests.support.helpers import shared_data
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    return list(layouts(tmp_path_factory.mktemp("layouts")))


def assert_equal_everywhere(subject: Subject, examples: int) -> None:
    with open_slide(subject.path) as slide:
        assert slide.backend == subject.backend
        sizes = [(level.size.height, level.size.width) for level in slide.levels]
        assert sizes[: len(subject.levels)] == [level.shape[:2] for level in subject.levels]
        check(slide, subject, examples)


def check(slide: Slide, subject: Subject, examples: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=phases)
    @given(parts(subject))
    def property(part: Part) -> None:
        assert is_equal(found(slide, part), subject, part)

    property()


def test_every_layout(made: list[Subject]) -> None:
    for subject in made:
        assert_equal_everywhere(subject, 20)


@pytest.mark.parametrize("which", range(len(REAL)), ids=[name for name, *_ in REAL])
def test_real_slides(which: int) -> None:
    assert_equal_everywhere(real(shared_data("slides"), which), 40)


class Shifted:
    """A slide that is read one px beside where it should be, on one level."""

    def __init__(self, slide: Slide, level: int, shift: tuple[int, int]) -> None:
        self.levels = slide.levels
        self._slide, self._level, self._shift = slide, level, shift

    def read(self, location: tuple[int, int], size: tuple[int, int], level: int) -> np.ndarray:
        if level != self._level:
            return self._slide.read(location, size, level)
        scale = self.levels[level].downsample
        x, y = (round(at + by * s) for at, by, s in zip(location, self._shift, scale, strict=True))
        return self._slide.read((x, y), size, level)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_shift_by_one_pixel_is_noticed(made: list[Subject], data: st.DataObject) -> None:
    subject = data.draw(st.sampled_from(made))
    level = data.draw(st.integers(0, len(subject.levels) - 1))
    shift = data.draw(st.sampled_from([(1, 0), (-1, 0), (0, 1), (0, -1)]))
    with open_slide(subject.path) as slide, pytest.raises(AssertionError):
        check(
            Shifted(slide, level, shift), subject, 40, (Phase.generate,)
        )  # the least part that tells is of no use
