"""Read one thing ahead: while a block is worked on, a thread reads the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from wsi_ats.stopwatch import WAITING, noted

Item = TypeVar("Item")
Value = TypeVar("Value")


def prefetch(read: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[tuple[Item, Value]]:
    """Pairs (item, read(item)) in order; the next `read` runs in a thread meanwhile. At most two values are held.

    An error of `read` is raised where its item would come.

    >>> for block, pixels in prefetch(lambda block: f"pixels of block {block}", [0, 1]):
    ...     print(block, pixels)
    0 pixels of block 0
    1 pixels of block 1
    """
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[Item, Future[Value]] | None = None
        for item in items:
            ready, waiting = waiting, (item, pool.submit(read, item))
            if ready is not None:
                yield ready[0], _waited_for(ready[1])
                del ready  # else its value would be held while the one after next is read
        if waiting is not None:
            yield waiting[0], _waited_for(waiting[1])


def _waited_for(future: Future[Value]) -> Value:
    with noted(WAITING):
        return future.result()
