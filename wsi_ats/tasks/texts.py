"""Cells of a manifest as numbers; nan where they are empty."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from wsi_ats.errors import ConfigError

NOT_GIVEN = frozenset({"", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"})
"""Texts of an empty cell, as people and other programs write it."""


def number(text: str, column: str) -> float:
    """Finite number of a cell; nan where it is empty. Raises `ConfigError` naming the column and the value."""
    if text in NOT_GIVEN:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(
            f"{column} is {text!r}; it must be a number", remedy="correct the cell, or leave it empty"
        )
    return value


def yes_or_no(text: str, column: str) -> float:
    """Answer 0 or 1 of a cell; nan where it is empty. Raises `ConfigError` naming the column and the value."""
    if text in NOT_GIVEN:
        return math.nan
    try:
        return {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}[text.lower()]
    except KeyError:
        raise ConfigError(
            f"{column} is {text!r}; it must be 0 or 1", remedy="correct the cell, or leave it empty"
        ) from None


def one_of(text: str, column: str, names: tuple[str, ...]) -> float:
    """Index of a cell in `names`; nan where it is empty. Raises `ConfigError` naming column, value and names."""
    if text in NOT_GIVEN:
        return math.nan
    if text not in names:
        raise ConfigError(
            f"{column} is {text!r}; it must be one of {', '.join(names)}",
            remedy="correct the cell, or leave it empty",
        )
    return float(names.index(text))


def natural_order(texts: Iterable[str]) -> tuple[str, ...]:
    """The distinct texts, numbers by value and before words."""
    return tuple(sorted(set(texts), key=lambda x: (0, float(x), x) if is_number(x) else (1, 0.0, x)))


def as_written(texts: Sequence[str]) -> list[str]:
    """The texts of a column, but 1.0 as 1 where all of them are numbers."""
    if all(is_number(text) for text in texts if text not in NOT_GIVEN):
        return [re.sub(r"(?<=\d)\.0+$", "", text) for text in texts]
    return list(texts)


def is_number(text: str) -> bool:
    """Whether `float` understands the text."""
    try:
        float(text)
    except ValueError:
        return False
    return True
