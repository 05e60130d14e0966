"""The event loop that requests run on: one for the process, in a thread of its own, with a bound on requests."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

AT_ONCE = 256
"""Requests under way in a process. With 128, the 190 tiles of 64 regions take two turns; a process may have about
1,000 open connections and files."""

PATIENCE_S = 5.0
GRACE_S = 0.1

T = TypeVar("T")


def submit(work: Callable[[], Coroutine[Any, Any, T]], requests: int) -> Future[T]:
    """Run `work`, which makes `requests` requests at the same time, as soon as they fit.

    Raises OSError in a forked child of a process that has made requests.
    """
    loop = _loop()
    return asyncio.run_coroutine_threadsafe(loop.in_turn(work, min(requests, AT_ONCE)), loop.loop)


class _Loop:
    """An event loop, its thread, and the slots for requests."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._door = asyncio.Lock()

    def start(self) -> None:
        self._thread = threading.Thread(target=self.loop.run_forever, name="wsi-ats-transfer", daemon=True)
        self._thread.start()
        atexit.register(self._end, os.getpid())

    def _end(self, pid: int) -> None:
        """Wait for requests under way: obstore's threads hand answers to the interpreter, which must be there."""
        if pid != os.getpid():
            return
        wait([asyncio.run_coroutine_threadsafe(self._cancel(), self.loop)], PATIENCE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)

    async def _cancel(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        # What was cancelled on the other side of the language border ends a moment later.
        await asyncio.sleep(GRACE_S)

    async def in_turn(self, work: Callable[[], Coroutine[Any, Any, T]], requests: int) -> T:
        taken = 0
        try:
            async with self._door:  # one at a time: two that each had half of their slots would wait for ever
                for _ in range(requests):
                    await self._slots.acquire()
                    taken += 1
            return await work()
        finally:
            for _ in range(taken):
                self._slots.release()


_loops: dict[int, _Loop] = {}
"""Event loops by process: a forked child finds that of its parent here, whose thread it does not have."""


def _loop() -> _Loop:
    pid = os.getpid()
    if pid in _loops:
        return _loops[pid]
    if _loops:
        # obstore's threads, too, stay behind in the parent: a request would wait for them for ever.
        raise OSError(
            "slides behind a URL cannot be read in a forked process once its parent has read one: start worker "
            "processes by 'spawn' or 'forkserver'"
        )
    # No lock, which a fork could leave locked: where two threads come here at once, the first one counts.
    new = _Loop()
    loop = _loops.setdefault(pid, new)
    if loop is new:
        loop.start()
    else:
        new.loop.close()
    return loop
