"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from wsi_ats.process import Process, is_running

TEMPORARY = ".part"
"""Suffix of files that are still being written; one that a killed process left is rubbish."""
AGE_LIMIT = 3600.0
"""Seconds after which a temporary file counts as left behind where its writer cannot be seen from here."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step: readers see the old file or the new one, also after a power cut.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "result.json")
    ...     write_atomic(path, b"old")
    ...     write_atomic(path, b"new")
    ...     path.read_text(), len(list(path.parent.iterdir()))
    ('new', 1)
    """

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    make_atomic(path, write)


def make_atomic(path: Path, make: Callable[[Path], None]) -> None:
    """Let `make` write a file of another name in the same folder, flush it to the disk and rename it to `path`.

    >>> from tempfile import TemporaryDirectory
    >>> def fail(temporary: Path) -> None:
    ...     temporary.write_text("half of it")
    ...     raise OSError("disk full")
    >>> with TemporaryDirectory() as folder:
    ...     try:
    ...         make_atomic(Path(folder, "result.json"), fail)
    ...     except OSError as error:
    ...         print(error, list(Path(folder).iterdir()))
    disk full []
    """
    temporary = temporary_beside(path)
    try:
        make(temporary)
        _flush(temporary, os.O_RDWR)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be opened, and the rename itself is journalled
        _flush(path.parent, os.O_RDONLY)


def read_regular(path: Path, most: int) -> tuple[bytes, float]:
    """At most so many bytes of a regular file, and the time of its last change.

    Raises `OSError` for anything else of that name: a link is not followed, a pipe not waited for.
    """
    flags = (
        os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    fd = os.open(path, flags)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(most), status.st_mtime
    finally:
        os.close(fd)


def temporary_beside(path: Path) -> Path:
    """A new temporary name beside `path`, which says what process writes it."""
    me = Process.me()
    writer = f"{me.place}-{me.pid}-{me.started:.0f}"
    return path.with_name(f".{path.name}.{writer}-{uuid.uuid4().hex[:12]}{TEMPORARY}")


def remove_temporaries(folder: Path, name: str | None = None) -> None:
    """Delete what processes that are gone left half-written in `folder`, files and folders; what a living one writes
    stays. name: of what alone they were to become; None: of anything."""
    beginning = "." if name is None else f".{glob.escape(name)}."
    for path in folder.glob(f"{beginning}*{TEMPORARY}"):
        if not _is_left_behind(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _is_left_behind(path: Path) -> bool:
    """Whether nobody writes a temporary file any more: its writer is gone or, where unseen, it has been silent."""
    place, _, rest = path.name.removesuffix(TEMPORARY).rpartition(".")[2].partition("-")
    pid, _, rest = rest.partition("-")
    started = rest.partition("-")[0]
    alive = None
    if place == Process.me().place and pid.isdecimal() and started.isdecimal():
        alive = is_running(int(pid), float(started))
    if alive is not None:
        return not alive
    try:
        return time.time() - path.lstat().st_mtime > AGE_LIMIT
    except OSError:  # gone in the meantime
        return False


def _flush(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
