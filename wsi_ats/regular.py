"""Regular files: what others have put where a file is expected is opened only if it is one, and read only so far.

A pipe lets its reader wait for ever, a device may have no end or do something when it is opened. So neither is opened:
all files that come from users and strangers (slides, manifests, settings, weights) are opened here.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
"""Flags of opening; O_NONBLOCK, for a pipe that takes the file's place between the look at it and its opening."""
KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular_stat(path: Path | str) -> os.stat_result:
    """Facts of a regular file (links are followed); nothing is opened.

    Raises FileNotFoundError where there is nothing, OSError, saying what is there, for all else.

    >>> regular_stat("/")
    Traceback (most recent call last):
    ...
    IsADirectoryError: [Errno 21] it is a folder, not a regular file: '/'
    """
    try:
        facts = os.stat(path)  # noqa: PTH116 (keys of a Zarr store are asked for by the thousand)
    except ValueError as error:  # a zero byte, or what no file system can spell
        raise OSError(errno.EINVAL, f"no name of a file ({error})", str(path)) from None
    _check(facts, path)
    return facts


def is_folder(path: Path | str) -> bool:
    """Whether a folder is there; not where that cannot be known (no right to look, a name that is too long)."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except (OSError, ValueError):
        return False


def kind_of(path: Path | str) -> str:
    """What is at `path`, in words; links are followed.

    >>> kind_of("/dev/null"), kind_of("/"), kind_of("nowhere")
    ('a device', 'a folder', 'a link to nothing, or out of sight')
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return "a link to nothing, or out of sight"
    return _kind(mode)


def open_descriptor(path: Path | str) -> int:
    """Descriptor of a regular file, for reading. Raises as `regular_stat` does."""
    regular_stat(path)
    fd = os.open(path, FLAGS)
    try:
        _check(os.fstat(fd), path)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_regular(path: Path | str) -> BufferedReader:
    """A regular file, open for reading bytes. Raises as `regular_stat` does.

    >>> open_regular("/dev/null")
    Traceback (most recent call last):
    ...
    OSError: [Errno 22] it is a device, not a regular file: '/dev/null'
    """
    return os.fdopen(open_descriptor(path), "rb")


def read_regular(path: Path | str, most: int) -> bytes:
    """All bytes of a regular file. Raises as `regular_stat` does, and OSError where it has more than `most`."""
    with open_regular(path) as file:
        content = file.read(most + 1)  # its size may be 0 though it has bytes, as in /proc
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than the {most:,} bytes that are read", str(path))
    return content


def _check(facts: os.stat_result, path: Path | str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = _kind(facts.st_mode)
        code = errno.EISDIR if kind == "a folder" else errno.EINVAL
        raise OSError(code, f"it is {kind}, not a regular file", str(path))


def _kind(mode: int) -> str:
    return next((name for is_it, name in KINDS if is_it(mode)), "something else")
