"""Entries: the rows of any manifest, for training and for prediction, with what is common to both."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.columns import scale_column
from wsi_ats.manifest.files import SlideFiles
from wsi_ats.manifest.slide_column import slide_column
from wsi_ats.manifest.spellings import one_a_number
from wsi_ats.manifest.table import Table, Warn
from wsi_ats.shown import url_id
from wsi_ats.slides.storage.opening import is_url
from wsi_ats.tasks.texts import NOT_GIVEN

BROKEN = frozenset({"#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!"})
"""Texts of cells whose formula went wrong in a spreadsheet."""


@dataclass(frozen=True)
class Entry:
    """A row of any manifest."""

    slide: str
    """Path as the manifest has it, normalised: the slide's id."""
    path: str
    """Path or URL of the slide, seen from the working folder."""
    patient: str
    """Id of the patient; empty where the manifest names none."""
    mpp: float | None
    """Micrometres per level-0 px; None where the manifest does not say."""
    others: Mapping[str, str]
    """Texts of the other columns, by name."""
    row: int
    """Number of the row, from 1, the header not counted."""
    file: Hashable
    """Key of the slide's file: the same for all names of one file."""
    size: int
    """Bytes of a regular file; 0 where it is none, or not there."""
    hint: str
    """What to do where the file is missing."""

    @property
    def place(self) -> Path | str:
        """Path of the slide, or its URL as a text."""
        return self.path if is_url(self.path) else Path(self.path)


def entries_of(
    table: Table, patients: str, slides_dir: Path | str | None = None, *, warn: Warn
) -> Iterator[Entry]:
    """The rows of a table.

    patients: the column of patients; empty where there is none. slides_dir: folder that paths are relative to, instead
    of that of the manifest; names without a folder are also found deeper in it. warn: gets which column names the
    slides where several could. Raises `ConfigError` naming the manifest, the rows, the value and the rule.
    """
    files = _files(table, slides_dir)
    slide, scale = slide_column(table, files, warn), scale_column(table, warn)
    _refuse_cells(table, slide, patients, scale)
    mpp = {text: parse_mpp(text) for text in set(table.column(scale))} if scale else {}
    names = one_a_number(table, patients, table.column(patients), "patient", warn) if patients else []
    index = {name: i for i, name in enumerate(table.columns)}
    rest = [(name, i) for name, i in index.items() if name not in (slide, patients, scale)]
    for position, cells in enumerate(table.rows):
        file = files.find(cells[index[slide]], table.line(position))
        patient = names[position] if patients else ""
        yield Entry(
            slide=slide_id(cells[index[slide]]),
            path=file.path,
            patient="" if patient in NOT_GIVEN else patient,
            mpp=mpp[cells[index[scale]]] if scale else None,
            others={name: cells[i] for name, i in rest},
            row=table.numbers[position],
            file=file.key,
            size=file.size,
            hint=file.hint,
        )


def _refuse_cells(table: Table, slide: str, patients: str, scale: str) -> None:
    """Raise `ConfigError` naming the rows with a cell that cannot be meant."""
    table.refuse(slide, lambda text: not text, "; every row must name a slide", "fill it, or delete the row")
    table.refuse(
        slide,
        slide.__eq__,
        ", the name of the column: the header stands there again",
        "keep one header, of one row, at the top",
    )
    for name in filter(None, (slide, patients, scale)):
        refuse_broken(table, name)
    if scale:
        table.refuse(
            scale,
            lambda text: parse_mpp(text) == 0,
            "; it must be a positive number of micrometres per pixel",
            "write the number alone, without its unit, or leave the cell empty",
        )


def _files(table: Table, slides_dir: Path | str | None) -> SlideFiles:
    if slides_dir is None:
        return SlideFiles(table.path.parent, encoding=table.encoding)
    if not is_url(str(slides_dir)) and not Path(slides_dir).is_dir():
        raise ConfigError(
            f"--slides-dir {slides_dir} is no folder",
            remedy="give the folder that the slides of the manifest lie in",
        )
    return SlideFiles(slides_dir, searched=True, encoding=table.encoding)


def slide_id(path: str | Path) -> str:
    """A path as the id of a slide: as it is written, without `.`, `..` and double slashes, slashes forward; a URL
    without user, password and signature."""
    return url_id(str(path)) if is_url(str(path)) else os.path.normpath(path).replace(os.sep, "/")


def parse_mpp(text: str) -> float | None:
    """A positive number of micrometres per pixel, with a decimal point or comma; None where the cell is empty, 0 where
    it is something else."""
    if text in NOT_GIVEN:
        return None
    try:
        mpp = float(text.replace(",", ".") if re.fullmatch(r"\d*,\d+", text) else text)
    except ValueError:
        return 0.0
    return mpp if 0 < mpp < 1000 else 0.0


def refuse_broken(table: Table, column: str) -> None:
    """Raise `ConfigError` naming the rows of a column that hold an error of a spreadsheet."""
    table.refuse(
        column, BROKEN.__contains__, ", an error of the spreadsheet", "mend its formula, and save values"
    )
