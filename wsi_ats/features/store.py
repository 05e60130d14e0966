"""Rows that frozen networks made, on disk: another run, fold, seed or head need not read the slides again.

    <folder>/<2 hex>/<digest of made_by>/<host>-<pid>-<random>.rows

Each process that writes has a segment of its own for a `made_by`: no file has two writers, on one machine or on many
(NFS), and none needs a lock. A segment is a line of text (dtype, shape, the whole of `made_by`) and then records of
equal size, appended: CRC-32 of the line and of what follows, item, row. A record that a killed process left torn, that
was damaged, or whose file is another's is as if it were not there.

Files are opened for each call, so that thousands of slides hold no descriptors. Nothing is mapped: a mapped file that
another machine deletes or cuts kills its reader (SIGBUS). Nothing is flushed: the CRC tells what a power cut took.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import socket
import stat
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np

from wsi_ats.errors import ConfigError
from wsi_ats.features.segment import Segment, line_of, record_of

OWN = re.compile("[0-9a-f]{2}/[0-9a-f]{32}")
"""Names of the store's own folders; nothing else below its folder is counted or deleted."""
LOOK_AGAIN, TOUCH_AGAIN = 5.0, 300.0
"""Seconds after which a folder is listed again, where rows are missing, and marked as used again, where some are
there."""
SHELVES = 1024
"""Number of `made_by` that are remembered with their items; to find those again, a whole segment is gone through."""
DAMAGED = (errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP)
"""Errors of a folder for single rows, where the store itself can be written."""
FULL, LEFT, UNSEEN = 15 / 16, 7 / 8, 1 / 64
"""Shares of `max_bytes`: beyond the first, rows are deleted down to the second. A process looks again each time it has
written the third, so that four that write at the same time stay within the bound together."""


class FeatureStore:
    """Arrays of numbers by (`made_by`, item), bounded in bytes, shared by threads, processes and machines.

    made_by: names all that a row depends on besides its item: the slide's content, the network's weights, the size
        and place of a tile. Its rows have one dtype and shape.
    max_bytes: of all files together; what was used least recently (to five minutes) is deleted, a `made_by` at a time.
        0: off; nothing is read, kept or deleted.
    say: is told once, in a line, that rows are kept no longer because the folder is full, read-only or gone.

    Raises ConfigError where `folder` is no folder. With whatever else is wrong there, rows are absent and the run goes
    on. It may be used after a fork, and pickled (without `say`). `hits`, `misses`: rows found and not found here.
    """

    def __init__(self, folder: Path, max_bytes: int, say: Callable[[str], object] | None = None) -> None:
        self._begin(folder.absolute(), max_bytes, say)
        if max_bytes <= 0:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(0)
        except FileExistsError as error:
            raise ConfigError(
                f"features cannot be kept in {folder}: it is no folder",
                "move it away, or keep no features: train.disk_mb = 0",
            ) from error
        except OSError as error:
            self._stop_writing(error)

    def get(self, made_by: str, items: Sequence[int]) -> dict[int, np.ndarray]:
        """Rows of those of `items` that are there, bit for bit as they were put, each an array of the caller's own.

        Rows of other processes are found at the first miss that comes five seconds or more after the last look.
        """
        wanted = {int(item) for item in items}
        found: dict[int, np.ndarray] = {}
        for again in (False, True):
            for segment in self._segments(made_by, again) if len(found) < len(wanted) else ():
                with suppress(OSError):  # deleted in the meantime, or out of reach
                    segment.read(wanted - found.keys(), found)
        with self._mine():
            self.hits += len(found)
            self.misses += len(wanted) - len(found)
            if found:
                self._shelf(made_by).touch()
        return found

    def put(self, made_by: str, rows: Mapping[int, np.ndarray]) -> None:
        """Keep `rows`, as many as fit. Rows that are there are written a second time: `get` comes first.

        Raises ValueError where they are no numbers of one dtype and shape, that of the rows there.
        """
        if not rows or self.max_bytes <= 0:
            return
        line = line_of(made_by, list(rows.values()))
        records = [record_of(line, int(item), row) for item, row in rows.items()]
        fit = min(len(records), max(0, self.max_bytes - len(line)) // len(records[0]))
        with self._mine():
            try:
                if fit and self._writes and self._make_room(len(line) + fit * len(records[0])):
                    self._shelf(made_by).write(self._name, line, list(rows)[:fit], b"".join(records[:fit]))
            except OSError as error:
                # Another process may delete a shelf just now, to make room; its next rows are kept again.
                if error.errno in DAMAGED and error.filename and os.access(self.folder, os.W_OK):
                    self._tell_damage(error)
                elif error.errno not in (errno.ENOENT, errno.ESTALE) or not self.folder.is_dir():
                    self._stop_writing(error)

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of all processes' files, counted anew, which takes a while where there are thousands of slides."""
        return sum(size for _, size, _ in self._on_disk())

    def close(self) -> None:
        """Find and keep nothing from now on. No file is open between calls."""
        self.max_bytes = 0

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> tuple[Path, int]:
        return self.folder, self.max_bytes

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self._begin(*state, None)

    def _begin(self, folder: Path, max_bytes: int, say: Callable[[str], object] | None) -> None:
        """What each process has of its own: a forked child must not write to segments of its parent, nor wait for a
        lock that a thread of its parent held."""
        self.folder, self.max_bytes, self._say = folder, max_bytes, say
        self.hits = self.misses = 0
        self._lock = Lock()
        self._shelves: OrderedDict[str, _Shelf] = OrderedDict()
        self._writes = True
        self._told_damage = False
        self._unseen = max_bytes  # as if all had been written since the last look: the first to write looks
        host = re.sub(r"[^\w.-]", "_", socket.gethostname())
        self._name = f"{host}-{os.getpid()}-{uuid.uuid4().hex}.rows"
        self._pid = os.getpid()

    def _mine(self) -> Lock:
        if self._pid != os.getpid():
            self._begin(self.folder, self.max_bytes, self._say)
        return self._lock

    def _shelf(self, made_by: str) -> _Shelf:
        if made_by not in self._shelves:
            self._shelves[made_by] = _Shelf(self.folder, made_by)
            self._shelves[made_by].look()
        self._shelves.move_to_end(made_by)
        while len(self._shelves) > SHELVES:
            self._shelves.popitem(last=False)
        return self._shelves[made_by]

    def _segments(self, made_by: str, again: bool) -> list[Segment]:
        """The segments known; `again`: after another look, or none where the last one was just now."""
        with self._mine():
            if self.max_bytes <= 0:
                return []
            shelf = self._shelf(made_by)
            if again:
                if time.monotonic() - shelf.looked < LOOK_AGAIN:
                    return []
                shelf.look()
            return list(shelf.segments.values())

    def _make_room(self, size: int) -> bool:
        """Delete what was used least recently, if need be; is there room for so many bytes?"""
        self._unseen += size
        if self._unseen <= UNSEEN * self.max_bytes:
            return True
        shelves = self._on_disk()
        total = size + sum(used for _, used, _ in shelves)
        most = (LEFT if total > FULL * self.max_bytes else FULL) * self.max_bytes
        for _, _, folder in shelves:
            if total > most:
                total -= _delete(folder)
        self._unseen = size
        return total <= self.max_bytes

    def _on_disk(self) -> list[tuple[int, int, Path]]:
        """(time of the last use in ns, bytes, folder) of each `made_by`, the one used least recently first."""
        found = []
        for group in _listing(self.folder):
            for digest, facts in _listing(self.folder / group).items():
                if OWN.fullmatch(f"{group}/{digest}") and stat.S_ISDIR(facts.st_mode):
                    folder = self.folder / group / digest
                    found.append((facts.st_mtime_ns, sum(_sizes(folder).values()), folder))
        return sorted(found)

    def _tell_damage(self, error: OSError) -> None:
        """Say once that something is in the way of some rows; the others are kept."""
        if not self._told_damage and self._say is not None:
            self._say(
                f"Some features cannot be kept: {error.strerror or error} ({error.filename}). The folder "
                f"{self.folder} may be deleted at any time: what it held is computed anew."
            )
        self._told_damage = True

    def _stop_writing(self, error: OSError) -> None:
        if self._writes and self._say is not None:
            why = f"{error.strerror or error} (errno {error.errno}, {error.filename or self.folder})"
            self._say(
                f"Features are kept no longer in {self.folder}: {why}. The run goes on and computes them anew."
            )
        self._writes = False


class _Shelf:
    """The folder of one `made_by`, as far as it is known."""

    def __init__(self, root: Path, made_by: str) -> None:
        self.made_by = json.dumps(made_by).encode()
        digest = hashlib.blake2b(self.made_by, digest_size=16).hexdigest()
        self.folder = root / digest[:2] / digest
        self.segments: dict[str, Segment] = {}  # by file name; replaced, never changed: readers hold no lock
        self.looked = self.touched = -math.inf

    def look(self) -> None:
        """List the segments, and the items that are new in them."""
        found: dict[str, Segment] = {}
        for name, size in sorted(_sizes(self.folder).items()):
            with suppress(OSError):
                segment = self.segments.get(name) or Segment.of(self.folder / name, self.made_by)
                if segment and all(other.line == segment.line for other in found.values()):
                    found[name] = segment.up_to(size)
        self.segments, self.looked = found, time.monotonic()

    def touch(self) -> None:
        """Mark as used, by the clock of the file server, which all machines share."""
        if time.monotonic() - self.touched >= TOUCH_AGAIN:
            self.touched = time.monotonic()
            with suppress(OSError):
                os.utime(self.folder)

    def write(self, name: str, line: bytes, items: list[int], records: bytes) -> None:
        """Add records to this process's own segment. Raises OSError, ValueError where others are of another kind."""
        for segment in self.segments.values():
            if segment.line != line:
                raise ValueError(
                    f"rows of {line!r} differ in dtype or shape from those there, {segment.line!r}: "
                    "let made_by name what makes them different"
                )
        if not self.folder.is_dir():
            for folder in (self.folder.parent, self.folder):  # none above: that disk may have been unmounted
                with suppress(FileExistsError):
                    folder.mkdir()
        segment = self.segments.get(name) or Segment(self.folder / name, line)
        grown = segment.write(items, records)
        self.segments = {**self.segments, name: grown}
        self.touch()


def _listing(folder: Path) -> dict[str, os.stat_result]:
    """What a folder holds, by name, links as such; nothing where it cannot be listed."""
    found = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                found[entry.name] = entry.stat(follow_symlinks=False)
    return found


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each segment in a folder, by name."""
    facts = _listing(folder).items()
    return {
        name: fact.st_size for name, fact in facts if name.endswith(".rows") and stat.S_ISREG(fact.st_mode)
    }


def _delete(folder: Path) -> int:
    """Delete the segments in a folder, and the folder where it is empty then; how many bytes were freed."""
    freed = 0
    for name, size in _sizes(folder).items():
        with suppress(OSError):
            (folder / name).unlink()
            freed += size
    with suppress(OSError):
        folder.rmdir()
    return freed
