"""Figures of a task's answers on slides of known truth, by the kind of task.

Shapes: n slides, V values as `TaskSpec.values` names them, T numbers of a target as `Task.read` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from wsi_ats.statistics.calibration_figures import calibration_figures, expected_error
from wsi_ats.statistics.survival import risk_slope
from wsi_ats.statistics.weighted import (
    Figure,
    Formula,
    Weights,
    average_precision,
    concordance,
    confusion,
    explained,
    f1,
    kappa_of,
    mean_f1,
    mean_recall,
    regression_slope,
    roc_area,
    share,
    weighted_mean,
)

ONE_CLASS = "the slides are of one class"


@dataclass(frozen=True, eq=False)
class Answered:
    """Answers of one task about n slides, and the truth."""

    kind: str
    """Kind of the task: a name in `catalogue.TASK_KINDS`."""
    names: tuple[str, ...]
    """Classes, labels or grades; empty where the answer is a number."""
    values: Float64[np.ndarray, "n V"]
    targets: Float64[np.ndarray, "n T"]
    decisions: Int64[np.ndarray, " n"]
    """Index of the class or grade that each slide is said to have; of other kinds of no account."""
    positive: int = -1
    """Index of the positive one of two classes."""

    def __len__(self) -> int:
        return len(self.values)

    def of(self, slides: Bool[np.ndarray, " n"]) -> Answered:
        """The answers about some of the slides."""
        return replace(
            self, values=self.values[slides], targets=self.targets[slides], decisions=self.decisions[slides]
        )

    @property
    def probabilities(self) -> Float64[np.ndarray, "n C"]:
        """Probability of each class, label or grade."""
        return self.values[:, : len(self.names)]

    @property
    def right(self) -> Bool[np.ndarray, " n"]:
        """Slides whose class or grade, or all of whose known labels, are said right."""
        if self.kind == "labels":
            said = (self.values >= 0.5) == (self.targets == 1)
            return np.asarray((said | np.isnan(self.targets)).all(1))
        return np.asarray(self.decisions == self.targets[:, 0])


@dataclass(frozen=True, eq=False)
class Alternative:
    """A question answered by yes or no, with a probability; of m of the n slides the truth is known."""

    of: str
    """Class or label; of grades `>= grade`. Empty for the positive one of two classes."""
    known: Bool[np.ndarray, " n"]
    probability: Float64[np.ndarray, " m"]
    happened: Bool[np.ndarray, " m"]
    called: Bool[np.ndarray, " m"]
    """Whether the slide is said to be so."""
    yes: str
    """Words for what slides are of which it is true, as in "tumour"."""
    no: str


def alternatives(answered: Answered) -> list[Alternative]:
    """The alternatives that a task is made of: the positive one of two classes, each of several classes or labels, each
    grade but the lowest against those below it; none where the answer is a number."""
    names, values, truth = answered.names, answered.probabilities, answered.targets
    everyone = np.ones(len(values), bool)

    def alternative(
        name: str,
        known: Bool[np.ndarray, " n"],
        p: Float64[np.ndarray, " n"],
        happened: Bool[np.ndarray, " n"],
        called: Bool[np.ndarray, " n"],
    ) -> Alternative:
        return Alternative(name, known, p[known], happened[known], called[known], name, f"no {name}")

    if answered.kind == "labels":
        columns = zip(names, values.T, truth.T, strict=True)
        return [alternative(name, ~np.isnan(t), p, t == 1, p >= 0.5) for name, p, t in columns]
    if answered.kind == "ordinal":
        return [
            alternative(
                f">= {name}", everyone, values[:, k:].sum(1), truth[:, 0] >= k, answered.decisions >= k
            )
            for k, name in enumerate(names)
            if k
        ]
    if answered.kind != "classes":
        return []
    each = [
        alternative(name, everyone, values[:, i], truth[:, 0] == i, answered.decisions == i)
        for i, name in enumerate(names)
    ]
    if len(names) == 2:
        return [replace(each[answered.positive], of="", no=names[answered.positive - 1])]
    return each


def figures_of(answered: Answered) -> list[Figure]:
    """All figures of a task: those of the task as a whole first, then those of each alternative.

    >>> p, truth = np.array([0.1, 0.2, 0.6, 0.4, 0.9]), np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    >>> said = Answered("classes", ("normal", "tumour"), np.stack([1 - p, p], 1), truth[:, None], (p > 0.5).astype(int))
    >>> {f.name: round(float(f.at(np.ones((1, 5)))[0]), 3) for f in figures_of(said)[:4]}
    {'auroc': 0.833, 'auprc': 0.833, 'balanced_accuracy': 0.583, 'accuracy': 0.6}
    """
    if answered.kind == "regression":
        return _of_number(answered.values[:, 0], answered.targets[:, 0])
    if answered.kind == "survival":
        return _of_risk(answered)
    parts = alternatives(answered)
    of_parts = [_among(part.known, figure) for part in parts for figure in _of_alternative(part)]
    whole = _of_decisions(answered) if answered.kind != "labels" else []
    if len(parts) == 1 and answered.kind == "classes":
        return [*of_parts[:2], *whole, *of_parts[2:]]
    return [*_means(parts, answered), *whole, *of_parts]


def _of_alternative(part: Alternative) -> list[Figure]:
    """Figures of an alternative on the slides of known truth."""
    p, yes, called, of = part.probability, part.happened, part.called, part.of
    positive, negative = {f"slides of {part.yes}": yes}, {f"slides of {part.no}": ~yes}
    both = {**positive, **negative}
    said_so, said_not = {f"slides called {part.yes}": called}, {f"slides called {part.no}": ~called}
    return [
        Figure("auroc", roc_area(p, yes), of, both, form="area"),
        Figure("auprc", average_precision(p, yes), of, both),
        Figure("f1", f1(yes, called), of, positive),
        Figure("sensitivity", share(called, yes), of, positive, form="share"),
        Figure("specificity", share(~called, ~yes), of, negative, form="share"),
        Figure("ppv", share(yes, called), of, said_so, form="share"),
        Figure("npv", share(~yes, ~called), of, said_not, form="share"),
        *calibration_figures(p, yes, of, both),
    ]


def _among(known: Bool[np.ndarray, " n"], figure: Figure) -> Figure:
    """A figure of some of the slides as one of all."""
    if known.all():
        return figure

    def at(weights: Weights) -> Float64[np.ndarray, " R"]:
        return figure.at(weights[:, known])

    groups = {}
    for name, mask in (figure.groups or {"slides of known truth": known[known]}).items():
        groups[name] = np.zeros(len(known), bool)
        groups[name][known] = mask
    return replace(figure, at=at, groups=groups)


def _of_decisions(answered: Answered) -> list[Figure]:
    """Figures of the matrix of confusion, and for grades how far off they are."""
    truth, names = answered.targets[:, 0].astype(np.int64), answered.names
    matrices = confusion(truth, answered.decisions, len(names))
    grades = answered.kind == "ordinal"
    of_class = {f"slides of {name}": truth == i for i, name in enumerate(names)}
    present = {name: mask for name, mask in of_class.items() if mask.any()}
    kappa = "kappa_quadratic" if grades else "kappa"

    def of_matrix(formula: Callable[..., Float64[np.ndarray, " R"]], **how: bool) -> Formula:
        return lambda weights: formula(matrices(weights), **how)

    found = [
        Figure("balanced_accuracy", of_matrix(mean_recall), groups=present, undefined=ONE_CLASS),
        Figure("accuracy", weighted_mean(answered.right.astype(np.float64))),
        Figure(kappa, of_matrix(kappa_of, quadratic=grades), groups=present, undefined=ONE_CLASS),
    ]
    if len(names) > 2:
        found.append(Figure("f1_macro", of_matrix(mean_f1), groups=present))
    if grades:
        found.append(Figure("mae", weighted_mean(np.abs(answered.decisions - truth).astype(np.float64))))
    return found


def _means(parts: Sequence[Alternative], answered: Answered) -> list[Figure]:
    """Areas, mean over the alternatives; of labels over those that some slides have and some have not."""
    told = [part for part in parts if answered.kind != "labels" or len(np.unique(part.happened)) == 2]
    groups = {}
    for part in told:
        for name, side in ((part.yes, part.happened), (part.no, ~part.happened)):
            groups[f"slides of {name}"] = np.zeros(len(answered), bool)
            groups[f"slides of {name}"][part.known] = side

    def mean(
        formula: Callable[[Float64[np.ndarray, " m"], Bool[np.ndarray, " m"]], Formula],
    ) -> Formula:
        each = [(part.known, formula(part.probability, part.happened)) for part in told]

        def at(weights: Weights) -> Float64[np.ndarray, " R"]:
            if not each:
                return np.full(len(weights), np.nan)
            return np.asarray(np.mean([one(weights[:, known]) for known, one in each], axis=0))

        return at

    nothing = "no label tells slides apart"
    found = [
        Figure("auroc_macro", mean(roc_area), groups=groups, undefined=nothing),
        Figure("auprc_macro", mean(average_precision), groups=groups, undefined=nothing),
    ]
    return [*found, *_of_the_likeliest(answered)] if answered.kind == "classes" else found


def _of_the_likeliest(answered: Answered) -> list[Figure]:
    """Calibration of several classes: Brier score over all of them, ECE of the most probable one."""
    p, truth = answered.probabilities, answered.targets[:, 0].astype(np.int64)
    apart = ((p - np.eye(len(answered.names))[truth]) ** 2).sum(1)
    return [
        Figure("brier_all", weighted_mean(apart)),
        Figure("ece_top", expected_error(p.max(1, initial=0.0), p.argmax(1) == truth)),
    ]


def _of_number(answer: Float64[np.ndarray, " n"], truth: Float64[np.ndarray, " n"]) -> list[Figure]:
    """R2, mean absolute error, and calibration of a number: mean of answer less truth, and slope of the truth on the
    answer."""
    return [
        Figure("r2", explained(answer, truth), undefined="the truth does not vary"),
        Figure("mae", weighted_mean(np.abs(answer - truth))),
        Figure("mean_error", weighted_mean(answer - truth)),
        Figure("calibration_slope", regression_slope(answer, truth), undefined="the answers do not vary"),
    ]


def _of_risk(answered: Answered) -> list[Figure]:
    """C-index, and calibration slope of the log risk: its level means nothing."""
    time, event = answered.targets[:, 0], answered.targets[:, 1] == 1
    risk, groups = answered.values[:, 0], {"slides with the event": event}
    order = "no pair of slides tells whose event came first"
    slope = "the risks part the slides perfectly, or not at all"
    return [
        Figure("c_index", concordance(risk, time, event), groups=groups, undefined=order),
        Figure("calibration_slope", risk_slope(risk, time, event), groups=groups, undefined=slope),
    ]
