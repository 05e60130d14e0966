"""Manifests: tables of slides, for training (with labels, patients, splits) and for prediction.

Everything is read as text: patient 007 stays 007, and a label is what is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from wsi_ats.errors import ConfigError
from wsi_ats.regular import regular_stat
from wsi_ats.shown import url_id
from wsi_ats.slides.storage.opening import is_url
from wsi_ats.tasks.settings import LABEL
from wsi_ats.tasks.texts import NOT_GIVEN, as_written

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi"}
) | {".dcm", ".dicom"}
"""Files that are taken for slides where none is named: in a folder, or by CLAM's names without a suffix."""
ALIASES = {"slide": ("wsi", "slide_id"), "patient": ("case_id",)}
"""Column names of other tools (TRIDENT's `wsi`, CLAM's `slide_id` and `case_id`) that are understood."""
NO_TARGET = "name the column of the labels with --target"
BARE = "slide_id"
"""The column whose names may lack their suffix, as CLAM writes them."""


@dataclass(frozen=True)
class Entry:
    """A row of any manifest."""

    slide: str
    """Path as the manifest has it, normalised: the slide's id."""
    path: Path | str
    """Path or URL of the slide, seen from the working folder."""
    patient: str
    """Id of the patient; empty where the manifest names none."""
    mpp: float | None
    """Micrometres per level-0 px; None where the manifest does not say."""
    others: Mapping[str, str]
    """Texts of the other columns, by name."""
    row: int
    """Number of the row, from 1, the header not counted."""


@dataclass(frozen=True)
class Row:
    """A row of a manifest for training: one labelled slide."""

    slide: str
    """Path as the manifest has it: the slide's id."""
    path: Path | str
    """Path or URL of the slide, seen from the working folder."""
    label: str
    """Text of the target's column; empty where `cells` holds the targets."""
    patient: str
    """Id of the patient; the slide's own where the manifest names none."""
    split: Split | None
    """Split; None where the manifest has none."""
    mpp: float | None
    """Micrometres per level-0 px; None where the manifest does not say."""
    default_mpp: float | None = None
    """Micrometres per level-0 px if neither the manifest nor the slide says."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """Texts of the columns that hold targets, where the settings name tasks."""

    def cell(self, column: str) -> str:
        """The text of a target's column; without others, `label` is the label. Raises `ConfigError` for one that was
        not read."""
        if column in self.cells or column != LABEL:
            try:
                return self.cells[column]
            except KeyError:
                raise ConfigError(
                    f"slide {self.slide!r}: column {column!r} was not read from the manifest",
                    remedy="give read_manifest the columns of all tasks",
                ) from None
        return self.label


def read_manifest(path: Path | str, target: str = LABEL, columns: Sequence[str] = ()) -> list[Row]:
    """Labelled slides of a CSV or Parquet manifest (columns as in docs/formats.md).

    target: the column of the classes. columns: those of the targets of tasks, instead; a slide must have at least
    one of them. In a column of numbers 1.0 and 1 are one class: programs write an integer column with an empty cell
    somewhere as 1.0. Raises `ConfigError` naming the manifest, the column or row, the rule.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "manifest.csv")
    ...     _ = path.write_text("slide,label,patient,split\\na/1.svs,tumour,007,train\\na/2.svs,normal,,val\\n")
    ...     rows = read_manifest(path)
    >>> [(row.slide, row.label, row.patient, row.split) for row in rows]  # without a patient, its own
    [('a/1.svs', 'tumour', '007', 'train'), ('a/2.svs', 'normal', 'a/2.svs', 'val')]
    """
    path = Path(path)
    table = read_table(path)
    _find_column(table, "slide", path)
    for column in columns or (target,):
        if column not in table.columns:
            remedy = "name the columns of targets in the settings of tasks" if columns else NO_TARGET
            raise _no_column(column, table, path, remedy)
    entries = list(entries_of(table, path))
    texts = {c: as_written([entry.others.get(c, "") for entry in entries]) for c in columns or (target,)}
    rows = []
    for number, entry in enumerate(entries):
        cells = {column: texts[column][number] for column in texts}
        if NOT_GIVEN.issuperset(cells.values()):
            found = " and ".join(f"{column} is {cell!r}" for column, cell in cells.items())
            rule = "one of these must be given" if len(cells) > 1 else "both must be given"
            raise ConfigError(
                f"{path}, row {entry.row}: slide is {entry.slide!r} and {found}; {rule}",
                remedy="label the slide, or leave its row out",
            )
        split = _split(entry.others.get("split", ""), f"{path}, row {entry.row}")
        label, cells = ("", cells) if columns else (cells[target], {})
        rows.append(
            Row(entry.slide, entry.path, label, entry.patient or entry.slide, split, entry.mpp, cells=cells)
        )
    _check(rows, path)
    return rows


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file as a table of at least one row, every value a text."""
    try:
        regular_stat(path)
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
    forward; a URL without user, password and signature."""
    return url_id(str(path)) if is_url(str(path)) else Path(os.path.normpath(path)).as_posix()


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


def with_splits(
    rows: Sequence[Row], val_fraction: float, seed: int, groups: Sequence[str | None] | None = None
) -> list[Row]:
    """The rows with a split each: the manifest's own, or one by patient, stratified by group.

    groups: which one each row is of, by default that of its label; each must be on both sides, but for None. No
    patient is ever on both sides. Raises `ConfigError` where a group has too few patients for that.
    """
    if all(row.split is not None for row in rows):
        return list(rows)
    if any(row.split is not None for row in rows):
        raise ConfigError(
            "the manifest gives some slides a split and others none; fill the column or drop it"
        )
    groups = [f"class {row.label!r}" for row in rows] if groups is None else groups
    of = {row.patient: group for row, group in zip(rows, groups, strict=True)}
    held_out = _held_out_patients(of, val_fraction, np.random.default_rng(seed))
    return [replace(row, split="val" if row.patient in held_out else "train") for row in rows]


def _held_out_patients(
    group_of: Mapping[str, str | None], fraction: float, rng: np.random.Generator
) -> set[str]:
    held_out: set[str] = set()
    for group in sorted(set(group_of.values()), key=lambda group: (group is None, group or "")):
        patients = sorted(p for p, own in group_of.items() if own == group)
        count = max(1, round(fraction * len(patients))) if group else int(fraction * len(patients))
        if count >= len(patients):
            raise ConfigError(
                f"{group} has {len(patients)} patient(s): too few to hold some out for validation",
                remedy="add slides of that kind, or give the manifest a `split` column",
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


def _split(value: str, line: str) -> Split | None:
    if value in NOT_GIVEN:
        return None
    for split in SPLITS:
        if value == split:
            return split
    raise ConfigError(f"{line}: split is {value!r}; it must be train, val or test")
