"""DeLong's variance of areas under ROC curves, and the test of two areas of the same slides.

With several slides a patient it is Obuchowski's, which is DeLong's where each patient has one slide.

Sources: E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver
Operating Characteristic Curves", Biometrics 44, 1988; by ranks: X. Sun, W. Xu, "Fast Implementation of DeLong's
Algorithm", IEEE Signal Processing Letters 21, 2014; clusters: N. A. Obuchowski, "Nonparametric Analysis of Clustered
ROC Curve Data", Biometrics 53, 1997.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float64, Int64

from wsi_ats.statistics.interval import LEVEL


@dataclass(frozen=True)
class Difference:
    """The difference of two areas under ROC curves of the same slides, and how probable one as large is by chance."""

    value: float
    """First area less the second."""
    stderr: float
    low: float
    high: float
    z: float
    p: float
    """Two-sided; nan, as all but the value, where the two never differ in a way that could be tested."""


def area_covariance(
    scores: Float64[np.ndarray, "m n"],
    positive: Bool[np.ndarray, " n"],
    patients: Int64[np.ndarray, " n"] | None = None,
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, "m m"]]:
    """Areas under the ROC curves of m scores of n slides, and their covariance (m, m).

    patients: number of each slide's patient; by default each slide is one. The covariance is nan where fewer than two
    patients have positive, or negative, slides.

    >>> scores = np.array([[0.1, 0.4, 0.35, 0.8, 0.7, 0.2]])
    >>> areas, covariance = area_covariance(scores, np.array([0, 0, 1, 1, 1, 0], bool))
    >>> areas.round(4).tolist(), covariance.round(5).tolist()
    ([0.8889], [[0.02469]])
    """
    from scipy.stats import rankdata

    models, n, m = len(scores), int((~positive).sum()), int(positive.sum())
    if not n or not m:
        return np.full(models, np.nan), np.full((models, models), np.nan)
    ranks = rankdata(scores, axis=1)
    # Share of the other side that each slide is in order with.
    of_positive = (ranks[:, positive] - rankdata(scores[:, positive], axis=1)) / n
    of_negative = 1 - (ranks[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / m
    areas = of_positive.mean(1)
    _, index = np.unique(np.arange(n + m) if patients is None else patients, return_inverse=True)
    total = int(index.max()) + 1
    up, with_positive = _sums(of_positive - areas[:, None], index[positive], total)
    down, with_negative = _sums(of_negative - areas[:, None], index[~positive], total)
    if min(with_positive, with_negative) < 2:
        return areas, np.full((models, models), np.nan)
    cross = up @ down.T * total / (total - 1) / (m * n)
    return areas, (
        up @ up.T * with_positive / (with_positive - 1) / m**2
        + down @ down.T * with_negative / (with_negative - 1) / n**2
        + cross
        + cross.T
    )


def compare_areas(
    one: Float64[np.ndarray, " n"],
    other: Float64[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    patients: Int64[np.ndarray, " n"] | None = None,
    level: float = LEVEL,
) -> Difference:
    """DeLong's test of two scores of the same n slides, some of which are positive.

    >>> truth = np.arange(8) % 2 == 1
    >>> found = compare_areas(np.array([1, 3, 2, 4, 2, 5, 1, 6.0]), np.array([3, 2, 1, 3, 2, 1, 4, 4.0]), truth)
    >>> round(found.value, 4), round(found.p, 4)
    (0.5, 0.0285)
    """
    areas, covariance = area_covariance(np.stack([one, other]), positive, patients)
    value = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not variance > 1e-15:  # also nan
        return Difference(value, *5 * (math.nan,))
    stderr = math.sqrt(variance)
    half = NormalDist().inv_cdf((1 + level) / 2) * stderr
    z = value / stderr
    return Difference(value, stderr, value - half, value + half, z, math.erfc(abs(z) / math.sqrt(2)))


def _sums(
    values: Float64[np.ndarray, "m k"], index: Int64[np.ndarray, " k"], of: int
) -> tuple[Float64[np.ndarray, "m G"], int]:
    """Sum over the slides of each of `of` patients, and how many have any."""
    found = np.zeros((len(values), of))
    for row, mine in zip(found, values, strict=True):
        row += np.bincount(index, mine, of)
    return found, len(np.unique(index))
