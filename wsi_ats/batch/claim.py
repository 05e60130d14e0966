"""Claims: of several processes on one output folder, exactly one works on a slide.

A claim is a file made with O_EXCL that says who holds it; its holder touches it every now and then. It counts as left
behind when it has not been touched for a while and, at once, where its process can be seen to be gone: one of this
boot of this machine. What the holder of one that was left behind did not bring to its end is known from it: a process
that died while a slide was open is counted, and the count goes on in the claim of the next one.

Taking over is where such locks usually race: two processes find the same stale claim, the first replaces it,
and the second then replaces the first one's live claim. Here a stale claim may be replaced only by the holder
of a second claim that is named after the stale one's token, and only after looking again that it is still
that one."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from wsi_ats.atomic import read_regular, temporary_beside, write_atomic
from wsi_ats.process import Process

BEAT = 20.0
"""Seconds between two touches of a claim that is held."""
SILENCE_LIMIT = 300.0
"""Seconds without a touch after which a claim counts as left behind where its process cannot be seen."""
OWN_SILENCE_LIMIT = 3 * BEAT
"""The same for a claim of the same run: the scheduler gives a slide to a second worker when it has lost the first."""
ODD_LIMIT = 10.0
"""Seconds after which a claim file without sense does: its maker died before writing it, or it is none of ours."""
LARGEST = 1 << 16
"""Bytes of a claim file that are looked at."""


@dataclass(frozen=True)
class Holder(Process):
    """The process that holds a claim."""

    run: str
    """Name of the batch that the work belongs to, across its workers."""
    time: float
    token: str
    deaths: int = 0
    """Number of processes in a row that died while they held this claim, before this holder."""
    stage: str = ""
    """Stage at which the holder gave its slide up, with itself."""
    why: str = ""
    """Why it did; empty where it did not."""

    @classmethod
    def of(cls, run: str, last: Holder | None = None) -> Holder:
        """This process as a holder, for a new claim; `last`: the holder that died before it, if any."""
        me = asdict(Process.me())
        deaths = 0 if last is None else last.deaths + 1
        return cls(**me, run=run, time=time.time(), token=uuid.uuid4().hex, deaths=deaths)


@dataclass(frozen=True)
class Found:
    """A claim file that some process left; `holder` is None where it is empty (being written, or never will
    be) or no claim at all."""

    path: Path
    holder: Holder | None
    token: str
    touched: float

    def is_gone(self, run: str = "", silence_limit: float = SILENCE_LIMIT) -> bool:
        """Whether nobody works under this claim any more, as far as can be told from here."""
        if self.holder is None:
            return self.silence() > min(ODD_LIMIT, silence_limit)
        alive = self.holder.is_alive()
        if alive is None:
            return self.silence() > self._limit(run, silence_limit)
        return not alive or self._is_forgotten(silence_limit)

    def _is_forgotten(self, silence_limit: float) -> bool:
        """Whether a process that lives does not know of its claim any more: the disk was away when it was to be given
        back.

        It has not been touched for so long that this process has waited, asleep machines and halted processes aside.
        """
        assert self.holder is not None
        if self.holder.is_me():
            return self.token not in _held
        touched, since = _watched.setdefault(self.token, (self.touched, time.monotonic()))
        if touched != self.touched or self.holder.is_halted():
            _watched[self.token] = self.touched, time.monotonic()
            return False
        return time.monotonic() - since > silence_limit

    def silence(self) -> float:
        """Seconds since the last touch, by the clock of the file system: clocks of machines differ."""
        probe = temporary_beside(self.path.with_name("clock"))
        fd = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            return os.fstat(fd).st_mtime - self.touched
        finally:
            os.close(fd)
            probe.unlink(missing_ok=True)

    def describe(self, run: str = "", silence_limit: float = SILENCE_LIMIT) -> str:
        """Who holds the claim and until when it is waited for, for people."""
        if self.holder is None:
            return f"a claim without sense, {self.path}: waited for {ODD_LIMIT:.0f} s"
        who = f"process {self.holder.pid} on {self.holder.host}"
        if self.holder.is_alive():
            return who
        silence, limit = self.silence(), self._limit(run, silence_limit)
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + limit - silence))
        return f"{who}, last heard of {silence:.0f} s ago; unless it is heard of, taken over at {until}"

    def _limit(self, run: str, silence_limit: float) -> float:
        own = self.holder is not None and self.holder.run == run != ""
        return min(OWN_SILENCE_LIMIT, silence_limit) if own else silence_limit


@dataclass(frozen=True)
class Claim:
    """A claim that this process holds. As a context manager it is touched regularly and given back at the
    end."""

    path: Path
    holder: Holder
    last: Holder | None = None
    """Holder that died before, whose claim was taken over."""
    _over: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def release(self) -> None:
        """Give the claim back, unless it was taken over in the meantime."""
        self._over.set()
        try:
            if self._is_mine():
                self.path.unlink(missing_ok=True)
        except OSError:  # its disk is away: the claim is forgotten, and found to be
            return
        finally:
            _held.pop(self.holder.token, None)

    def give_up(self, stage: str, why: str) -> None:
        """Leave word in the claim for whoever finds it: this process is about to end, because of what it holds."""
        self._over.set()
        write_atomic(self.path, _content(replace(self.holder, stage=stage, why=why)))

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


_held: dict[str, Claim] = {}
"""Claims that this process holds, by their token."""
_watched: dict[str, tuple[float, float]] = {}
"""Claims of living processes that this one waits for, by their token: last touch, and since when it is known."""


def release_all() -> None:
    """Give back what this process holds: it is about to be ended from outside, through no fault of its slides."""
    for claim in list(_held.values()):
        claim.release()


def acquire(path: Path, run: str = "", silence_limit: float = SILENCE_LIMIT) -> Claim | None:
    """Claim `path` for this process; None where another process that may be alive holds it."""
    made = _make(Claim(path, Holder.of(run)), _create)
    if made is not None:
        return made
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
        return _make(Claim(path, Holder.of(run, again.holder), again.holder), write_atomic)
    finally:
        takeover.release()


def look(path: Path) -> Found | None:
    """The claim at `path`; None where there is none. A link, a pipe, or a file without sense has no holder."""
    try:
        content, touched = read_regular(path, LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return _odd(path)
    holder = _holder(content)
    return _odd(path) if holder is None else Found(path, holder, holder.token, touched)


def remove_leftovers(path: Path) -> None:
    """Delete what killed processes left beside the claim `path`: claims to take it over."""
    for leftover in path.parent.glob(f"{path.name}.*"):
        found = look(leftover)
        if found is not None and found.is_gone():
            leftover.unlink(missing_ok=True)


def _odd(path: Path) -> Found | None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Found(path, None, f"{status.st_ino}-{status.st_mtime_ns}", status.st_mtime)


_HOLDER = TypeAdapter(Holder)


def _holder(content: bytes) -> Holder | None:
    try:
        holder = _HOLDER.validate_json(content)
    except ValueError:
        return None
    return holder if re.fullmatch(r"[\w-]{1,64}", holder.token) else None


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _make(claim: Claim, write: Callable[[Path, bytes], object]) -> Claim | None:
    """The claim, written; None where `write` finds one there. It is known as held before others can see it."""
    _held[claim.holder.token] = claim
    try:
        written = write(claim.path, _content(claim.holder))
    except BaseException:
        del _held[claim.holder.token]
        raise
    if written is False:
        del _held[claim.holder.token]
        return None
    return claim


def _create(path: Path, content: bytes) -> bool:
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
    except OSError:
        path.unlink(missing_ok=True)  # of a full disk: an empty claim would be waited for
        raise
    return True
