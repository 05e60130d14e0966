from __future__ import annotations

import numpy as np
import pytest

from wsi_ats.errors import ConfigError
from wsi_ats.statistics.metrics import auc, auc_interval, balanced_accuracy


def slow_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order, ties half."""
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    return float(np.mean(pairs))


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.integers(0, 6, 40) / 5  # ties included
    labels = np.r_[0, 1, rng.integers(0, 2, 38)].astype(np.int64)
    answers = np.stack([1 - positive, positive], 1)
    assert auc(answers, labels) == pytest.approx(slow_auc(positive, labels), abs=1e-6)


def test_auc_of_three_classes_is_the_mean_of_one_against_rest() -> None:
    rng = np.random.default_rng(0)
    answers = rng.dirichlet(np.ones(3), 60)
    labels = np.arange(60) % 3
    slow = np.mean([slow_auc(answers[:, c], (labels == c).astype(int)) for c in range(3)])
    assert auc(answers, labels) == pytest.approx(slow, abs=1e-6)


def test_auc_without_a_class_is_nan_and_its_interval_an_error() -> None:
    answers = np.full((4, 2), 0.5)
    assert np.isnan(auc(answers, np.zeros(4, np.int64)))
    with pytest.raises(ConfigError, match="every class"):
        auc_interval(answers, np.zeros(4, np.int64))


def test_balanced_accuracy_counts_classes_not_slides() -> None:
    answers = np.array([[0.9, 0.1]] * 9 + [[0.9, 0.1]])
    labels = np.array([0] * 9 + [1])
    assert balanced_accuracy(answers.argmax(1), labels) == 0.5


def test_the_interval_covers_the_true_auc_about_as_often_as_it_says() -> None:
    # Normal scores one standard deviation apart: the true AUC is Phi(1 / sqrt 2) = .760.
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(60):
        scores = np.r_[rng.normal(0, 1, 30), rng.normal(1, 1, 30)]
        labels = np.r_[np.zeros(30), np.ones(30)].astype(np.int64)
        interval = auc_interval(np.stack([-scores, scores], 1), labels)
        assert interval.low <= interval.value <= interval.high
        covered.append(interval.low <= 0.760 <= interval.high)
    assert 0.83 <= np.mean(covered) <= 1.0
