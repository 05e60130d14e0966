"""Bands of curves against a bootstrap that copies slides and asks scikit-learn, one resample at a time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from wsi_ats.statistics.clusters import Patients
from wsi_ats.statistics.curve_bands import GRID, Band, band_of, precision_heights, roc_heights

SLIDES, ROUNDS = 90, 200


def slides(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray, Patients]:
    """Scores, truth and patients of three slides each, some of which have slides of both classes."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.random(SLIDES // 3) < 0.5, 3)
    truth[:6] = [True, False, True, False, True, False]
    score = np.clip(rng.normal(0.4 + 0.25 * truth, 0.25), 0, 1)
    names = [f"P{i // 3}" for i in range(SLIDES)]
    return score.round(1) if ties else score, truth, Patients.of(names, [str(t) for t in truth])


def roc_by_copies(score: np.ndarray, truth: np.ndarray) -> list[float]:
    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    return [float(tpr[fpr <= rate + 1e-9].max()) for rate in GRID]


def precision_by_copies(score: np.ndarray, truth: np.ndarray) -> list[float]:
    precision, recall, _ = precision_recall_curve(truth, score)
    # The last point, precision 1 at recall 0, is of no threshold; thresholds rise, and with them recall falls.
    precision, recall = precision[:-1], recall[:-1]
    return [float(precision[np.flatnonzero(recall >= place - 1e-9)[-1]]) for place in GRID]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("heights", "by_copies"), [(roc_heights, roc_by_copies), (precision_heights, precision_by_copies)]
)
def test_a_band_is_that_of_a_bootstrap_that_copies_slides(heights, by_copies, ties: bool) -> None:  # type: ignore[no-untyped-def]
    score, truth, patients = slides(3, ties)
    counts = patients.resamples(np.random.default_rng(5), ROUNDS)[:, patients.index].astype(int)
    curves = [by_copies(np.repeat(score, n), np.repeat(truth, n)) for n in counts]
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    band = band_of(
        heights(score, truth), {"slides of it": truth, "others": ~truth}, patients, rounds=ROUNDS, seed=5
    )
    np.testing.assert_allclose(band.low, low, atol=1e-9)
    np.testing.assert_allclose(band.high, high, atol=1e-9)
    assert (high - low).max() > 0.1


def test_too_few_patients_have_no_band() -> None:
    score, truth, _ = slides(0, ties=False)
    few = Patients.of([f"P{i % 9}" for i in range(SLIDES)], [""] * SLIDES)
    band: Band = band_of(roc_heights(score, truth), {"slides of it": truth}, few)
    assert len(band.at) == 0
    assert band.note == "9 patients with slides of it: too few for a band"


def test_a_curve_without_a_class_is_nan() -> None:
    score, truth, _ = slides(0, ties=False)
    weights = np.stack([np.ones(SLIDES), truth.astype(float)])
    for heights in (roc_heights(score, truth), roc_heights(-score, ~truth)):
        assert np.isfinite(heights(weights)[0]).all()
    assert np.isnan(roc_heights(score, truth)(weights)[1]).all()
    assert np.isnan(precision_heights(score, ~truth)(weights)[1]).all()
