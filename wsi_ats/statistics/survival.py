"""Survival: what share is free of the event at a time, observed and as risks say.

A Cox model tells how much larger one risk is than another and leaves the level open. So the level (the baseline) is
taken from the very slides that are judged, by Breslow's estimate with their risks as they are; what is judged is
whether groups of low and high risk lie as far apart as their risks say. Shapes: R resamples, n slides.

Sources: E. L. Kaplan, P. Meier, "Nonparametric Estimation from Incomplete Observations", JASA 53, 1958; N. Breslow,
discussion of Cox, JRSS B 34, 1972; P. Royston, D. G. Altman, "External Validation of a Cox Prognostic Model:
Principles and Methods", BMC Medical Research Methodology 13, 2013 (slope and groups where no baseline is published).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from wsi_ats.statistics.calibration_figures import FARTHEST, quantile_bins
from wsi_ats.statistics.interval import LEAST
from wsi_ats.statistics.weighted import Figure, Formula, Weights, ratio

GROUPS = 4
"""Largest number of groups of risk."""
HORIZONS = (0.25, 0.5, 0.75)
"""Shares of the observed events that have come by each of the times that are looked at."""
STEPS = 30
"""Largest number of Newton steps."""


@dataclass(frozen=True, eq=False)
class RiskGroup:
    """Slides of like risk at a time: the share that should be free of the event then, and the figure that is."""

    time: float
    group: int
    """From 0, the lowest risks first."""
    slides: int
    predicted: float
    observed: Figure


def kaplan_meier(
    time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"], among: Bool[np.ndarray, " n"], at: float
) -> Formula:
    """Share of the slides `among` all that is free of the event after the time `at`; nan where the last of them was
    lost from sight before.

    >>> weeks, back = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False])
    >>> kaplan_meier(weeks, back, np.ones(4, bool), 3.0)(np.ones((1, 4))).tolist()  # 3/4 of 1/2
    [0.375]
    """
    mine = np.flatnonzero(among)
    order = mine[np.argsort(time[mine], kind="stable")]
    moments = np.unique(time[order][event[order] & (time[order] <= at)])
    first = np.searchsorted(time[order], moments)
    comes = (event[order, None] & (time[order, None] == moments)).astype(np.float64)
    reaches = (time[order] >= at).astype(np.float64)

    def share(weights: Weights) -> Float64[np.ndarray, " R"]:
        held = weights[:, order]
        at_risk = np.cumsum(held[:, ::-1], 1)[:, ::-1][:, first]
        lost = np.divide(held @ comes, at_risk, out=np.zeros(at_risk.shape), where=at_risk > 0)
        free = (1 - lost).prod(1)
        # Beyond the last slide the curve is known where it has come down to 0.
        return np.where((held @ reaches > 0) | (free <= 0), free, np.nan)

    return share


def risk_slope(
    risk: Float64[np.ndarray, " n"], time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> Formula:
    """Slope of the log risk in Cox's regression of what came: 1 is perfect, below 1 risks lie too far apart. Ties as
    Breslow has them. nan where it is infinite, or nothing tells.

    >>> weeks, back = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, bool)
    >>> risk_slope(np.array([1.0, 0.0, 1.0, 0.0]), weeks, back)(np.ones((1, 4))).round(4).tolist()
    [0.9406]
    """
    spread = max(float(risk.std()), 1e-12) if len(risk) else 1.0
    order = np.argsort(-time, kind="stable")  # those that are at risk at a time stand first
    x, came = (risk[order] - risk.mean()) / spread if len(risk) else risk, event[order]
    last = np.searchsorted(-time[order], -time[order], side="right") - 1

    def slope(weights: Weights) -> Float64[np.ndarray, " R"]:
        held = weights[:, order]
        events = held * came
        b, step = np.zeros(len(held)), np.full(len(held), np.inf)
        for _ in range(STEPS):
            power = held * np.exp(np.clip(b[:, None] * x, -500, 500))
            s0, s1, s2 = (np.cumsum(power * x**k, 1)[:, last] for k in range(3))
            mean = np.divide(s1, s0, out=np.zeros_like(s1), where=s0 > 0)
            square = np.divide(s2, s0, out=np.zeros_like(s2), where=s0 > 0)
            step = ratio((events * (x - mean)).sum(1), (events * (square - mean**2)).sum(1))
            b = b + np.clip(step, -2, 2)
            if not (np.abs(step) > 1e-10).any():
                break
        return np.where((np.abs(step) < 1e-6) & (np.abs(b) < FARTHEST), b / spread, np.nan)

    return slope


def free_shares(
    risk: Float64[np.ndarray, " n"], time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"], at: float
) -> Float64[np.ndarray, " n"]:
    """Share (n,) free of the event after the time `at` that each log risk says, with Breslow's baseline of these
    slides."""
    powers = np.exp(risk - risk.max())
    moments = np.unique(time[event & (time <= at)])
    hazard = sum(
        float((event & (time == moment)).sum()) / float(powers[time >= moment].sum()) for moment in moments
    )
    return np.asarray(np.exp(-hazard * powers), np.float64)


def risk_groups(
    risk: Float64[np.ndarray, " n"], time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> Iterator[RiskGroup]:
    """Groups of about as many slides, 10 or more, at the times by which a quarter, half and three quarters of the
    events had come; none where no event came."""
    if not event.any():
        return
    bins = quantile_bins(risk, max(1, min(GROUPS, len(risk) // LEAST)))
    moments = np.quantile(time[event], HORIZONS, method="inverted_cdf")
    for at in np.unique(moments).tolist():
        predicted = free_shares(risk, time, event, at)
        for number in range(int(bins.max()) + 1):
            inside = bins == number
            free = kaplan_meier(time, event, inside, at)
            groups = {"slides in the group": inside}
            undefined = "the last slide of the group was lost from sight before"
            figure = Figure("free", free, groups=groups, undefined=undefined)
            yield RiskGroup(at, number, int(inside.sum()), float(predicted[inside].mean()), figure)
