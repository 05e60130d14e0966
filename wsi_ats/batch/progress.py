"""Progress of a batch as people see it: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console

from wsi_ats.batch.run import Progress
from wsi_ats.progress import ProgressBar, duration


class ProgressReport:
    """A report that shows the progress of a batch: `run_batch(..., on_progress=report)`. A context manager.

    Writes to standard error by default: standard output is left to results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._bar = ProgressBar(console or Console(stderr=True, highlight=False))

    def __enter__(self) -> ProgressReport:
        self._bar.__enter__()
        return self

    def __call__(self, progress: Progress) -> None:
        """Show how far the batch is."""
        finished = progress.done + progress.failed
        now = finished == progress.total or bool(progress.waiting)
        self._bar.show(finished, progress.total, describe(progress), now=now)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)


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
