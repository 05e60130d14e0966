"""Manifests: tables of slides, for training (with labels, patients, splits) and for prediction.

Everything is read as text: patient 007 stays 007, and a label is what is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from wsi_ats.errors import ConfigError
from wsi_ats.slides.bytes import is_url

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi"}
) | {".dcm", ".dicom"}
"""Files that are taken for slides where none is named: in a folder, or by CLAM's names without a suffix."""
ALIASES = {"slide": ("wsi", "slide_id"), "patient": ("case_id",)}
"""Column names of other tools (TRIDENT's `wsi`, CLAM's `slide_id` and `case_id`) that are understood."""
BARE = "slide_id"
"""The column whose names may lack their suffix, as CLAM writes them."""
NOT_GIVEN = frozenset({"", "NA", "N/A", "<NA>", "NaN", "nan", "NULL", "null"})
"""How an empty cell is written, by people and by other programs."""


@dataclass(frozen=True)
class Entry:
    """A row of any manifest."""

    slide: str
    """Path as the manifest has it, normalised: the slide's id."""
    path: Path | str
    """The same, seen from the working folder."""
    patient: str
    """Empty where the manifest names none."""
    mpp: float | None
    others: Mapping[str, str]
    """The other columns, as text."""
    row: int
    """Its number, from 1, the header not counted."""


@dataclass(frozen=True)
class Row:
    """One slide of a manifest for training."""

    slide: str
    """Path as the manifest has it: the slide's id."""
    path: Path | str
    """The same, seen from the working folder."""
    label: str
    patient: str
    """The slide's own id where the manifest names no patient."""
    split: Split | None
    mpp: float | None


def read_manifest(path: Path | str, target: str = "label") -> list[Row]:
    """Labelled slides of a CSV or Parquet manifest (columns as in docs/formats.md).

    target: the label column. In a column of numbers 1.0 and 1 are one class: programs write an integer column
    with an empty cell somewhere as 1.0. Raises `ConfigError` naming the manifest, the column or row, the rule.
    """
    path = Path(path)
    table = read_table(path)
    _find_column(table, "slide", path)
    if target not in table.columns:
        raise _no_column(target, table, path, "name the column of the labels with --target")
    entries = list(entries_of(table, path))
    labels = _labels([entry.others.get(target, "") for entry in entries])
    rows = []
    for entry, label in zip(entries, labels, strict=True):
        if label in NOT_GIVEN:
            raise ConfigError(
                f"{path}, row {entry.row}: slide is {entry.slide!r} and {target} is {label!r}; both must be given",
                remedy="label the slide, or leave its row out",
            )
        split = _split(entry.others.get("split", ""), f"{path}, row {entry.row}")
        rows.append(Row(entry.slide, entry.path, label, entry.patient or entry.slide, split, entry.mpp))
    _check(rows, path)
    return rows


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file as a table of at least one row, every value a text."""
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path).apply(_as_text)
        else:
            # index_col: a comma too many at the end of every row must not shift the columns.
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except FileNotFoundError:
        raise ConfigError(
            f"manifest {path} does not exist",
            remedy="check the path; a relative one starts at the working folder",
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"manifest {path} is Parquet, which needs pyarrow",
            remedy='pip install "wsi-ats[parquet]", or use CSV',
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"manifest {path} cannot be read: {error}", remedy="write it as CSV or Parquet"
        ) from error
    if table.empty:
        raise ConfigError(f"manifest {path} has no rows", remedy="write one row a slide")
    return table.rename(columns=lambda name: str(name).strip())


def entries_of(table: pd.DataFrame, path: Path) -> Iterator[Entry]:
    """The rows of a table from `read_table`; paths are relative to the folder of the manifest at `path`.

    Raises `ConfigError` naming the manifest, the row, the value and the rule.
    """
    slide, patient = _find_column(table, "slide", path), _find_column(table, "patient", path, required=False)
    for number, values in enumerate(table.to_dict("records"), start=1):
        line = f"{path}, row {number}"
        row = {str(key): str(value).strip() for key, value in values.items()}
        if not row[slide]:
            raise ConfigError(f"{line}: column {slide!r} is empty", remedy="name a slide in every row")
        named = row.get(patient, "")
        yield Entry(
            slide=slide_id(row[slide]),
            path=_find_file(path.parent, row[slide], line, bare=slide == BARE),
            patient="" if named in NOT_GIVEN else named,
            mpp=parse_mpp(row.get("mpp", ""), line),
            others={key: value for key, value in row.items() if key not in (slide, patient, "mpp")},
            row=number,
        )


def slide_id(path: str | Path) -> str:
    """A path as the id of a slide: as it is written, without `.`, `..` and double slashes, slashes
    forward."""
    return str(path) if is_url(str(path)) else Path(os.path.normpath(path)).as_posix()


def parse_mpp(text: str, line: str) -> float | None:
    """A positive number of micrometres per pixel, or None where the cell is empty."""
    if text in NOT_GIVEN:
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = -1.0
    if not 0 < mpp < 1000:
        raise ConfigError(f"{line}: mpp is {text!r}; it must be a positive number of micrometres per pixel")
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


def _find_column(table: pd.DataFrame, name: str, path: Path, *, required: bool = True) -> str:
    """The name that `name` has in this table: itself, or what another tool calls it; else empty."""
    for candidate in (name, *ALIASES[name]):
        if candidate in table.columns:
            return candidate
    if required:
        raise _no_column(name, table, path, f"rename the column that holds the {name}")
    return ""


def _no_column(name: str, table: pd.DataFrame, path: Path, remedy: str) -> ConfigError:
    return ConfigError(
        f"manifest {path} has no column {name!r}; its columns are {list(table.columns)}", remedy
    )


def _find_file(folder: Path, written: str, line: str, *, bare: bool) -> Path | str:
    """The file or URL that a manifest means; `bare` names may lack their suffix."""
    if is_url(written):
        return written
    path = Path(os.path.normpath(folder / written))
    if path.exists() or not bare:
        return path
    matches = [path.with_name(path.name + suffix) for suffix in sorted(SUFFIXES)]
    matches = [match for match in matches if match.exists()]
    if len(matches) > 1:
        raise ConfigError(
            f"{line}: {written!r} may be any of {', '.join(match.name for match in matches)}",
            remedy="write the slide's file name with its suffix",
        )
    return matches[0] if matches else path


def _as_text(column: pd.Series[Any]) -> pd.Series[str]:
    """A column of a Parquet file as text, nothing where it is null; integers that nulls made floats again."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.astype(object).where(column.notna(), "").astype(str)


def _labels(written: Sequence[str]) -> list[str]:
    """Labels as they are written, but 1.0 as 1 where all of them are numbers."""
    if all(_is_number(label) for label in written if label not in NOT_GIVEN):
        return [re.sub(r"(?<=\d)\.0+$", "", label) for label in written]
    return list(written)


def _split(value: str, line: str) -> Split | None:
    if value in NOT_GIVEN:
        return None
    for split in SPLITS:
        if value == split:
            return split
    raise ConfigError(f"{line}: split is {value!r}; it must be train, val or test")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
