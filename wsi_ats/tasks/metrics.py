"""Metrics: what a model's answers are worth, with intervals for how few slides they rest on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64

from wsi_ats.errors import ConfigError

LEAST = 10
"""Least number of slides of a class, or of events, from which a figure gets an interval; of a figure that has no
classes twice as many slides."""
LEVEL = 0.95
"""Share of repetitions, each on other slides of the same kind, in which an interval holds the true value."""


@dataclass(frozen=True)
class Interval:
    """A metric value with its interval, or with a word on why it has none.

    >>> print(Interval(0.9714, 0.9, 1.0))
    0.971 [0.900, 1.000]
    >>> print(Interval.none(1.0, "2 slides: too few for an interval"))
    1.000 (2 slides: too few for an interval)
    """

    value: float
    low: float | None
    high: float | None
    note: str = ""

    @classmethod
    def none(cls, value: float, note: str) -> Interval:
        """A value without an interval."""
        return cls(value, None, None, note)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f} ({self.note})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]) -> float:
    """Area under the ROC curve; of several classes, the mean one-against-rest. NaN where one is absent.

    >>> tumour, labels = np.array([0.1, 0.6, 0.4, 0.9]), np.array([0, 0, 1, 1])
    >>> auc(np.stack([1 - tumour, tumour], 1), labels)  # 3 of the 4 pairs are in order
    0.75
    """
    return float(areas(probabilities, labels).mean())


def areas(
    probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]
) -> Float64[np.ndarray, " C"]:
    """Area under the ROC curve of each class against the rest. NaN where a class is absent."""
    classes = probabilities.shape[1]
    if len(np.unique(labels)) < classes:
        return np.full(classes, np.nan)
    # Here: torchmetrics imports transformers where that is installed, seconds that a prediction has no use for.
    from torchmetrics.functional.classification import multiclass_auroc

    scores, truth = torch.from_numpy(probabilities), torch.from_numpy(labels)
    each = multiclass_auroc(scores, truth, num_classes=classes, average=None)
    return np.asarray(each.double().numpy(), np.float64)


def balanced_accuracy(probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]) -> float:
    """Mean over the classes present of the share of their slides answered right.

    >>> tumour, labels = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 0, 0, 1])
    >>> balanced_accuracy(np.stack([1 - tumour, tumour], 1), labels)  # 3 of 3 and 0 of 1
    0.5
    """
    right = probabilities.argmax(1) == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def auc_interval(probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]) -> Interval:
    """AUC with the interval of `area_limits`; of several classes, the mean one-against-rest with that of
    `mean_interval`. Raises `ConfigError` where a class is absent.

    >>> tumour, labels = np.arange(40) / 40, np.arange(40) // 20
    >>> print(auc_interval(np.stack([1 - tumour, tumour], 1), labels))  # all 400 pairs are in order
    1.000 [0.899, 1.000]
    >>> print(auc_interval(np.stack([1 - tumour, tumour], 1)[18:22], labels[18:22]))
    1.000 (2 and 2 slides: too few for an interval)
    """
    each = areas(probabilities, labels)
    if np.isnan(each).any():
        raise ConfigError(
            f"an AUC needs slides of every class; the labels present are {np.unique(labels).tolist()}"
        )
    counts = np.bincount(labels, minlength=len(each))
    return mean_interval(
        [area_interval(float(a), int(n), len(labels) - int(n)) for a, n in zip(each, counts, strict=True)]
    )


def area_interval(area: float, positive: int, negative: int) -> Interval:
    """An area under the ROC curve of so many slides with its interval; without where they are too few."""
    if min(positive, negative) < LEAST:
        return Interval.none(area, f"{positive} and {negative} slides: too few for an interval")
    return Interval(area, *area_limits(area, positive, negative))


def area_limits(area: float, positive: int, negative: int, level: float = LEVEL) -> tuple[float, float]:
    """Limits of an area under the ROC curve: the areas that lie just so far off that this one is as improbable as
    `level` allows, by their own variance. So a perfect separation of a few slides has a lower limit below 1, where a
    bootstrap, whose resamples are all perfect, has none.

    Sources: R. G. Newcombe, "Confidence Intervals for an Effect Size Measure Based on the Mann-Whitney Statistic, Part
    2", Statistics in Medicine 25, 2006, method 5; the variance: J. A. Hanley, B. J. McNeil, "The Meaning and Use of
    the Area under a ROC Curve", Radiology 143, 1982, with the mean of both numbers, less 1, for each less 1.

    >>> [round(limit, 3) for limit in area_limits(0.9, 30, 30)]
    [0.783, 0.955]
    """
    z = NormalDist().inv_cdf((1 + level) / 2)

    def far(truth: float, from_area: float) -> bool:
        """Whether `truth`, which is lower, is too far off."""
        spread = 1 + ((positive + negative) / 2 - 1) * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        variance = truth * (1 - truth) * spread / (positive * negative)
        return from_area - truth > z * math.sqrt(variance)

    def lower(from_area: float) -> float:
        low, high = 0.0, from_area
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if far(middle, from_area) else (low, middle)
        return low

    return lower(area), 1 - lower(1 - area)  # the variance is that of the mirrored area


def mean_interval(parts: Sequence[Interval]) -> Interval:
    """Mean of figures of the same slides, with the mean of their limits: its interval where they rise and fall
    together, and on the safe side otherwise. Without where one of them has none.

    Source: G. Y. Zou, A. Donner, "Construction of Confidence Limits about Effect Measures: A General Approach",
    Statistics in Medicine 27, 2008, with a correlation of 1.

    >>> print(mean_interval([Interval(0.8, 0.7, 0.9), Interval(0.9, 0.8, 0.95)]))
    0.850 [0.750, 0.925]
    """
    value = float(np.mean([part.value for part in parts]))
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    if len(lows) < len(parts):
        return Interval.none(value, next(part.note for part in parts if part.low is None))
    return Interval(value, float(np.mean(lows)), float(np.mean(highs)))


def bootstrap(
    figure: Callable[[Int64[np.ndarray, " N"]], float],
    groups: Int64[np.ndarray, " N"],
    rng: np.random.Generator,
    rounds: int = 1000,
    level: float = LEVEL,
) -> Interval:
    """A figure of N slides, given by their indices, with the percentile interval of `rounds` resamples of the slides,
    each group resampled by itself. Resamples for which the figure is nan do not count. Without an interval where the
    slides are too few, or where all resamples give the same: that would be no interval but a boast.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    >>> right = np.array([1, 1, 1, 0, 1, 1, 0, 1] * 3)
    >>> def share(chosen):
    ...     return float(right[chosen].mean())
    >>> found = bootstrap(share, 0 * right, np.random.default_rng(0))
    >>> found.value, found.low < found.value < found.high
    (0.75, True)
    >>> print(bootstrap(share, 0 * right[:8], np.random.default_rng(0)))
    0.750 (8 slides: too few for an interval)
    """
    slides = len(groups)
    value = figure(np.arange(slides))
    if slides < 2 * LEAST:
        return Interval.none(value, f"{slides} slides: too few for an interval")
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values = np.array(
        [figure(np.concatenate([rng.choice(group, len(group)) for group in members])) for _ in range(rounds)]
    )
    values = values[~np.isnan(values)]
    if not len(values) or values.min() == values.max():
        return Interval.none(value, f"the same in every resample of {slides} slides: no interval")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def quadratic_kappa(answers: Int64[np.ndarray, " N"], truth: Int64[np.ndarray, " N"]) -> float:
    """Agreement of grades beyond chance, disagreement counted by its square: 1 is perfect, 0 is chance. NaN where
    all grades are the same.

    Source: J. Cohen, "Weighted Kappa", Psychological Bulletin 70, 1968.

    >>> truth = np.array([0, 1, 2, 3])
    >>> near, far = quadratic_kappa(np.array([1, 1, 2, 3]), truth), quadratic_kappa(np.array([3, 1, 2, 3]), truth)
    >>> round(near, 2), round(far, 2)
    (0.88, 0.1)
    """
    seen = np.mean((answers - truth) ** 2.0)
    by_chance = answers.var() + truth.var() + (answers.mean() - truth.mean()) ** 2
    return float(1 - seen / by_chance) if by_chance > 0 else float("nan")


def r2(answers: Float64[np.ndarray, " N"], truth: Float64[np.ndarray, " N"]) -> float:
    """Share of the variance that is explained: 1 is perfect, 0 is the mean. NaN where the truth does not vary.

    >>> truth = np.array([1.0, 2.0, 3.0])
    >>> r2(np.array([1.0, 2.0, 2.0]), truth), r2(np.array([2.0, 2.0, 2.0]), truth)
    (0.5, 0.0)
    """
    variance = truth.var() if len(truth) else 0.0
    return float(1 - np.mean((answers - truth) ** 2) / variance) if variance > 0 else float("nan")


def c_index(
    risk: Float64[np.ndarray, " N"], time: Float64[np.ndarray, " N"], event: Bool[np.ndarray, " N"]
) -> float:
    """Concordance: of the pairs of slides in which it is known whose event came first, the share in which that one has
    the higher risk, equal risks counting half: 1 is perfect, 1/2 is chance. NaN where there is no such pair.

    A slide whose observation ended when the other's event came counts as later; of two events at one time neither is
    first. Source: F. Harrell et al., "Evaluating the Yield of Medical Tests", JAMA 247, 1982.

    >>> years, died = np.array([1.0, 2.0, 3.0]), np.array([True, False, True])  # the second was last seen alive
    >>> c_index(np.array([0.9, 0.1, 0.5]), years, died), c_index(np.array([0.5, 0.1, 0.9]), years, died)
    (1.0, 0.5)
    """
    sooner = (time[:, None] < time) | ((time[:, None] == time) & ~event)
    comparable = event[:, None] & sooner
    if not comparable.any():
        return float("nan")
    right = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
    return float(right[comparable].mean())
