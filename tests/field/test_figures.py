"""Figures as they are said: an interval is never a point, few slides are no ground for one, and what ± covers stands
beside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_prediction import answer_of, make_prediction
from wsi_ats.catalogue import TASK_KINDS, code_of
from wsi_ats.cli.terminal import describe
from wsi_ats.statistics.interval import Interval, area_limits, bootstrap, mean_interval
from wsi_ats.statistics.metrics import auc_interval
from wsi_ats.tasks.answer import COVERS, UNKNOWN, TaskResult, TaskSpec
from wsi_ats.tasks.settings import TaskSettings
from wsi_ats.tasks.task import Task
from wsi_ats.train.card import Trained, model_card
from wsi_ats.train.figures import final_figures

Z = 1.959963984540054


def limits_by_roots(area: float, m: int, n: int) -> tuple[float, float]:
    """Roots of (area - A)^2 = z^2 V(A), which is a polynomial of the fourth degree in A once it is multiplied by
    (2 - A)(1 + A)."""
    poly = np.polynomial.Polynomial
    a, nominal = poly([0, 1]), (m + n) / 2 - 1
    both = (2 - a) * (1 + a)
    spread = both + nominal * ((1 - a) * (1 + a) + a * (2 - a))
    roots = (m * n * (area - a) ** 2 * both - Z**2 * a * (1 - a) * spread).roots()
    real = sorted(r.real for r in roots if abs(r.imag) < 1e-7 and -1e-9 <= r.real <= 1 + 1e-9)
    return max(real[0], 0.0), min(real[-1], 1.0)


@given(area=st.floats(0, 1), m=st.integers(2, 300), n=st.integers(2, 300))
def test_limits_of_an_area_are_the_roots_of_their_equation(area: float, m: int, n: int) -> None:
    low, high = area_limits(area, m, n)
    assert 0 <= low <= area <= high <= 1
    assert low < high
    assert (low, high) == pytest.approx(limits_by_roots(area, m, n), abs=2e-4)
    mirrored = area_limits(1 - area, m, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("slides", "low"), [(10, 0.800), (16, 0.873), (100, 0.980)])
def test_a_perfect_separation_has_a_lower_limit_that_few_slides_deserve(slides: int, low: float) -> None:
    labels = np.repeat([0, 1], slides)
    tumour = labels + np.linspace(0, 0.5, 2 * slides)
    found = auc_interval(np.stack([-tumour, tumour], 1), labels)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(low, abs=1e-3)
    # With a true area at the limit, so few slides separate themselves about as often as 1 in 40 or more rarely.
    rng = np.random.default_rng(0)
    shift = 2**0.5 * NormalDist().inv_cdf(low)  # of normal scores
    perfect = [rng.normal(shift, 1, slides).min() > rng.normal(0, 1, slides).max() for _ in range(2000)]
    assert np.mean(perfect) < 0.025


def test_several_classes_perfectly_told_apart_have_an_interval_too() -> None:
    labels = np.arange(60) % 3
    found = auc_interval(np.eye(3)[labels] * 0.8 + 0.1 / 1.5, labels)
    assert found.value == 1.0
    assert found.low == pytest.approx(area_limits(1.0, 20, 40)[0])
    assert str(mean_interval([found, Interval.none(0.5, "why")])) == "0.750 (why)"


def a_task(kind: str, names: tuple[str, ...] = ()) -> Task:
    asked = TaskSettings(kind=kind, **({"event": "died"} if kind == "survival" else {}))
    return code_of(TASK_KINDS[kind].make)(TaskSpec("t", kind, names), asked)


def values_and_truth(kind: str, slides: int) -> tuple[Task, np.ndarray, np.ndarray]:
    """A task of each kind with `slides` slides that a model has all right."""
    half = np.arange(slides) % 2.0
    one = half[:, None]
    if kind == "classes":
        return a_task(kind, ("a", "b")), np.stack([1 - half, half], 1), one
    if kind == "labels":
        return a_task(kind, ("a", "b")), np.stack([half, 1 - half], 1), np.stack([half, 1 - half], 1)
    if kind == "ordinal":
        return a_task(kind, ("1", "2", "3")), np.stack([1 - half, 0 * half, half, half], 1), 2 * one
    if kind == "regression":
        return a_task(kind), one, one
    time = np.arange(slides, dtype=float)
    return a_task(kind), -time[:, None], np.stack([time, np.ones(slides)], 1)


KINDS = ("classes", "labels", "ordinal", "regression", "survival")


@pytest.mark.parametrize("kind", KINDS)
def test_two_slides_are_too_few_and_said_to_be(kind: str) -> None:
    task, values, truth = values_and_truth(kind, 2)
    figure = final_figures([task], [values], [truth], np.random.default_rng(0))[f"val_{task.metric}"]
    assert isinstance(figure, Interval)
    assert (figure.value, figure.low, figure.high) == (1.0, None, None)
    assert str(figure).startswith("1.000 (")
    assert str(figure).endswith(" too few for an interval)")
    assert json.loads(json.dumps(asdict(figure), allow_nan=False))["low"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_interval_is_a_point(kind: str) -> None:
    task, values, truth = values_and_truth(kind, 40)
    figure = task.interval(values, truth, np.random.default_rng(0))
    assert figure.value == pytest.approx(1.0)
    assert figure.low is None or figure.low < figure.high
    assert (figure.low is None) == (kind not in ("classes", "labels"))
    assert figure.low is not None or "no interval" in str(figure)


def test_slides_whose_target_is_not_known_do_not_count() -> None:
    task, values, truth = values_and_truth("regression", 40)
    truth[5:] = np.nan
    assert "5 slides: too few" in str(task.interval(values, truth, np.random.default_rng(0)))


def test_of_survival_the_events_count() -> None:
    task, values, truth = values_and_truth("survival", 60)
    truth[3:, 1] = 0
    assert "3 events: too few" in str(task.interval(values, truth, np.random.default_rng(0)))


def test_a_bootstrap_that_varies_has_its_quantiles() -> None:
    right = np.arange(40) % 4 > 0
    found = bootstrap(lambda chosen: float(right[chosen].mean()), np.zeros(40, int), np.random.default_rng(0))
    assert found.low < found.value < found.high
    never = bootstrap(lambda _: float("nan"), np.zeros(40, int), np.random.default_rng(0))
    assert (never.low, never.high) == (None, None)


# ---- What is said


def test_what_the_error_covers_stands_beside_it() -> None:
    prediction = make_prediction(answer=answer_of((0.487, 0.513), (0.003, 0.003)))
    for said in (describe(prediction), repr(prediction), prediction.main.describe()):
        assert said.count("0.513 ± 0.003") == said.count(COVERS) == 1
    assert COVERS in describe(make_prediction(answer=number(0.1)))
    for unknown in (number(np.nan), answer_of((0.5, 0.5), (np.nan, np.nan))):
        words = describe(make_prediction(answer=unknown))
        assert UNKNOWN in words
        assert words.count("±") == 1, "no number stands for what is not known"


def number(error: float) -> TaskResult:
    return TaskResult(
        TaskSpec("age", "regression"), np.array([61.0]), np.array([error]), np.ones((4, 1), np.float32)
    )


def trained(tmp_path, figure: Interval) -> Trained:
    return Trained(tmp_path, {"val_auc": figure, "val_balanced_accuracy": 0.9}, 3, 1.0, [], {})


def test_the_card_and_the_last_line_of_training_say_what_the_brackets_are(tmp_path) -> None:
    known = trained(tmp_path, Interval(0.9, 0.8, 0.95))
    assert known.headline == "AUC 0.900 [0.800, 0.950] (95 % interval)"
    few = trained(tmp_path, Interval.none(1.0, "1 and 1 slides: too few for an interval"))
    assert few.headline == "AUC 1.000 (1 and 1 slides: too few for an interval)"
    card = model_card([a_task("classes", ("a", "b"))], [], few)
    assert "| AUC | 1.000 (1 and 1 slides: too few for an interval) |" in card
    assert (
        "In brackets the 95 % interval over slides: how far off a figure may be because it rests on so few"
        in card
    )
