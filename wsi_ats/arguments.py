"""Arguments of public functions that are numbers: what makes no sense is a `ConfigError` with name, value and rule."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeGuard

from wsi_ats.errors import ConfigError


def whole_number(name: str, value: object, least: int | None = None) -> int:
    """The value as an int, where it is a whole number, and of at least `least`; else ConfigError.

    >>> whole_number("tiles", "64", 1)
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: tiles is '64'; it must be a whole number of at least 1
      Remedy: give it as a number, without quotes
    """
    limit = "" if least is None else f" of at least {least}"
    if not _is_number(value) or not (isinstance(value, Integral) or float(value).is_integer()):
        raise ConfigError(f"{name} is {value!r}; it must be a whole number{limit}", _remedy(value))
    if least is not None and value < least:
        raise ConfigError(f"{name} is {value}; it must be at least {least}")
    return int(value)


def positive_number(name: str, value: object, of: str = "") -> float:
    """The value as a float, where it is a finite number above 0; else ConfigError. of: its unit, " of ...", in words.

    >>> positive_number("mpp", float("nan"), " of micrometres per pixel")
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: mpp is nan; it must be a positive number of micrometres per pixel
    """
    if not _is_number(value) or not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value!r}; it must be a positive number{of}", _remedy(value))
    return float(value)


def not_negative(name: str, value: object, remedy: str = "") -> float:
    """The value as a float, where it is a finite number of at least 0; else ConfigError."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ConfigError(f"{name} is {value!r}; it must be a number of at least 0", _remedy(value) or remedy)
    return float(value)


def _is_number(value: object) -> TypeGuard[Any]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _remedy(value: object) -> str:
    return "give it as a number, without quotes" if isinstance(value, str) else ""
