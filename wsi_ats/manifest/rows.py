"""Rows of a manifest for training: labelled slides, each file once, no patient in two splits."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.advice import advise
from wsi_ats.manifest.columns import (
    column_called,
    label_column,
    optional_column,
    patient_column,
    site_column,
)
from wsi_ats.manifest.entries import Entry, entries_of, refuse_broken
from wsi_ats.manifest.same_file import Twin, twins
from wsi_ats.manifest.spellings import one_a_number, refuse_spellings
from wsi_ats.manifest.table import Table, Warn, read_table
from wsi_ats.tasks.settings import LABEL
from wsi_ats.tasks.texts import NOT_GIVEN

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

MOST_CLASSES = 20
"""Number of different targets up to which they are taken for classes."""
NAMED = 3
"""Number of repeated rows that a warning names."""


@dataclass(frozen=True)
class Row:
    """A row of a manifest for training: one labelled slide, or one patient (`manifest/patients.py`)."""

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
    group: str = ""
    """What else than the patient must be on one side of a split, as the column of groups has it; empty: nothing."""
    site: str = ""
    """Place that the slide comes from; empty where the manifest does not say."""
    hint: str = field(default="", compare=False)
    """What to do where the file is missing."""
    slides: tuple[Row, ...] = ()
    """Rows of the slides of a patient, whose id is then `slide`; none where this is one slide."""

    @property
    def of_slides(self) -> tuple[Row, ...]:
        """The rows of its slides: itself where it is one."""
        return self.slides or (self,)

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


def of_train(rows: Sequence[Row]) -> str:
    """Words on rows of the split `train`, which a model has learned from; empty where there are none."""
    trained = sum(row.split == "train" for row in rows)
    return f"{trained} of {len(rows)} slides are of the split train" if trained else ""


def read_manifest(
    path: Path | str | Table,
    target: str = LABEL,
    columns: Sequence[str] = (),
    *,
    patient: str | None = None,
    group: str | None = None,
    site: str | None = None,
    slides_dir: Path | str | None = None,
    warn: Warn = warnings.warn,
) -> list[Row]:
    """Labelled slides of a manifest: CSV, xlsx or Parquet (columns as in docs/formats.md), or one that is read already.

    target: the column of the classes. columns: those of the targets of tasks, instead; a slide must have at least
    one of them. patient: the column of patients, or `none`; by default one under a common name. group: the column of
    what must not be on two sides of a split beside the patient, such as a scanner. site: the column of the places that
    slides come from, found and named as that of patients. slides_dir: folder that paths are relative to, instead of
    the manifest's. warn: gets what may be wrong without being an error. In a column of numbers 1.0 and 1 are one class
    or patient, which is told: programs write integers beside an empty cell as 1.0. Rows that say the same of one file
    are one. Raises `ConfigError` naming the manifest, the column or row, the rule.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "manifest.csv")
    ...     _ = path.write_text("slide,label,patient,split\\na/1.svs,tumour,007,train\\na/2.svs,normal,8,val\\n")
    ...     rows = read_manifest(path)
    >>> [(row.slide, row.label, row.patient, row.split) for row in rows]
    [('a/1.svs', 'tumour', '007', 'train'), ('a/2.svs', 'normal', '8', 'val')]
    """
    table = path if isinstance(path, Table) else read_table(Path(path), warn)
    patients = patient_column(table, patient)
    entries = list(entries_of(table, patients, slides_dir, warn=warn))
    texts = _texts(table, target, columns, warn)
    _refuse_unlabelled(table, texts, entries)
    groups = column_called(table, group, "name a column of the manifest with --group") if group else ""
    sites = site_column(table, site)
    split = optional_column(table, "split")
    if split:
        table.refuse(
            split,
            lambda cell: split_named(cell) is None and cell not in NOT_GIVEN,
            "; it must be train, val or test",
            "correct it, or leave it empty",
        )
    grouped, placed = _names(table, groups, "group", warn), _names(table, sites, "site", warn)
    rows = [
        _row(entry, {name: cells[i] for name, cells in texts.items()}, split, group, place, bool(columns))
        for i, (entry, group, place) in enumerate(zip(entries, grouped, placed, strict=True))
    ]
    rows = _each_once(rows, entries, table.path, warn)
    for column, names in ((patients, [e.patient for e in entries]), (groups, grouped), (sites, placed)):
        what = {patients: "patients", groups: "groups", sites: "sites"}[column]
        refuse_spellings(f"manifest {table.path}, column {column!r}", names, what)
    _refuse_torn(rows, table.path)
    advise(table, entries, texts, patients, asked=patient is not None, warn=warn)
    return rows


def _texts(table: Table, target: str, columns: Sequence[str], warn: Warn) -> dict[str, list[str]]:
    """Texts of the columns of targets, by the names that they were asked for by."""
    remedy = "name the columns of targets in the settings of tasks"
    found = {name: column_called(table, name, remedy) for name in columns} or {
        target: label_column(table, target)
    }
    texts = {}
    for name, column in found.items():
        refuse_broken(table, column)
        cells = _with_points(table, table.column(column))
        texts[name] = one_a_number(table, column, cells, "class or grade", warn, most=MOST_CLASSES)
    return texts


def _refuse_unlabelled(table: Table, texts: Mapping[str, Sequence[str]], entries: Sequence[Entry]) -> None:
    """Raise `ConfigError` naming the rows that have none of the targets."""
    each = zip(*texts.values(), strict=True)
    rows = [position for position, cells in enumerate(each) if NOT_GIVEN.issuperset(cells)]
    if rows:
        said = " and ".join(f"{column} is {cells[rows[0]]!r}" for column, cells in texts.items())
        rule = "one of these must be given" if len(texts) > 1 else "both must be given"
        raise ConfigError(
            f"{table.line(rows[0])}: slide is {entries[rows[0]].slide!r} and {said}; {rule}{table.more(rows)}",
            remedy="label the slide, or leave its row out",
        )


def _with_points(table: Table, texts: list[str]) -> list[str]:
    """Decimal commas as points, where all of a column's cells are numbers and commas do not part the cells."""
    given = [text for text in texts if text not in NOT_GIVEN]
    if table.delimiter == "," or not all(re.fullmatch(r"[+-]?\d+(,\d+)?", text) for text in given):
        return texts
    return [text.replace(",", ".") for text in texts]


def _names(table: Table, column: str, what: str, warn: Warn) -> list[str]:
    """Texts of a column of names, one a row; empty where nothing is given, and all where there is no column."""
    if not column:
        return [""] * len(table.rows)
    refuse_broken(table, column)
    names = one_a_number(table, column, table.column(column), what, warn)
    return ["" if name in NOT_GIVEN else name for name in names]


def _row(entry: Entry, cells: dict[str, str], split: str, group: str, site: str, of_tasks: bool) -> Row:
    return Row(
        entry.slide,
        entry.place,
        "" if of_tasks else next(iter(cells.values())),
        entry.patient or entry.slide,
        split_named(entry.others.get(split, "")),
        entry.mpp,
        cells=cells if of_tasks else {},
        group=group,
        site=site,
        hint=entry.hint,
    )


def split_named(value: str) -> Split | None:
    """The split that a cell names; None where it names none."""
    return next((split for split in SPLITS if value.casefold() == split), None)


def _each_once(rows: list[Row], entries: Sequence[Entry], path: Path, warn: Warn) -> list[Row]:
    """The rows without those that say again what an earlier one says of the same file.

    Raises `ConfigError` for rows that say different things of one file.
    """
    found = twins(entries)
    for twin in found:
        _refuse_conflict(twin, rows, entries, path)
    if found:
        more = "" if len(found) <= NAMED else f"; and {len(found) - NAMED} more"
        pairs = "; ".join(_pair(twin, entries) for twin in found[:NAMED])
        warn(f"manifest {path} lists slides twice, and each is taken once: {pairs}{more}")
    dropped = {twin.second for twin in found}
    return [row for position, row in enumerate(rows) if position not in dropped]


def _refuse_conflict(twin: Twin, rows: Sequence[Row], entries: Sequence[Entry], path: Path) -> None:
    one, other = rows[twin.first], rows[twin.second]
    said = {
        "patient": (entries[twin.first].patient, entries[twin.second].patient),
        "split": (one.split or "", other.split or ""),
        "mpp": (one.mpp or "", other.mpp or ""),
        **(
            {name: (one.cells[name], other.cells[name]) for name in one.cells}
            or {"label": (one.label, other.label)}
        ),
    }
    differ = [f"{name} is {a!r} and {b!r}" for name, (a, b) in said.items() if a != b]
    if differ:
        raise ConfigError(
            f"manifest {path} lists slide {one.slide!r} twice and says different things of it "
            f"({_pair(twin, entries)}): {', '.join(differ)}",
            remedy="keep the row that is right",
        )


def _pair(twin: Twin, entries: Sequence[Entry]) -> str:
    one, other = entries[twin.first], entries[twin.second]
    how = "a copy of" if twin.copy else "the file of"
    return f"row {other.row}, {other.slide!r}, is {how} row {one.row}, {one.slide!r}"


def _refuse_torn(rows: Sequence[Row], path: Path) -> None:
    """Raise `ConfigError` where a patient, or a group, has slides in several splits."""
    for what, names in (("patient", [row.patient for row in rows]), ("group", [row.group for row in rows])):
        splits: dict[str, set[Split | None]] = {}
        for name, row in zip(names, rows, strict=True):
            splits.setdefault(name, set()).add(row.split)
        torn = sorted(name for name, found in splits.items() if name and len(found) > 1)
        if torn:
            raise ConfigError(
                f"manifest {path} puts {len(torn)} {what}(s) into more than one split, {torn[0]!r} for one: "
                f"validation on a {what} that was trained on proves nothing",
                remedy=f"give all slides of a {what} the same split",
            )
