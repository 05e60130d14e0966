"""Tables that are no text: records of text from Parquet and from a sheet of an Excel workbook."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from wsi_ats.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

PEEKED = 20
"""Number of rows that are looked at to tell whether another sheet holds anything."""
NAMED = 5
"""Number of rows, cells or sheets that a note names."""


def parquet_records(path: Path, data: bytes) -> Iterator[list[str]]:
    """Records of a Parquet file, the names of its columns first; nothing where a value is null.

    Raises `ConfigError` where pyarrow is not installed or the file cannot be read.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(io.BytesIO(data)).apply(_as_text)
    except ImportError as error:
        raise ConfigError(
            f"manifest {path} is Parquet, which needs pyarrow",
            remedy='pip install "wsi-ats[parquet]", or use CSV',
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"manifest {path} cannot be read: {error}", "write it as CSV or Parquet") from error
    yield [str(name) for name in table.columns]
    yield from table.to_numpy().tolist()


def _as_text(column: pd.Series[Any]) -> pd.Series[str]:
    """A column of a Parquet file as text, nothing where it is null; integers that nulls made floats again."""
    import pandas as pd

    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.astype(object).where(column.notna(), "").astype(str)


def xlsx_records(
    path: Path, data: bytes, warn: Callable[[str], object] = lambda text: None
) -> tuple[list[list[str]], str]:
    """Records of the first sheet of an Excel workbook that is not hidden, as it shows them: 007 stays 007, dates are
    2026-01-31; and words that name the sheet among others, empty where there is one alone.

    Cells that are merged over several rows all have the value that is shown over them; hidden rows and columns are read
    as all others. warn: gets both, and which sheet is read of several. Raises `ConfigError` where openpyxl is not
    installed, the workbook cannot be read, or a formula has no value in it.
    """
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise ConfigError(
            f"manifest {path} is an Excel workbook, which needs openpyxl",
            remedy='pip install "wsi-ats[xlsx]", or save it as CSV UTF-8',
        ) from error
    try:
        books = [load_workbook(io.BytesIO(data), read_only=True, data_only=c) for c in (True, False)]
        sheets = books[0].worksheets
        index = next((i for i, sheet in enumerate(sheets) if sheet.sheet_state == "visible"), 0)
        values, formulas = (_rows(book.worksheets[index]) for book in books)
        both = zip(values, formulas, strict=True)
        struck: list[str] = []
        records = [_record(*rows, path, struck) for rows in both]
        layout = _layout(sheets[index])
        where = _among_others(sheets, index)
        width = max(map(len, records), default=0)  # a row ends with the last of its cells that was ever used
        records = [record + [""] * (width - len(record)) for record in records]
        filled = _fill_merged(records, layout.merged)
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        SyntaxError,
        InvalidFileException,
        zipfile.BadZipFile,
    ) as error:
        raise ConfigError(
            f"manifest {path} cannot be read as a workbook: {error}", "save it as CSV UTF-8"
        ) from error
    if where:
        warn(f"manifest {path}{where} is read; to read another one, move it to the front or save it as CSV")
    if filled:
        warn(
            f"manifest {path} has merged cells ({_named(filled)}): what they show is taken for each of their rows; "
            "write a value into every row where that is not meant"
        )
    if struck:
        warn(
            f"manifest {path} has {len(struck)} row(s) that are struck through ({_named(struck)} of the sheet), which "
            "are read as all others; to leave them out, delete them"
        )
    _tell_hidden(path, records, layout, warn)
    return records, where


def _record(values: Sequence[Any], formulas: Sequence[Any], path: Path, struck: list[str]) -> list[str]:
    """Texts of a row; its number goes to `struck` where all that it holds is struck through."""
    filled = [cell for cell in values if cell.value is not None]
    if filled and all(cell.font.strike for cell in filled):
        struck.append(str(filled[0].row))
    return [_cell(*cell, path) for cell in zip(values, formulas, strict=True)]


def _rows(sheet: Any) -> Iterable[tuple[Any, ...]]:
    sheet.reset_dimensions()  # other programs than Excel state them wrong
    rows: Iterable[tuple[Any, ...]] = sheet.iter_rows()
    return rows


def _among_others(sheets: list[Any], index: int) -> str:
    """Words for a sheet and the others that hold anything; empty where none does."""
    others = [
        repr(sheet.title) + (" (hidden)" if sheet.sheet_state != "visible" else "")
        for i, sheet in enumerate(sheets)
        if i != index and any(cell.value is not None for row in islice(_rows(sheet), PEEKED) for cell in row)
    ]
    return f", sheet {sheets[index].title!r} (there are also {_named(others)})" if others else ""


def _named(words: list[str]) -> str:
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more


@dataclass
class _Layout:
    """The layout of a sheet, of which its cells say nothing."""

    merged: list[str] = field(default_factory=list)
    """Ranges of merged cells, "A2:A3"."""
    rows: list[int] = field(default_factory=list)
    """Hidden rows, from 1, those that a filter hides included."""
    columns: list[tuple[int, int]] = field(default_factory=list)
    """First and last of hidden columns that lie together, from 1."""


def _layout(sheet: Any) -> _Layout:
    """Read from the sheet's XML as a stream: openpyxl knows it only of workbooks that it holds in memory whole."""
    found = _Layout()
    number = 0
    with sheet._get_source() as source:
        for event, node in ElementTree.iterparse(source, ("start", "end")):
            name = node.tag.rpartition("}")[2]
            if event == "start" and name == "row":
                number = int(node.get("r", number + 1))
                if _is_on(node.get("hidden")):
                    found.rows.append(number)
            elif event == "end":
                if name == "col" and _is_on(node.get("hidden")):
                    found.columns.append((int(node.get("min", 0)), int(node.get("max", 0))))
                elif name == "mergeCell":
                    found.merged.append(node.get("ref", ""))
                if name in ("row", "c", "col", "mergeCell"):
                    node.clear()
    return found


def _is_on(attribute: str | None) -> bool:
    return attribute in ("1", "true")


def _fill_merged(records: list[list[str]], merged: list[str]) -> list[str]:
    """Give the cells that are merged over several rows what is shown over all of them; the ranges where that was done.

    Cells merged over several columns of one row are left as they are: they are titles.
    """
    from openpyxl.utils import range_boundaries

    filled = []
    for area in merged:
        left, top, right, bottom = map(int, range_boundaries(area))
        bottom, right = min(bottom, len(records)), min(right, len(records[0]) if records else 0)
        if top < bottom and left <= right and (shown := records[top - 1][left - 1]):
            for record in records[top - 1 : bottom]:
                record[left - 1 : right] = [shown] * (right - left + 1)
            filled.append(area)
    return filled


def _tell_hidden(
    path: Path, records: list[list[str]], layout: _Layout, warn: Callable[[str], object]
) -> None:
    from openpyxl.utils import get_column_letter

    rows = [str(number) for number in layout.rows if number <= len(records) and any(records[number - 1])]
    width = len(records[0]) if records else 0
    columns = [
        get_column_letter(i)
        for first, last in layout.columns
        for i in range(max(first, 1), min(last, width) + 1)
        if any(record[i - 1] for record in records)
    ]
    if rows:
        warn(
            f"manifest {path} has {len(rows)} hidden row(s), by hand or by a filter ({_named(rows)} of the sheet), "
            "which are read as all others; to leave them out, copy the visible ones to a new workbook, or delete them"
        )
    if columns:
        warn(
            f"manifest {path} has {len(columns)} hidden column(s) ({_named(columns)}), which are read as all others; "
            "delete those that are not meant"
        )


def _cell(cell: Any, written: Any, path: Path) -> str:
    """The text that a spreadsheet shows in a cell."""
    value = cell.value
    if value is None:
        if written.data_type == "f":
            raise ConfigError(
                f"manifest {path}: cell {written.coordinate} is a formula whose value is not in the file",
                remedy="open it in a spreadsheet program and save it, or write values",
            )
        return ""
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    digits = str(cell.number_format)
    if isinstance(value, int) and not isinstance(value, bool) and set(digits) == {"0"}:
        return str(value).zfill(len(digits))
    return str(value)
