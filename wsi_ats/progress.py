"""Progress as people see it: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

LINE_EVERY = 15.0
"""Seconds between two plain lines of progress."""


class ProgressBar:
    """A bar with words beside it, where the console is a terminal; else the words, in a line now and then. A context
    manager. What is printed on the same console meanwhile stands above the bar.

    line_every: seconds between two lines, of which the first comes at once; with `quiet_first`, after as many.
    """

    def __init__(
        self, console: Console, line_every: float = LINE_EVERY, *, quiet_first: bool = False
    ) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._every = line_every
        self._next_line = time.monotonic() + line_every if quiet_first else 0.0

    def __enter__(self) -> ProgressBar:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()
        return self

    def show(self, done: int, total: int, words: str, *, now: bool = False) -> None:
        """Show that `done` of `total` is done; `now`: where there is no bar, do not wait with the line."""
        if self._bar is not None:
            self._bar.update(self._task, total=total, completed=done, description=words)
        elif now or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + self._every
            self._console.print(words, markup=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(45.0), duration(720.0), duration(12_000.0)
    ('45 s', '12 min', '3 h 20 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
