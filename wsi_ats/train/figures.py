"""Metric values on the validation slides: every epoch, and with intervals at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
from jaxtyping import Float64

from wsi_ats.prediction import OfResults
from wsi_ats.statistics.clusters import Patients, sample_figures
from wsi_ats.statistics.evaluation import Answered, figures_of
from wsi_ats.statistics.interval import Interval
from wsi_ats.tasks.answer import median_grade
from wsi_ats.tasks.task import Task

Values = Sequence[Float64[np.ndarray, "n _"]]
"""Values of all slides' results, one array (n, V) a task."""
Truth = Sequence[Float64[np.ndarray, "n _"]]
"""Targets of all slides, one array (n, T) a task."""
Figures = dict[str, Interval | float]

LABELS = {
    "auc": "AUC",
    "r2": "R²",
    "c_index": "C-index",
}
"""Labels of metrics whose names are not just words."""
EVALUATED = {
    "auc": ("auroc", "auroc_macro"),
    "kappa": ("kappa_quadratic",),
    "r2": ("r2",),
    "c_index": ("c_index",),
}
"""Names that an evaluation has for the metrics of tasks."""
LOSS_SHARE = 0.05
"""Share that a validation loss counts for beside the metric value: small validation sets reach an AUC of 1 early, and
the loss then tells the better epoch."""


def values_of(predictions: Sequence[OfResults]) -> list[Float64[np.ndarray, "n _"]]:
    """Values of the predictions' results, one array (n, V) a task."""
    return [np.stack(v) for v in zip(*([a.values for a in p.results] for p in predictions), strict=True)]


def epoch_figures(tasks: Iterable[Task], values: Values, truth: Truth) -> dict[str, float]:
    """Metric value and loss of every task by name, and `val_score`, by which the epoch is chosen."""
    out: dict[str, float] = {}
    score = total = 0.0
    for prefix, task, mine, true in _parts(tasks, values, truth):
        metric_value, loss = task.metric_value(mine, true), task.loss(mine, true)
        out |= {f"{prefix}{task.metric}": metric_value, f"{prefix}loss": loss}
        score += task.settings.strength * (metric_value - LOSS_SHARE * min(loss, 2.0))
        total += task.settings.strength
    return {**out, "val_score": score / total}


def final_figures(
    tasks: Iterable[Task],
    values: Values,
    truth: Truth,
    rng: np.random.Generator,
    patients: Sequence[str] = (),
) -> Figures:
    """Metric value with its interval, and further ones, of every task by name.

    patients: the patient of each slide. Where one has several slides, intervals are over patients.
    """
    out: Figures = {}
    clustered = len(set(patients)) < len(patients)
    for prefix, task, mine, true in _parts(tasks, values, truth):
        found = over_patients(task, mine, true, patients) if clustered else task.interval(mine, true, rng)
        out[f"{prefix}{task.metric}"] = found
        out |= {f"{prefix}{name}": value for name, value in task.others(mine, true).items()}
    return out


def over_patients(
    task: Task,
    values: Float64[np.ndarray, "n V"],
    targets: Float64[np.ndarray, "n T"],
    patients: Sequence[str],
) -> Interval:
    """Value of a task's metric with the interval that an evaluation gives it: a bootstrap over the patients, whose
    slides are drawn together. patients: the patient of each slide."""
    known = ~np.isnan(targets).all(1)
    mine, names = values[known], task.spec.names
    decided = task.spec.kind == "ordinal"
    decisions = median_grade(mine[:, : len(names)]) if decided else np.zeros(len(mine), np.int64)
    figures = figures_of(Answered(task.spec.kind, names, mine, targets[known], decisions))
    figure = next(f for f in figures if f.name in EVALUATED[task.metric] and not f.of)
    held = Patients.of([name for name, has in zip(patients, known, strict=True) if has])
    return sample_figures([figure], held)[0].interval


def plain_figures(figures: Figures) -> dict[str, object]:
    """Figures as plain values, for JSON."""
    return {name: asdict(f) if isinstance(f, Interval) else f for name, f in figures.items()}


def metric_label(name: str) -> str:
    """Name of a metric in words."""
    for short, words in LABELS.items():
        if name.endswith(f"_{short}"):
            return f"{name.removesuffix(short)}{words}".replace("_", " ")
    return name.replace("_", " ")


def _parts(
    tasks: Iterable[Task], values: Values, truth: Truth
) -> Iterator[tuple[str, Task, Float64[np.ndarray, "n V"], Float64[np.ndarray, "n T"]]]:
    """Every task with its own; figures of those after the first bear their names."""
    for i, (task, mine, true) in enumerate(zip(tasks, values, truth, strict=True)):
        yield f"val_{task.spec.name}_" if i else "val_", task, mine, true
