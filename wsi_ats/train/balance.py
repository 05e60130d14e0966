"""What a rare class counts for: its weight in the loss, and how often its slides come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from wsi_ats.errors import ConfigError
from wsi_ats.tasks.task import Task


def check_balanced(task: Task) -> None:
    """Raise `ConfigError` where a slide is not of one class, and classes cannot come equally often."""
    if task.spec.kind not in ("classes", "ordinal"):
        raise ConfigError(
            f"train.balanced is true, and task {task.spec.name!r} is of kind {task.spec.kind}: it "
            "has no classes, of which each slide is of one",
            remedy="leave it false, or let a task of classes or grades be the first",
        )


def balanced_chances(classes: Sequence[str]) -> Float64[Tensor, " n"]:
    """Chance of each slide to be the next, by its class: classes come equally often, slides of one, too."""
    counts = Counter(classes)
    return torch.tensor([1 / (len(counts) * counts[name]) for name in classes], dtype=torch.float64)


def chances_in_words(classes: Sequence[str]) -> str:
    """Slides of each class, and the chance of each of them."""
    counts, chances = Counter(classes), balanced_chances(classes).tolist()
    of = dict(zip(classes, chances, strict=True))
    each = (f"{name or 'not known'} {counts[name]} at {of[name]:.3f} each" for name in sorted(counts))
    return f"slides are drawn with replacement: {', '.join(each)}"


def in_words(tasks: Iterable[Task]) -> list[str]:
    """The weights of classes in the loss of each task that has some."""
    return [f"{task.spec.name}: weights in the loss: {task.weighting}" for task in tasks if task.weighting]
