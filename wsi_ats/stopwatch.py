"""`Stopwatch`: where the time of a slide goes, stage by stage, and at which stage it failed.

`noted` marks what is deep below whoever holds the watch, and in other threads: it counts for those that are `noting`.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

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
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage; any thread may."""
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

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
            self.add(stage, time.perf_counter() - start)


WAITING, READING, DECODING = "waiting", "reading", "decoding"
"""Stages that are noted: networks wait for pixels or for what is made of them; bytes are fetched; tiles are decoded."""
_noting: list[Stopwatch] = []
_noted = threading.local()


@contextmanager
def noting(watch: Stopwatch) -> Iterator[None]:
    """A block in which what is `noted` anywhere in the process, in whichever thread, counts for `watch`.

    >>> watch = Stopwatch()
    >>> with noting(watch), noted(DECODING):
    ...     pass
    >>> list(watch.seconds)
    ['decoding']
    """
    _noting.append(watch)
    try:
        yield
    finally:
        _noting[:] = [other for other in _noting if other is not watch]


@contextmanager
def noted(stage: str) -> Iterator[None]:
    """A block whose seconds count for every watch that is `noting`; within one of the same stage and thread, once."""
    under_way: set[str] = _noted.__dict__.setdefault("stages", set())
    if not _noting or stage in under_way:
        yield
        return
    start = time.perf_counter()
    under_way.add(stage)
    try:
        yield
    finally:
        under_way.discard(stage)
        for watch in list(_noting):
            watch.add(stage, time.perf_counter() - start)


def noted_each(stage: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items, where the seconds that it takes to get each are `noted`."""
    left = iter(items)
    while True:
        with noted(stage):
            try:
                item = next(left)
            except StopIteration:
                return
        yield item
