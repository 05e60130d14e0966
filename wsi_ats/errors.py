"""Errors that a user can act on.

Every message says what happened, the values that were seen, the rule they break and what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsi_ats.shown import shown


class WsiAtsError(Exception):
    """Base class of every error raised on purpose by this package.

    `remedy` is shown on a line of its own and lands in the `remedy` column of `failures.csv`. Both are fit to be shown:
    no secrets of URLs, no control characters of file names.

    >>> print(WsiAtsError("tile.px is 8; it must be at least 16", remedy="leave it at 256"))
    tile.px is 8; it must be at least 16
      Remedy: leave it at 256
    """

    met_by: int | None = None
    """Number of the process that met it, once all that train together know of it (`wsi_ats.train.processes`)."""

    def __init__(self, message: str, remedy: str = "") -> None:
        message, remedy = shown(message), shown(remedy)
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  Remedy: {self.remedy}" if self.remedy else self.message


class SlideError(WsiAtsError):
    """A slide cannot be opened or read; the message names the slide.

    >>> from wsi_ats import open_slide
    >>> try:
    ...     open_slide("nowhere/a.svs")
    ... except SlideError as error:
    ...     print(error.remedy)
    check the path; relative paths start at the current folder
    """

    address: object = None
    """Address of the slide, where its pixels could not be read: names need not tell slides apart."""


class NoTissueError(SlideError):
    """The tissue mask of a slide is empty; the message names the slide and the settings of the mask.

    >>> import numpy as np
    >>> from wsi_ats import open_slide
    >>> from wsi_ats.config import load_config
    >>> from wsi_ats.lowres.prepare import prepare
    >>> blank = open_slide(np.full((512, 512, 3), 240, np.uint8), mpp=0.5, name="blank")
    >>> prepare(blank, load_config())
    Traceback (most recent call last):
    ...
    wsi_ats.errors.NoTissueError: slide 'blank': no tissue; the view is 0.0% tissue, 100.0% glass, ...
    """


class MissingMppError(SlideError):
    """A setting is given in micrometres per pixel and the slide does not say its own.

    >>> import numpy as np
    >>> from wsi_ats import open_slide
    >>> open_slide(np.full((512, 512, 3), 240, np.uint8)).read_at_mpp((0, 0), (64, 64), mpp=0.5)
    Traceback (most recent call last):
    ...
    wsi_ats.errors.MissingMppError: slide 'array' has no mpp
      Remedy: open it with open_slide(..., mpp=...)
    """


class ConfigError(WsiAtsError):
    """A setting, a manifest or an argument is wrong; the message names it, its value and the rule.

    >>> from wsi_ats.reading import Reading
    >>> Reading(tiles=0)
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: tiles is 0; it must be at least 1
      Remedy: give it such a number, or leave it away where it has a default
    """


class ModelError(WsiAtsError):
    """A model folder or a weights file cannot be used; the message names it.

    >>> from wsi_ats import load_model
    >>> load_model("nowhere")
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ModelError: ...
    """


@dataclass(frozen=True)
class Failure:
    """Why a slide has no result, or cannot be learned from; a row of failures.csv.

    >>> error = NoTissueError("slide 'a.svs': no tissue", remedy="look at the slide")
    >>> Failure("a.svs", "tissue", error.message, error.remedy).remedy
    'look at the slide'
    """

    slide: str
    stage: str
    """Stage at which it failed: open, view, tissue, attention, tiles, head, predict, write or worker."""
    error: str
    """The message, on one line."""
    remedy: str
