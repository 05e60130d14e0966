"""Arguments of public functions: what makes no sense is a `ConfigError` with name, value, rule and remedy."""

from __future__ import annotations

import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from wsi_ats.errors import ConfigError

Kind = TypeVar("Kind")

SHOWN = 80
"""Characters of a value that an error shows."""
A_NUMBER = "give it such a number, or leave it away where it has a default"


def of_kind(
    name: str, value: object, kind: type[Kind] | tuple[type[Kind], ...], rule: str, remedy: str
) -> Kind:
    """The value, where it is of a kind; else ConfigError. rule: what it must be, in words.

    >>> of_kind("style", "dark", dict, "a style", "leave it away")
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: style is 'dark'; it must be a style
      Remedy: leave it away
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name} is {in_short(value)}; it must be {rule}", remedy)
    return value


def some_path(name: str, value: object, remedy: str) -> str | Path:
    """The value, where it is the text of a path or a path, and not blank; else ConfigError.

    >>> some_path("folder", "", "give the folder")
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: folder is ''; it must be a path
      Remedy: give the folder
    """
    if not (isinstance(value, str | Path) and str(value).strip()):
        raise ConfigError(f"{name} is {in_short(value)}; it must be a path", remedy)
    return value


def in_short(value: object) -> str:
    """A value as an error shows it: on one line, not all of a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def whole_number(name: str, value: object, least: int | None = None, remedy: str = A_NUMBER) -> int:
    """The value as an int, where it is a whole number, and of at least `least`; else ConfigError.

    >>> whole_number("tiles", "64", 1)
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: tiles is '64'; it must be a whole number of at least 1
      Remedy: give it as a number, without quotes
    """
    limit = "" if least is None else f" of at least {least}"
    if not _is_number(value) or not (isinstance(value, Integral) or float(value).is_integer()):
        raise ConfigError(
            f"{name} is {in_short(value)}; it must be a whole number{limit}", _remedy(value, remedy)
        )
    if least is not None and value < least:
        raise ConfigError(f"{name} is {value}; it must be at least {least}", remedy)
    return int(value)


def positive_number(name: str, value: object, of: str = "", remedy: str = A_NUMBER) -> float:
    """The value as a float, where it is a finite number above 0; else ConfigError. of: its unit, " of ...", in words.

    >>> positive_number("mpp", float("nan"), " of micrometres per pixel")
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: mpp is nan; it must be a positive number of micrometres per pixel
      Remedy: give it such a number, or leave it away where it has a default
    """
    if not _is_number(value) or not 0 < value < math.inf:
        raise ConfigError(
            f"{name} is {in_short(value)}; it must be a positive number{of}", _remedy(value, remedy)
        )
    return float(value)


def not_negative(name: str, value: object, remedy: str = A_NUMBER) -> float:
    """The value as a float, where it is a finite number of at least 0; else ConfigError."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ConfigError(
            f"{name} is {in_short(value)}; it must be a number of at least 0", _remedy(value, remedy)
        )
    return float(value)


def _is_number(value: object) -> TypeGuard[Any]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _remedy(value: object, otherwise: str) -> str:
    return "give it as a number, without quotes" if isinstance(value, str) else otherwise
