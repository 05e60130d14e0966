"""Figures of weighted slides against scikit-learn with sample weights, and against loops."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from wsi_ats.statistics.calibration_figures import (
    calibration_slope,
    expected_error,
    in_the_large,
    quantile_bins,
    reliability_figures,
)
from wsi_ats.statistics.decision_curve import net_benefit
from wsi_ats.statistics.metrics import c_index
from wsi_ats.statistics.weighted import (
    average_precision,
    concordance,
    confusion,
    explained,
    f1,
    kappa_of,
    mean_f1,
    mean_recall,
    regression_slope,
    roc_area,
    share,
)


def cohort(seed: int, slides: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, truth with both sides, weights (3, slides) of which the first is 1 and some are 0."""
    rng = np.random.default_rng(seed)
    truth = rng.random(slides) < 0.4
    truth[:2] = True, False
    weights = np.concatenate([np.ones((1, slides)), rng.integers(0, 4, (2, slides))]).astype(np.float64)
    weights[:, :2] = 1
    return (rng.random(slides) * 0.9 + 0.05 + 0 * truth).round(1).clip(0.05, 0.95), truth, weights


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_figures_of_two_classes_are_scikit_learns(seed: int) -> None:
    p, truth, weights = cohort(seed)
    called = p >= 0.5
    for row, weight in enumerate(weights):
        how = {"sample_weight": weight}
        for found, wanted in (
            (roc_area(p, truth), sk.roc_auc_score(truth, p, **how)),
            (average_precision(p, truth), sk.average_precision_score(truth, p, **how)),
            (f1(truth, called), sk.f1_score(truth, called, zero_division=0, **how)),
            (share(called, truth), sk.recall_score(truth, called, **how)),
            (share(~called, ~truth), sk.recall_score(~truth, ~called, **how)),
            (share(truth, called), sk.precision_score(truth, called, zero_division=np.nan, **how)),
        ):
            assert found(weights)[row] == pytest.approx(wanted, nan_ok=True)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_figures_of_several_classes_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, answer = rng.integers(0, 4, (2, 30))
    weights = rng.integers(0, 3, (2, 30)).astype(np.float64)
    matrices = confusion(truth, answer, 4)(weights)
    for row, weight in enumerate(weights):
        kept = weight > 0
        t, a, how = truth[kept], answer[kept], {"sample_weight": weight[kept]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about classes that are answered and not there
            wanted = sk.balanced_accuracy_score(t, a, **how)
        assert mean_recall(matrices)[row] == pytest.approx(wanted)
        assert mean_f1(matrices)[row] == pytest.approx(sk.f1_score(t, a, average="macro", **how))
        assert kappa_of(matrices)[row] == pytest.approx(sk.cohen_kappa_score(t, a, **how))
        wanted = sk.cohen_kappa_score(t, a, labels=range(4), weights="quadratic", **how)
        assert kappa_of(matrices, quadratic=True)[row] == pytest.approx(wanted)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_figures_of_numbers_and_times(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answer, truth = rng.normal(1e4, 1, (2, 20))
    times = rng.integers(1, 8, 20)
    weights = rng.integers(0, 3, (2, 20)).astype(np.float64)
    event = rng.random(20) < 0.6
    for row, weight in enumerate(weights):
        assert explained(answer, truth)(weights)[row] == pytest.approx(
            sk.r2_score(truth, answer, sample_weight=weight)
        )
        fitted = np.polyfit(answer - 1e4, truth, 1, w=np.sqrt(weight))[0]
        assert regression_slope(answer, truth)(weights)[row] == pytest.approx(fitted, abs=1e-6)
    risk, time = answer.round(0), times.astype(np.float64)
    for weight in np.eye(20)[:1] * 0 + 1, weights[:1]:
        often = np.repeat(np.arange(20), weight[0].astype(int))  # no two copies of one slide tell anything
        wanted = c_index(risk[often], time[often], event[often])
        assert concordance(risk, time, event)(weight)[0] == pytest.approx(wanted, nan_ok=True)


def test_calibration_is_that_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 3, 300)
    truth = rng.random(300) < 1 / (1 + np.exp(-(0.5 * logit - 1)))
    p = 1 / (1 + np.exp(-logit))
    weights = np.stack([np.ones(300), rng.integers(0, 4, 300)]).astype(np.float64)
    for row, weight in enumerate(weights):
        fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None], truth, weight)
        assert calibration_slope(p, truth)(weights)[row] == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
        shift = in_the_large(p, truth)(weights)[row]
        mean = np.average(1 / (1 + np.exp(-(logit + shift))), weights=weight)
        assert mean == pytest.approx(np.average(truth, weights=weight))


def test_slopes_that_are_far_off_are_found() -> None:
    """Probabilities that are much too extreme, as of a model that was never calibrated."""
    rng = np.random.default_rng(1)
    truth = rng.random(200) < 0.5
    p = 1 / (1 + np.exp(-(12 * (rng.random(200) - 0.5) + 2 * truth - 1)))
    weights = rng.multinomial(200, np.full(200, 1 / 200), 200).astype(np.float64)
    assert np.isfinite(calibration_slope(p, truth)(weights)).all()


def test_perfectly_parted_slides_have_no_slope() -> None:
    p, truth = np.linspace(0.01, 0.99, 20), np.arange(20) >= 10
    one = np.ones((1, 20))
    assert np.isnan(calibration_slope(p, truth)(one))
    assert np.isnan(in_the_large(p, truth | True)(one))
    assert np.isnan(in_the_large(np.round(p), ~truth & False)(one))


def test_ece_and_reliability_by_hand() -> None:
    rng = np.random.default_rng(2)
    p, truth = rng.random(100), rng.random(100) < 0.3
    bins = quantile_bins(p)
    assert np.bincount(bins).tolist() == [10] * 10
    order = np.argsort(p).reshape(10, 10)
    by_hand = np.mean([abs(p[mine].mean() - truth[mine].mean()) for mine in order])
    assert expected_error(p, truth)(np.ones((1, 100)))[0] == pytest.approx(by_hand)
    points = reliability_figures(p, truth)
    assert [mean for mean, _, _ in points] == pytest.approx([p[mine].mean() for mine in order])
    observed = [float(figure.at(np.ones((1, 100)))[0]) for _, _, figure in points]
    assert observed == pytest.approx([truth[mine].mean() for mine in order])
    assert np.unique(quantile_bins(np.full(50, 0.3))).tolist() == [0], "ties are one bin"


def test_net_benefit_by_counting() -> None:
    p, truth, weights = cohort(3)
    for row, weight in enumerate(weights):
        hits = weight[(p >= 0.3) & truth].sum() - weight[(p >= 0.3) & ~truth].sum() * 0.3 / 0.7
        assert net_benefit(p, truth, 0.3).at(weights)[row] == pytest.approx(hits / weight.sum())
