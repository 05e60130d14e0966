"""Cross-validation: a run a fold, each slide answered by the one model that has not seen it or its group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from wsi_ats import __version__
from wsi_ats.atomic import write_atomic
from wsi_ats.cache import TileCache
from wsi_ats.config import Config, to_values
from wsi_ats.errors import Failure
from wsi_ats.manifest import Row
from wsi_ats.manifest.patients import rows_by
from wsi_ats.model_folder import RUN_MODEL, load_model, model_hash
from wsi_ats.output import make_folder, writing
from wsi_ats.predict import predict_prepared_patient
from wsi_ats.prediction import PatientPrediction
from wsi_ats.reading import Reading
from wsi_ats.shown import csv_of_records
from wsi_ats.tasks.answer import columns_of
from wsi_ats.tasks.task import Tasks
from wsi_ats.train.calibrate import outputs_of_tasks
from wsi_ats.train.data import Examples
from wsi_ats.train.epoch_checkpoint import Say
from wsi_ats.train.figures import Figures, final_figures, over_patients, plain_figures, values_of
from wsi_ats.train.folder import FOLD, RECORD, is_finished, refuse_other_kind
from wsi_ats.train.frozen import cache_for, may_be_stored
from wsi_ats.train.of_folds import hashes, is_ensemble_of, write_ensemble
from wsi_ats.train.processes import ONE_BY_ONE, refuse_several
from wsi_ats.train.progress import OnProgress, within
from wsi_ats.train.run import train
from wsi_ats.train.targets import ask, refuse_lacking, targets_of

PREDICTIONS = "predictions.csv"
FORMAT = 2
"""Format of the answers of a fold that are kept (test.json); those of another are made anew."""


@dataclass(frozen=True)
class CrossValidated:
    """The result of a cross-validation."""

    folder: Path
    """Folder with a run a fold, `fold-0` and so on, and predictions.csv of all of them."""
    answered: int
    """Number of slides, or patients, that were answered."""
    failures: tuple[Failure, ...]
    """Those that could not be."""
    asked: int
    """Number of all of them."""


def cross_validate(
    folds: Sequence[Sequence[Row]],
    config: Config,
    out: Path,
    *,
    reading: Reading | None = None,
    say: Say = print,
    overwrite: bool = False,
    cache: TileCache | None = None,
    on_progress: OnProgress | None = None,
) -> CrossValidated:
    """Train on each fold's `train` rows, choose by its `val` rows, answer its `test` rows; write all into `out`.

    A fold that is finished is not trained again, so that the same command goes on after an interruption. reading: how
    the test slides are read. Raises `ConfigError` as `train` does, before the first fold where a fold lacks a class.
    """
    refuse_several("a cross-validation", ONE_BY_ONE)
    for rows in folds:  # what the last one lacks is told before the first is trained
        refuse_lacking(ask(config, rows), rows_by(config.train.by, [row for row in rows if row.split]))
    make_folder(out)
    refuse_other_kind(out, "folds")
    cache = cache_for(config, out, say) if cache is None else cache
    answers: list[Answered] = []
    lines: list[dict[str, str]] = []
    columns: list[str] = []
    failures: list[Failure] = []
    for number, rows in enumerate(folds):
        folder = out / FOLD.format(number)
        say(f"fold {number + 1} of {len(folds)}")
        mine = [row for row in rows if row.split is not None]
        tell = on_progress and within(on_progress, "fold", number + 1, len(folds))
        train_unless_done(mine, config, folder, say=say, overwrite=overwrite, cache=cache, on_progress=tell)
        tested = answered(folder, mine, config, reading or Reading(), cache)
        columns = list(dict.fromkeys([*columns, *tested.columns]))
        lines += [{"fold": str(number), **line} for line in tested.lines]
        failures += tested.failures
        with writing(out):
            write_atomic(out / PREDICTIONS, csv_of_records(["fold", *columns], lines))
        answers.append(tested)
    targets = _pooled(answer.targets for answer in answers)
    values, patients = _pooled(a.values for a in answers), [p for a in answers for p in a.patients]
    pooled = _figures(answers[0].tasks, values, targets, patients)
    folders = [out / FOLD.format(number) for number in range(len(folds))]
    units = rows_by(config.train.by, [replace(row, split="train") for row in folds[0]])
    if not is_ensemble_of(out, folders):
        outputs = _pooled(answer.outputs for answer in answers)
        write_ensemble(out, folders, config, units, outputs, targets, pooled, cache, say)
    with writing(out):
        write_atomic(out / RECORD, _record(out, folders, answers, pooled, config).encode())
    return CrossValidated(
        out, len(lines) - len(failures), tuple(failures), len(rows_by(config.train.by, folds[0]))
    )


def train_unless_done(
    rows: Sequence[Row],
    config: Config,
    folder: Path,
    *,
    say: Say,
    overwrite: bool,
    cache: TileCache,
    on_progress: OnProgress | None = None,
) -> None:
    """One of several runs of a command: trained, or left as it is where it is finished. Raises as `train` does."""
    if overwrite or not is_finished(folder, rows, config):
        train(rows, config, folder, say=say, overwrite=overwrite, cache=cache, on_progress=on_progress)


@dataclass(frozen=True)
class Answered:
    """Answers of a run's model to its test slides."""

    columns: list[str]
    lines: list[dict[str, str]]
    failures: list[Failure]
    tasks: Tasks
    values: list[Float64[np.ndarray, "n _"]]
    """Values of the answers, an array a task."""
    outputs: list[Float64[np.ndarray, "n _"]]
    """Outputs of the heads that these were made of."""
    targets: list[Float64[np.ndarray, "n _"]]
    """Targets of the same slides."""
    patients: list[str]
    """Patient of each of them."""


def answered(
    folder: Path, rows: Sequence[Row], config: Config, reading: Reading, cache: TileCache
) -> Answered:
    """The run's test slides, answered by its model; as they were where that was done before."""
    kept = folder / "test.json"
    model = load_model(folder / "model")
    units = rows_by(config.train.by, rows)
    own = [FORMAT, model.hash, asdict(reading)]
    if kept.exists():
        stored = json.loads(kept.read_bytes())
        if stored["of"] == own:
            known = {row.slide: row for row in units}
            done = [known[slide] for slide in stored["slides"]]
            values, outputs = ([np.array(v, np.float64) for v in stored[k]] for k in ("values", "outputs"))
            failed, targets = [Failure(**f) for f in stored["failures"]], targets_of(model.tasks, done)
            patients = [row.patient for row in done]
            return Answered(
                stored["columns"], stored["lines"], failed, model.tasks, values, outputs, targets, patients
            )
    model.cache = cache
    test = [row for row in units if row.split == "test"]
    examples = Examples(test, list(model.tasks), config, 1 << 30, stored=may_be_stored(config))
    failures = examples.inspect(lambda: None)
    asked = list(dict.fromkeys(column for task in model.tasks for column in task.columns))
    predictions = [
        predict_prepared_patient(model, examples[i].prepared, reading) for i in range(len(examples))
    ]
    lines = [
        {**_of_row(row, asked), **_of_prediction(prediction), "status": "done"}
        for row, prediction in zip(examples.rows, predictions, strict=True)
    ]
    values, outputs = values_of(predictions), outputs_of_tasks(predictions)
    unread = {failure.slide for failure in failures}
    lines += [{**_of_row(row, asked), "status": "failed"} for row in test if row.slide in unread]
    names = ["patient", "slides"] if config.train.by == "patient" else ["slide", "patient"]
    columns = [*names, *asked, *columns_of(model.specs), "tiles_read", "status", "notes"]
    content = {
        "of": own,
        "columns": columns,
        "lines": lines,
        "failures": [asdict(f) for f in failures],
        "slides": [row.slide for row in examples.rows],
        "values": [v.tolist() for v in values],
        "outputs": [o.tolist() for o in outputs],
    }
    with writing(folder):
        write_atomic(kept, json.dumps(content).encode())
    patients = [row.patient for row in examples.rows]
    return Answered(columns, lines, failures, model.tasks, values, outputs, examples.targets, patients)


def _pooled(each: Iterable[Sequence[Float64[np.ndarray, "n _"]]]) -> list[Float64[np.ndarray, "n _"]]:
    """Arrays of all folds together, one a task."""
    return [np.concatenate(parts) for parts in zip(*each, strict=True)]


def _figures(
    tasks: Tasks,
    values: Sequence[Float64[np.ndarray, "n _"]],
    targets: Sequence[Float64[np.ndarray, "n _"]],
    patients: Sequence[str],
) -> Figures:
    """Figures of all slides together, each answered by its fold's model, with intervals over patients."""
    pooled: Figures = {}
    for position, (task, mine, true) in enumerate(zip(tasks, values, targets, strict=True)):
        prefix = f"{task.spec.name}_" if position else ""
        pooled[f"{prefix}{task.metric}"] = over_patients(task, mine, true, patients)
    return pooled


def _record(
    out: Path, folders: Sequence[Path], answers: Sequence[Answered], pooled: Figures, config: Config
) -> str:
    """Content of run.json: figures of all slides together, and fold by fold."""
    rng = np.random.default_rng(config.train.seed)
    each = [final_figures(a.tasks, a.values, a.targets, rng, a.patients) for a in answers]
    made = out / RUN_MODEL
    record = {
        "members": hashes(folders),
        "model": model_hash(made) if made.exists() else None,
        "config": to_values(config),
        "versions": {"wsi_ats": __version__, "torch": torch.__version__},
        "intervals": "over patients",
        "figures": plain_figures(pooled),
        "folds": [
            plain_figures({name.removeprefix("val_"): f for name, f in figures.items()}) for figures in each
        ],
    }
    return json.dumps(record, indent=2) + "\n"


def _of_row(row: Row, targets: Sequence[str]) -> dict[str, str]:
    slides = {"slides": ";".join(slide.slide for slide in row.slides)} if row.slides else {"slide": row.slide}
    return {**slides, "patient": row.patient, **{target: row.cell(target) for target in targets}}


def _of_prediction(prediction: PatientPrediction) -> dict[str, str]:
    """Cells of a prediction, under the names that predictions.csv of a batch has for them."""
    columns = columns_of([result.spec for result in prediction.results])
    cells = [text for result in prediction.results for text in result.cells()]
    return {
        **dict(zip(columns, cells, strict=True)),
        "tiles_read": str(prediction.tiles_read),
        "notes": "; ".join(prediction.notes),
    }
