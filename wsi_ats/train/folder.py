"""The folder of a training run: whether it may be used, and the tables in it."""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from wsi_ats import __version__
from wsi_ats.atomic import remove_temporaries, write_atomic
from wsi_ats.config import Config, differences, load_config, save_config, to_values
from wsi_ats.errors import ConfigError, Failure
from wsi_ats.manifest import Row
from wsi_ats.manifest.patients import unit_of
from wsi_ats.output import check_within, make_folder, remedy_for, writing
from wsi_ats.shown import csv_bytes
from wsi_ats.tasks.answer import outputs_of, values_named
from wsi_ats.tasks.settings import LABEL
from wsi_ats.tasks.task import Tasks
from wsi_ats.train.card import Trained
from wsi_ats.train.figures import plain_figures

RECORD = "run.json"
"""Name of the record of what is finished."""
FOLD, SEED = "fold-{}", "seed-{}"
"""Folders of the runs of a cross-validation, and of a training with several seeds."""
OWN = (
    "slides.csv",
    "config.toml",
    "cohort.csv",
    "slides_looked_at.csv",
    "failures.csv",
    "checkpoints",
    "log.csv",
    "validation.csv",
    "stages.csv",
    "tensorboard",
    "mlflow",
    "model",
    RECORD,
    "examples",
    "report.html",
)
"""Names of what a run writes, in that order. With `run.json` it is finished; the report and the slides that it shows
come after that."""
LISTED = 3
"""Number of settings that a message names."""
FOLDERS = ("checkpoints", "tensorboard", "mlflow", "model", "examples")
"""Those that are folders."""
COLUMNS = [field.name for field in fields(Failure)]
"""Columns of failures.csv."""


def prepare_run(out: Path, rows: Sequence[Row], config: Config, *, overwrite: bool) -> None:
    """Write into `out` what the run is of, or find that it holds this very run, unfinished.

    A run that failed before its first epoch had ended makes way. Raises `ConfigError` where the folder holds a finished
    run or another one, unless `overwrite` clears it.
    """
    settings, slides, table = out / "config.toml", out / "slides.csv", _slides_table(rows)
    refuse_other_kind(out, "run")
    if overwrite:
        remove_run(out)
    remedy = "give another --out, or --overwrite to start again"
    if settings.exists() and not slides.exists():
        raise ConfigError(
            f"{settings} is of no run, for lack of slides.csv, and would be overwritten", remedy
        )
    if not settings.exists() and (out / "checkpoints" / "last.ckpt").exists():
        raise ConfigError(
            f"{out} holds checkpoints of a run whose settings are lost, with config.toml", remedy
        )
    if settings.exists() and _has_begun(out):
        try:
            before, of = load_config(settings), slides.read_bytes()
        except (ConfigError, OSError) as error:
            what = error.message if isinstance(error, ConfigError) else f"{slides}: {error.strerror}"
            raise ConfigError(
                f"{out} holds a run of which it cannot be read what it is of: {what}", remedy
            ) from error
        if before != config:
            changed = differences(before, config)
            more = f" and {len(changed) - LISTED} more" if len(changed) > LISTED else ""
            words = "; ".join(changed[:LISTED]) + more
            raise ConfigError(f"{out} holds a run with other settings: {words} (see {settings})", remedy)
        if of != table:
            raise ConfigError(f"{out} holds a run on other slides, labels or splits (see {slides})", remedy)
        if (out / RECORD).exists():
            raise ConfigError(f"{out} holds a finished run", remedy)
    elif settings.exists() and not _is_of(settings, slides, config, table):
        remove_run(out)  # a start that failed, of which nothing is worth keeping
    check_within(out, [name for name in OWN if name not in FOLDERS], FOLDERS)
    with writing(out):
        for folder in (out, *(out / name for name in FOLDERS)):
            remove_temporaries(folder)
        write_atomic(slides, table)
        save_config(config, settings)
        (out / "checkpoints").mkdir(exist_ok=True)


def refuse_other_kind(out: Path, kind: str) -> None:
    """Raise `ConfigError` where the folder holds what another kind of training wrote: `run`, `folds` or `seeds`."""
    words = {"run": "a training run", "folds": "a cross-validation", "seeds": "a training with several seeds"}
    marks = {
        "folds": any(out.glob(FOLD.format("*/config.toml"))),
        "seeds": any(out.glob(SEED.format("*/config.toml"))),
        "run": (out / "slides.csv").exists() and _has_begun(out),
    }
    for other, there in marks.items():
        if there and other != kind:
            raise ConfigError(
                f"{out} holds {words[other]}", "give another --out, or delete that folder first"
            )


def is_finished(out: Path, rows: Sequence[Row], config: Config) -> bool:
    """Whether the folder holds the finished run of these rows and settings."""
    settings, slides = out / "config.toml", out / "slides.csv"
    return (out / RECORD).exists() and _is_of(settings, slides, config, _slides_table(rows))


def _slides_table(rows: Sequence[Row]) -> bytes:
    """Content of slides.csv: what a run is of."""
    columns = [column for row in rows[:1] for column in row.cells or (LABEL,)]
    return csv_bytes(
        ["slide", *columns, "patient", "split", "mpp", "default_mpp"],
        (
            [row.slide, *map(row.cell, columns), row.patient, row.split, row.mpp, row.default_mpp]
            for row in rows
        ),
    )


def _has_begun(out: Path) -> bool:
    """Whether anything was trained in the folder: an epoch has ended."""
    return any((out / name).exists() for name in (RECORD, "model", "log.csv", "checkpoints/last.ckpt"))


def _is_of(settings: Path, slides: Path, config: Config, table: bytes) -> bool:
    try:
        return slides.read_bytes() == table and load_config(settings) == config
    except (ConfigError, OSError):  # of another version, or damaged
        return False


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Make the folder of a run, and keep other processes from training in it where its file system can lock folders.

    Raises `ConfigError` where the folder cannot be made, or another process trains in it.
    """
    make_folder(out)
    try:
        folder = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(
            f"output folder {out} cannot be read: {error.strerror}", remedy_for(error.errno)
        ) from error
    try:
        _lock(folder, out)
        yield
    finally:
        os.close(folder)  # and with it the lock, as at the end of a process that is killed


def _lock(folder: int, out: Path) -> None:
    try:
        import fcntl

        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"another process is training in {out}", remedy="wait until it has ended, or give another --out"
        ) from None
    except (ImportError, OSError):  # not on Windows; not on every network file system
        return


def remove_run(out: Path) -> None:
    """Delete what a run writes, and nothing else that lies there."""
    with writing(out):
        # What it is of goes last: of a removal cut short, nothing is left that the next run takes for its own.
        for path in (out / name for name in reversed(OWN)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def write_table(out: Path, name: str, content: bytes) -> None:
    """Write one of the run's tables."""
    with writing(out):
        write_atomic(out / name, content)


def write_failures(out: Path, failures: Iterable[Failure]) -> None:
    """Write failures.csv; of its header alone where nothing failed."""
    table = csv_bytes(COLUMNS, (asdict(f).values() for f in failures))
    with writing(out):
        write_atomic(out / "failures.csv", table)


def read_failures(out: Path) -> list[Failure]:
    """Failures that failures.csv lists, slides by the names that it shows; none where there is no such file.

    Raises `ConfigError` where it is not the table that a run writes: another program may have saved it in its own way.
    """
    path = out / "failures.csv"
    if not path.exists():
        return []
    remedy = "start the run again with --overwrite"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            if lines.fieldnames != COLUMNS:
                raise ConfigError(f"{path} is not the table that this run wrote: other columns", remedy)
            return [Failure(**line) for line in lines]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ConfigError(f"{path} is not the table that this run wrote: {error}", remedy) from error


def write_validation(
    out: Path,
    tasks: Tasks,
    rows: Sequence[Row],
    values: Sequence[Float64[np.ndarray, "n _"]],
    outputs: Sequence[Float64[np.ndarray, "n _"]],
) -> None:
    """Write validation.csv: slide or patient, the texts of its targets, every value of the answers, and the outputs of
    the heads that these were made of: what a calibration changes."""
    columns = list(dict.fromkeys(column for task in tasks for column in task.columns))
    every = np.concatenate([*values, *outputs], axis=1)
    raw = [f"output_{name}" for name in outputs_of(tasks.specs)]
    lines = (
        [row.slide, *map(row.cell, columns), *(f"{value:.6g}" for value in mine)]
        for row, mine in zip(rows, every, strict=True)
    )
    table = csv_bytes([unit_of(rows), *columns, *values_named(tasks.specs), *raw], lines)
    with writing(out):
        write_atomic(out / "validation.csv", table)


def finish_run(out: Path, config: Config, result: Trained, processes: int = 1) -> None:
    """Write run.json: from then on the run is finished. processes: number of those that have trained it together."""
    record = {
        "config": to_values(config),
        "versions": {"wsi_ats": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "host": platform.node(),
        "processes": processes,
        "end": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 1),
        "epochs": result.epochs,
        **plain_figures(result.figures),
        "failures": len(result.failures),
        "bad_tiles": dict(result.bad_tiles),
    }
    with writing(out):
        write_atomic(out / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def read_record(out: Path) -> dict[str, Any]:
    """The record of a finished run. Raises `ConfigError` where it cannot be read."""
    try:
        record: dict[str, Any] = json.loads((out / RECORD).read_bytes())
        return record
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{out / RECORD} cannot be read: {error}", "delete its folder: this run is trained again"
        ) from error
