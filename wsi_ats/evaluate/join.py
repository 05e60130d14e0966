"""Answers and truth, joined by slide: which slides are in both, and what became of the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from wsi_ats.errors import ConfigError
from wsi_ats.evaluate.answers import Answers
from wsi_ats.evaluate.contradictions import tell_contradictions
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.manifest.columns import site_column
from wsi_ats.manifest.patients import rows_by
from wsi_ats.manifest.rows import of_train
from wsi_ats.manifest.table import Warn, read_table
from wsi_ats.shown import cell, counted
from wsi_ats.statistics.evaluation import Answered
from wsi_ats.tasks.settings import LABEL
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import natural_order
from wsi_ats.train.targets import classes_of, targets_of

NAMED = 3
"""Number of slides that a message names."""


@dataclass(frozen=True)
class Chosen:
    """The slides of a manifest that are asked for, and where it says what of them."""

    target: str | None = None
    """Column of the only task's target; None: the task's own."""
    split: str | None = None
    """Split whose slides are taken; None: all."""
    site: str | None = None
    """Column of the sites; `none`: there is none; None: one under a common name."""
    patient: str | None = None
    """Column of the patients, likewise."""
    slides_dir: Path | str | None = None
    """Folder that paths start at; None: that of the manifest."""
    positive: str | None = None
    """Positive one of the only task's two classes; None: that of the model, or the last of them."""


@dataclass(frozen=True)
class Truth:
    """Labelled slides of a manifest."""

    path: Path
    rows: tuple[Row, ...]
    site_column: str
    """Column of the sites; empty where there is none."""


@dataclass(frozen=True)
class Flow:
    """The flow of slides: how many there were, and what became of them."""

    labelled: int
    """Labelled slides of the manifest."""
    predicted: int
    """Slides of the table of answers, whatever became of them."""
    failed: int
    """Labelled slides that failed: no figure knows of them."""
    pending: int
    """Labelled slides that were not predicted before an interruption."""
    without_answer: tuple[str, ...]
    """Labelled slides that the table of answers does not have."""
    without_label: int
    """Slides of the table that the manifest does not have."""
    evaluated: int
    patients: int
    """Patients of the slides that are evaluated."""
    by: str = "slide"
    """What is counted: `slide` or `patient`."""
    by_class: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Labelled slides of each class or grade of the first task, and those of them that failed; none of other kinds."""

    def lines(self) -> list[str]:
        """The flow in words."""
        said = [
            f"{self.evaluated} of {self.labelled} labelled {self.by}s have an answer "
            f"({counted(self.patients, 'patient')})"
        ]
        if self.failed or self.pending:
            said.append(f"left out: {self.failed} {self.by}(s) that failed, {self.pending} that are pending")
        if self.without_answer:
            more = ", ..." if len(self.without_answer) > NAMED else ""
            some = ", ".join(self.without_answer[:NAMED]) + more
            said.append(
                f"left out: {len(self.without_answer)} labelled {self.by}(s) that were not predicted: {some}"
            )
        if self.without_label:
            said.append(
                f"left out: {self.without_label} predicted {self.by}(s) that the manifest does not have"
            )
        return said

    def to_values(self) -> dict[str, Any]:
        """Plain values of JSON."""
        return {**asdict(self), "without_answer": list(self.without_answer)}


@dataclass(frozen=True, eq=False)
class Joined:
    """Answers of slides whose truth is known, one entry a slide."""

    answers: Answers
    rows: tuple[Row, ...]
    places: tuple[int, ...]
    """Row of each slide in the table of answers."""
    folds: tuple[str, ...]
    flow: Flow

    @property
    def sites(self) -> tuple[str, ...]:
        """Site of each slide; empty where it is not known."""
        return tuple(row.site for row in self.rows)

    def among(self, slides: set[str]) -> Joined:
        """The part that is of some slides, by their ids in the manifest."""
        kept = [i for i, row in enumerate(self.rows) if row.slide in slides]
        rows = tuple(self.rows[i] for i in kept)
        return replace(
            self,
            rows=rows,
            places=tuple(self.places[i] for i in kept),
            folds=tuple(self.folds[i] for i in kept),
            flow=replace(self.flow, evaluated=len(rows), patients=len({row.patient for row in rows})),
        )

    def answered(self, task: Task) -> tuple[Answered, Int64[np.ndarray, " n"]]:
        """Answers of a task about the slides that have one and of which the truth is known, and which slides these
        are."""
        spec, values = task.spec, self.answers.values(task, self.places)
        targets = targets_of([task], self.rows)[0]
        decisions = self.answers.decisions(task, self.places, values)
        positive = spec.point.positive if spec.point else task.settings.positive
        number = spec.names.index(positive) if positive in spec.names else len(spec.names) - 1
        usable = ~np.isnan(values).any(1) & ~np.isnan(targets).all(1)
        every = Answered(spec.kind, spec.names, values, targets, decisions, number)
        return every.of(usable), np.flatnonzero(usable).astype(np.int64)


def read_truth(manifest: Path, tasks: Sequence[Task], chosen: Chosen, warn: Warn) -> Truth:
    """Labelled slides of a manifest; the tasks are told which columns their targets are in.

    A warning is given where slides that may have been trained on are among them. Raises `ConfigError` naming the
    manifest, the column, the rule.
    """
    columns = list(dict.fromkeys(column for task in tasks for column in task.columns))
    if chosen.target is not None and len(columns) > 1:
        raise ConfigError(
            f"--target is {chosen.target} and the answers are about the columns {', '.join(columns)}",
            remedy="name the columns of the manifest so, and leave --target out",
        )
    several = len(columns) > 1
    table = read_table(manifest, warn)
    rows = read_manifest(
        table,
        chosen.target or columns[0],
        columns if several else (),
        patient=chosen.patient,
        site=chosen.site,
        slides_dir=chosen.slides_dir,
        warn=warn,
    )
    for task in () if several else tasks:  # a single column is the label, whatever its name
        task.settings = task.settings.model_copy(update={"target": LABEL})
    kept = [row for row in rows if chosen.split in (None, row.split)]
    if not kept:
        raise ConfigError(
            f"manifest {manifest} has no slide of split {chosen.split!r}",
            "name another --split, or leave it out",
        )
    trained = of_train(kept)
    if trained and chosen.split is None:
        warn(
            f"{trained}: what a model was trained on says nothing of "
            "other slides; --split test leaves them out"
        )
    return Truth(manifest, tuple(kept), site_column(table, chosen.site))


def join(answers: Answers, truth: Truth, warn: Warn) -> Joined:
    """Answers and truth by slide, or by patient where the answers are about patients: ids that are equal or, where no
    slide's are, names of files that are unique on both sides, which is told.

    Raises `ConfigError` where no slide is in both, or a slide has two answers.
    """
    truth = replace(truth, rows=tuple(rows_by(answers.by, truth.rows)))
    place = _places(answers)
    ids = [cell(row.slide) for row in truth.rows]
    if answers.by == "slide" and not any(id in place for id in ids):
        by_name = _by_name(list(place), ids)
        ids = [by_name.get(id, id) for id in ids]
        if by_name:
            warn(
                f"{answers.path} and {truth.path} are joined by the names of files: their {_differing(by_name)} differ"
            )
    found = [place.get(id) for id in ids]
    status = answers.optional("status")
    states = Counter(status[p] for p in found if p is not None)
    kept = {i: p for i, p in enumerate(found) if p is not None and status[p] not in ("failed", "pending")}
    if not kept:
        raise ConfigError(
            f"no {answers.by} of {truth.path} has an answer in {answers.path}; the first ones are "
            f"{[row.slide for row in truth.rows[:2]]} there and {list(place)[:2]} here",
            remedy=f"the column `{answers.by}` of both must name the same {answers.by}s",
        )
    rows = tuple(truth.rows[i] for i in kept)
    tell_contradictions(answers, truth.path, rows, tuple(kept.values()), warn)
    folds = answers.optional("fold")
    flow = Flow(
        labelled=len(truth.rows),
        predicted=len(place),
        failed=states["failed"],
        pending=states["pending"],
        without_answer=tuple(row.slide for row, p in zip(truth.rows, found, strict=True) if p is None),
        without_label=len(place) - len({p for p in found if p is not None}),
        evaluated=len(rows),
        patients=len({row.patient for row in rows}),
        by=answers.by,
        by_class=_by_class(
            answers.tasks[0], truth.rows, [p is not None and status[p] == "failed" for p in found]
        ),
    )
    return Joined(
        answers,
        rows,
        tuple(kept.values()),
        tuple(folds[p] for p in kept.values()),
        flow,
    )


def _by_class(task: Task, rows: Sequence[Row], failed: Sequence[bool]) -> dict[str, dict[str, int]]:
    """Labelled and failed slides of each class; nothing where the task has no classes."""
    if task.spec.kind not in ("classes", "ordinal"):
        return {}
    classes = [cell(name) for name in classes_of(task, rows)]
    labelled = Counter(classes)
    hit = Counter(name for name, lost in zip(classes, failed, strict=True) if lost)
    return {
        name: {"labelled": labelled[name], "failed": hit[name]} for name in natural_order({*labelled} - {""})
    }


def _places(answers: Answers) -> dict[str, int]:
    """Row of each slide in the table. Raises `ConfigError` for two rows of one slide that answer differently."""
    place: dict[str, int] = {}
    table = answers.table
    told = [table.columns.index(column) for task in answers.tasks for column in answers.columns(task)]
    for row, id in enumerate(table.column(answers.slide)):
        first = place.setdefault(id, row)
        if any(table.rows[first][i] != table.rows[row][i] for i in told):
            raise ConfigError(
                f"{table.line(first)} and {table.line(row)} have different answers for slide {id!r}",
                remedy="keep one answer a slide",
            )
    return place


def _by_name(predicted: Sequence[str], labelled: Sequence[str]) -> dict[str, str]:
    """Predicted ids of labelled slides by the name of the file without its suffix, where that is unique."""
    theirs, ours = (Counter(map(_name, ids)) for ids in (predicted, labelled))
    full = {_name(id): id for id in predicted if theirs[_name(id)] == 1}
    return {id: full[_name(id)] for id in labelled if ours[_name(id)] == 1 and _name(id) in full}


def _differing(joined: Mapping[str, str]) -> str:
    """Words for what differs between the ids of slides that have one name: folders, suffixes or both."""
    pairs = [tuple(re.split(r"[/\\]", id) for id in pair) for pair in joined.items()]
    differ = {
        "folders": any(one[:-1] != other[:-1] for one, other in pairs),
        "suffixes": any(one[-1] != other[-1] for one, other in pairs),
    }
    return " and ".join(what for what, does in differ.items() if does)


def tell_trained_on(truth: Truth, trained: Sequence[str], warn: Warn) -> None:
    """Warn of slides that have the name of one that the model was trained on, where the manifest does not say so."""
    names = set(map(_name, trained))
    found = [row.slide for row in truth.rows if row.split is None and _name(row.slide) in names]
    if found:
        warn(
            f"{len(found)} of {len(truth.rows)} slides have the names of slides that the model was trained on, "
            f"{found[0]!r} for one: what a model was trained on says nothing of other slides; leave them out"
        )


def _name(id: str) -> str:
    """Name of a slide's file without folder and suffix."""
    name = re.split(r"[/\\]", id)[-1]
    return re.sub(r"\.[A-Za-z][A-Za-z0-9]{1,4}$", "", name).removesuffix(".ome")
