"""An evaluation: answers and truth in, figures with intervals out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from wsi_ats.arguments import whole_number
from wsi_ats.errors import ConfigError
from wsi_ats.evaluate.answers import Answers, read_answers, trained_on
from wsi_ats.evaluate.join import Chosen, Joined, Truth, join, read_truth, tell_trained_on
from wsi_ats.evaluate.positive import choose_positive
from wsi_ats.manifest.table import Warn
from wsi_ats.statistics.clusters import ROUNDS, Method, Patients, Sampled, sample_figures, values_of
from wsi_ats.statistics.evaluation import Answered, figures_of
from wsi_ats.tasks.task import Task


class Told:
    """A function that gets what the user should know, passes it on, and keeps it.

    >>> told = Told(print)
    >>> told("s1.svs was trained on")
    s1.svs was trained on
    >>> told.words
    ['s1.svs was trained on']
    """

    def __init__(self, warn: Warn) -> None:
        self._warn = warn
        self.words: list[str] = []

    def __call__(self, words: str) -> None:
        """Pass a sentence on."""
        self.words.append(words)
        self._warn(words)


@dataclass(frozen=True)
class How:
    """How an evaluation is made: of which slides, and how intervals are had."""

    chosen: Chosen = field(default_factory=Chosen)
    resamples: int = ROUNDS
    method: Method = "bca"
    seed: int = 0
    """Seed of the resamples."""

    def __post_init__(self) -> None:
        whole_number("resamples", self.resamples, 100)


@dataclass(frozen=True, eq=False)
class Part:
    """The figures of some of the slides."""

    by: str
    """`all`, `site` or `fold`."""
    member: str
    """The site or fold; empty for all."""
    slides: int
    patients: int
    figures: tuple[Sampled, ...]


@dataclass(frozen=True, eq=False)
class TaskEvaluation:
    """The evaluation of a task."""

    task: Task
    answered: Answered
    rows: Int64[np.ndarray, " n"]
    """Positions in `Evaluation.joined` of the slides that have an answer and a known truth."""
    patients: Patients
    parts: tuple[Part, ...]
    """All slides first, then each site and each fold where there are several."""
    by_seed: Float64[np.ndarray, "S F"]
    """Value of each figure of all slides under each seed of the draws; none where there is one seed."""

    @property
    def positive(self) -> str:
        """The positive one of two classes; empty of other tasks."""
        names = self.answered.names
        return names[self.answered.positive] if self.answered.kind == "classes" and len(names) == 2 else ""

    @property
    def threshold(self) -> float | None:
        """Probability from which a slide is called positive; None of other tasks, and where the table's own decisions
        follow a rule that is not known."""
        if not self.positive:
            return None
        point, answered = self.task.spec.point, self.answered
        threshold = point.threshold if point else 0.5
        p = answered.values[:, answered.positive]
        as_said = (p >= threshold) == (answered.decisions == answered.positive)
        rounded = np.abs(p - threshold) < 1e-6  # in the table, perhaps to the other side
        return threshold if (as_said | rounded).all() else None

    @property
    def rule(self) -> str:
        """Words on how values are put into an answer; empty where the answer is a number."""
        if not self.positive:
            rules = {
                "classes": "the most probable class",
                "ordinal": "the median grade",
                "labels": "labels of a probability of 0.500 or more",
            }
            return rules.get(self.answered.kind, "")
        if self.threshold is None:
            return f"{self.positive} as the column `prediction` says"
        if self.task.spec.point:
            return str(self.task.spec.point)
        return f"{self.positive} from a probability of 0.500 (no threshold is stated)"

    def spread(self, figure: int) -> tuple[float, float, float] | None:
        """Standard deviation, least and largest value of a figure over the seeds of the draws; None where they are not
        known."""
        values = self.by_seed[:, figure] if len(self.by_seed) else np.empty(0)
        values = values[~np.isnan(values)]
        if len(values) < 2:
            return None
        return float(values.std(ddof=1)), float(values.min()), float(values.max())


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What answers are worth on slides of known truth.

    joined: answers and truth; of several seeds of the draws those of the first.
    """

    joined: Joined
    truth: Truth
    how: How
    tasks: tuple[TaskEvaluation, ...]
    seeds: tuple[int, ...] = ()
    """Seeds of the draws, where there were several."""
    warnings: tuple[str, ...] = ()
    """Sentences on what the figures do not show."""


def evaluate(
    places: Sequence[Path | str],
    manifest: Path | str,
    how: How | None = None,
    *,
    seeds: Sequence[int] = (),
    warn: Warn = print,
) -> Evaluation:
    """Evaluate answers about the slides of a manifest.

    places: an output folder of `predict`, the folder of a run, or a table of predictions; more than one where the draws
    were repeated with the `seeds`, which are compared on the slides that all of them have. Raises `ConfigError` where
    answers and truth do not go together.
    """
    how, told = how or How(), Told(warn)
    tables = [read_answers(Path(place), told) for place in places]
    choose_positive(tables[0], how.chosen.positive, told)
    truth = read_truth(Path(manifest), tables[0].tasks, how.chosen, told)
    tell_trained_on(truth, trained_on(tables[0]), told)
    return evaluate_answers(tables, truth, how, seeds=seeds, told=told)


def evaluate_answers(
    tables: Sequence[Answers], truth: Truth, how: How, *, seeds: Sequence[int] = (), told: Told
) -> Evaluation:
    """Evaluate answers, one table a seed of the draws, on slides of known truth. Raises `ConfigError` as `evaluate`."""
    every_task = [task for answers in tables for task in answers.tasks]
    for task, first in zip(every_task, tables[0].tasks * len(tables), strict=True):
        task.settings = first.settings
    joined = [join(answers, truth, told) for answers in tables]
    if len(joined) > 1:
        common = set.intersection(*({row.slide for row in each.rows} for each in joined))
        joined = [each.among(common) for each in joined]
        if not common:
            raise ConfigError(
                "no slide has an answer under every seed of the draws", "see failures.csv of each seed"
            )
    tasks = tuple(_evaluate(number, joined, how) for number in range(len(tables[0].tasks)))
    several = tuple(seeds) if len(tables) > 1 else ()
    return Evaluation(joined[0], truth, how, tasks, several, tuple(dict.fromkeys(told.words)))


def _evaluate(number: int, joined: Sequence[Joined], how: How) -> TaskEvaluation:
    first = joined[0]
    task = first.answers.tasks[number]
    answered, rows = first.answered(task)
    if not len(rows):
        raise ConfigError(
            f"task {task.spec.name!r}: no slide has an answer and a known truth",
            "label the slides in the column of the target",
        )
    names = [first.rows[i].patient for i in rows]
    patients = Patients.of(names)
    parts = [Part("all", "", len(answered), len(patients), _sampled(answered, patients, how))]
    for by, members in (("site", first.sites), ("fold", first.folds)):
        parts += _parts(by, [members[i] for i in rows], answered, names, how)
    return TaskEvaluation(task, answered, rows, patients, tuple(parts), _by_seed(number, joined))


def _by_seed(number: int, joined: Sequence[Joined]) -> Float64[np.ndarray, "S F"]:
    """Values of the figures under each seed."""
    every = [each.answered(each.answers.tasks[number])[0] for each in joined]
    values = [values_of(figures_of(answered), len(answered)) for answered in every]
    return np.stack(values) if len(joined) > 1 else np.empty((0, len(values[0])))


def _sampled(answered: Answered, patients: Patients, how: How) -> tuple[Sampled, ...]:
    figures = figures_of(answered)
    return tuple(sample_figures(figures, patients, rounds=how.resamples, seed=how.seed, method=how.method))


def _parts(by: str, members: Sequence[str], answered: Answered, names: Sequence[str], how: How) -> list[Part]:
    """Figures of each site or fold, where there are several."""
    parts = []
    for member in sorted({*members} - {""}) if len({*members}) > 1 else ():
        inside = np.array([each == member for each in members])
        mine = answered.of(inside)
        patients = Patients.of([name for name, i in zip(names, inside, strict=True) if i])
        parts.append(Part(by, member, len(mine), len(patients), _sampled(mine, patients, how)))
    return parts
