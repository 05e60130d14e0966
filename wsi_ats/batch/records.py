"""The records of a slide, result.json and failure.json: their shape, and reading and writing them.

Whatever lies there under such a name and has not this shape is no record: the slide is then predicted anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from wsi_ats.atomic import read_regular, write_atomic
from wsi_ats.tasks.answer import TaskSpec

Record = dict[str, Any]

LARGEST = 64 << 20
"""Bytes of the largest record that is read."""
Text = InstanceOf[str]
"""Text whose bytes need not be UTF-8, as in names of files (pydantic's own `str` refuses those)."""
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Shape(BaseModel):
    """A shape of JSON values: numbers are numbers and finite; what else there is, is left alone."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Answer(_Shape):
    task: Text
    kind: Text
    names: list[Text]
    prediction: Text
    values: list[float]
    stderr: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    outputs: list[float] | None = None
    point: dict[Text, Any] | None = None
    sets: dict[Text, Any] | None = None


class _Unlike(_Shape):
    score: Annotated[float, Field(ge=0)]
    parts: list[Text]
    rank: Annotated[int, Field(ge=1)]
    slides: Annotated[int, Field(ge=1)]


class _Grid(_Shape):
    rows: Count
    cols: Count
    cell: Pair


class _Provenance(_Shape):
    """The part that both records have."""

    slide: Text
    path: Text
    patient: Text
    extra: dict[Text, Text]
    config_hash: Text
    run: Text
    finished: float


class _Answered(_Shape):
    """The part of a prediction that is the same of slides and patients."""

    prediction: Text
    answers: Annotated[list[_Answer], Field(min_length=1)]
    tiles_read: Count
    rounds: Count
    bytes_read: Count
    notes: list[Text]
    unlike: _Unlike | None = None
    seconds: dict[Text, float]


class _OfSlide(_Shape):
    """The part of a prediction that is about a slide."""

    name: Text
    slide_size: Annotated[list[Count], Field(min_length=2, max_length=2)]
    mpp: Pair | None
    grid: _Grid
    tile_px: Count
    tile_downsample: Pair
    tiles_read: Count
    bytes_read: Count
    notes: list[Text]
    view_shares: dict[Text, float]
    digest: Text = ""


class Predicted(_OfSlide, _Answered):
    """The part of a result.json that is a prediction."""


class _SlideOfPatient(_OfSlide):
    id: Text
    path: Text = ""
    folder: Text
    tissue_cells: Count


class PatientPredicted(_Answered):
    """The part of a patient's result.json that is a prediction."""

    slides: Annotated[list[_SlideOfPatient], Field(min_length=1)]


class _Stamped(_Provenance):
    """Of which files a result is."""

    size_bytes: int
    mtime_ns: int
    mpp_given: float | None
    bad_tiles: list[list[int]]


class Result(_Stamped, Predicted):
    """The shape of a result.json."""


class PatientResult(_Stamped, PatientPredicted):
    """The shape of a patient's result.json."""

    files: list[list[Any]]
    """Id, size, time of change and given mpp of every slide's file."""


class Failed(_Provenance):
    """The shape of a failure.json."""

    stage: Text
    error: Text
    remedy: Text


def read_record(path: Path, shape: type[BaseModel]) -> Record | None:
    """The JSON object of that shape in a file; None where there is no such file or object: it is then made again.

    Nothing is raised, whatever lies there: a link, a folder, other types, NaN, any number of brackets.
    """
    try:
        content, _ = read_regular(path, LARGEST)
        record = json.loads(content, parse_constant=_refuse)
        shape.model_validate(record)
    except (OSError, ValueError, RecursionError, OverflowError, MemoryError):
        return None
    return dict(record)


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    r"""Write a JSON object in one step, readable by people; bytes of names that are no UTF-8 as \udc escapes, which
    JSON reads back as they were."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode("utf-8", "backslashreplace") + b"\n")


def answers(record: Record, specs: Sequence[TaskSpec]) -> bool:
    """Whether a result answers these tasks, with as many values as they have."""
    found = record["answers"]
    return len(found) == len(specs) and all(
        (answer["task"], answer["kind"], tuple(answer["names"])) == (spec.name, spec.kind, spec.names)
        and len(answer["values"]) == len(answer["stderr"]) == len(spec.values)
        and all(len(answer.get(end) or spec.values) == len(spec.values) for end in ("low", "high"))
        for answer, spec in zip(found, specs, strict=True)
    )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
