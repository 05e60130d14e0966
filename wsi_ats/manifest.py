"""The manifest: which slides, their labels, patients and splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from wsi_ats.errors import ConfigError

Split = Literal["train", "val", "test"]

ALIASES = {"slide": ("wsi", "slide_id"), "patient": ("case_id",), "label": ()}
"""Column names of other tools (TRIDENT's `wsi`, CLAM's `slide_id` and `case_id`) that are understood."""


@dataclass(frozen=True)
class Row:
    """One slide of a manifest."""

    slide: str
    """Path as the manifest has it: the slide's id."""
    path: Path
    """The same, resolved against the manifest's folder."""
    label: str
    patient: str
    """The slide's own id where the manifest names no patient."""
    split: Split | None
    mpp: float | None


def read_manifest(path: Path | str, target: str = "label") -> list[Row]:
    """Labelled slides of a CSV or Parquet manifest (columns as in docs/formats.md); `target` names the label column.

    Raises `ConfigError` naming the manifest, the column or row, and the rule.
    """
    path = Path(path)
    table = read_table(path)
    slide = column(table, "slide", path)
    label = column(table, target, path)
    patient = column(table, "patient", path, required=False)
    rows = []
    for position, (name, value) in enumerate(zip(table[slide], table[label], strict=True)):
        line = f"{path}, row {position + 1}"
        if _is_missing(name) or _is_missing(value):
            raise ConfigError(f"{line}: {slide} is {name!r} and {label} is {value!r}; both must be given")
        record = table.iloc[position]
        rows.append(
            Row(
                slide=str(name),
                path=path.parent / str(name),
                label=_label(value),
                patient=str(name)
                if patient is None or _is_missing(record[patient])
                else str(record[patient]),
                split=_split(record.get("split"), line),
                mpp=parse_mpp(record.get("mpp"), line),
            )
        )
    _check(rows, path)
    return rows


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file as a table of at least one row."""
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise ConfigError(f"manifest {path} does not exist") from None
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"manifest {path} cannot be read: {error}", remedy="write it as CSV or Parquet"
        ) from error
    if table.empty:
        raise ConfigError(f"manifest {path} has no rows")
    return table


def column(table: pd.DataFrame, name: str, path: Path, *, required: bool = True) -> str | None:
    """The name that `name` has in this table: itself, or what another tool calls it."""
    for candidate in (name, *ALIASES.get(name, ())):
        if candidate in table.columns:
            return candidate
    if required:
        raise ConfigError(
            f"manifest {path} has no column {name!r}; its columns are {list(table.columns)}",
            remedy="rename the column, or name the label's column with --target",
        )
    return None


def parse_mpp(value: object, line: str) -> float | None:
    """A positive number of micrometres per pixel, or None where the cell is empty."""
    if _is_missing(value):
        return None
    try:
        mpp = float(str(value))
    except ValueError:
        mpp = -1.0
    if not 0 < mpp < 1000:
        raise ConfigError(f"{line}: mpp is {value!r}; it must be a positive number of micrometres per pixel")
    return mpp


def classes_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """The distinct labels in their natural order (numbers by value)."""
    labels = {row.label for row in rows}
    return tuple(sorted(labels, key=lambda x: (0, float(x), x) if _is_number(x) else (1, 0.0, x)))


def with_splits(rows: Sequence[Row], val_fraction: float, seed: int) -> list[Row]:
    """The rows with a split each: the manifest's own, or one by patient, stratified by label.

    No patient is ever on both sides. Raises `ConfigError` where a class has too few patients for that.
    """
    if all(row.split is not None for row in rows):
        return list(rows)
    if any(row.split is not None for row in rows):
        raise ConfigError(
            "the manifest gives some slides a split and others none; fill the column or drop it"
        )
    held_out = _held_out_patients(rows, val_fraction, np.random.default_rng(seed))
    return [replace(row, split="val" if row.patient in held_out else "train") for row in rows]


def _held_out_patients(rows: Sequence[Row], fraction: float, rng: np.random.Generator) -> set[str]:
    label_of = {row.patient: row.label for row in rows}
    held_out: set[str] = set()
    for label in sorted(set(label_of.values())):
        patients = sorted(p for p, own in label_of.items() if own == label)
        count = max(1, round(fraction * len(patients)))
        if count >= len(patients):
            raise ConfigError(
                f"class {label!r} has {len(patients)} patient(s): too few to hold some out for validation",
                remedy="add slides of that class, or give the manifest a `split` column",
            )
        held_out.update(rng.permutation(patients)[:count])
    return held_out


def _check(rows: Sequence[Row], path: Path) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.slide in seen:
            raise ConfigError(f"manifest {path} lists slide {row.slide!r} twice")
        seen.add(row.slide)
    by_patient: dict[str, set[Split | None]] = {}
    for row in rows:
        by_patient.setdefault(row.patient, set()).add(row.split)
    torn = sorted(patient for patient, splits in by_patient.items() if len(splits) > 1)
    if torn:
        raise ConfigError(
            f"manifest {path} puts {len(torn)} patient(s) into more than one split, {torn[0]!r} for one: "
            "validation on a patient that was trained on proves nothing",
            remedy="give all slides of a patient the same split",
        )


def _split(value: object, line: str) -> Split | None:
    if _is_missing(value):
        return None
    if value not in ("train", "val", "test"):
        raise ConfigError(f"{line}: split is {value!r}; it must be train, val or test")
    return value


def _label(value: object) -> str:
    """CSV turns 0/1 into floats where a cell of the column is empty elsewhere; 1.0 and 1 are one class."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
