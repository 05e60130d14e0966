"""Calibration figures: whether slides that are said to be positive with a probability of 0.8 are so 8 times in 10.

Source: B. Van Calster et al., "Calibration: the Achilles Heel of Predictive Analytics", BMC Medicine 17, 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float64, Int64

from wsi_ats.statistics.weighted import Figure, Formula, Weights, ratio, share, weighted_mean

BINS = 10
"""Largest number of bins of a reliability curve."""
LEAST_IN_BIN = 10
"""Number of slides that a bin of a reliability curve should have."""
NEAREST = 1e-6
"""Nearest that a probability comes to 0 and 1: tables keep six digits."""
FARTHEST = 60.0
"""Largest intercept or slope, a standard deviation of the logits, that counts as one: beyond it the probabilities part
the slides."""
STEPS = 40
"""Largest number of Newton steps."""
PARTED = "the probabilities part the slides perfectly"


def quantile_bins(probability: Float64[np.ndarray, " n"], bins: int | None = None) -> Int64[np.ndarray, " n"]:
    """Bin of each slide, lowest probabilities first, with as many slides in each as ties allow.

    bins: their number; by default 10, or fewer so that each has 10 slides.

    >>> quantile_bins(np.array([0.1, 0.9, 0.2, 0.8]), 2).tolist()
    [0, 1, 0, 1]
    """
    count = len(probability)
    wanted = bins or max(1, min(BINS, count // LEAST_IN_BIN))
    edges = np.quantile(probability, np.arange(1, wanted) / wanted) if count else np.empty(0)
    raw = np.searchsorted(edges, probability, side="right")
    return np.unique(raw, return_inverse=True)[1].astype(np.int64)


def expected_error(
    probability: Float64[np.ndarray, " n"], happened: Bool[np.ndarray, " n"], bins: int | None = None
) -> Formula:
    """Expected calibration error: mean over the slides of how far their bin's mean probability is from the share in it
    of which it is true. The bins are those of all slides, in every resample.

    Source: M. P. Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.

    >>> p = np.array([0.2, 0.2, 0.8, 0.8])
    >>> expected_error(p, np.array([False, False, True, True]), 2)(np.ones((1, 4))).round(9).tolist()
    [0.2]
    """
    bin_of = quantile_bins(probability, bins)
    excess = np.zeros((len(probability), int(bin_of.max(initial=0)) + 1))
    excess[np.arange(len(probability)), bin_of] = probability - happened
    return lambda weights: ratio(np.abs(weights @ excess).sum(1), weights.sum(1))


def in_the_large(probability: Float64[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]) -> Formula:
    """Calibration in the large: the shift of all logits that would make the mean probability right; 0 is perfect, below
    0 the probabilities are too high. nan where all slides are of one kind.

    >>> p, truth = np.full(10, 0.5), np.arange(10) < 8
    >>> in_the_large(p, truth)(np.ones((1, 10))).round(4).tolist()  # log(8 / 2)
    [1.3863]
    """
    return lambda weights: _fit(_logit(probability), happened, weights, slope=False)[0]


def calibration_slope(probability: Float64[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]) -> Formula:
    """Calibration slope: factor of the logits that fits best, an intercept beside it; 1 is perfect, below 1 the
    probabilities are too extreme. nan where it is infinite: the probabilities part the slides perfectly.

    Source: D. R. Cox, "Two Further Applications of a Model for Binary Regression", Biometrika 45, 1958.

    >>> p, truth = np.repeat([0.2, 0.8], 5), np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1], bool)
    >>> calibration_slope(p, truth)(np.ones((1, 10))).round(4).tolist()
    [1.0]
    """
    return lambda weights: _fit(_logit(probability), happened, weights, slope=True)[1]


def calibration_figures(
    probability: Float64[np.ndarray, " n"],
    happened: Bool[np.ndarray, " n"],
    of: str,
    groups: Mapping[str, Bool[np.ndarray, " n"]],
) -> list[Figure]:
    """Brier score, ECE, calibration in the large and slope of the probability that something is true of a slide.

    groups: the slides of which it is true and those of which it is not, by their names.
    """
    apart = (probability - happened.astype(np.float64)) ** 2
    return [
        Figure("brier", weighted_mean(apart), of),
        Figure("ece", expected_error(probability, happened), of),
        Figure("calibration_in_the_large", in_the_large(probability, happened), of, groups, PARTED),
        Figure("calibration_slope", calibration_slope(probability, happened), of, groups, PARTED),
    ]


def reliability_figures(
    probability: Float64[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]
) -> list[tuple[float, int, Figure]]:
    """Points of the reliability curve: the mean probability of each bin, its number of slides, and the share in it of
    which it is true."""
    bin_of = quantile_bins(probability)
    points = []
    for number in range(int(bin_of.max(initial=-1)) + 1):
        inside = bin_of == number
        figure = Figure(
            "observed", share(happened, inside), groups={"slides in the bin": inside}, form="share"
        )
        points.append((float(probability[inside].mean()), int(inside.sum()), figure))
    return points


def _logit(probability: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    clipped = probability.clip(NEAREST, 1 - NEAREST)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _fit(
    logit: Float64[np.ndarray, " n"], happened: Bool[np.ndarray, " n"], weights: Weights, *, slope: bool
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, " R"]]:
    """Intercept and slope of the logistic regression on the logits, with the slope kept at 1 unless asked for; by
    Newton's method, for all resamples at once. nan where they are not finite."""
    # The slope of logits that lie close together is steep: it is found on a scale of their own.
    middle, spread = (logit.mean(), max(float(logit.std()), 1e-12)) if slope and len(logit) else (0.0, 1.0)
    logit = (logit - middle) / spread
    a, b = np.zeros(len(weights)), np.full(len(weights), 0.0 if slope else 1.0)
    largest = np.full(len(weights), np.inf)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(a[:, None] + b[:, None] * logit, -500, 500)))
        rest, curve = weights * (happened - p), weights * p * (1 - p)
        g0, h00 = rest.sum(1), curve.sum(1)
        if slope:
            g1, h01, h11 = rest @ logit, curve @ logit, curve @ logit**2
            determinant = h00 * h11 - h01**2
            da, db = ratio(h11 * g0 - h01 * g1, determinant), ratio(h00 * g1 - h01 * g0, determinant)
        else:
            da, db = ratio(g0, h00), np.zeros(len(weights))
        largest = np.maximum(np.abs(da), np.abs(db))
        shorter = np.minimum(1.0, 2 / np.maximum(largest, 1e-300))  # far off, Newton's steps are too long
        a, b = a + shorter * da, b + shorter * db
        if not (largest > 1e-10).any():
            break
    found = (largest < 1e-6) & (np.abs(a) < FARTHEST) & (np.abs(b) < FARTHEST)
    a, b = a - b * middle / spread, b / spread
    return np.where(found, a, np.nan), np.where(found, b, np.nan)
