"""Processes by more than their number: whether the one that made a file is gone, as far as can be seen from here."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Process:
    """A process of some machine, told apart from every other one, earlier ones of the same number included."""

    host: str
    boot: str
    """Boot of the host; empty where the system does not tell."""
    pids: str
    """Name space of process ids (containers have their own); empty where the system does not tell."""
    pid: int
    started: float
    """Start of the process: clock ticks since the boot where that is known, which no change of the clock moves; else
    seconds since the epoch."""

    @classmethod
    def me(cls) -> Process:
        """This process."""
        return _process(os.getpid())

    @property
    def place(self) -> str:
        """Digest of host, boot and name space: processes of one place see each other."""
        return hashlib.sha256("\n".join((self.host, self.boot, self.pids)).encode()).hexdigest()[:8]

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where that cannot be seen from here.

        Machines may share a name, and one that was started again has its name still: those of another boot are not
        seen.
        """
        if self.place != Process.me().place:
            return None
        return is_running(self.pid, self.started)

    def is_me(self) -> bool:
        """Whether this is the process that asks."""
        me = Process.me()
        return (self.place, self.pid, self.started) == (me.place, me.pid, me.started)

    def is_halted(self) -> bool:
        """Whether the process was seen to be stopped, as by Ctrl-Z: it may go on at any time."""
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            return False


def is_running(pid: int, started: float) -> bool | None:
    """Whether the process `pid` of this place that began at `started` runs; None where the system does not tell.

    A zombie has finished, whether or not its parent has asked for its exit status yet.
    """
    try:
        now = _start_of(pid)
    except OSError:
        return _may_be_hidden(pid)
    if now is None:
        return False
    # Without ticks the start moves with the clock: another one is then no proof that it is another process.
    return now == started or (False if _boot()[0] else None)


def _start_of(pid: int) -> float | None:
    """Start of a process as `Process.started` has it; None for a zombie. Raises `OSError` where it is not seen."""
    if _boot()[0]:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        return None if fields[0] in "ZX" else float(fields[19])
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error as error:
        raise ProcessLookupError(pid) from error


def _may_be_hidden(pid: int) -> bool | None:
    """None for a process that runs and is hidden from this user; False where there is none."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return None
    return None


@cache
def _process(pid: int) -> Process:
    return Process(socket.gethostname(), *_boot(), pid, _start_of(pid) or 0.0)


@cache
def _boot() -> tuple[str, str]:
    """Boot and name space of process ids of this process (Linux); empty elsewhere."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "", ""
