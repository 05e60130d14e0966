"""Answers as tables keep them: predictions.csv of a batch, validation.csv of a run, or a table of another program."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from wsi_ats.batch.store import SlideStore, slide_folders
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.manifest.names import PATIENT, SLIDE, known
from wsi_ats.manifest.table import Table, Warn, read_table
from wsi_ats.model_folder import RUN_MODEL, read_tasks
from wsi_ats.shown import cell
from wsi_ats.tasks.answer import TaskSpec, spec_of
from wsi_ats.tasks.make import task_of
from wsi_ats.tasks.settings import LABEL, TaskSettings
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import NOT_GIVEN

PREDICTIONS, VALIDATION, RUN = "predictions.csv", "validation.csv", "run.json"
SUM = 5.1e-3
"""Largest distance from 1, a class, of the sum of a slide's probabilities: tables keep two digits or more."""


@dataclass(frozen=True, eq=False)
class Answers:
    """A table of answers, with what is known of the model that gave them."""

    table: Table
    tasks: tuple[Task, ...]
    slide: str
    """Column of the ids of slides or, in a table of patients, of these."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Folder and hash of the model, settings of the batch and their hash, as run.json has them; empty where unknown."""
    by: str = "slide"
    """What a row is about: `slide` or `patient`."""
    told_by_columns: bool = False
    """Whether nothing but the table's columns tells of the task, as of another program's."""

    @property
    def path(self) -> Path:
        """Path of the table."""
        return self.table.path

    def optional(self, column: str) -> list[str]:
        """The texts of a column; empty ones where there is no such column."""
        table = self.table
        return table.column(column) if column in table.columns else [""] * len(table.rows)

    def columns(self, task: Task) -> list[str]:
        """Columns of the values of a task."""
        return [self._prefix(task) + name for name in task.spec.values]

    def values(self, task: Task, rows: Sequence[int]) -> Float64[np.ndarray, "n V"]:
        """Values of a task in some rows; nan where there is none. Raises `ConfigError` naming the row of what is no
        value."""
        names = self.columns(task)
        values = np.empty((len(rows), len(names)))
        for j, name in enumerate(names):
            texts = self.table.column(name)
            for i, row in enumerate(rows):
                values[i, j] = _value(texts[row])
                if math.isinf(values[i, j]):
                    line = self.table.line(row)
                    raise ConfigError(
                        f"{line}: {name} is {texts[row]!r}; it must be a finite number",
                        "take the table as predict wrote it, or correct the cell",
                    )
        self._refuse_impossible(task, rows, values)
        return values

    def decisions(
        self, task: Task, rows: Sequence[int], values: Float64[np.ndarray, "n V"]
    ) -> Int64[np.ndarray, " n"]:
        """Index of the class or grade that each slide is said to have: as the column `prediction` says, else as the
        task makes it of the values; 0 of other kinds."""
        spec = task.spec
        if spec.kind not in ("classes", "ordinal"):
            return np.zeros(len(rows), np.int64)
        index = {cell(name): i for i, name in enumerate(spec.names)}
        told = self.optional(self.decision_column(task))
        texts = (
            told[row] if told[row] in index else cell(spec.text(np.nan_to_num(mine)))
            for row, mine in zip(rows, values, strict=True)
        )
        return np.array([index[text] for text in texts], np.int64)

    def decision_column(self, task: Task) -> str:
        """Column of the answers of a task in a word; a table need not have it."""
        return f"{self._prefix(task)}prediction"

    def _prefix(self, task: Task) -> str:
        return "" if task is self.tasks[0] else f"{task.spec.name}_"

    def _refuse_impossible(self, task: Task, rows: Sequence[int], values: Float64[np.ndarray, "n V"]) -> None:
        """Raise `ConfigError` naming a row whose probabilities are none."""
        p = values[:, : len(task.spec.names)]
        bad = ((p < 0) | (p > 1)).any(1)
        if task.spec.kind in ("classes", "ordinal"):
            bad |= np.abs(p.sum(1) - 1) > SUM * len(task.spec.names)
        wrong = np.flatnonzero(bad)
        if len(wrong):
            rule = "between 0 and 1" + ("" if task.spec.kind == "labels" else " with a sum of 1")
            raise ConfigError(
                f"{self.table.line(rows[wrong[0]])}: the probabilities are {p[wrong[0]].tolist()}; they must be {rule} "
                f"({len(wrong)} such rows)",
                remedy="give probabilities, not logits or percent",
            )


def read_answers(place: Path, warn: Warn) -> Answers:
    """The answers in an output folder of `predict`, in the folder of a run (of its validation slides), or in a table.

    Tasks, thresholds and classes are those of the results beside the table, or of the run's model; of a table alone
    they are read from its columns. Raises `ConfigError` for what holds no answers.
    """
    path = place
    if place.is_dir():
        there = [place / name for name in (PREDICTIONS, VALIDATION) if (place / name).is_file()]
        if not there:
            raise ConfigError(
                f"{place} has no {PREDICTIONS} or {VALIDATION}",
                remedy="give an output folder of `predict`, the folder of a run, or a table of predictions",
            )
        path = there[0]
    table = read_table(path, warn)
    record = _run_record(path.parent) if path.name == PREDICTIONS else {}
    beside = _tasks_beside(path, record)
    tasks = beside or [_told_by_columns(table)]
    slide, patient = (next(iter(known(table.columns, names)), "") for names in (SLIDE, PATIENT))
    by = "patient" if patient and not slide else "slide"
    answers = Answers(table, tuple(tasks), slide or patient, record, by, not beside)
    for column in (answers.slide or "slide", *(c for task in tasks for c in answers.columns(task))):
        if column not in table.columns:
            raise ConfigError(
                f"{path} has no column {column!r}; its columns are {list(table.columns)}",
                remedy="give the table as `predict` wrote it",
            )
    return answers


def trained_on(answers: Answers) -> list[str]:
    """Ids of the slides that the model of the answers was trained on, where the folder of its run is still around it;
    none where it is not."""
    model = Path(answers.model.get("folder", ""))
    try:
        table = (
            read_table(model.parent / "slides.csv", lambda said: None) if model.name == RUN_MODEL else None
        )
        if table is None:
            return []
        return [
            slide
            for slide, split in zip(table.column("slide"), table.column("split"), strict=True)
            if split == "train"
        ]
    except (ConfigError, ValueError):
        return []


def _run_record(folder: Path) -> dict[str, Any]:
    """What run.json says of the model."""
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        model = {"folder": str(record["model"]["folder"]), "hash": str(record["model"]["hash"])}
        return {**model, "config_hash": record.get("config_hash"), "config": record.get("config")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _tasks_beside(path: Path, record: Mapping[str, Any]) -> list[Task]:
    """The tasks that the files beside a table tell of; none where they tell nothing."""
    model = path.parent / RUN_MODEL
    if path.name == VALIDATION and model.is_dir():
        return read_tasks(model)
    fold = min(path.parent.glob(f"fold-*/{RUN_MODEL}"), default=None)
    if path.name == PREDICTIONS and fold is not None and not record:
        return [_without_rules(task) for task in read_tasks(fold)]
    by = (record.get("config") or {}).get("by", "slide")
    for name in sorted(slide_folders(path.parent, by)) if record else ():
        result = SlideStore.at(path.parent / f"{by}s" / name).result()
        if result is None or result["config_hash"] != record["config_hash"]:
            continue
        settings = _settings_of(record)
        specs = (
            spec_of(a["task"], a["kind"], a["names"], a.get("point"), a.get("sets"))
            for a in result["answers"]
        )
        return [_task(spec, settings.get(spec.name)) for spec in specs]
    return []


def _without_rules(task: Task) -> Task:
    """A task of a cross-validation, whose answers were decided by the thresholds of several models."""
    return task_of(replace(task.spec, point=None, sets=None), task.settings)


def _settings_of(record: Mapping[str, Any]) -> dict[str, TaskSettings]:
    """Settings of the tasks of the model in a run.json, where it is still there."""
    try:
        return {task.spec.name: task.settings for task in read_tasks(record["folder"])}
    except (ModelError, ConfigError):
        return {}


def _told_by_columns(table: Table) -> Task:
    """The one task whose values a table has. Raises `ConfigError` where there are none."""
    names = tuple(c.removeprefix("prob_") for c in table.columns if c.startswith("prob_"))
    if len(names) > 1 and "expected" in table.columns:
        return _task(TaskSpec(LABEL, "ordinal", names))
    if len(names) > 1:
        return _task(TaskSpec(LABEL, _classes_or_labels(table, names), names))
    numbers = {"value": "regression", "risk": "survival"}
    found = [kind for column, kind in numbers.items() if column in table.columns]
    if names or len(found) != 1:
        raise ConfigError(
            f"{table.path} has no answers that are known: its columns are {list(table.columns)}",
            remedy="give a column prob_<class> for each class, or a column `value` (a number) or `risk` (survival)",
        )
    return _task(TaskSpec(LABEL, found[0]))


def _classes_or_labels(table: Table, names: Sequence[str]) -> str:
    """Classes where the probabilities of every slide sum to 1."""
    rows = zip(*(map(_value, table.column(f"prob_{name}")) for name in names), strict=True)
    sums = np.array([sum(row) for row in rows])
    far = np.abs(sums[np.isfinite(sums)] - 1) > SUM * len(names)
    return "labels" if far.any() else "classes"


def _task(spec: TaskSpec, settings: TaskSettings | None = None) -> Task:
    """The task of a spec, its target in columns of the usual names where settings do not say."""
    if settings is None and spec.kind == "labels":
        settings = TaskSettings(kind="labels", target=spec.names)
    if settings is None and spec.kind == "survival":
        settings = TaskSettings(kind="survival", event="event")
    return task_of(spec, settings)


def _value(text: str) -> float:
    """The number of a cell; nan where it is empty, inf where it is no finite number."""
    try:
        value = math.nan if text in NOT_GIVEN else float(text)
    except ValueError:
        return math.inf
    return (
        math.nan if math.isnan(value) and text in NOT_GIVEN else (value if math.isfinite(value) else math.inf)
    )
