"""Tables as people and spreadsheets write them: any delimiter, encoding or format becomes rows of text.

Everything is read as text: patient 007 stays 007, and a label is what is written. What a file is tells its content, not
its name. Rows are never shifted: one with more or fewer cells than the header is an error that shows it.
"""

from __future__ import annotations

import codecs
import csv
import glob
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.names import LIKE_SLIDE, SLIDE, known
from wsi_ats.manifest.search import has_slide_suffix
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
LISTED = 4
"""Number of rows that a message lists."""
TITLES = 20
"""Number of rows at the beginning that the header is looked for in."""


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
    where: str = ""
    """Words that name the sheet of a workbook and the others; empty where there is one alone."""

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    def line(self, position: int) -> str:
        """The row at a position, named for a message."""
        return f"{self.path}, row {self.numbers[position]}"

    def refuse(self, column: str, wrong: Callable[[str], bool], rule: str, remedy: str = "") -> None:
        """Raise `ConfigError` naming the rows whose cell of a column is wrong: the first, how many more, some of them.

        rule: the end of the sentence that begins with the cell. wrong: asked once a text.
        """
        cells = self.column(column)
        texts = {text for text in set(cells) if wrong(text)}
        rows = [position for position, cell in enumerate(cells) if cell in texts] if texts else []
        if rows:
            said = f"{self.line(rows[0])}: {column} is {cells[rows[0]]!r}{rule}"
            raise ConfigError(said + self.more(rows, cells), remedy)

    def more(self, positions: Sequence[int], cells: Sequence[str] = ()) -> str:
        """Words for the rows after the first of those at `positions`, a few of them named; empty where there is one."""
        rest = positions[1:]
        return f"; and {len(rest)} more row(s) like it: {self.listed(rest, cells)}" if rest else ""

    def listed(self, positions: Sequence[int], cells: Sequence[str] = ()) -> str:
        """The numbers of the first few of some rows, with their cells where these are given."""
        some = (
            f"{self.numbers[i]} ({cells[i]!r})" if cells else f"{self.numbers[i]}" for i in positions[:LISTED]
        )
        return ", ".join(some) + (", ..." if len(positions) > LISTED else "")


def read_table(path: Path, warn: Warn) -> Table:
    """The table in a file: CSV (`,` `;` or tab; UTF-8, UTF-16 or Latin-1), a sheet of an xlsx, or Parquet.

    Raises `ConfigError` naming the file, the row and the rule.
    """
    data = _bytes(path)
    if data.startswith(b"PAR1"):
        return _table(path, parquet_records(path, data), warn)
    if data.startswith(b"PK\x03\x04"):
        records, where = xlsx_records(path, data, warn)
        return _table(path, records, warn, where=where)
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise ConfigError(
            f"manifest {path} is a spreadsheet of the old kind (.xls)", "save it as .xlsx or CSV"
        )
    text, encoding = _decoded(path, data, warn)
    text = _without_comments(path, text, warn)
    head, delimiter = _delimiter(text)
    return _table(path, _records(path, text[head:], delimiter), warn, delimiter, encoding)


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


def _without_comments(path: Path, text: str, warn: Warn) -> str:
    """The text without the lines before the header that begin with #; a header may begin so, too."""
    lines = io.StringIO(text, newline="")
    rest = text
    left_out = []
    for line in lines:
        if line.strip():
            names = [cell.lstrip("# ") for delimiter in DELIMITERS for cell in _split(line, delimiter)]
            if not line.lstrip().startswith("#") or known(names, (*SLIDE, *LIKE_SLIDE)):
                break
            left_out.append(line.strip())
        rest = text[lines.tell() :]
    if not left_out:
        return text
    warn(
        f"manifest {path} begins with {len(left_out)} line(s) of comment, {_cut_short(left_out[0])!r} for one, which "
        "are left out"
    )
    return rest


def _delimiter(text: str) -> tuple[int, str]:
    """Where the header begins, and the delimiter that gives it most cells, unless a line before it names one."""
    first = io.StringIO(text, newline="").readline()
    named = first.strip().removeprefix("sep=")
    if len(named) <= 1 and first.startswith("sep="):
        return len(first), named or "\t"
    start = len(text) - len(text.lstrip())
    lines = list(islice(io.StringIO(text[start : start + csv.field_size_limit()], newline=""), TITLES)) or [
        ""
    ]
    names_slides = (line for line in lines if any(known(_split(line, d), SLIDE) for d in DELIMITERS))
    header = next(names_slides, lines[0])  # titles may stand before it
    return 0, max(DELIMITERS, key=lambda delimiter: len(_split(header, delimiter)))


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line[: csv.field_size_limit()]], delimiter=delimiter), [])


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
    path: Path,
    records: Iterable[Sequence[str]],
    warn: Warn,
    delimiter: str = "",
    encoding: str = "utf-8",
    where: str = "",
) -> Table:
    """The table of records, the first of which is the header; what spreadsheets leave empty is left out, and comments.

    delimiter: empty where cells are no matter of one.
    """
    records = iter(records)
    begin = list(islice(records, TITLES))
    _refuse_no_header(path, begin, where)
    records = chain(begin, records)
    rows: list[tuple[str, ...]] = []
    numbers: list[int] = []
    header: list[str] = []
    comments: list[str] = []
    for number, record in enumerate(records):
        cells = [cell.strip() for cell in record]
        if not any(cells):
            continue
        if not header:
            header, offset = cells, number
            while not header[-1]:
                header.pop()
            continue
        if _is_comment(path, header[0], cells):
            comments.append(f"row {number - offset}: {_words(cells)!r}")
            continue
        if len(cells) != len(header):
            cells = _cut(cells, len(header), f"{path}, row {number - offset}", delimiter)
        rows.append(tuple(cells))
        numbers.append(number - offset)
    if not header:
        raise ConfigError(
            f"manifest {path}{where} cannot be read: it is empty",
            "write a header and one row a slide"
            + (", or move the sheet that has them to the front" if where else ""),
        )
    if not rows:
        raise ConfigError(f"manifest {path}{where} has no rows", remedy="write one row a slide")
    if comments:
        warn(
            f"manifest {path}{where}: {len(comments)} row(s) of comment are left out ({'; '.join(comments[:LISTED])}); "
            "a slide whose name begins with # is written with its suffix"
        )
    columns, rows = _named(path, header, rows)
    return Table(path, columns, rows, numbers, delimiter or ",", encoding, where)


def _is_comment(path: Path, first_column: str, cells: Sequence[str]) -> bool:
    """Whether a row is a comment, which may hold the delimiter: it begins with # and a blank; or with # alone where no
    slide is called so, and nothing else is in the row or a slide should stand there. No file has the cell's name."""
    mark = cells[0]
    if not mark.startswith("#") or _is_file(path, mark):
        return False
    of_slides = known([first_column.lstrip("# ")], SLIDE)
    return mark[1:2].isspace() or not (_is_slide(path, mark) or (any(cells[1:]) and not of_slides))


def _refuse_no_header(path: Path, begin: Sequence[Sequence[str]], where: str) -> None:
    """Raise `ConfigError` where the first row is no header: a title, with the header below it, or a slide's row."""
    rows = [(number, [cell.strip() for cell in record]) for number, record in enumerate(begin, 1)]
    rows = [(number, cells) for number, cells in rows if any(cells)]
    if not rows or known(rows[0][1], SLIDE):
        return
    number, first = rows[0]
    for below, cells in rows[1:]:
        if known(cells, SLIDE):
            raise ConfigError(
                f"manifest {path}{where}: row {number} is {_words(first)!r}, which is no header; row {below} looks "
                f"like one: {_words(cells)}",
                remedy=f"delete what stands before row {below}, so that the first row has the names of the columns",
            )
    if slide := next((cell for cell in first if _is_slide(path, cell)), ""):
        raise ConfigError(
            f"manifest {path}{where} has no header: its first row is {_words(first)!r}, and {slide!r} is a slide",
            remedy="write the names of the columns above it, for example: slide,label,patient",
        )


def _is_slide(path: Path, cell: str) -> bool:
    """Whether a cell names a slide: it ends as one, or a file is there."""
    return has_slide_suffix(cell) or cell.endswith(".zarr") or _is_file(path, cell)


def _is_file(path: Path, cell: str) -> bool:
    """Whether a file beside the table has the name in a cell, which may lack the suffix."""
    folder, name = os.path.split(path.parent / cell)
    try:
        return os.path.isfile(path.parent / cell) or any(Path(folder).glob(f"{glob.escape(name)}.*"))
    except ValueError:  # a zero byte
        return False


def _words(cells: Sequence[str]) -> str:
    return _cut_short(" | ".join(filter(None, cells)))


def _cut_short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _cut(cells: list[str], width: int, line: str, delimiter: str) -> list[str]:
    """The cells as far as the header goes, if all behind that are empty. Raises `ConfigError` otherwise."""
    if len(cells) < width or any(cells[width:]):
        remedy = "write a cell for every column of the header, also for empty ones"
        if len(cells) > width:
            quotes = f'quote cells that contain the delimiter, "a{delimiter} b"; else ' if delimiter else ""
            remedy = f"{quotes}name their columns in the header, or empty the cells beyond it"
        raise ConfigError(
            f"{line} has {len(cells)} cells, the header {width}: {_cut_short(' | '.join(cells))}",
            remedy,
        )
    return cells[:width]


def _named(
    path: Path, header: list[str], rows: list[tuple[str, ...]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A name for every column that holds anything, and the rows; a column of neither name nor cells is left out."""
    kept = [i for i, name in enumerate(header) if name or any(row[i] for row in rows)]
    if len(kept) < len(header):
        header, rows = [header[i] for i in kept], [tuple(row[i] for i in kept) for row in rows]
    names = [name or f"column {i + 1}" for i, name in zip(kept, header, strict=True)]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ConfigError(f"manifest {path} has two columns {twice!r}", remedy="rename or delete one of them")
    return tuple(names), rows
