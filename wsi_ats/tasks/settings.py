"""Settings of a task: what is asked of a slide, and which columns of the manifest hold the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wsi_ats.settings import Section
from wsi_ats.tasks.answer import Kind

Positive = Annotated[float, Field(gt=0)]


class TaskSettings(Section):
    """One task, under a name of your choice; the first is the main one. Without any: classes in column `label`."""

    kind: Kind = "classes"
    """classes: one of several; labels: any of several; ordinal: grades; regression: a number; survival: a risk."""
    target: str | tuple[str, ...] = ()
    """Column of the manifest (of labels: one column a label, with 0 or 1; of survival: the time); default: NAME."""
    event: str = ""
    """Column of a survival task: 1 where the time ends with the event, 0 where observation ended before it."""
    grades: tuple[str, ...] = ()
    """Grades of an ordinal task, lowest first; numbers need not be listed."""
    class_weights: Literal["none", "balanced"] | dict[str, Positive] = "none"
    """balanced: every class, grade or side of a label weighs the same in the loss, however rare; or a table of weights
    (of labels: of their presence against their absence)."""
    strength: float = Field(default=1.0, gt=0)
    """Weight of this task's loss, and of its score in the choice of the epoch, among those of several tasks."""

    @model_validator(mode="after")
    def _go_together(self) -> TaskSettings:
        targets = (self.target,) if isinstance(self.target, str) else self.target
        rules = (
            (
                (self.kind == "survival") == bool(self.event),
                f"event = {self.event!r}: a survival task needs the column of its event, others have none",
            ),
            (
                len(targets) <= 1 or self.kind == "labels",
                f"target = {list(targets)}: {self.kind} has one column",
            ),
            (
                not self.grades or self.kind == "ordinal",
                f"grades = {list(self.grades)}: {self.kind} has none",
            ),
            (
                self.class_weights == "none" or self.kind in ("classes", "labels", "ordinal"),
                f"class_weights = {self.class_weights!r}: {self.kind} has no classes",
            ),
        )
        for holds, complaint in rules:
            if not holds:
                raise ValueError(complaint)
        return self

    def columns(self, name: str) -> tuple[str, ...]:
        """Columns of the manifest that hold the target of the task called `name`."""
        targets = (self.target,) if isinstance(self.target, str) else self.target
        return (*(targets or (name,)), *((self.event,) if self.event else ()))


LABEL = "label"
"""Name of the only task where the settings name none, and the column of its classes."""


def columns_of_targets(tasks: Mapping[str, TaskSettings]) -> list[str]:
    """Columns of the manifest that hold targets, each once."""
    return list(dict.fromkeys(column for name, task in tasks.items() for column in task.columns(name)))


def asked(tasks: Mapping[str, TaskSettings]) -> Mapping[str, TaskSettings]:
    """The tasks of the settings, or the one that they need not name: classes."""
    return tasks or {LABEL: TaskSettings()}
