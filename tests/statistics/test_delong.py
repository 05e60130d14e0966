"""DeLong's test against the definition, and against published values."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_ats.statistics.delong import area_covariance, compare_areas
from wsi_ats.statistics.mcnemar import mcnemar


def by_definition(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """U-statistics by loops over all pairs, and their covariance by DeLong's equations."""
    areas, ups, downs = [], [], []
    for score in scores:
        x, y = score[positive], score[~positive]
        kernel = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
        areas.append(kernel.mean())
        ups.append(kernel.mean(1))
        downs.append(kernel.mean(0))
    return np.array(areas), np.cov(ups) / len(ups[0]) + np.cov(downs) / len(downs[0])


@pytest.mark.parametrize("seed", range(5))
def test_ranks_give_what_the_pairs_give(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(40) < 0.4
    scores = (rng.normal(size=(3, 40)) + positive).round(1)  # with ties
    areas, covariance = area_covariance(scores, positive)
    wanted_areas, wanted = by_definition(scores, positive)
    np.testing.assert_allclose(areas, wanted_areas)
    np.testing.assert_allclose(covariance, wanted)


def test_published_values() -> None:
    """Ratings of 109 CT images, J. A. Hanley, B. J. McNeil, Radiology 143, 1982; area, DeLong's standard error and
    limits as the manual of Stata gives them for these data (`roctab`): 0.8932, 0.0307, 0.83295, 0.95339."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    ratings = np.repeat([*range(5), *range(5)], [*normal, *abnormal]).astype(np.float64)
    positive = np.arange(109) >= 58
    (area,), ((variance,),) = area_covariance(ratings[None], positive)
    stderr = np.sqrt(variance)
    assert (round(float(area), 4), round(float(stderr), 4)) == (0.8932, 0.0307)
    limits = area - 1.959964 * stderr, area + 1.959964 * stderr
    assert [round(float(limit), 5) for limit in limits] == [0.83295, 0.95339]


def test_slides_of_one_patient_count_as_they_should() -> None:
    """Copies of each slide under its patient tell nothing new; under patients of their own they seem to."""
    rng = np.random.default_rng(0)
    positive = np.arange(60) < 30
    one, other = rng.normal(size=(2, 60)) + positive
    alone = compare_areas(one, other, positive)
    four = np.repeat(np.arange(60), 4)
    copied = compare_areas(one[four], other[four], positive[four], four)
    assert copied.value == pytest.approx(alone.value)
    assert copied.stderr == pytest.approx(alone.stderr)
    assert compare_areas(one[four], other[four], positive[four]).stderr == pytest.approx(
        alone.stderr / 2, rel=0.05
    )


def test_patients_of_both_kinds_of_slides() -> None:
    """The variance is that of many repetitions, where a patient has a positive and a negative slide that are alike."""
    rng = np.random.default_rng(1)
    areas, variances, naive = [], [], []
    positive = np.tile([True, False], 40)
    patients = np.repeat(np.arange(40), 2)
    for _ in range(300):
        score = np.repeat(rng.normal(size=40), 2) + rng.normal(size=80) * 0.3 + 0.5 * positive
        (area,), ((variance,),) = area_covariance(score[None], positive, patients)
        areas.append(area)
        variances.append(variance)
        naive.append(area_covariance(score[None], positive)[1][0, 0])
    assert np.mean(variances) == pytest.approx(np.var(areas), rel=0.2)
    assert np.mean(naive) > 2 * np.var(areas), "the test can fail"


def test_what_cannot_be_tested_is_nan() -> None:
    truth = np.array([True, True, False, False])
    same = compare_areas(np.arange(4.0), np.arange(4.0), truth)
    assert (same.value, np.isnan(same.p)) == (0.0, True)
    assert np.isnan(compare_areas(np.arange(4.0), np.ones(4), truth | True).value)
    one = compare_areas(np.arange(4.0), np.arange(4.0)[::-1].copy(), truth, np.array([0, 0, 1, 1]))
    assert np.isnan(one.p), "one patient a class"


def test_mcnemar_by_the_binomial() -> None:
    first, second = np.array([1] * 15 + [0] * 5 + [1] * 30) == 1, np.array([0] * 15 + [1] * 5 + [1] * 30) == 1
    found = mcnemar(first, second)
    assert (found.both, found.first_alone, found.second_alone, found.neither) == (30, 15, 5, 0)
    assert found.p == pytest.approx(0.04138947)  # 2 * sum(C(20, i), i <= 5) / 2^20
    assert mcnemar(first, first).p == 1
