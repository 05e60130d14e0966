"""Operating points against trying every threshold; what a model folder keeps of one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_ats.errors import ConfigError
from wsi_ats.statistics.operating_point import OperatingPoint, choose_operating_point

CASES = st.lists(st.tuples(st.floats(1e-100, 1 - 1e-12), st.booleans()), min_size=2, max_size=30).filter(
    lambda cases: len({truth for _, truth in cases}) == 2
)


def shares(p: np.ndarray, truth: np.ndarray, threshold: float) -> tuple[float, float]:
    called = p >= threshold
    return float(called[truth].mean()), float((~called)[~truth].mean())


def every_threshold(p: np.ndarray) -> list[float]:
    return [0.0, *p.tolist(), 1.1]


@given(CASES)
def test_no_threshold_has_a_larger_youden_index(cases: list[tuple[float, bool]]) -> None:
    p, truth = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    point = choose_operating_point(p, truth, "tumour", "some")
    best = max(sum(shares(p, truth, t)) for t in every_threshold(p))
    assert sum(shares(p, truth, point.threshold)) == pytest.approx(best)
    assert (point.sensitivity.value, point.specificity.value) == shares(p, truth, point.threshold)


@given(CASES, st.floats(0.05, 1), st.sampled_from(["sensitivity", "specificity"]))
def test_a_wish_is_kept_at_the_least_price(cases: list[tuple[float, bool]], wish: float, rule: str) -> None:
    p, truth = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    point = choose_operating_point(p, truth, "tumour", "some", rule, wish)
    wished = 0 if rule == "sensitivity" else 1
    mine = shares(p, truth, point.threshold)
    keeping = [s for s in (shares(p, truth, t) for t in every_threshold(p)) if s[wished] >= wish - 1e-12]
    assert mine[wished] >= wish - 1e-12
    assert mine[1 - wished] == pytest.approx(max(s[1 - wished] for s in keeping))


@given(CASES, st.floats(0.01, 100))
def test_no_threshold_costs_less(cases: list[tuple[float, bool]], ratio: float) -> None:
    p, truth = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])

    def cost(threshold: float) -> float:
        called = p >= threshold
        return ratio * float((~called & truth).sum()) + float((called & ~truth).sum())

    point = choose_operating_point(p, truth, "tumour", "some", "cost", ratio)
    assert cost(point.threshold) == pytest.approx(min(map(cost, every_threshold(p))))


def test_one_half_stays_where_nothing_speaks_against_it() -> None:
    p, truth = np.array([0.05, 0.2, 0.7, 0.9]), np.array([False, False, True, True])
    assert choose_operating_point(p, truth, "tumour", "some").threshold == 0.5
    assert choose_operating_point(p**4, truth, "tumour", "some").threshold == pytest.approx(0.022, abs=1e-3)


@pytest.mark.parametrize(
    ("rule", "wished", "said"),
    [
        ("sensitivity", None, "sensitivity of None is wished for"),
        ("specificity", 1.2, "specificity of 1.2 is wished for"),
        ("cost", 0.0, "cost 0.0 times"),
    ],
)
def test_a_wish_that_makes_no_sense(rule: str, wished: float | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_operating_point(np.array([0.2, 0.8]), np.array([False, True]), "tumour", "some", rule, wished)


def test_slides_of_one_class_cannot_tell() -> None:
    with pytest.raises(ConfigError, match="none of 2 is without"):
        choose_operating_point(np.array([0.2, 0.8]), np.array([True, True]), "tumour", "some")


def test_a_model_folder_keeps_it() -> None:
    point = choose_operating_point(np.array([0.2, 0.8]), np.array([False, True]), "tumour", "some")
    assert OperatingPoint.of_values(point.to_values()) == point
    with pytest.raises(ValueError, match="between 0 and 1"):
        OperatingPoint.of_values({**point.to_values(), "threshold": 0})
