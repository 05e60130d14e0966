"""What a run or an evaluation has left on disk, read for the report: a file that is missing or damaged is no error."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wsi_ats.batch.records import Record
from wsi_ats.batch.settings import By
from wsi_ats.batch.store import SlideStore, slide_folders
from wsi_ats.errors import ConfigError, WsiAtsError
from wsi_ats.evaluate.answers import PREDICTIONS, VALIDATION, read_answers
from wsi_ats.evaluate.evidence import FIGURES as EVIDENCE
from wsi_ats.evaluate.files import evaluation_values
from wsi_ats.evaluate.join import Truth
from wsi_ats.evaluate.run import How, Told, evaluate, evaluate_answers
from wsi_ats.manifest import read_manifest
from wsi_ats.model_folder import RUN_MODEL, SETTINGS, read_tasks
from wsi_ats.shown import cell
from wsi_ats.tasks.task import Task

EVALUATION, EXAMPLES = "evaluation.json", "examples"
"""Names of what is read: the evaluation, and in the folder of a run, or of a fold, a few of its slides, predicted."""
Values = Mapping[str, Any]
Lines = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Found:
    """What there is to report on."""

    folder: Path
    evaluation: Values = field(default_factory=dict)
    """The content of evaluation.json; of a run without one, what it would hold. Empty where there are no figures."""
    missing: str = ""
    """Why there are no figures."""

    @cached_property
    def is_run(self) -> bool:
        """Whether it is the folder of a training run."""
        return (self.folder / RUN_MODEL).is_dir() or self.folds > 0

    @cached_property
    def by(self) -> By:
        """What there is one answer about: `slide` or `patient`."""
        trained = (self.run.get("config") or {}).get("train") or {}
        told = self.evaluation["flow"] if self.evaluation else trained
        return "patient" if told.get("by") == "patient" else "slide"

    @cached_property
    def folds(self) -> int:
        """Number of folds of a cross-validation; 0 of anything else."""
        return sum((path / RUN_MODEL).is_dir() for path in self.folder.glob("fold-*"))

    @cached_property
    def run(self) -> Values:
        """The content of the training run's run.json."""
        return _json(self.folder / "run.json") if self.is_run else {}

    @cached_property
    def answers(self) -> Path:
        """The table of answers that the figures are of: where the evaluation found it or, since its path may have been
        of another working folder, beside the evaluation."""
        if not self.evaluation:
            return self.folder / VALIDATION
        told = self.evaluation["answers"]
        places = [Path(told["path"]), self.folder / Path(told["path"]).name]
        there = [place for place in places if place.is_file()]
        same = [place for place in there if _digest(place) == told["sha256"]]
        return next(iter([*same, *reversed(there), *places]))

    @cached_property
    def changed(self) -> bool:
        """Whether the table of answers has changed since the evaluation."""
        mine = _digest(self.answers) if self.evaluation else ""
        return mine != "" and mine != self.evaluation["answers"]["sha256"]

    @cached_property
    def model(self) -> Path | None:
        """The model's folder; None where it is not known, or not there any more."""
        told = (self.evaluation.get("answers", {}).get("model") or {}).get("folder")
        places = [self.folder / RUN_MODEL, *([Path(told)] if told else [])]
        return next((place for place in places if (place / SETTINGS).is_file()), None)

    @cached_property
    def tasks(self) -> Sequence[Task]:
        """The model's tasks; none where its folder cannot be read."""
        try:
            return read_tasks(self.model) if self.model else []
        except WsiAtsError:
            return []

    def json(self, name: str) -> Values:
        """The content of a JSON file in the folder; nothing where it cannot be read."""
        return _json(self.folder / name)

    def table(self, name: str) -> Lines:
        """Rows of a table in the folder by the names of their columns; none where it cannot be read."""
        return _table(self.folder / name)

    @cached_property
    def predicted(self) -> Lines:
        """Rows of predictions.csv, whose answers are evaluated; none of a run's validation slides."""
        return _table(self.answers) if self.answers.name == PREDICTIONS else []

    @cached_property
    def stores(self) -> Mapping[str, SlideStore]:
        """Folders of predicted slides, or patients, by their ids, as tables show them."""
        folds = sorted(self.folder.glob(f"fold-*/{EXAMPLES}"))
        places = [self.answers.parent, self.folder / EXAMPLES, *folds]
        found: dict[str, SlideStore] = {}
        for place in places:
            for name in sorted(slide_folders(place, self.by)):
                store = SlideStore.at(place / f"{self.by}s" / name)
                record = store.result()
                if record is not None:
                    found.setdefault(cell(record["slide"]), store)
                    self._records.setdefault(cell(record["slide"]), record)
        return found

    @cached_property
    def _records(self) -> dict[str, Record]:
        return {}

    @property
    def records(self) -> Mapping[str, Record]:
        """Contents of the result.json of predicted slides, or patients, by their ids."""
        return self._records if self.stores else {}


def find(folder: Path | str) -> Found:
    """What the folder of a run, of a cross-validation or of an evaluation holds.

    Raises `ConfigError` for a folder that is none of these.
    """
    place = Path(folder)
    kept = _json(place / EVALUATION)
    if isinstance(kept.get("tasks"), list):
        return Found(place, kept)
    found = Found(place)
    if not found.is_run and found.json(EVIDENCE):
        return found
    if not found.is_run:
        raise ConfigError(
            f"{place} holds no {EVALUATION} and no training run",
            remedy="give the folder of a run, or the one that `wsi-ats evaluate` wrote into",
        )
    try:
        return replace(found, evaluation=_evaluated(found))
    except WsiAtsError as error:
        return replace(found, missing=error.message)


def _evaluated(found: Found) -> Values:
    """The evaluation of a run on its own validation slides, or of a cross-validation on all its slides."""
    if found.folds:
        table = found.folder / PREDICTIONS
        first = min(found.folder.glob("fold-*/model"))
        tasks = read_tasks(first)
        # A table of patients names no slide: their labels are in the rows of the slides, of which each fold has all.
        by_patient = "slides" in next(iter(_table(table)), {})
        labels = first.parent / "slides.csv" if by_patient else table
        several = len({column for task in tasks for column in task.columns}) > 1
        how = How(replace(How().chosen, target=None if several else tasks[0].columns[0]))
        values = evaluation_values(evaluate([found.folder], labels, how, warn=lambda words: None))
        # What they warn of, slides of the split `train`, is so of each slide in other folds, and of none in its own.
        return {**values, "warnings": []} if by_patient else values
    told = Told(lambda words: None)
    answers, how = read_answers(found.folder / VALIDATION, told), How(replace(How().chosen, split="val"))
    columns = list(dict.fromkeys(column for task in answers.tasks for column in task.columns))
    path = found.folder / "slides.csv"
    rows = read_manifest(path, columns=columns, site="none", warn=lambda words: None)
    sites = {line["slide"]: line.get("site", "") for line in found.table("slides_looked_at.csv")}
    placed = [replace(row, site=sites.get(cell(row.slide), "")) for row in rows if row.split == "val"]
    truth = Truth(path, tuple(placed), "site" if any(sites.values()) else "")
    return evaluation_values(evaluate_answers([answers], truth, how, told=told))


def _digest(path: Path) -> str:
    """sha256 of a file; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _table(path: Path) -> Lines:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: v or "" for k, v in line.items() if k is not None} for line in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return []
