"""What `train` shows while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wsi_ats.cli.terminal import console
from wsi_ats.progress import ProgressBar

if TYPE_CHECKING:  # takes a while to import
    from wsi_ats.train.progress import EpochProgress, OnProgress

LINE_EVERY = 60.0
"""Seconds between two lines on an epoch where there is no terminal: epochs have lines of their own."""


@contextmanager
def epoch_bar() -> Iterator[OnProgress]:
    """A block in which the progress of epochs is shown: a bar below what `say` prints, a line a minute in a file."""
    with ProgressBar(console, LINE_EVERY, quiet_first=True) as bar:

        def show(progress: EpochProgress) -> None:
            bar.show(progress.done, progress.total, str(progress))

        yield show
