"""Calibration of a trained model on slides that it has not learned from: probabilities, threshold, sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from wsi_ats.errors import ConfigError, Failure, SlideError
from wsi_ats.manifest import Row
from wsi_ats.manifest.patients import rows_by
from wsi_ats.model_folder import CARD, save_model
from wsi_ats.output import writing
from wsi_ats.predict import predict_prepared_patient
from wsi_ats.prediction import OfResults, PatientPrediction
from wsi_ats.reading import Reading
from wsi_ats.shown import counted
from wsi_ats.slide_model import SlideModel
from wsi_ats.tasks.task import Task, Tasks
from wsi_ats.train.card import with_decisions
from wsi_ats.train.data import Examples
from wsi_ats.train.epoch_checkpoint import Say

LEAST = 6
"""Least number of slides with a known target that a task is calibrated on."""


@dataclass(frozen=True)
class Calibrated:
    """The words on how a calibration went: what was fitted, and what there were too few slides for."""

    done: tuple[str, ...]
    missing: tuple[str, ...]


def calibrate(
    tasks: Tasks, predictions: Sequence[OfResults], targets: Sequence[Float64[np.ndarray, "n _"]], on: str
) -> Calibrated:
    """Fit what each task makes of its outputs anew, on predictions of slides of known targets, one array a task.

    on: the slides' name. A task that has too few of them keeps its outputs as they are, and that is said. Raises
    `ConfigError` where slides enough lack a class.
    """
    return calibrate_outputs(tasks, outputs_of_tasks(predictions), targets, on)


def calibrate_outputs(
    tasks: Tasks,
    outputs: Sequence[Float64[np.ndarray, "n _"]],
    targets: Sequence[Float64[np.ndarray, "n _"]],
    on: str,
) -> Calibrated:
    """The same on outputs of the heads, one array a task."""
    done, missing = [], []
    for task, mine, true in zip(tasks, outputs, targets, strict=True):
        slides = int((~np.isnan(true).all(1)).sum())
        if slides < LEAST:
            missing.append(
                f"{task.spec.name}: not calibrated, {counted(slides, 'slide')} where it takes {LEAST}"
            )
            continue
        calibration = task.calibrate(torch.from_numpy(mine), true, f"{slides} {on}")
        values = values_of_outputs(task, mine)
        missing += [f"{task.spec.name}: {words}" for words in task.decide(values, true, calibration.on)]
        done.append(f"{task.spec.name}: {_in_words(task)}")
    return Calibrated(tuple(done), tuple(missing))


def calibrate_model(
    model: SlideModel,
    folder: Path,
    rows: Sequence[Row],
    reading: Reading,
    out: Path,
    on: str,
    *,
    say: Say = print,
) -> tuple[Calibrated, list[Failure]]:
    """Calibrate a model anew on labelled slides of one's own, and write it, so calibrated, into the folder `out`.

    The networks stay as they are. folder: where the model was loaded from; its card is carried on. reading: how the
    slides are read. on: their name, which the new model bears. Slides that cannot be used are returned. Raises
    `ConfigError` where `out` exists, or what is left is too little.
    """
    if out.exists():
        raise ConfigError(f"--out {out} exists", remedy="name a new folder: models are not written over")
    by = model.config.train.by
    rows = rows_by(by, rows)
    examples = Examples(rows, list(model.tasks), model.config, 1 << 30)
    failures = examples.inspect(lambda: None)
    say(f"{len(examples)} of {len(rows)} {by}s can be read")
    predictions, unread = _predictions(model, examples, reading)
    failures += unread
    known = [int((~np.isnan(targets).all(1)).sum()) for targets in examples.targets]
    if not predictions or max(known) < LEAST:
        raise ConfigError(
            f"{max(known, default=0)} {by}s with a known target are too few to calibrate on",
            remedy=f"label {LEAST} or more; 20 are good",
        )
    calibrated = calibrate(model.tasks, predictions, examples.targets, f"{by}s of {on}")
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else "# Attention-sampling model of slides\n"
    with writing(out):
        save_model(model, out, with_decisions(text, model.tasks))
    return calibrated, failures


def _predictions(
    model: SlideModel, examples: Examples, reading: Reading
) -> tuple[list[PatientPrediction], list[Failure]]:
    """Predictions of slides or patients, and why some have none: these, whose tiles cannot be read, are dropped."""
    predictions, failures, kept = [], [], []
    for number, row in enumerate(examples.rows):
        try:
            predictions.append(predict_prepared_patient(model, examples[number].prepared, reading))
            kept.append(row)
        except SlideError as error:
            failures.append(examples.failure(row, error))
    examples.rows = kept
    return predictions, failures


def outputs_of_tasks(predictions: Sequence[OfResults]) -> list[Float64[np.ndarray, "n _"]]:
    """Outputs of the head before any calibration, an array (n, O) a task."""
    return [
        np.stack([result.outputs for result in results if result.outputs is not None])
        for results in zip(*(prediction.results for prediction in predictions), strict=True)
    ]


@torch.no_grad()
def values_of_outputs(task: Task, outputs: Float64[np.ndarray, "n O"]) -> Float64[np.ndarray, "n V"]:
    """Values (n, V) that the task reads from outputs (n, O), calibrated where it is."""
    values: Float64[np.ndarray, "n V"] = task.values(torch.from_numpy(outputs)).numpy()
    return values


def _in_words(task: Task) -> str:
    calibration = task.calibration
    assert calibration is not None
    shifts = ", ".join(f"{shift:+.2f}" for shift in calibration.intercepts)
    slopes = ", ".join(f"{slope:.2f}" for slope in calibration.slopes)
    scaled = "" if set(calibration.slopes) == {1.0} else f", slopes {slopes}"
    words = f"calibrated on {calibration.on}: intercepts {shifts}{scaled}"
    return f"{words}; {task.spec.point}" if task.spec.point else words
