"""Targets: from the rows of a manifest to what each task is to learn of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64

from wsi_ats.catalogue import TASK_KINDS
from wsi_ats.config import Config
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row
from wsi_ats.manifest.spellings import refuse_spellings
from wsi_ats.shown import counted
from wsi_ats.tasks.make import make_tasks
from wsi_ats.tasks.settings import asked, columns_of_targets
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import NOT_GIVEN

Targets = tuple[Float64[np.ndarray, " _"], ...]
"""Targets of one slide, an array (T,) a task; nan where it is not known."""


def ask(config: Config, rows: Sequence[Row]) -> list[Task]:
    """The tasks that the settings ask for, with the classes and grades that the rows have.

    Raises `ConfigError` naming the task or slide, the column, the value and the rule.
    """
    settings = asked(config.tasks)
    compared = [name for name, task in settings.items() if TASK_KINDS[task.kind].compares]
    if compared and config.train.batch < 2:
        raise ConfigError(
            f"train.batch is {config.train.batch} and task {compared[0]!r} compares the slides of a batch",
            remedy="use a train.batch of at least 2",
        )
    columns = columns_of_targets(settings)
    for name, task in settings.items():
        if TASK_KINDS[task.kind].names in ("found", "grades") and not task.grades:
            column = task.columns(name)[0]
            refuse_spellings(f"column {column!r}", [row.cell(column) for row in rows], "classes")
    tasks = make_tasks(settings, {column: [row.cell(column) for row in rows] for column in columns})
    targets_of(tasks, rows)
    return tasks


def refuse_lacking(tasks: Sequence[Task], rows: Sequence[Row]) -> None:
    """Raise `ConfigError` where the slides of a split are not enough, whatever may be wrong with any of them."""
    for split in ("train", "val"):
        mine = [row for row in rows if row.split == split]
        for task, targets in zip(tasks, targets_of(tasks, mine), strict=True):
            lacking = task.lacks(targets)
            if lacking:
                raise ConfigError(
                    f"the {split} split has no {lacking} (it has {counted(len(mine), 'slide')})",
                    remedy="add such slides to it: change the column `split`; where there is none, train.val_fraction",
                )


def target_of(tasks: Iterable[Task], row: Row) -> Targets:
    """Targets that a row holds, an array (T,) a task. Raises `ConfigError`."""
    try:
        return tuple(np.array(task.read([row.cell(c) for c in task.columns])) for task in tasks)
    except ConfigError as error:
        raise ConfigError(f"slide {row.slide!r}: {error.message}", error.remedy) from None


def targets_of(tasks: Iterable[Task], rows: Iterable[Row]) -> list[Float64[np.ndarray, "n _"]]:
    """Targets that the rows hold, an array (n, T) a task. Raises `ConfigError`."""
    tasks = list(tasks)
    nothing = [task.read([""] * len(task.columns)) for task in tasks]
    each = [target_of(tasks, row) for row in rows]
    return stacked(each) if each else [np.empty((0, len(target))) for target in nothing]


def classes_of(task: Task, rows: Sequence[Row], strata: Sequence[str | None] | None = None) -> list[str]:
    """Class of each row for tables: the text of a class or grade, else its stratum; empty where it has none.

    strata: those of the rows, where they are known already.
    """
    if TASK_KINDS[task.spec.kind].names in ("found", "grades"):
        cells = [row.cell(task.columns[0]) for row in rows]
        return ["" if cell in NOT_GIVEN else cell for cell in cells]
    if strata is None:
        strata = task.strata(targets_of([task], rows)[0])
    return [stratum or "" for stratum in strata]


def counts_of(tasks: Sequence[Task], targets: Iterable[Float64[np.ndarray, "n _"]]) -> dict[str, str]:
    """Words by name for what there is to learn from; with several tasks, names begin with the task's."""
    return {
        f"{task.spec.name}: {name}" if len(tasks) > 1 else name: words
        for task, mine in zip(tasks, targets, strict=True)
        for name, words in task.counts(mine).items()
    }


def stacked(each: Sequence[Targets]) -> list[Float64[np.ndarray, "n _"]]:
    """Targets of slides stacked, an array (n, T) a task."""
    return [np.stack(targets) for targets in zip(*each, strict=True)]
