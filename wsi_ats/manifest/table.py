"""Tables as people and spreadsheets write them: any delimiter, encoding or format becomes rows of text.

Everything is read as text: patient 007 stays 007, and a label is what is written. What a file is tells its content, not
its name. Rows are never shifted: one with more or fewer cells than the header is an error that shows it.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.sheet import parquet_records, xlsx_records
from wsi_ats.regular import read_regular

Warn = Callable[[str], object]
"""A function that gets what the user should know, a sentence at a time."""

TEXT = "save the table as CSV in UTF-8"
DELIMITERS = ",;\t"
MOST_BYTES = 1 << 30
"""Size of the largest manifest that is read: many millions of slides."""
SHOWN = 160
"""Characters of a row that an error shows."""


@dataclass(frozen=True)
class Table:
    """A table of at least one row; no row is empty, no two columns have one name."""

    path: Path
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    """Rows (n, columns) of cells without the spaces around them."""
    numbers: Sequence[int]
    """Number of each row in the file, from 1: the header is not counted, empty rows are."""
    delimiter: str = ","
    encoding: str = "utf-8"

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    def line(self, position: int) -> str:
        """The row at a position, named for a message."""
        return f"{self.path}, row {self.numbers[position]}"


def read_table(path: Path, warn: Warn) -> Table:
    """The table in a file: CSV (`,` `;` or tab; UTF-8, UTF-16 or Latin-1), the first sheet of an xlsx, or Parquet.

    Raises `ConfigError` naming the file, the row and the rule.
    """
    data = _bytes(path)
    if data.startswith(b"PAR1"):
        return _table(path, parquet_records(path, data))
    if data.startswith(b"PK\x03\x04"):
        return _table(path, xlsx_records(path, data))
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise ConfigError(
            f"manifest {path} is a spreadsheet of the old kind (.xls)", "save it as .xlsx or CSV"
        )
    text, encoding = _decoded(path, data, warn)
    head, delimiter = _delimiter(text)
    return _table(path, _records(path, text[head:], delimiter), delimiter, encoding)


def _bytes(path: Path) -> bytes:
    try:
        return read_regular(path, MOST_BYTES)
    except FileNotFoundError:
        raise ConfigError(
            f"manifest {path} does not exist",
            remedy="check the path; a relative one starts at the working folder",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"manifest {path} cannot be read: {error}", "check the path and its permissions"
        ) from error


def _decoded(path: Path, data: bytes, warn: Warn) -> tuple[str, str]:
    """The text of a file, and its encoding."""
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    marked = next((encoding for mark, encoding in marks.items() if data.startswith(mark)), "")
    try:
        if not marked and b"\0" in data:
            raise ConfigError(
                f"manifest {path} cannot be read: it has zero bytes, so it is no text in UTF-8", TEXT
            )
        return data.decode(marked or "utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        if marked:
            raise ConfigError(f"manifest {path} cannot be read: {error}", TEXT) from error
        warn(
            f"manifest {path} is not UTF-8 (byte {error.start + 1} is 0x{data[error.start]:02x}): it is read as "
            "Windows-1252 (Latin-1); check names with accents, or save it as CSV UTF-8"
        )
    try:
        return data.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def _delimiter(text: str) -> tuple[int, str]:
    """Where the header begins, and the delimiter that gives it most cells, unless a line before it names one."""
    first = io.StringIO(text, newline="").readline()
    named = first.strip().removeprefix("sep=")
    if len(named) <= 1 and first.startswith("sep="):
        return len(first), named or "\t"
    start = len(text) - len(text.lstrip())
    header = io.StringIO(text[start : start + csv.field_size_limit()], newline="").readline()
    return 0, max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _records(path: Path, text: str, delimiter: str) -> Iterable[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise ConfigError(
            f"manifest {path} cannot be read: line {reader.line_num}: {error}",
            remedy='close every quote; a " inside a quoted cell is written twice',
        ) from error


def _table(
    path: Path, records: Iterable[Sequence[str]], delimiter: str = ",", encoding: str = "utf-8"
) -> Table:
    """The table of records, the first of which is the header; what spreadsheets leave empty is left out."""
    rows: list[tuple[str, ...]] = []
    numbers: list[int] = []
    header: list[str] = []
    for number, record in enumerate(records):
        cells = [cell.strip() for cell in record]
        if not any(cells):
            continue
        if not header:
            header, offset = cells, number
            while not header[-1]:
                header.pop()
            continue
        if len(cells) != len(header):
            cells = _cut(cells, len(header), f"{path}, row {number - offset}")
        rows.append(tuple(cells))
        numbers.append(number - offset)
    if not header:
        raise ConfigError(
            f"manifest {path} cannot be read: it is empty", "write a header and one row a slide"
        )
    if not rows:
        raise ConfigError(f"manifest {path} has no rows", remedy="write one row a slide")
    return _named(path, header, rows, numbers, delimiter, encoding)


def _cut(cells: list[str], width: int, line: str) -> list[str]:
    """The cells as far as the header goes, if all behind that are empty. Raises `ConfigError` otherwise."""
    if len(cells) < width or any(cells[width:]):
        shown = " | ".join(cells)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        many = len(cells) > width
        raise ConfigError(
            f"{line} has {len(cells)} cells, the header {width}: {shown}",
            remedy='quote cells that contain the delimiter: "a, b"'
            if many
            else "write a cell for every column of the header, also for empty ones",
        )
    return cells[:width]


def _named(
    path: Path,
    header: list[str],
    rows: list[tuple[str, ...]],
    numbers: list[int],
    delimiter: str,
    encoding: str,
) -> Table:
    """The table with a name for every column that holds anything; a column of neither name nor cells is left out."""
    kept = [i for i, name in enumerate(header) if name or any(row[i] for row in rows)]
    if len(kept) < len(header):
        header, rows = [header[i] for i in kept], [tuple(row[i] for i in kept) for row in rows]
    names = [name or f"column {i + 1}" for i, name in zip(kept, header, strict=True)]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ConfigError(f"manifest {path} has two columns {twice!r}", remedy="rename or delete one of them")
    return Table(path, tuple(names), rows, numbers, delimiter, encoding)
