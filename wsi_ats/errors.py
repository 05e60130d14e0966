"""Errors that a user can act on.

Every message says what happened, the values that were seen, the rule they break and what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass


class WsiAtsError(Exception):
    """Base class of every error raised on purpose by this package.

    `remedy` is shown on a line of its own and lands in the `remedy` column of `failures.csv`.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  Remedy: {self.remedy}" if self.remedy else self.message


class SlideError(WsiAtsError):
    """A slide cannot be opened or read; the message names the slide."""

    address: object = None
    """Address of the slide, where its pixels could not be read: names need not tell slides apart."""


class NoTissueError(SlideError):
    """The tissue mask of a slide is empty; the message names the slide and the settings of the mask."""


class MissingMppError(SlideError):
    """A setting is given in micrometres per pixel and the slide does not say its own."""


class ConfigError(WsiAtsError):
    """A setting, a manifest or an argument is wrong; the message names it, its value and the rule."""


class ModelError(WsiAtsError):
    """A model folder or a weights file cannot be used; the message names it."""


@dataclass(frozen=True)
class Failure:
    """Why a slide has no result, or cannot be learned from; a row of failures.csv."""

    slide: str
    stage: str
    """open, view, tissue, attention, tiles, head, predict, write or worker."""
    error: str
    """One line."""
    remedy: str
