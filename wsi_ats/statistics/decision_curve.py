"""Decision curve: what deciding by a model is worth, at every price of a false alarm.

Whoever acts from a probability of t on holds a false alarm for t / (1 - t) times as bad as a missed positive. The net
benefit at t is then the share of true positives less that of false alarms at this price.

Source: A. J. Vickers, E. B. Elkin, "Decision Curve Analysis: A Novel Method for Evaluating Prediction Models", Medical
Decision Making 26, 2006.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64

from wsi_ats.statistics.weighted import Figure, weighted_mean

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Probabilities from which one might act."""


def net_benefit(
    probability: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], threshold: float
) -> Figure:
    """Net benefit of acting on all slides whose probability is at least `threshold`, which is between 0 and 1.

    >>> p, truth = np.array([0.1, 0.3, 0.6, 0.9]), np.array([False, True, False, True])
    >>> net_benefit(p, truth, 0.5).at(np.ones((1, 4))).tolist()  # 1/4 - 1/4
    [0.0]
    """
    return Figure("net_benefit", weighted_mean(_worth(positive, threshold) * (probability >= threshold)))


def net_benefit_of_all(positive: Bool[np.ndarray, " n"], threshold: float) -> float:
    """Net benefit of acting on every slide; of acting on none it is 0.

    >>> net_benefit_of_all(np.array([True, False]), 0.2)
    0.375
    """
    return float(_worth(positive, threshold).mean()) if len(positive) else float("nan")


def _worth(positive: Bool[np.ndarray, " n"], threshold: float) -> Float64[np.ndarray, " n"]:
    return np.where(positive, 1.0, -threshold / (1 - threshold))
