"""What `train` shows while it trains; training with several seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wsi_ats.cli.report import report_beside
from wsi_ats.cli.terminal import complain, console, say
from wsi_ats.progress import ProgressBar

if TYPE_CHECKING:  # these take a while to import
    from wsi_ats.config import Config
    from wsi_ats.manifest import Row
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


def train_with_seeds(
    rows: list[Row], seeds: int, config: Config, out: Path, overwrite: bool, with_report: bool
) -> None:
    """Train with several seeds, and print the spread of the figures."""
    from wsi_ats.train.seeds import TABLE, train_seeds

    with epoch_bar() as on_progress:
        result = train_seeds(rows, config, seeds, out, say=say, overwrite=overwrite, on_progress=on_progress)
    for line in result.lines():
        say(line)
    say(f"of each seed: {out / TABLE}")
    for folder in result.folders if with_report else ():
        report_beside(folder)
    if result.failures:
        names = {failure.slide for failure in result.failures}
        complain(f"{len(names)} {config.train.by}(s) could not be used: see the failures.csv of each seed")
        raise typer.Exit(1)
