"""Tables that are no text: records of text from Parquet and from the first sheet of an Excel workbook."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_ats.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


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


def xlsx_records(path: Path, data: bytes) -> list[list[str]]:
    """Records of the first sheet of an Excel workbook, as it shows them: 007 stays 007, dates are 2026-01-31.

    Raises `ConfigError` where openpyxl is not installed, the workbook cannot be read, or a formula has no value in it.
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
        values, formulas = (
            _first_sheet(load_workbook(io.BytesIO(data), read_only=True, data_only=computed))
            for computed in (True, False)
        )
        both = zip(values, formulas, strict=True)
        records = [[_cell(*cell, path) for cell in zip(*rows, strict=True)] for rows in both]
    except (OSError, KeyError, ValueError, InvalidFileException, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"manifest {path} cannot be read as a workbook: {error}", "save it as CSV UTF-8"
        ) from error
    width = max(map(len, records), default=0)  # a row ends with the last of its cells that was ever used
    return [record + [""] * (width - len(record)) for record in records]


def _first_sheet(workbook: Any) -> Iterable[tuple[Any, ...]]:
    sheet = workbook.worksheets[0]
    sheet.reset_dimensions()  # other programs than Excel state them wrong
    rows: Iterable[tuple[Any, ...]] = sheet.iter_rows()
    return rows


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
