"""Tasks by their kind: from settings and a manifest, or as a model folder keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsi_ats.catalogue import TASK_KINDS, code_of
from wsi_ats.errors import ConfigError
from wsi_ats.tasks.answer import TaskSpec, columns_of, spec_of
from wsi_ats.tasks.calibration import Calibration
from wsi_ats.tasks.classes import Classes
from wsi_ats.tasks.settings import LABEL, TaskSettings
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import NOT_GIVEN, is_number, natural_order

OF_SPEC = ("name", "kind", "names", "calibration", "point", "sets")
"""Keys of a card that are not numbers which a kind of task needs."""


def make_tasks(asked: Mapping[str, TaskSettings], cells: Mapping[str, Sequence[str]]) -> list[Task]:
    """The tasks of the settings; classes and grades are those that the manifest's columns hold.

    cells: the texts of every column that a target is in. Raises `ConfigError` for a target that is no task, and for
    tasks whose columns in predictions.csv would have one name.
    """
    tasks = []
    for name, settings in asked.items():
        column, *_ = columns = settings.columns(name)
        found = natural_order(set(cells[column]) - NOT_GIVEN)
        names = {"found": found, "columns": columns, "grades": settings.grades or found, "none": ()}
        chosen = _checked(names[TASK_KINDS[settings.kind].names], name, settings)
        tasks.append(task_of(TaskSpec(name, settings.kind, chosen), settings))
    columns_made = columns_of([task.spec for task in tasks])
    twice = [column for i, column in enumerate(columns_made) if column in columns_made[:i]]
    if twice:
        raise ConfigError(
            f"the tasks {', '.join(asked)} would give predictions.csv two columns {twice[0]!r}",
            remedy="rename a task, a class, a label or a grade",
        )
    return tasks


def as_tasks(tasks: Sequence[Task] | Sequence[str]) -> list[Task]:
    """The tasks as they are; bare names become the classes of a single task."""
    names = tuple(name for name in tasks if isinstance(name, str))
    if tasks and not names:
        return [task for task in tasks if isinstance(task, Task)]
    return [Classes(TaskSpec(LABEL, "classes", _checked(names, LABEL, TaskSettings())))]


def to_card(task: Task) -> dict[str, Any]:
    """Plain values that a model's settings keep of a task."""
    spec = task.spec
    fitted = {"calibration": task.calibration, "point": spec.point, "sets": spec.sets}
    return {
        "name": spec.name,
        "kind": spec.kind,
        "names": list(spec.names),
        **task.learned,
        **{key: value.to_values() for key, value in fitted.items() if value is not None},
    }


def from_card(card: Mapping[str, Any], asked: Mapping[str, TaskSettings]) -> Task:
    """The task that `to_card` wrote down. Raises `KeyError`, `TypeError` or `ValueError` for what it cannot have."""
    learned = {key: float(value) for key, value in card.items() if key not in OF_SPEC}
    spec = spec_of(str(card["name"]), card["kind"], card["names"], card.get("point"), card.get("sets"))
    task = task_of(spec, asked.get(spec.name), **learned)
    if "calibration" in card:
        task.calibration = Calibration.of_values(card["calibration"])
        if len(task.calibration.slopes) != task.outputs:
            raise ValueError(f"{len(task.calibration.slopes)} slopes for {task.outputs} outputs")
    return task


def task_of(spec: TaskSpec, settings: TaskSettings | None = None, **learned: float) -> Task:
    """The task of a spec; learned: numbers that a trained one needs beside its weights."""
    task: Task = code_of(TASK_KINDS[spec.kind].make)(spec, settings, **learned)
    return task


def _checked(names: tuple[str, ...], task: str, settings: TaskSettings) -> tuple[str, ...]:
    """The classes, labels or grades of a task, if these are enough and in an order that is known."""
    named_by = TASK_KINDS[settings.kind].names
    if named_by in ("found", "grades") and len(names) < 2:
        raise ConfigError(
            f"task {task!r} needs at least 2 classes, got {list(names)}",
            remedy="label slides of another class, or choose another kind of task",
        )
    if named_by == "grades" and not settings.grades and not all(map(is_number, names)):
        raise ConfigError(
            f"task {task!r} is ordinal and its grades are {', '.join(names)}: which is higher is not known",
            remedy=f'name them, lowest first: tasks.{task}.grades = ["low", "high"]',
        )
    return names
