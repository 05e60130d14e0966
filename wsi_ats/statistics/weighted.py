"""Figures of weighted slides: what answers are worth where each slide counts so many times.

A resample of patients is a weight a slide, 0 for those that were not drawn. So one formula gives the value (all weights
1) and its values in a thousand resamples at once, and the two cannot disagree. Shapes: R resamples, n slides. A value
that does not exist, such as an area without positives, is nan.

The values are those of scikit-learn with `sample_weight` (tests/statistics/test_weighted.py), which takes one resample
at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

Weights = Float64[np.ndarray, "R n"]
Formula = Callable[[Weights], Float64[np.ndarray, " R"]]
"""Values (R,) of a figure under weights (R, n)."""
PAIRS = 4_000_000
"""Number of pairs of slides that are compared at once."""


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure of n slides."""

    name: str
    """Name of the figure, as in `auroc`."""
    at: Formula
    of: str = ""
    """Class or label that the figure is of; empty where it is of all."""
    groups: Mapping[str, Bool[np.ndarray, " n"]] = field(default_factory=dict)
    """Slides that the figure rests on, by a name such as "slides of tumour": of each it needs some to have a value,
    and enough to have an interval. None: all slides."""
    undefined: str = "it does not exist for these slides"
    """Words on why there is no value although there are slides of every group."""
    form: Literal["", "share", "area"] = ""
    """Form that tells how an interval is had where all resamples agree: of a share, of an area under a ROC curve."""


def ratio(above: Float64[np.ndarray, "*s"], below: Float64[np.ndarray, "*s"]) -> Float64[np.ndarray, "*s"]:
    """above / below; nan where below is 0."""
    found = np.full(below.shape, np.nan)
    np.divide(above, below, out=found, where=below != 0)
    return found


def weighted_mean(values: Float64[np.ndarray, " n"]) -> Formula:
    """Mean of a value a slide.

    >>> weighted_mean(np.array([1.0, 4.0]))(np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 0.0]])).tolist()
    [2.5, 2.0, nan]
    """
    return lambda weights: ratio(weights @ values, weights.sum(1))


def share(right: Bool[np.ndarray, " n"], of: Bool[np.ndarray, " n"]) -> Formula:
    """Share of the slides `of` that are `right`, too.

    >>> share(np.array([True, False, True]), np.array([True, True, False]))(np.ones((1, 3))).tolist()
    [0.5]
    """
    inside, all_of = (right & of).astype(np.float64), of.astype(np.float64)
    return lambda weights: ratio(weights @ inside, weights @ all_of)


def roc_area(score: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Formula:
    """Area under the ROC curve: share of the pairs of a positive and a negative slide in which the positive one has the
    higher score, equal scores counting half.

    >>> roc_area(np.array([0.1, 0.6, 0.4, 0.9]), np.array([False, False, True, True]))(np.ones((1, 4))).tolist()
    [0.75]
    """
    sums = by_level(score, positive)

    def at(weights: Weights) -> Float64[np.ndarray, " R"]:
        above, below = sums(weights)
        lower = np.cumsum(below, 1) - below / 2
        return ratio((above * lower).sum(1), above.sum(1) * below.sum(1))

    return at if len(score) else _nothing


def average_precision(score: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Formula:
    """Area under the curve of precision against recall, by steps: mean over the positive slides of the precision at
    their score.

    >>> p = average_precision(np.array([0.1, 0.6, 0.4, 0.9]), np.array([False, False, True, True]))(np.ones((1, 4)))
    >>> round(float(p[0]), 4)
    0.8333
    """
    sums = by_level(score, positive)

    def at(weights: Weights) -> Float64[np.ndarray, " R"]:
        right, wrong = (np.flip(part, 1) for part in sums(weights))
        found = np.cumsum(right, 1)
        precision = np.nan_to_num(ratio(found, found + np.cumsum(wrong, 1)))
        return ratio((right * precision).sum(1), found[:, -1])

    return at if len(score) else _nothing


def f1(positive: Bool[np.ndarray, " n"], called: Bool[np.ndarray, " n"]) -> Formula:
    """F1, the harmonic mean of sensitivity and positive predictive value; nan where nothing is positive or called so.

    >>> f1(np.array([True, True, False]), np.array([True, False, False]))(np.ones((1, 3))).round(4).tolist()
    [0.6667]
    """
    right, both = (positive & called).astype(np.float64), positive.astype(np.float64) + called
    return lambda weights: ratio(2 * (weights @ right), weights @ both)


def confusion(
    truth: Int64[np.ndarray, " n"], answer: Int64[np.ndarray, " n"], classes: int
) -> Callable[[Weights], Float64[np.ndarray, "R K K"]]:
    """Matrix of confusion: weight of the slides of each true class (first) and answer.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)(np.ones((1, 3)))[0].tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    cell = np.zeros((len(truth), classes * classes))
    cell[np.arange(len(truth)), truth * classes + answer] = 1
    return lambda weights: (weights @ cell).reshape(-1, classes, classes)


def mean_recall(matrices: Float64[np.ndarray, "R K K"]) -> Float64[np.ndarray, " R"]:
    """Balanced accuracy: mean over the classes present of the share answered right; nan where there is only one."""
    recalls = ratio(np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(2))
    return np.where((~np.isnan(recalls)).sum(1) > 1, _mean_of_known(recalls), np.nan)


def mean_f1(matrices: Float64[np.ndarray, "R K K"]) -> Float64[np.ndarray, " R"]:
    """Mean F1 over the classes that are there or answered."""
    right = np.diagonal(matrices, axis1=1, axis2=2)
    return _mean_of_known(ratio(2 * right, matrices.sum(1) + matrices.sum(2)))


def kappa_of(matrices: Float64[np.ndarray, "R K K"], *, quadratic: bool = False) -> Float64[np.ndarray, " R"]:
    """Cohen's kappa: agreement beyond chance; of grades with disagreement counted by its square.

    Sources: J. Cohen, "A Coefficient of Agreement for Nominal Scales", Educational and Psychological Measurement 20,
    1960; "Weighted Kappa", Psychological Bulletin 70, 1968.

    >>> kappa_of(np.array([[[20.0, 5.0], [10.0, 15.0]]])).round(6).tolist()
    [0.4]
    """
    classes = np.arange(matrices.shape[1])
    far = np.subtract.outer(classes, classes).astype(np.float64)
    cost = far**2 if quadratic else (far != 0).astype(np.float64)
    seen = (matrices * cost).sum((1, 2))
    by_chance = np.einsum("rk,kl,rl->r", matrices.sum(2), cost, matrices.sum(1))
    return 1 - ratio(seen * matrices.sum((1, 2)), by_chance)


def explained(answer: Float64[np.ndarray, " n"], truth: Float64[np.ndarray, " n"]) -> Formula:
    """R2, the share of the variance of the truth that is explained; nan where that does not vary.

    >>> explained(np.array([1.0, 2.0, 2.0]), np.array([1.0, 2.0, 3.0]))(np.ones((1, 3))).round(9).tolist()
    [0.5]
    """
    spread, squares = _spread(truth), (answer - truth) ** 2
    return lambda weights: 1 - ratio(weights @ squares, spread(weights))


def regression_slope(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> Formula:
    """Slope of the least squares of y on x; nan where x does not vary.

    >>> regression_slope(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))(np.ones((1, 3))).round(9).tolist()
    [2.0]
    """
    spread, product = _spread(x), _centred(x) * _centred(y)

    def at(weights: Weights) -> Float64[np.ndarray, " R"]:
        means = ratio((weights @ _centred(x)) * (weights @ _centred(y)), weights.sum(1))
        return ratio(weights @ product - means, spread(weights))

    return at


def concordance(
    risk: Float64[np.ndarray, " n"], time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> Formula:
    """C-index, with the pairs and the ties of `metrics.c_index`; a pair counts as often as both its slides do.

    >>> years, died = np.array([1.0, 2.0, 3.0]), np.array([True, False, True])
    >>> concordance(np.array([0.5, 0.1, 0.9]), years, died)(np.ones((1, 3))).tolist()
    [0.5]
    """
    rows = max(1, PAIRS // max(1, len(time)))

    def at(weights: Weights) -> Float64[np.ndarray, " R"]:
        right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for start in range(0, len(time), rows):
            part = slice(start, start + rows)
            later = (time[part, None] < time) | ((time[part, None] == time) & ~event)
            comparable = (event[part, None] & later).astype(np.float64)
            order = (risk[part, None] > risk) + 0.5 * (risk[part, None] == risk)
            mine = weights[:, part]
            right += ((mine @ (comparable * order)) * weights).sum(1)
            pairs += ((mine @ comparable) * weights).sum(1)
        return ratio(right, pairs)

    return at


def by_level(
    score: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]
) -> Callable[[Weights], tuple[Float64[np.ndarray, "R L"], Float64[np.ndarray, "R L"]]]:
    """Weights (R, L) of the positive and of the negative slides at each of the L different scores, lowest first."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) > 0)
    sign = positive[order].astype(np.float64)

    def sums(weights: Weights) -> tuple[Float64[np.ndarray, "R L"], Float64[np.ndarray, "R L"]]:
        ordered = weights[:, order]
        positives = np.add.reduceat(ordered * sign, starts, axis=1)
        return positives, np.add.reduceat(ordered * (1 - sign), starts, axis=1)

    return sums


def _centred(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Values less their mean, so that their squares do not swallow the variance."""
    return values - values.mean() if len(values) else values


def _spread(values: Float64[np.ndarray, " n"]) -> Formula:
    """Sum of the squares about the weighted mean; 0 where that is nothing but rounding."""
    centred = _centred(values)
    least = 1e-12 * float(np.max(centred**2, initial=0.0))

    def at(weights: Weights) -> Float64[np.ndarray, " R"]:
        spread = weights @ centred**2 - np.nan_to_num(ratio((weights @ centred) ** 2, weights.sum(1)))
        return np.where(spread > least, spread, 0.0)

    return at


def _mean_of_known(values: Float64[np.ndarray, "R K"]) -> Float64[np.ndarray, " R"]:
    return ratio(np.nansum(values, 1), (~np.isnan(values)).sum(1).astype(np.float64))


def _nothing(weights: Weights) -> Float64[np.ndarray, " R"]:
    return np.full(len(weights), np.nan)
