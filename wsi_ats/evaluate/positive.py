"""Which of two classes is the positive one: sensitivity, threshold and areas are of it."""

from __future__ import annotations

from wsi_ats.errors import ConfigError
from wsi_ats.evaluate.answers import Answers
from wsi_ats.manifest.table import Warn


def choose_positive(answers: Answers, asked: str | None, warn: Warn) -> None:
    """Make the class that was asked for the positive one of a table's only task; where none was, and the table alone
    tells of its classes, tell which is taken: their order is that of its columns.

    Raises `ConfigError` for what is none of two classes, or not the one that the model states a threshold of.
    """
    task = answers.tasks[0]
    spec = task.spec
    of_two = spec.kind == "classes" and len(spec.names) == 2
    if asked is None:
        if of_two and answers.told_by_columns:
            warn(
                f"{answers.path} does not say which class is the positive one: {spec.names[-1]!r} is taken, the last "
                f"of its columns {' and '.join(spec.values)}; --positive names another"
            )
        return
    if len(answers.tasks) > 1 or not of_two or asked not in spec.names:
        what = f"{spec.kind} {list(spec.names)}" if len(answers.tasks) == 1 else "several tasks"
        raise ConfigError(
            f"--positive is {asked!r}, and the answers of {answers.path} are of {what}",
            remedy="name one of two classes, or leave it out",
        )
    if spec.point and spec.point.positive != asked:
        raise ConfigError(
            f"--positive is {asked!r}, and the model states a threshold of {spec.point.positive!r}",
            remedy="leave it out, or train with tasks.NAME.positive",
        )
    task.settings = task.settings.model_copy(update={"positive": asked})
