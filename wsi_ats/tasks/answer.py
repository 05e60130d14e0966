"""`TaskSpec` and `TaskResult`: what a task asks and what a model answers, in plain numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from wsi_ats.catalogue import TASK_KINDS, TaskEntry
from wsi_ats.errors import WsiAtsError
from wsi_ats.shown import cell
from wsi_ats.statistics.conformal import ConformalSets
from wsi_ats.statistics.operating_point import OperatingPoint

COVERS = "± and 95 % interval: from the drawing of tiles alone"
"""What a standard error and an interval cover, which is said beside them: not how sure the model is, nor whether it is
right."""
UNKNOWN = "± unknown: too few tiles or rounds drawn by chance"
"""What is said where there is no standard error although not every tile was read."""


@dataclass(frozen=True)
class TaskSpec:
    """A task spec: what one head of a model is asked.

    >>> spec = TaskSpec("label", "classes", ("normal", "tumour"))
    >>> spec.columns()
    ['prediction', 'prob_normal', 'prob_tumour', 'stderr_normal', 'stderr_tumour', 'low_normal', 'low_tumour', \
'high_normal', 'high_tumour']
    >>> spec.text(np.array([0.2, 0.8])), TaskSpec("age", "regression").text(np.array([61.25]))
    ('tumour', '61.25')
    """

    name: str
    """Name of the task."""
    kind: str
    """Kind of the task: a name in `catalogue.TASK_KINDS`."""
    names: tuple[str, ...] = ()
    """Classes, labels or grades (lowest first), one probability each; empty where the answer is a number."""
    point: OperatingPoint | None = None
    """Threshold from which a slide is of the positive one of two classes; None: the most probable class."""
    sets: ConformalSets | None = None
    """Sets of classes that a slide may have; None where there are none."""

    @property
    def entry(self) -> TaskEntry:
        """The catalogue's entry of the task's kind."""
        return TASK_KINDS[self.kind]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the O outputs of the head: its classes or labels, or the task's for the one number or grade."""
        return self.names if self.entry.says in ("the most probable", "all that are likely") else (self.name,)

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the V values of an answer, as the columns of predictions.csv are called."""
        return (*(f"prob_{name}" for name in self.names), *self.entry.numbers)

    @property
    def errors(self) -> tuple[str, ...]:
        """Names of the standard errors of the V values, as the columns of predictions.csv are called."""
        return self._named("stderr")

    @property
    def lows(self) -> tuple[str, ...]:
        """Names of the lower ends of the intervals of the V values, as the columns of predictions.csv are called."""
        return self._named("low")

    @property
    def highs(self) -> tuple[str, ...]:
        """Names of the upper ends, likewise."""
        return self._named("high")

    def _named(self, part: str) -> tuple[str, ...]:
        return tuple(f"{part}_{name}" for name in (*self.names, *self.entry.numbers))

    def columns(self, prefix: str = "") -> list[str]:
        """Columns of predictions.csv: the answer in a word, the set of classes where there are sets, its values, their
        standard errors, the lower and the upper ends of their intervals."""
        of_sets = ("prediction_set", "refer") if self.sets else ()
        numbers = (*self.values, *self.errors, *self.lows, *self.highs)
        return [prefix + name for name in ("prediction", *of_sets, *numbers)]

    def text(self, values: Float64[np.ndarray, " V"]) -> str:
        """The answer in a word: the most probable class or, with an operating point, what that says; all labels of at
        least even odds, the median grade, or the number to six digits."""
        says = self.entry.says
        if self.point is not None:
            positive = self.names.index(self.point.positive)
            return self.names[positive if values[positive] >= self.point.threshold else 1 - positive]
        if says == "the most probable":
            return self.names[int(np.argmax(values))]
        if says == "all that are likely":
            return ";".join(name for name, p in zip(self.names, values, strict=True) if p >= 0.5)
        if says == "the median":
            return self.names[int(median_grade(values[None, : len(self.names)])[0])]
        return f"{values[0]:.6g}"

    def set_of(self, values: Float64[np.ndarray, " V"]) -> tuple[str, ...]:
        """Classes in the set of a slide; all of them where there are no sets."""
        if self.sets is None:
            return self.names
        inside = self.sets(values[: len(self.names)])
        return tuple(name for name, taken in zip(self.names, inside, strict=True) if taken)


def spec_of(
    name: str,
    kind: str,
    names: Sequence[str],
    point: Mapping[str, Any] | None = None,
    sets: Mapping[str, Any] | None = None,
) -> TaskSpec:
    """The task spec whose plain values a model folder or a result keeps. Raises `KeyError`, `TypeError` or
    `ValueError` for what is none."""
    spec = TaskSpec(
        name,
        kind,
        tuple(map(str, names)),
        None if point is None else OperatingPoint.of_values(point),
        None if sets is None else ConformalSets.of_values(sets),
    )
    if spec.point and (len(spec.names) != 2 or spec.point.positive not in spec.names):
        raise ValueError(f"an operating point for {spec.point.positive!r} among {spec.names}")
    if spec.sets and len(spec.sets.quantiles) != len(spec.names):
        raise ValueError(f"{len(spec.sets.quantiles)} quantiles for {len(spec.names)} classes")
    return spec


def median_grade(probabilities: Float64[np.ndarray, "n K"]) -> Int64[np.ndarray, " n"]:
    """Index (n,) of the lowest grade that is not exceeded with a probability of at least one half.

    >>> median_grade(np.array([[0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])).tolist()
    [1, 2]
    """
    return np.asarray(np.argmax(np.cumsum(probabilities, 1) >= 0.5, axis=1), np.int64)


def columns_of(specs: Sequence[TaskSpec]) -> list[str]:
    """Columns of predictions.csv of all tasks; those of tasks after the first start with the task's name."""
    others = [column for q in specs[1:] for column in q.columns(f"{q.name}_")]
    return [*specs[0].columns(), *others]


def cells_of(
    spec: TaskSpec,
    text: str,
    values: Sequence[float],
    *spread: Sequence[float | None] | None,
) -> list[str]:
    """Cells of an answer in predictions.csv, under `spec.columns()`; `text` is the answer in a word, `spread` the
    standard errors, the lower and the upper ends of the values, None where they were not kept.

    >>> spec = TaskSpec("label", "classes", ("normal", "tumour"))
    >>> cells_of(spec, "tumour", [0.25, 0.75], [0.1234567, None], [0.1, None], None)
    ['tumour', '0.25', '0.75', '0.123457', '', '0.1', '', '', '']
    """
    numbers = (values, *((None,) * len(values) if part is None else part for part in spread))
    inside = spec.set_of(np.asarray(values, np.float64))
    of_sets = (cell(";".join(inside)), "no" if len(inside) == 1 else "yes") if spec.sets else ()
    return [cell(text), *of_sets, *(number_cell(number) for part in numbers for number in part)]


def number_cell(value: float | None) -> str:
    """A number as a cell of a table, to six digits; empty where it is not known."""
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def values_named(specs: Sequence[TaskSpec]) -> list[str]:
    """Names of the values of all answers, as `columns_of` tells tasks apart."""
    others = [f"{q.name}_{value}" for q in specs[1:] for value in q.values]
    return [*specs[0].values, *others]


def outputs_of(specs: Sequence[TaskSpec]) -> list[str]:
    """Names of the outputs of all tasks, as `columns_of` tells tasks apart."""
    others = [f"{q.name}_{output}" for q in specs[1:] for output in q.outputs]
    return [*specs[0].outputs, *others]


@dataclass(frozen=True, eq=False)
class TaskResult:
    """A task result: what one head says of a slide.

    >>> spec = TaskSpec("label", "classes", ("normal", "tumour"))
    >>> parts = np.array([0.07, 0.93]), np.array([0.01, 0.01]), np.zeros((26, 2), np.float32)
    >>> ends = {"low": np.array([0.051, 0.904]), "high": np.array([0.096, 0.949])}
    >>> result = TaskResult(spec, *parts, **ends)
    >>> result.text, result.probabilities.tolist()
    ('tumour', [0.07, 0.93])
    >>> result.describe()
    'normal 0.070 ± 0.010 [0.051, 0.096], tumour 0.930 ± 0.010 [0.904, 0.949] (± and 95 % interval: from the \
drawing of tiles alone)'
    """

    spec: TaskSpec
    values: Float64[np.ndarray, " V"]
    """Probabilities (of classes and grades they sum to 1), then the numbers, as `spec.values` names them."""
    stderr: Float64[np.ndarray, " V"]
    """Standard error of each value from the drawing of tiles alone; 0 where every tile was read, nan where
    unknown."""
    contributions: Float32[np.ndarray, "N O"]
    """Contribution of each drawn tile to each output of the head: to a logit, the grade's score, the log risk, or the
    value in its own unit."""
    outputs: Float64[np.ndarray, " O"] | None = None
    """Outputs of the head before any calibration, which a new one starts from; None where they were not kept."""
    low: Float64[np.ndarray, " V"] | None = None
    """Lower end of the 95 % interval of each value, for the answer of all tiles: the value where every tile was read,
    nan where unknown; None where intervals were not kept."""
    high: Float64[np.ndarray, " V"] | None = None
    """Upper end, likewise."""

    @property
    def text(self) -> str:
        """The answer in a word (`TaskSpec.text`)."""
        return self.spec.text(self.values)

    @property
    def set(self) -> tuple[str, ...]:
        """Classes that the slide may have, at the error rate of the model's sets (`ConformalSets`)."""
        return self.spec.set_of(self.values)

    @property
    def refer(self) -> bool:
        """Whether the set holds no class or several: a person should look."""
        return self.spec.sets is not None and len(self.set) != 1

    @property
    def probabilities(self) -> Float64[np.ndarray, " C"]:
        """Probability of each class, label or grade. Raises `WsiAtsError` where the answer is a number."""
        if not self.spec.names:
            raise WsiAtsError(
                f"task {self.spec.name!r} is of kind {self.spec.kind}: its answer is a number, it has no "
                "probabilities",
                remedy="use `values`",
            )
        return self.values[: len(self.spec.names)]

    @property
    def top(self) -> int:
        """Index of the output that the answer rests on most: of the most probable class or label, the first of
        equals; else 0."""
        return int(np.argmax(self.values[: len(self.spec.outputs)]))

    def interval(self, index: int) -> tuple[float, float] | None:
        """Ends of the interval of a value, of those that `spec.values` names; None where there is none: it is not
        known, or the value is exact."""
        if self.low is None or self.high is None or not self.stderr[index] > 0:
            return None
        return float(self.low[index]), float(self.high[index])

    def cells(self) -> list[str]:
        """Cells of the answer in predictions.csv, under `spec.columns()`."""
        parts = (self.values, self.stderr, self.low, self.high)
        values, *spread = (None if part is None else part.tolist() for part in parts)
        return cells_of(self.spec, self.text, values or (), *spread)

    def describe(self) -> str:
        """Every value in words, with its standard error, its interval and what these cover, or that they are not
        known."""
        return describe([self])


def describe(results: Sequence[TaskResult]) -> str:
    """Every value of the results in words; what the standard errors cover, or that they are not known, is said once."""
    words = "; ".join(map(_in_words, results))
    return f"{words} ({COVERS if '±' in words else UNKNOWN})"


def plus_minus(error: float, digits: int | None = None) -> str:
    """A standard error in words, to `digits` places or two figures; empty where it is not known. An error of 0, of an
    exact answer, is told from one that rounds to it.

    >>> plus_minus(0.0123, 3), plus_minus(1e-9, 3), plus_minus(0.0, 3), plus_minus(math.nan), plus_minus(1.523)
    (' ± 0.012', ' ± <0.001', ' ± 0.000', '', ' ± 1.5')
    """
    if math.isnan(error):
        return ""
    if digits is None:
        return f" ± {error:.2g}"
    least = 10.0**-digits
    return f" ± <{least:.{digits}f}" if 0 < error < least / 2 else f" ± {error:.{digits}f}"


def _in_words(result: TaskResult) -> str:
    spec = result.spec
    style, digits = (".3f", 3) if spec.names else (".4g", None)
    numbers = zip(spec.names or (spec.name,), result.values, result.stderr, strict=False)
    return ", ".join(
        f"{name} {value:{style}}{plus_minus(error, digits)}{limits(result.interval(index), style)}"
        for index, (name, value, error) in enumerate(numbers)
    )


def limits(interval: tuple[float, float] | None, style: str = ".3f") -> str:
    """The ends of an interval in words; empty where there is none.

    >>> limits((0.9041, 0.9487)), limits(None)
    (' [0.904, 0.949]', '')
    """
    return "" if interval is None else f" [{interval[0]:{style}}, {interval[1]:{style}}]"
