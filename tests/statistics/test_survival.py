"""Survival figures: a published trial, brute force, and simulations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from wsi_ats.statistics.clusters import Patients, sample_figures
from wsi_ats.statistics.evaluation import Answered, figures_of
from wsi_ats.statistics.survival import free_shares, kaplan_meier, risk_groups, risk_slope

TREATED = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
"""Weeks of remission under 6-MP, the first 9 to its end, the others until lost from sight: E. J. Freireich et al.,
Blood 21, 1963."""
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
"""Weeks of remission under placebo, all to its end."""
ONE = np.ones((1, 42))


def trial() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log risk, 1 under placebo; weeks; whether the remission ended."""
    time = np.array([*TREATED, *PLACEBO], np.float64)
    return np.repeat([0.0, 1.0], 21), time, np.repeat([True, False, True], [9, 12, 21])


def test_kaplan_meier_of_a_published_trial() -> None:
    """D. Collett, Modelling Survival Data in Medical Research, and many others print these."""
    risk, time, event = trial()
    wanted = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448, 35: 0.448}
    for at, share in wanted.items():
        found = kaplan_meier(time, event, risk == 0, float(at))(ONE)
        assert found[0] == pytest.approx(share, abs=5e-4), at
    assert np.isnan(kaplan_meier(time, event, risk == 0, 36.0)(ONE)[0]), "the last was lost from sight"
    assert kaplan_meier(time, event, risk == 1, 36.0)(ONE)[0] == 0, "all have ended"


def test_the_slope_of_a_published_trial() -> None:
    """Cox's coefficient of placebo, ties by Breslow: 1.5092."""
    assert risk_slope(*trial())(ONE)[0] == pytest.approx(1.5092, abs=1e-4)


def partial_likelihood(b: float, risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    return -sum(b * risk[i] - np.log(np.exp(b * risk[time >= time[i]]).sum()) for i in np.flatnonzero(event))


@settings(max_examples=25)
@given(seed=st.integers(0, 1000))
def test_weights_are_repetitions_and_the_slope_is_the_most_likely(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 30
    risk, time = rng.normal(size=n), rng.integers(1, 12, n).astype(float)
    event = rng.random(n) < 0.6
    counts = rng.multinomial(n, np.full(n, 1 / n))
    again = np.repeat(np.arange(n), counts)
    weights, one = counts[None].astype(float), np.ones((1, n))
    among = rng.random(n) < 0.7
    for at in (3.0, 8.0):
        mine = kaplan_meier(time, event, among, at)(weights)
        theirs = kaplan_meier(time[again], event[again], among[again], at)(one)
        np.testing.assert_allclose(mine, theirs)
        known = np.flatnonzero(among[again])
        free = 1.0
        for moment in np.unique(time[again][known][event[again][known]]):
            if moment <= at:
                left = (time[again][known] >= moment).sum()
                free *= 1 - (event[again][known] & (time[again][known] == moment)).sum() / left
        if not np.isnan(mine[0]):
            assert mine[0] == pytest.approx(free)
    slope = risk_slope(risk, time, event)(weights)[0]
    best = minimize_scalar(
        lambda b: partial_likelihood(b, risk[again], time[again], event[again]),
        bounds=(-10, 10),
        method="bounded",
        options={"xatol": 1e-8},
    ).x
    if not np.isnan(slope) and abs(slope) < 9:
        assert slope == pytest.approx(best, abs=1e-4)


def cohort(slides: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log risks that hold, times of an exponential law under them, a third lost from sight."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=slides)
    came, lost = rng.exponential(np.exp(-risk)), rng.exponential(2.0, slides)
    return risk, np.minimum(came, lost), came <= lost


@pytest.mark.parametrize(("factor", "slope"), [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0)])
def test_risks_that_lie_too_far_apart_have_a_slope_below_one(factor: float, slope: float) -> None:
    risk, time, event = cohort(1500)
    assert risk_slope(factor * risk, time, event)(np.ones((1, 1500)))[0] == pytest.approx(slope, rel=0.1)


def test_groups_lie_where_their_risks_say_or_do_not() -> None:
    risk, time, event = cohort(400)
    names = Patients.of([str(i) for i in range(400)])

    def misses(said: np.ndarray) -> list[float]:
        groups = list(risk_groups(said, time, event))
        assert len(groups) == 12
        assert sum(g.slides for g in groups) == 3 * 400
        found = sample_figures([g.observed for g in groups], names, rounds=200, method="percentile")
        assert all(f.interval.low <= f.value <= f.interval.high for f in found)
        return [abs(g.predicted - f.value) for g, f in zip(groups, found, strict=True)]

    assert max(misses(risk)) < 0.08
    assert max(misses(3 * risk)) > 0.15


def test_the_level_is_that_of_the_slides() -> None:
    """Of equal risks the share is exp of minus Nelson and Aalen's hazard: 3 of 21 and 1 of 17 by week 7."""
    _, time, event = trial()
    treated = slice(0, 21)
    found = free_shares(np.zeros(21), time[treated], event[treated], 7.0)
    np.testing.assert_allclose(found, np.exp(-(3 / 21 + 1 / 17)))


def test_without_events_there_is_nothing_to_compare() -> None:
    risk, time, _ = trial()
    never = np.zeros(42, bool)
    assert list(risk_groups(risk, time, never)) == []
    answered = Answered(
        "survival", (), risk[:, None], np.stack([time, never], 1).astype(float), np.zeros(42, np.int64)
    )
    found = sample_figures(figures_of(answered), Patients.of([str(i) for i in range(42)]), rounds=100)
    assert [f.interval.note for f in found] == ["no slides with the event"] * 2


def test_risks_that_part_the_slides_have_no_slope() -> None:
    time = np.arange(1.0, 31.0)
    assert np.isnan(risk_slope(-time, time, np.ones(30, bool))(np.ones((1, 30)))[0])
    assert np.isnan(risk_slope(np.zeros(30), time, np.ones(30, bool))(np.ones((1, 30)))[0])
