"""The folder of one slide: its files are written whole, and result.json last, which is what marks the slide
done.

    OUT/slides/<stem>-<hash8 of the id>/, or OUT/patients/<patient>-<hash8>/
        result.json    the prediction and its provenance
        attention.h5   see attention_file.py
        heatmap.png
        failure.json   instead of the others: stage, error, remedy, traceback
        no-tissue.png  beside failure.json where no tissue was found: what the slide looks like
        <stem>-<hash8>/attention.h5, heatmap.png   of a patient, those of each slide
        .claim         while a process works on the slide

Nothing is written through a link, nor read through one: what it leads to is not this slide's.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from pydantic import BaseModel

from wsi_ats.atomic import remove_temporaries, write_atomic
from wsi_ats.batch.attention_file import encode_attention, read_attention
from wsi_ats.batch.records import (
    Failed,
    PatientPredicted,
    PatientResult,
    Predicted,
    Record,
    Result,
    read_record,
    write_record,
)
from wsi_ats.errors import Failure, WsiAtsError
from wsi_ats.output import writing
from wsi_ats.prediction import PatientPrediction, Prediction
from wsi_ats.shown import redacted
from wsi_ats.statistics.novelty import Unlike
from wsi_ats.tasks.answer import TaskResult, spec_of

MADE = ("result.json", "failure.json", "attention.h5", "heatmap.png", "no-tissue.png")
"""Names of what is written for a slide; result.json is also the first to go."""


PATIENTS = "patients"
"""Name of the folder of patients' folders."""


def folder_name(id: str) -> str:
    """Name of a slide's folder: readable, safe on every file system, and different for different ids."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", redacted(id).rsplit("/", 1)[-1])
    stem = (stem.rsplit(".", 1)[0] or stem)[:80]
    return f"{stem}-{hashlib.sha256(id.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def slide_folders(out: Path, by: str = "slide") -> frozenset[str]:
    """Names of the folders of slides, or patients, in an output folder; none where they cannot be listed.

    One look instead of several at each of a hundred thousand slides that have none yet.
    """
    try:
        with os.scandir(out / f"{by}s") as folders:
            return frozenset(folder.name for folder in folders)
    except OSError:
        return frozenset()


class SlideStore:
    """Reads and writes the folder of one slide, or patient."""

    def __init__(self, out: Path, id: str, by: str = "slide") -> None:
        self.folder = out / f"{by}s" / folder_name(id)

    @classmethod
    def at(cls, folder: Path) -> SlideStore:
        """The store of a slide's folder, whatever slide that is."""
        store = cls.__new__(cls)
        store.folder = folder
        return store

    @property
    def claim(self) -> Path:
        """Path of the claim on the slide."""
        return self.folder / ".claim"

    def result(self) -> Record | None:
        """The content of result.json; None where there is none."""
        return self._read("result.json", PatientResult if self.folder.parent.name == PATIENTS else Result)

    def failure(self) -> Record | None:
        """The content of failure.json; None where there is none."""
        return self._read("failure.json", Failed)

    def _read(self, name: str, shape: type[BaseModel]) -> Record | None:
        record = read_record(self.folder / name, shape)
        return None if record is None or self.folder.is_symlink() else record

    def make(self) -> None:
        """Make the folder. Raises `WsiAtsError` where something else than this slide's files is in its place, and
        `OutputError` where it cannot be made."""
        remedy = "move it away: what lies there is not of this batch"
        with writing(self.folder.parents[1]):
            if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
                what = "a link" if self.folder.is_symlink() else "no folder"
                raise WsiAtsError(f"{self.folder} is {what}; results are written into folders alone", remedy)
            # Not its parents: where they have vanished, a disk that was there is not any more.
            self.folder.mkdir(exist_ok=True)
            for path in (self.folder / name for name in (self.claim.name, *MADE)):
                if path.is_dir() and not path.is_symlink():
                    if any(path.iterdir()):
                        raise WsiAtsError(f"{path} is a folder; a file is to be written there", remedy)
                    path.rmdir()

    def clear(self) -> None:
        """Make room for a new attempt: result.json goes first, so that nothing half-made is taken for
        done."""
        with writing(self.folder):
            for name in MADE:
                (self.folder / name).unlink(missing_ok=True)
            # Under the claim nobody else writes these: whatever is left half-written is rubbish.
            if self.folder.parent.name == PATIENTS:
                for slide in filter(Path.is_dir, self.folder.iterdir()):
                    shutil.rmtree(slide)
            for name in (*(f".{name}" for name in MADE), self.claim.name):
                for leftover in self.folder.glob(f"{name}.*"):
                    leftover.unlink(missing_ok=True)
            remove_temporaries(self.folder)

    def write_attention(self, prediction: Prediction, folder: str = "") -> None:
        """Write attention.h5; of a patient, into the `folder` of one slide."""
        self._write(Path(folder, "attention.h5"), encode_attention(prediction))

    def write_picture(self, name: str, content: bytes, folder: str = "") -> None:
        """Write a picture called `name` into the slide's folder; of a patient, into the `folder` of one slide."""
        self._write(Path(folder, name), content)

    def _write(self, path: Path, content: bytes) -> None:
        with writing(self.folder):
            (self.folder / path).parent.mkdir(exist_ok=True)
            write_atomic(self.folder / path, content)

    def write_result(
        self,
        prediction: Prediction | PatientPrediction,
        provenance: Mapping[str, Any],
        places: Sequence[Record] = (),
    ) -> None:
        """Write result.json: from then on the slide is done. places: of a patient, id, path and folder of each
        slide."""
        content = describe(prediction)
        for slide, place in zip(content.get("slides", ()), places, strict=True):
            slide.update(place)
        with writing(self.folder):
            write_record(self.folder / "result.json", {**provenance, **content})

    def write_failure(self, failure: Failure, provenance: Mapping[str, Any], trace: str = "") -> None:
        """Write failure.json."""
        content = {**provenance, **asdict(failure), "slide": provenance["slide"], "traceback": trace}
        with writing(self.folder):
            write_record(self.folder / "failure.json", content)


def describe(prediction: Prediction | PatientPrediction) -> Record:
    """Plain JSON values of a prediction, without its per-cell arrays (they are in attention.h5)."""
    common = {
        "prediction": prediction.label,
        "answers": [_describe(answer) for answer in prediction.results],
        "tiles_read": int(prediction.tiles_read),
        "rounds": int(prediction.rounds),
        "notes": list(prediction.notes),
        "unlike": None if prediction.unlike is None else asdict(prediction.unlike),
        "bytes_read": int(prediction.bytes_read),
        "seconds": {stage: round(float(s), 6) for stage, s in prediction.seconds.items()},
    }
    if isinstance(prediction, PatientPrediction):
        return {**common, "slides": [_of_slide(slide) for slide in prediction.slides]}
    return {**_of_slide(prediction), **common}


def _of_slide(prediction: Prediction) -> Record:
    """What a prediction says of its slide."""
    grid = prediction.grid
    return {
        "name": prediction.slide,
        "slide_size": [int(side) for side in prediction.slide_size],
        "mpp": None if prediction.mpp is None else [float(m) for m in prediction.mpp],
        "grid": {"rows": grid.rows, "cols": grid.cols, "cell": list(grid.cell)},
        "tissue_cells": len(prediction.tissue),
        "tile_px": int(prediction.tile_px),
        "tile_downsample": [float(d) for d in prediction.tile_downsample],
        "tiles_read": int(prediction.tiles_read),
        "notes": list(prediction.notes),
        "view_shares": dict(prediction.view_shares),
        "digest": prediction.digest,
        "bytes_read": int(prediction.bytes_read),
    }


def unlike_of(record: Record) -> Unlike | None:
    """How unlike the training slides a record says that its slide is; None where it does not say."""
    found = record.get("unlike")
    return found and Unlike(found["score"], tuple(found["parts"]), found["rank"], found["slides"])


def _describe(answer: TaskResult) -> Record:
    return {
        "task": answer.spec.name,
        "kind": answer.spec.kind,
        "names": list(answer.spec.names),
        "prediction": answer.text,
        "values": [float(v) for v in answer.values],
        "stderr": _known(answer.stderr),
        "low": _known(answer.low),
        "high": _known(answer.high),
        "outputs": None if answer.outputs is None else [float(o) for o in answer.outputs],
        "point": None if answer.spec.point is None else answer.spec.point.to_values(),
        "sets": None if answer.spec.sets is None else answer.spec.sets.to_values(),
    }


def _known(numbers: Float64[np.ndarray, " V"] | None) -> list[float | None] | None:
    """Numbers of JSON: null for what is not known."""
    return None if numbers is None else [float(n) if np.isfinite(n) else None for n in numbers]


def _numbers(known: Sequence[float | None]) -> Float64[np.ndarray, " V"]:
    return np.array([np.nan if n is None else n for n in known], np.float64)


def read_prediction(folder: Path | str) -> Prediction:
    """The prediction in a slide's folder, for heatmaps and reports without running the model again.

    Raises `WsiAtsError` where the folder holds no finished slide.
    """
    folder = Path(folder)
    record = read_record(folder / "result.json", Predicted)
    if record is None:
        raise WsiAtsError(
            f"{folder} holds no finished slide (no readable result.json)", remedy="predict the slide first"
        )
    return _prediction(folder, record)


def read_patient_prediction(folder: Path | str) -> PatientPrediction:
    """The prediction in a patient's folder, as `read_prediction` reads that of a slide."""
    folder = Path(folder)
    record = read_record(folder / "result.json", PatientPredicted)
    if record is None:
        raise WsiAtsError(
            f"{folder} holds no finished patient (no readable result.json)",
            remedy="predict the patient first",
        )
    cells = sum(slide["tissue_cells"] for slide in record["slides"])
    common = {"rounds": record["rounds"], "seconds": {}, "answers": record["answers"]}
    slides = [_prediction(folder / slide["folder"], {**common, **slide}) for slide in record["slides"]]
    return PatientPrediction(
        slides=tuple(replace(slide, patient_cells=cells if len(slides) > 1 else 0) for slide in slides),
        rounds=record["rounds"],
        bytes_read=record["bytes_read"],
        seconds=record["seconds"],
        notes=tuple(record["notes"]),
        unlike=unlike_of(record),
    )


def _prediction(folder: Path, record: Record) -> Prediction:
    cells = read_attention(folder / "attention.h5")
    return Prediction(
        slide=record["name"],
        results=_answers(record["answers"], cells.contributions),
        grid=cells.grid,
        slide_size=tuple(record["slide_size"]),
        mpp=None if record["mpp"] is None else tuple(record["mpp"]),
        tissue=cells.tissue,
        attention=cells.attention,
        cells=cells.tissue[cells.drawn],
        weights=cells.weight[cells.drawn],
        tile_px=record["tile_px"],
        tile_downsample=tuple(record["tile_downsample"]),
        tiles_read=record["tiles_read"],
        rounds=record["rounds"],
        bytes_read=record["bytes_read"],
        seconds=record["seconds"],
        notes=tuple(record["notes"]),
        view_shares=record["view_shares"],
        digest=record.get("digest", ""),
        unlike=unlike_of(record),
    )


def _answers(records: Sequence[Record], contributions: Float32[np.ndarray, "N O"]) -> tuple[TaskResult, ...]:
    specs = [spec_of(r["task"], r["kind"], r["names"], r.get("point"), r.get("sets")) for r in records]
    ends = np.cumsum([len(spec.outputs) for spec in specs])
    return tuple(
        TaskResult(
            spec,
            np.array(record["values"], np.float64),
            _numbers(record["stderr"]),
            part,
            *(
                None if record.get(key) is None else _numbers(record[key])
                for key in ("outputs", "low", "high")
            ),
        )
        for spec, record, part in zip(specs, records, np.split(contributions, ends[:-1], axis=1), strict=True)
    )
