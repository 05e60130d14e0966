"""Two models on the same slides: is one better, or is it these slides?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from wsi_ats.errors import ConfigError
from wsi_ats.evaluate.answers import read_answers
from wsi_ats.evaluate.join import Joined, Truth, join, read_truth
from wsi_ats.evaluate.positive import choose_positive
from wsi_ats.evaluate.run import How
from wsi_ats.manifest.table import Warn
from wsi_ats.statistics.clusters import Patients, Sampled, sample_figures, values_of
from wsi_ats.statistics.delong import Difference, compare_areas
from wsi_ats.statistics.evaluation import Answered, alternatives, figures_of
from wsi_ats.statistics.mcnemar import Decisions, mcnemar
from wsi_ats.statistics.weighted import Figure, Weights
from wsi_ats.tasks.task import Task


@dataclass(frozen=True, eq=False)
class FigureComparison:
    """A figure of two models, and the difference, first less second, with its interval by paired resamples."""

    first: float
    second: float
    difference: Sampled

    @property
    def p(self) -> float:
        """Two-sided: twice the share of resamples in which the difference is not of the sign that it mostly is; nan
        where there is no interval."""
        drawn = self.difference.drawn
        drawn = drawn[~np.isnan(drawn)]
        if self.difference.interval.low is None:
            return float("nan")
        other_side = min((drawn <= 0).sum(), (drawn >= 0).sum())
        return float(min(1.0, 2 * (other_side + 1) / (len(drawn) + 1)))


@dataclass(frozen=True, eq=False)
class TaskComparison:
    """The comparison of two models' answers to a task."""

    task: Task
    slides: int
    patients: int
    figures: tuple[FigureComparison, ...]
    areas: tuple[tuple[str, Difference], ...]
    """DeLong's test of each area under a ROC curve, with the class or label that it is of."""
    decisions: Decisions | None
    """McNemar's test of the decisions; None where the answer is a number."""

    @property
    def clustered(self) -> bool:
        """Whether patients have several slides, which McNemar's test takes for independent."""
        return self.patients < self.slides


@dataclass(frozen=True, eq=False)
class Comparison:
    """The comparison of two models on the slides that both have."""

    joined: tuple[Joined, Joined]
    truth: Truth
    how: How
    tasks: tuple[TaskComparison, ...]


def compare(
    first: Path | str, second: Path | str, manifest: Path | str, how: How | None = None, *, warn: Warn = print
) -> Comparison:
    """Compare two folders or tables of answers about the slides of a manifest, on those that both have.

    Raises `ConfigError` where their tasks are not the same, or no slide is in both.
    """
    how = how or How()
    tables = [read_answers(Path(place), warn) for place in (first, second)]
    if tables[0].by != tables[1].by:
        raise ConfigError(
            f"{tables[0].path} answers about {tables[0].by}s and {tables[1].path} about {tables[1].by}s",
            remedy="predict both with the same --by",
        )
    pairs = paired(tables[0].tasks, tables[1].tasks)
    choose_positive(tables[0], how.chosen.positive, warn)
    truth = read_truth(Path(manifest), tables[0].tasks, how.chosen, warn)
    one, other = (join(answers, truth, warn) for answers in tables)
    common = {row.slide for row in one.rows} & {row.slide for row in other.rows}
    if not common:
        raise ConfigError(
            f"no slide has an answer in both {tables[0].path} and {tables[1].path}",
            "give answers about the same slides",
        )
    one, other = one.among(common), other.among(common)
    return Comparison((one, other), truth, how, tuple(_compare(a, b, one, other, how) for a, b in pairs))


def paired(first: Sequence[Task], second: Sequence[Task]) -> list[tuple[Task, Task]]:
    """Tasks of both by name; single ones whatever they are called. Raises `ConfigError` where none are alike."""
    by_name = {task.spec.name: task for task in second}
    pairs = [(task, by_name[task.spec.name]) for task in first if task.spec.name in by_name]
    if len(first) == len(second) == 1:
        pairs = [(first[0], second[0])]
    for a, b in pairs:
        if (a.spec.kind, a.spec.names) != (b.spec.kind, b.spec.names):
            raise ConfigError(
                f"task {a.spec.name!r} is {a.spec.kind} of {list(a.spec.names)} in the first and {b.spec.kind} of "
                f"{list(b.spec.names)} in the second: they cannot be compared",
                "give two models of the same classes",
            )
    if not pairs:
        names = [[task.spec.name for task in tasks] for tasks in (first, second)]
        raise ConfigError(
            f"the tasks {names[0]} and {names[1]} have none in common", "give two models of one task"
        )
    return pairs


def _compare(task: Task, its_twin: Task, one: Joined, other: Joined, how: How) -> TaskComparison:
    """Both on the slides for which both have an answer; positive and target are what they are in the first."""
    its_twin.settings = task.settings
    mine, rows = one.answered(task)
    theirs, other_rows = other.answered(its_twin)
    both = np.intersect1d(rows, other_rows)
    if not len(both):
        raise ConfigError(
            f"task {task.spec.name!r}: no slide has two answers and a known truth",
            "give labels of slides that both have answered",
        )
    mine, theirs = mine.of(np.isin(rows, both)), theirs.of(np.isin(other_rows, both))
    theirs = replace(theirs, positive=mine.positive)
    patients = Patients.of([one.rows[i].patient for i in both])
    decided = mcnemar(mine.right, theirs.right) if mine.names else None
    areas = tuple(_areas(mine, theirs, patients))
    return TaskComparison(
        task, len(both), len(patients), _differences(mine, theirs, patients, how), areas, decided
    )


def _differences(
    mine: Answered, theirs: Answered, patients: Patients, how: How
) -> tuple[FigureComparison, ...]:
    pairs = list(zip(figures_of(mine), figures_of(theirs), strict=True))
    figures = [_difference(a, b) for a, b in pairs]
    sampled = sample_figures(figures, patients, rounds=how.resamples, seed=how.seed, method=how.method)
    firsts, seconds = (values_of(side, len(mine)).tolist() for side in zip(*pairs, strict=True))
    return tuple(map(FigureComparison, firsts, seconds, sampled))


def _difference(first: Figure, second: Figure) -> Figure:
    """The difference of two figures of the same slides, which rests on the slides that either rests on."""

    def at(weights: Weights) -> Float64[np.ndarray, " R"]:
        return first.at(weights) - second.at(weights)

    groups = {name: slides | second.groups.get(name, slides) for name, slides in first.groups.items()}
    return replace(first, at=at, groups=groups, form="", undefined="one of the two has no value")


def _areas(mine: Answered, theirs: Answered, patients: Patients) -> list[tuple[str, Difference]]:
    """DeLong's test of each alternative, with patients as clusters."""
    pairs = zip(alternatives(mine), alternatives(theirs), strict=True)
    return [
        (a.of, compare_areas(a.probability, b.probability, a.happened, patients.index[a.known]))
        for a, b in pairs
        if len(np.unique(a.happened)) == 2
    ]
