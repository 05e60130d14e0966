"""Patients in words: how many there are to learn from, and whether slides are known to be of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from wsi_ats.manifest import Row
from wsi_ats.shown import counted
from wsi_ats.tasks.task import Task
from wsi_ats.train.targets import counts_of


def say_patients(rows: Sequence[Row], say: Callable[[str], object]) -> None:
    """Say that slides count as patients of their own where the manifest names none; where it names some, it was told
    when it was read."""
    if all(row.patient == row.slide for row in rows):
        say(
            "no patient column: each slide counts as a patient of its own; if patients have several, name their column "
            "with --patient, else one may be on both sides of the split"
        )


def patients_in_words(
    tasks: Sequence[Task], rows: Sequence[Row], targets: Sequence[Float64[np.ndarray, "n _"]]
) -> str:
    """Number of patients, and of those of each class where tasks count; one with slides of two classes is in both.

    targets: of the rows, one array a task.
    """
    first: dict[tuple[object, ...], int] = {}
    for position, row in enumerate(rows):
        cells = (
            cell for mine in targets for cell in mine[position].astype(str)
        )  # nan is equal to nan, as text
        first.setdefault((row.patient, *cells), position)
    chosen = list(first.values())
    counts = counts_of(tasks, [mine[chosen] for mine in targets])
    words = ", ".join(f"{name} {count}" for name, count in counts.items() if count.isdigit())
    return counted(len({row.patient for row in rows}), "patient") + (f" ({words})" if words else "")
