"""Tasks by their kind."""

from __future__ import annotations

from collections.abc import Sequence

from wsi_ats.answer import Question
from wsi_ats.errors import ConfigError
from wsi_ats.tasks.classes import Classes
from wsi_ats.tasks.task import Task


def as_tasks(tasks: Sequence[Task] | Sequence[str]) -> list[Task]:
    """The tasks as they are; bare names are the classes of a single task."""
    names = [name for name in tasks if isinstance(name, str)]
    if not names and tasks:
        return [task for task in tasks if isinstance(task, Task)]
    if len(names) < 2:
        raise ConfigError(f"a classifier needs at least 2 classes, got {names}")
    return [Classes(Question("label", "classes", tuple(names)))]
