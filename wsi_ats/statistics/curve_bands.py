"""Bands of the ROC curve and of that of precision and recall, by the bootstrap over patients.

A band is pointwise: at each place of the grid the middle 95 % of what the resamples give there. The whole curve leaves
it somewhere more often than 5 times in 100. The resamples are those of the figures (`clusters.sample_figures`).
Shapes: n slides, R resamples, P places.

Source: percentile limits as for points of other curves: A. C. Davison, D. V. Hinkley, "Bootstrap Methods and their
Application", 1997, section 5.3; the resamples as in `clusters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from wsi_ats.shown import counted
from wsi_ats.statistics.clusters import MOST_MISSING, ROUNDS, Patients, parts_of
from wsi_ats.statistics.interval import LEAST, LEVEL
from wsi_ats.statistics.weighted import Weights, by_level, ratio

Curve = Callable[[Weights], Float64[np.ndarray, "R P"]]
"""Heights (R, P) of a curve at P places, under weights (R, n); nan where it has none."""
GRID = np.linspace(0, 1, 41)
"""Places of a band: rates of false positives, or recalls."""
SAME = 1e-9
"""Difference of two rates that is nothing but rounding."""


@dataclass(frozen=True)
class Band:
    """A band around a curve, or a word on why there is none."""

    at: Float64[np.ndarray, " P"]
    low: Float64[np.ndarray, " P"]
    high: Float64[np.ndarray, " P"]
    note: str = ""


def roc_heights(
    score: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], at: Float64[np.ndarray, " P"] = GRID
) -> Curve:
    """Sensitivity at each rate of false positives: the highest of all thresholds whose rate is not above it.

    >>> score, truth = np.array([0.1, 0.6, 0.4, 0.9]), np.array([False, False, True, True])
    >>> roc_heights(score, truth, np.array([0.0, 0.4, 0.5, 1.0]))(np.ones((1, 4))).tolist()
    [[0.5, 0.5, 1.0, 1.0]]
    """
    sums = by_level(score, positive)

    def heights(weights: Weights) -> Float64[np.ndarray, "R P"]:
        right, wrong = (_from_the_top(part) for part in sums(weights))
        found = np.empty((len(weights), len(at)))
        for row, (rate, height) in enumerate(zip(_shares(wrong), _shares(right), strict=True)):
            place = np.searchsorted(rate, at + SAME, side="right") - 1
            found[row] = np.where(np.isnan(rate[-1]), np.nan, height[place])
        return found

    return heights


def precision_heights(
    score: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], at: Float64[np.ndarray, " P"] = GRID
) -> Curve:
    """Precision at each recall: that of the highest threshold whose recall is not below it; at a recall of 0, of the
    highest threshold at which anything is called.

    >>> score, truth = np.array([0.1, 0.6, 0.4, 0.9]), np.array([False, False, True, True])
    >>> precision_heights(score, truth, np.array([0.0, 0.5, 1.0]))(np.ones((1, 4))).round(3).tolist()
    [[1.0, 1.0, 0.667]]
    """
    sums = by_level(score, positive)

    def heights(weights: Weights) -> Float64[np.ndarray, "R P"]:
        right, wrong = (_from_the_top(part) for part in sums(weights))
        recall, precision = _shares(right), ratio(right, right + wrong)
        found = np.empty((len(weights), len(at)))
        for row in range(len(weights)):
            first = np.argmax(right[row] + wrong[row] > 0)
            place = np.searchsorted(recall[row], np.minimum(at - SAME, 1 - SAME))
            found[row] = np.where(np.isnan(recall[row, -1]), np.nan, precision[row, np.maximum(place, first)])
        return found

    return heights


def band_of(
    curve: Curve,
    groups: Mapping[str, Bool[np.ndarray, " n"]],
    patients: Patients,
    *,
    at: Float64[np.ndarray, " P"] = GRID,
    rounds: int = ROUNDS,
    seed: int = 0,
    level: float = LEVEL,
) -> Band:
    """The band of a curve; none, with a word on why, where a group that it rests on has fewer than 10 patients.

    groups: slides that the curve rests on, by a name such as "slides of tumour".
    """
    nothing = np.empty(0)
    for name, slides in groups.items():
        count = len(np.unique(patients.index[slides]))
        if count < LEAST:
            return Band(
                nothing, nothing, nothing, f"{counted(count, 'patient')} with {name}: too few for a band"
            )
    drawn = patients.resamples(np.random.default_rng(seed), rounds)
    heights = np.concatenate(
        [curve(drawn[part][:, patients.index]) for part in parts_of(rounds, len(patients.index))]
    )
    known = ~np.isnan(heights).any(1)
    if known.mean() < 1 - MOST_MISSING:
        return Band(nothing, nothing, nothing, f"{1 - known.mean():.0%} of the resamples have no curve")
    low, high = np.quantile(heights[known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Band(at, low, high)


def _from_the_top(weights: Float64[np.ndarray, "R L"]) -> Float64[np.ndarray, "R M"]:
    """Weight of what is called at each threshold, the highest first; at the first one, beyond all scores, nothing."""
    return np.asarray(np.pad(np.cumsum(np.flip(weights, 1), 1), ((0, 0), (1, 0))))


def _shares(called: Float64[np.ndarray, "R M"]) -> Float64[np.ndarray, "R M"]:
    """Share of all that is called at each threshold; nan where there is nothing."""
    return ratio(called, np.broadcast_to(called[:, -1:], called.shape))
