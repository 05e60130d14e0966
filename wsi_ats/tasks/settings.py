"""Settings of a task: what is asked of a slide, and which columns of the manifest hold the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from wsi_ats.catalogue import TASK_KINDS, one_of
from wsi_ats.settings import Section

Positive = Annotated[float, Field(gt=0, le=1e6)]


class TaskSettings(Section):
    """One task, under a name of your choice; the first is the main one. Without any: classes in column `label`."""

    kind: Annotated[str, AfterValidator(one_of(TASK_KINDS))] = "classes"
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
    positive: str = ""
    """Of two classes the one that a threshold is for; default: the last in order, as in benign, tumour or 0, 1."""
    threshold: Literal["youden", "half", "sensitivity", "specificity", "cost"] = "youden"
    """How the threshold of two classes is chosen on the validation slides: youden, the largest sum of sensitivity and
    specificity; half; sensitivity or specificity of at least `wish`; cost, where a missed positive costs `wish` false
    alarms."""
    wish: float | None = Field(default=None, gt=0, le=1e6)
    """Wished sensitivity or specificity, or the cost of a missed positive in false alarms."""
    set_error: float = Field(default=0.1, gt=0, le=0.5)
    """Share of the slides of each class whose prediction set may lack it; sets are made where there are validation
    slides enough, 9 a class for 0.1."""
    strength: float = Field(default=1.0, gt=0, le=1e6)
    """Weight of this task's loss, and of its score in the choice of the epoch, among those of several tasks."""

    @model_validator(mode="after")
    def _go_together(self) -> TaskSettings:
        targets = (self.target,) if isinstance(self.target, str) else self.target
        takes = TASK_KINDS[self.kind].takes
        rules = (
            (
                ("event" in takes) == bool(self.event),
                f"event = {self.event!r}: a survival task needs the column of its event, others have none",
            ),
            (
                len(targets) <= 1 or "columns" in takes,
                f"target = {list(targets)}: {self.kind} has one column",
            ),
            (
                not self.grades or "grades" in takes,
                f"grades = {list(self.grades)}: {self.kind} has none",
            ),
            (
                "positive" in takes
                or (not self.positive and self.threshold == "youden" and self.set_error == 0.1),
                f"positive, threshold and set_error are for classes: {self.kind} has none",
            ),
            (
                (self.wish is not None) == (self.threshold in ("sensitivity", "specificity", "cost")),
                f"threshold = {self.threshold!r} and wish = {self.wish}: sensitivity, specificity, cost have a wish, "
                "the others none",
            ),
            (
                self.wish is None or self.threshold == "cost" or self.wish <= 1,
                f"wish = {self.wish}: a {self.threshold} is at most 1",
            ),
            (
                self.class_weights == "none" or "class_weights" in takes,
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
