"""A time limit for one slide, in whatever thread it is predicted.

At the limit an exception is raised in that thread; in the main thread a signal wakes it from a system call. Code that
does not come back to Python in spite of it (a library that hangs) can be ended only with its process. That is done
when some grace is over too, and whoever holds the slide's claim leaves word in it first, so that the next process
does not try the same again."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from wsi_ats.stopwatch import stage_of

GRACE = 30.0
"""Seconds that a slide has after its time limit to come back to Python, before its process is ended."""
STATUS = 2
"""Exit status of a process that is ended."""


class TimedOut(BaseException):
    """The slide that is being predicted has taken too long. No `Exception`: what falls back to another reader at an
    error must not catch it."""


class Deadline:
    """A context in which a thread may spend so many seconds; 0 for any number. Raises `TimedOut` in it.

    stuck: called with the stage, in another thread, right before the process is ended.
    """

    def __init__(self, seconds: float, stuck: Callable[[str], object]) -> None:
        self.stage = ""
        """Stage that the thread was in at its time limit."""
        self._seconds, self._stuck = seconds, stuck
        self._over = threading.Event()
        self._raising = threading.Lock()
        self._thread = threading.get_ident()
        # Only the main thread gets signals, and not every system has this one.
        self._by_signal = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Deadline:
        if self._seconds > 0:
            if self._by_signal:
                self._before = signal.signal(signal.SIGALRM, self._on_signal)
            threading.Thread(target=self._watch, name="time limit of a slide", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seconds <= 0:
            return
        try:
            self._close()
        except TimedOut:  # raised at this very moment; it is raised once
            self._close()
            raise

    def _close(self) -> None:
        self._over.set()
        with self._raising:  # from here on nothing is raised any more
            pass
        if self._by_signal:
            signal.signal(signal.SIGALRM, self._before)
        else:
            _raise_in(self._thread, None)  # what was to be raised and has not been yet

    def _watch(self) -> None:
        if self._over.wait(self._seconds):
            return
        with self._raising:
            if self._over.is_set():
                return
            self.stage = stage_of(self._thread)
            if self._by_signal:
                signal.pthread_kill(self._thread, signal.SIGALRM)
            else:
                _raise_in(self._thread, TimedOut)
        if not self._over.wait(GRACE):
            try:
                self._stuck(self.stage)
            finally:
                os._exit(STATUS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._over.is_set():
            raise TimedOut


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in another thread as soon as it runs Python code; None takes one back."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )
