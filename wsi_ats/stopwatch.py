"""`Stopwatch`: where the time of a slide goes, stage by stage, and at which stage it failed."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_stages: defaultdict[int, list[str]] = defaultdict(list)
"""Stages that each thread is in, the outermost first."""


def stage_of(thread: int) -> str:
    """Innermost stage that a thread is in at this moment; empty where it is in none."""
    return next(reversed(list(_stages.get(thread, ()))), "")


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
        under_way = _stages[threading.get_ident()]
        under_way.append(stage)
        try:
            yield
        except Exception as error:
            if not hasattr(error, "stage"):
                error.stage = stage  # type: ignore[attr-defined]
            raise
        finally:
            under_way.pop()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
