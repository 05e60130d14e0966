"""Bootstrap over patients: slides of one patient are alike, so it is patients that are drawn, with all their slides.

Patients whose slides are all of one class are drawn class by class; those of several classes are a stratum of their
own. A resample is a weight a slide (`statistics.weighted`). Shapes: R resamples, G patients, n slides, F figures.

Sources: A. C. Davison, D. V. Hinkley, "Bootstrap Methods and their Application", 1997, sections 3.2 (strata) and 3.8
(clusters); BCa: B. Efron, "Better Bootstrap Confidence Intervals", JASA 82, 1987, with the acceleration of several
samples (Davison and Hinkley, section 5.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from wsi_ats.shown import counted
from wsi_ats.statistics.interval import LEAST, LEVEL, Interval, area_limits, share_interval
from wsi_ats.statistics.weighted import Figure

Method = Literal["bca", "percentile"]
ROUNDS = 1000
"""Number of resamples."""
MOST_MISSING = 0.05
"""Largest share of resamples without a value with which there still is an interval."""
LEFT_OUT = 2000
"""Largest number of patients of which each is left out in turn, for BCa; of more, its correction is next to nothing."""
AT_ONCE = 2_000_000
"""Number of weights that are held at once."""


@dataclass(frozen=True, eq=False)
class Patients:
    """The patients of n slides."""

    index: Int64[np.ndarray, " n"]
    """Position of each slide's patient, from 0 to G - 1."""
    stratum: Int64[np.ndarray, " G"]
    """Number of the stratum that each patient is drawn from."""

    @classmethod
    def of(cls, names: Sequence[str], groups: Sequence[str] | None = None) -> Patients:
        """The patients of slides: each slide's patient, and its class or what else patients are drawn by.

        Without groups all are drawn together, as evaluations have it: class by class, figures that rest on how many of
        each class there are (calibration in the large, PPV, NPV, accuracy) would not move as they do. Resamples do not
        depend on the order of the slides.

        >>> Patients.of(["A", "A", "B", "C"], ["tumour", "normal", "normal", "normal"]).stratum.tolist()
        [1, 0, 0]
        """
        held: dict[str, set[str]] = {}
        for name, group in sorted(zip(names, [""] * len(names) if groups is None else groups, strict=True)):
            held.setdefault(name, set()).add(group)
        position = {name: i for i, name in enumerate(held)}
        kinds = sorted({tuple(sorted(each)) for each in held.values()})
        number = {kind: i for i, kind in enumerate(kinds)}
        return cls(
            np.array([position[name] for name in names], np.int64),
            np.array([number[tuple(sorted(each))] for each in held.values()], np.int64),
        )

    def __len__(self) -> int:
        return len(self.stratum)

    def among(self, slides: Bool[np.ndarray, " n"]) -> Patients:
        """The patients of some of the slides."""
        held, index = np.unique(self.index[slides], return_inverse=True)
        return Patients(index.astype(np.int64), self.stratum[held])

    @property
    def strata(self) -> list[Int64[np.ndarray, " _"]]:
        """Positions of the patients of each stratum."""
        return [np.flatnonzero(self.stratum == s).astype(np.int64) for s in np.unique(self.stratum)]

    def resamples(self, rng: np.random.Generator, rounds: int) -> Float64[np.ndarray, "R G"]:
        """How often each patient was drawn in each of `rounds` resamples."""
        counts = np.zeros((rounds, len(self)))
        for members in self.strata:
            size = len(members)
            counts[:, members] = rng.multinomial(size, np.full(size, 1 / size), rounds)
        return counts

    def without_each(self) -> Float64[np.ndarray, "G G"]:
        """Weights of the patients with each left out in turn, the others of its stratum standing in for it."""
        weights = np.ones((len(self), len(self)))
        for members in self.strata:
            size = len(members)
            weights[np.ix_(members, members)] = size / max(1, size - 1)
            weights[members, members] = 0.0 if size > 1 else 1.0
        return weights


@dataclass(frozen=True, eq=False)
class Sampled:
    """A figure with its values in resamples."""

    figure: Figure
    value: float
    drawn: Float64[np.ndarray, " R"]
    """Value in each resample; nan where it has none."""
    interval: Interval


def sample_figures(
    figures: Sequence[Figure],
    patients: Patients,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
    method: Method = "bca",
    level: float = LEVEL,
) -> list[Sampled]:
    """Figures of the same slides with intervals by one bootstrap over their patients, the same for the same seed.

    Without an interval, with a word on why: where a group that a figure rests on has fewer than 10 patients, where more
    than 5 % of the resamples have no value, and where all of them agree, unless it is a share or an area of 0 or 1:
    these get the interval of as many slides as there are patients, by Wilson's and by Newcombe's formula.

    >>> from wsi_ats.statistics.weighted import weighted_mean
    >>> patients = Patients.of([f"P{i // 2}" for i in range(40)], 40 * [""])
    >>> found, = sample_figures([Figure("mean", weighted_mean(np.arange(40.0)))], patients)
    >>> found.value, 12 < found.interval.low < 16, 23 < found.interval.high < 27
    (19.5, True, True)
    """
    whole = values_of(figures, len(patients.index))
    reasons = [_reason(figure, float(value), patients) for figure, value in zip(figures, whole, strict=True)]
    drawn = np.full((len(figures), rounds), np.nan)
    left_out = np.full((len(figures), len(patients)), np.nan)
    wanted = [i for i, reason in enumerate(reasons) if not reason]
    if wanted:
        chosen = [figures[i] for i in wanted]
        resamples = patients.resamples(np.random.default_rng(seed), rounds)
        drawn[wanted] = _values(chosen, patients.index, resamples)
        if method == "bca" and len(patients) <= LEFT_OUT:
            left_out[wanted] = _values(chosen, patients.index, patients.without_each())
    return [
        Sampled(
            figure,
            float(whole[i]),
            drawn[i],
            Interval.none(float(whole[i]), reasons[i])
            if reasons[i]
            else _interval(figure, float(whole[i]), drawn[i], left_out[i], patients, level),
        )
        for i, figure in enumerate(figures)
    ]


def values_of(figures: Sequence[Figure], slides: int) -> Float64[np.ndarray, " F"]:
    """Values of figures of so many slides, without intervals; nan where a group that a figure rests on is empty."""
    one = np.ones((1, slides))
    return np.array(
        [
            float(figure.at(one)[0]) if all(mask.any() for mask in figure.groups.values()) else np.nan
            for figure in figures
        ],
        np.float64,
    )


def _values(
    figures: Sequence[Figure], index: Int64[np.ndarray, " n"], weights: Float64[np.ndarray, "R G"]
) -> Float64[np.ndarray, "F R"]:
    found = np.empty((len(figures), len(weights)))
    for part in parts_of(len(weights), len(index)):
        of_slides = weights[part][:, index]
        for row, figure in enumerate(figures):
            found[row, part] = figure.at(of_slides)
    return found


def parts_of(rounds: int, slides: int) -> Iterator[slice]:
    """Parts of so many resamples of so many slides whose weights can be held at once."""
    step = max(1, AT_ONCE // max(1, slides))
    return (slice(start, start + step) for start in range(0, rounds, step))


def _reason(figure: Figure, value: float, patients: Patients) -> str:
    """Words on why a figure has no value, or no interval for lack of patients; empty where it can have both."""
    if np.isnan(value):
        absent = [name for name, slides in figure.groups.items() if not slides.any()]
        return f"no {absent[0]}" if absent else figure.undefined
    if not figure.groups:
        return (
            f"{counted(len(patients), 'patient')}: too few for an interval"
            if len(patients) < 2 * LEAST
            else ""
        )
    counts = {name: len(np.unique(patients.index[slides])) for name, slides in figure.groups.items()}
    few = [f"{counted(count, 'patient')} with {name}" for name, count in counts.items() if count < LEAST]
    return f"{few[0]}: too few for an interval" if few else ""


def _interval(
    figure: Figure,
    value: float,
    drawn: Float64[np.ndarray, " R"],
    left_out: Float64[np.ndarray, " G"],
    patients: Patients,
    level: float,
) -> Interval:
    known = drawn[~np.isnan(drawn)]
    if len(known) < (1 - MOST_MISSING) * len(drawn):
        return Interval.none(value, f"{1 - len(known) / len(drawn):.0%} of the resamples have no value")
    if np.ptp(known) < 1e-12:
        return _of_formula(figure, value, patients, level)
    tail = (1 - level) / 2
    low, high = np.quantile(known, _corrected([tail, 1 - tail], value, known, left_out, patients))
    return Interval(value, float(low), float(high))


def _of_formula(figure: Figure, value: float, patients: Patients, level: float) -> Interval:
    """Interval of a share or an area that is 0 or 1 in every resample, as if each patient had one slide."""
    counts = [len(np.unique(patients.index[slides])) for slides in figure.groups.values()]
    edge = round(value)
    if abs(value - edge) < 1e-12 and figure.form == "area":
        positive, negative = counts
        low, high = area_limits(float(edge), positive, negative, level)
        return Interval(value, low, high, "Newcombe: all resamples agree")
    if abs(value - edge) < 1e-12 and figure.form == "share":
        by_wilson = share_interval(counts[0] * edge, counts[0], level)
        return Interval(value, by_wilson.low, by_wilson.high, "Wilson: all resamples agree")
    return Interval.none(value, "the same in every resample: no interval")


def _corrected(
    tails: Sequence[float],
    value: float,
    drawn: Float64[np.ndarray, " R"],
    left_out: Float64[np.ndarray, " G"],
    patients: Patients,
) -> list[float]:
    """Shares of resamples below the limits: the tails, corrected for bias and acceleration where these can be told."""
    normal = NormalDist()
    below = float(np.mean((drawn < value) + 0.5 * (drawn == value)))
    acceleration = _acceleration(left_out, patients)
    if not 0 < below < 1 or np.isnan(acceleration):
        return list(tails)
    bias = normal.inv_cdf(below)
    shifted = [bias + normal.inv_cdf(tail) for tail in tails]
    return [normal.cdf(bias + z / max(1e-6, 1 - acceleration * z)) for z in shifted]


def _acceleration(left_out: Float64[np.ndarray, " G"], patients: Patients) -> float:
    """Acceleration of BCa from the values without each patient, stratum by stratum; nan where it cannot be told."""
    cubes = squares = 0.0
    for members in patients.strata:
        size = len(members)
        influence = (left_out[members].mean() - left_out[members]) * (size - 1) / size
        cubes += float((influence**3).sum())
        squares += float((influence**2).sum())
    return cubes / (6 * squares**1.5) if squares > 0 else float("nan")
