"""What the answers would be without the calibration: the same outputs of the head, as the networks gave them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from wsi_ats.report.found import Found, Values
from wsi_ats.statistics.evaluation import Answered
from wsi_ats.tasks.answer import outputs_of
from wsi_ats.train.calibrate import values_of_outputs


def answered_of(task: Values) -> Answered:
    """The answers of a task of evaluation.json."""
    slides, names = task["slides"], tuple(task["names"])
    targets = [[np.nan if t is None else t for t in slide["target"]] for slide in slides]
    said = [names.index(s["decision"]) if s["decision"] in names else 0 for s in slides]
    positive = names.index(task["positive"]) if task["positive"] in names else len(names) - 1
    values = np.array([slide["values"] for slide in slides], np.float64)
    return Answered(
        task["kind"], names, values, np.array(targets, np.float64), np.array(said, np.int64), positive
    )


def uncalibrated(found: Found, number: int) -> tuple[Answered, str] | None:
    """The answers to task `number` without its calibration, and what that was fitted on; None where it has none, or the
    model or the outputs are not there."""
    if number >= len(found.tasks) or found.tasks[number].calibration is None:
        return None
    task, told = found.tasks[number], found.evaluation["tasks"][number]
    outputs = _outputs(found, number)
    if task.spec.names != tuple(told["names"]) or outputs is None:
        return None
    assert task.calibration is not None
    on, kept = task.calibration.on, task.calibration
    try:
        task.calibration = None
        values = values_of_outputs(task, outputs)
    finally:
        task.calibration = kept
    answered = answered_of(told)
    decisions = (
        values[:, : len(answered.names)].argmax(1).astype(np.int64) if answered.names else answered.decisions
    )
    return Answered(answered.kind, answered.names, values, answered.targets, decisions, answered.positive), on


def _outputs(found: Found, number: int) -> Float64[np.ndarray, "n O"] | None:
    """Outputs of the head of the evaluated slides; None where those of some are not known."""
    slides = [
        slide.get("in_answers", slide["slide"]) for slide in found.evaluation["tasks"][number]["slides"]
    ]
    specs = [task.spec for task in found.tasks]
    columns = [f"output_{name}" for name in outputs_of(specs)]
    start = sum(len(spec.outputs) for spec in specs[:number])
    mine = columns[start : start + len(specs[number].outputs)]
    lines = {line.get(found.by, ""): line for line in found.table("validation.csv")} if found.is_run else {}
    try:
        if found.answers.name == "validation.csv":
            rows = [[float(lines[slide][column]) for column in mine] for slide in slides]
        else:
            rows = [list(map(float, found.records[slide]["answers"][number]["outputs"])) for slide in slides]
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return np.array(rows, np.float64) if rows else None
