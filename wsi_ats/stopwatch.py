"""`Stopwatch`: where the time of a slide goes, stage by stage, and at which stage it failed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall-clock seconds by stage; an exception is marked with the innermost stage it came from.

    >>> watch = Stopwatch()
    >>> try:
    ...     with watch("total"), watch("tiles"):
    ...         raise OSError("the disk is gone")
    ... except OSError as error:
    ...     print(error.stage, sorted(watch.seconds))
    tiles ['tiles', 'total']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """A context that adds the seconds of its block to `seconds[stage]`."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            if not hasattr(error, "stage"):
                error.stage = stage  # type: ignore[attr-defined]
            raise
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
