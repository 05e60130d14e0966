"""Columns of a manifest by their meaning."""

from __future__ import annotations

from collections.abc import Sequence

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.names import LIKE_LABEL, LIKE_MPP, MPP, PATIENT, SITE, known
from wsi_ats.manifest.table import Table, Warn


def column_called(table: Table, name: str, remedy: str) -> str:
    """The column of a name: as it is written, else without regard to letter case, spaces, `_` and `-`.

    Raises `ConfigError` where there is none, or more than one.
    """
    found = optional_column(table, name)
    if not found:
        raise no_column(table, name, remedy)
    return found


def optional_column(table: Table, name: str) -> str:
    """As `column_called`; empty where there is no such column."""
    found = known(table.columns, [name])
    return _only(table, name if name in table.columns else found[0], found, name) if found else ""


def _only(table: Table, column: str, alike: Sequence[str], name: str) -> str:
    """The column. Raises `ConfigError` where one of those that have its name, too, holds anything else."""
    for other in alike:
        pairs = enumerate(zip(table.column(column), table.column(other), strict=True))
        row = next((i for i, (one, another) in pairs if one != another), None)
        if row is not None:
            raise ConfigError(
                f"manifest {table.path}: the columns {column!r} and {other!r} could each be {name!r}, and they differ: "
                f"{table.column(column)[row]!r} and {table.column(other)[row]!r} in row {table.numbers[row]}, for one",
                "rename or delete the one that is not meant",
            )
    return column


def no_column(table: Table, name: str, remedy: str) -> ConfigError:
    """The error about a column that is not there."""
    return ConfigError(
        f"manifest {table.path}{table.where} has no column {name!r}; its columns are {list(table.columns)}",
        remedy,
    )


def label_column(table: Table, target: str) -> str:
    """The column of labels. Raises `ConfigError`, naming what else may be meant, where there is none."""
    like = [column for column in known(table.columns, LIKE_LABEL) if column != target]
    example = f": --target {' or --target '.join(map(_quoted, like))}" if like else ""
    return column_called(table, target, f"name the column of the labels with --target{example}")


def patient_column(table: Table, asked: str | None) -> str:
    """The column of patients: the one that was asked for, else one under a common name; empty where there is none.

    asked: a column, or `none`. Raises `ConfigError` for a column that is not there.
    """
    return _asked_or_known(
        table, asked, PATIENT, "name the column of the patients with --patient, or --patient none"
    )


def site_column(table: Table, asked: str | None) -> str:
    """The column of the places that slides come from, as `patient_column` has that of patients."""
    return _asked_or_known(table, asked, SITE, "name the column of the sites with --site, or --site none")


def scale_column(table: Table, warn: Warn) -> str:
    """The column of micrometres per pixel; empty where there is none. warn: gets which columns look like one of scales
    and are none. Raises `ConfigError` for two that differ."""
    found, like = known(table.columns, MPP), known(table.columns, LIKE_MPP)
    if found:
        return _only(table, found[0], found, "mpp")
    if like:
        warn(
            f"manifest {table.path}: {' and '.join(map(repr, like))} may tell of the scale and cannot be used: the "
            "scale is what each slide says; where it must come from the table, add a column mpp, micrometres per pixel "
            "of level 0"
        )
    return ""


def _asked_or_known(table: Table, asked: str | None, names: Sequence[str], remedy: str) -> str:
    if asked is not None and not (asked.casefold() == "none" and asked not in table.columns):
        return column_called(table, asked, remedy)
    found = [] if asked is not None else known(table.columns, names)
    return _only(table, found[0], known(table.columns, found[:1]), names[0]) if found else ""


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
