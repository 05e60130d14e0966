"""Intervals: how far off a figure may be because it rests on so few slides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Int64

from wsi_ats.shown import counted

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


def share_interval(right: int, of: int, level: float = LEVEL) -> Interval:
    """A share with Wilson's interval; without where there is nothing to count.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.

    >>> print(share_interval(19, 20))
    0.950 [0.764, 0.991]
    """
    if not of:
        return Interval.none(float("nan"), "no slides")
    z, share = NormalDist().inv_cdf((1 + level) / 2), right / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


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
        return Interval.none(value, f"{counted(slides, 'slide')}: too few for an interval")
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values = np.array(
        [figure(np.concatenate([rng.choice(group, len(group)) for group in members])) for _ in range(rounds)]
    )
    values = values[~np.isnan(values)]
    if not len(values) or values.min() == values.max():
        return Interval.none(value, f"the same in every resample of {counted(slides, 'slide')}: no interval")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
