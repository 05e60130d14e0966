"""Conformal sets: the promise, by simulation; the quantile, by its definition."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_ats.errors import ConfigError
from wsi_ats.statistics.conformal import ConformalSets, fit_conformal, least_slides

NAMES = ("benign", "tumour")


def drawn(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, 2) of a model that is badly off, and labels."""
    labels = (rng.random(n) < 0.3).astype(int)
    p = 1 / (1 + np.exp(-(rng.normal(4.0 * labels + 1.0, 2.0))))
    return np.stack([1 - p, p], 1), labels


@pytest.mark.parametrize("error", [0.1, 0.25])
def test_the_promise_holds_for_each_class(error: float) -> None:
    """Of new slides of a class the share that is left out is `error`, whatever the model: mean of 400 studies."""
    rng = np.random.default_rng(0)
    missed = []
    for _ in range(400):
        sets = fit_conformal(*drawn(rng, 100), NAMES, error, "some")
        p, labels = drawn(rng, 400)
        inside = sets(p)[np.arange(len(labels)), labels]
        missed.append([1 - inside[labels == c].mean() for c in (0, 1)])
    mean, error_of_it = np.mean(missed, 0), np.std(missed, 0) / np.sqrt(400)
    assert (mean <= error + 3 * error_of_it).all()
    assert (
        mean >= error - 1 / 15 - 3 * error_of_it
    ).all()  # about 30 slides of the rarer class: not far below


@pytest.mark.parametrize("error", [0.5, 0.2, 0.1, 0.05, 0.01])
def test_one_slide_less_could_promise_nothing(error: float) -> None:
    need = least_slides(error)
    p = np.full((2 * need, 2), 0.5)
    labels = np.repeat([0, 1], need)
    assert fit_conformal(p, labels, NAMES, error, "some").slides == (need, need)
    with pytest.raises(ConfigError, match=f"'benign' has {need - 1}"):
        fit_conformal(p[1:], labels[1:], NAMES, error, "some")


def test_an_error_rate_that_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="error rate of prediction sets is 0"):
        fit_conformal(np.full((40, 2), 0.5), np.repeat([0, 1], 20), NAMES, 0.0, "some")


def test_a_model_folder_keeps_them() -> None:
    sets = fit_conformal(*drawn(np.random.default_rng(1), 100), NAMES, 0.1, "some")
    assert ConformalSets.of_values(sets.to_values()) == sets
