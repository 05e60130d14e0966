"""Claims: of several processes on one output folder, exactly one works on a slide.

A claim is a file made with O_EXCL that says who holds it; its holder touches it every now and then. A claim
whose process is gone is taken over at once; one of another machine, whose processes cannot be seen from here,
when it has not been touched for a while.

Taking over is where such locks usually race: two processes find the same stale claim, the first replaces it,
and the second then replaces the first one's live claim. Here a stale claim may be replaced only by the holder
of a second claim that is named after the stale one's token, and only after looking again that it is still
that one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from wsi_ats.atomic import write_atomic

BEAT = 20.0
"""Seconds between two touches of a claim that is held."""
SILENCE_LIMIT = 300.0
"""Seconds without a touch after which a claim of another machine counts as left behind."""
EMPTY_LIMIT = 10.0
"""Seconds after which a claim file without content does: its maker died before writing it."""
START_TOLERANCE = 2.0
"""Seconds by which a process's start, as the system tells it, may move when the clock is adjusted."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim."""

    host: str
    boot: str
    """Boot of the host; empty where the system does not tell."""
    pids: str
    """Name space of process ids (containers have their own); empty where the system does not tell."""
    pid: int
    started: float
    """Time at which the process started, s since the epoch: a later process of the same pid is another one."""
    run: str
    """Name of the batch that the work belongs to, across its workers."""
    time: float
    token: str

    @classmethod
    def me(cls, run: str = "") -> Holder:
        """This process as a holder, for a new claim."""
        pid = os.getpid()
        boot, pids = _boot()
        started = psutil.Process(pid).create_time()
        return cls(socket.gethostname(), boot, pids, pid, started, run, time.time(), uuid.uuid4().hex)

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where that cannot be seen from here."""
        boot, pids = _boot()
        if self.host != socket.gethostname():
            return None
        if self.boot != boot:  # this machine was started again, or two machines have one name
            return False if self.time < psutil.boot_time() else None
        if self.pids != pids:
            return None
        try:
            process = psutil.Process(self.pid)
            # A zombie has finished, whether or not its parent has asked for its exit status yet.
            finished = process.status() == psutil.STATUS_ZOMBIE
            return not finished and abs(process.create_time() - self.started) <= START_TOLERANCE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class Found:
    """A claim file that some process left; `holder` is None where it is empty (being written, or never will
    be)."""

    path: Path
    holder: Holder | None
    token: str
    touched: float

    def is_gone(self, run: str = "", silence_limit: float = SILENCE_LIMIT) -> bool:
        """Whether nobody works under this claim any more, as far as can be told from here.

        A claim of the same `run` on another machine is: the scheduler sends a slide to a second worker only
        after it has lost the first."""
        if self.holder is None:
            return self._silence() > min(EMPTY_LIMIT, silence_limit)
        alive = self.holder.is_alive()
        if alive is None:
            return self.holder.run == run != "" or self._silence() > silence_limit
        return not alive

    def _silence(self) -> float:
        """Seconds since the last touch, by the clock of the file system: clocks of machines differ."""
        probe = self.path.with_name(f".clock.{uuid.uuid4().hex}")
        try:
            probe.touch()
            return probe.stat().st_mtime - self.touched
        finally:
            probe.unlink(missing_ok=True)


@dataclass(frozen=True)
class Claim:
    """A claim that this process holds. As a context manager it is touched regularly and given back at the
    end."""

    path: Path
    holder: Holder
    _over: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def release(self) -> None:
        """Give the claim back, unless it was taken over in the meantime."""
        self._over.set()
        if self._is_mine():
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Claim:
        threading.Thread(target=self._beat, name=f"claim {self.path.parent.name}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            try:
                if not self._is_mine():
                    return
                os.utime(self.path)
            except OSError:  # given back just now, or a file server out of reach: the next beat will tell
                continue

    def _is_mine(self) -> bool:
        found = look(self.path)
        return found is not None and found.token == self.holder.token


def acquire(path: Path, run: str = "", silence_limit: float = SILENCE_LIMIT) -> Claim | None:
    """Claim `path` for this process; None where another process that may be alive holds it."""
    holder = Holder.me(run)
    content = json.dumps(asdict(holder)).encode()
    if _create(path, content):
        return Claim(path, holder)
    found = look(path)
    if found is None or not found.is_gone(run, silence_limit):
        return None
    takeover = acquire(path.with_name(f"{path.name}.{found.token}"), run, silence_limit)
    if takeover is None:
        return None
    try:
        again = look(path)
        if again is None or again.token != found.token:
            return None
        write_atomic(path, content)
    finally:
        takeover.release()
    return Claim(path, holder)


def look(path: Path) -> Found | None:
    """The claim at `path`; None where there is none."""
    try:
        with path.open("rb") as file:
            status, content = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return None
    try:
        holder = Holder(**json.loads(content))
    except (ValueError, TypeError):
        return Found(path, None, f"{status.st_ino}-{status.st_mtime_ns}", status.st_mtime)
    return Found(path, holder, holder.token, status.st_mtime)


def _create(path: Path, content: bytes) -> bool:
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    return True


def _boot() -> tuple[str, str]:
    """Boot and name space of process ids of this process (Linux); empty elsewhere."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "", ""
