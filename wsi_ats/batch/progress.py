"""Progress of a batch as people see it: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from wsi_ats.batch.run import Progress

LINE_EVERY = 15.0
"""Seconds between two plain lines of progress."""


class ProgressReport:
    """A report that shows the progress of a batch: `run_batch(..., on_progress=report)`. A context manager.

    Writes to standard error by default: standard output is left to results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bar: Bar | None = None
        self._next_line = 0.0

    def __enter__(self) -> ProgressReport:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()
        return self

    def __call__(self, progress: Progress) -> None:
        """Show how far the batch is."""
        finished = progress.done + progress.failed
        if self._bar is not None:
            self._bar.update(
                self._task, total=progress.total, completed=finished, description=describe(progress)
            )
        elif time.monotonic() >= self._next_line or finished == progress.total or progress.waiting:
            self._next_line = time.monotonic() + LINE_EVERY
            self._console.print(describe(progress), markup=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def describe(progress: Progress) -> str:
    """Progress in one line: slides, failures, tiles/s, slides/s and the time left at that rate, what is waited for.
    Rates are of the slides that this run predicts."""
    finished = progress.done + progress.failed
    parts = [f"{finished}/{progress.total} slides"]
    if progress.known:
        parts.append(f"{progress.known} done before")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.tiles and progress.seconds > 0:
        parts.append(f"{progress.tiles / progress.seconds:.0f} tiles/s")
    if progress.rate > 0:
        parts.append(f"{progress.rate:.2f} slides/s")
        if finished < progress.total:
            parts.append(f"{duration((progress.total - finished) / progress.rate)} left")
    if progress.waiting:
        parts.append(f"{progress.waiting} (after {duration(progress.seconds)})")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people say them: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
