"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

TEMPORARY = ".part"
"""Suffix of files that are still being written; one that a killed process left is rubbish."""


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
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        make(temporary)
        _flush(temporary, os.O_RDWR)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be opened, and the rename itself is journalled
        _flush(path.parent, os.O_RDONLY)


def remove_temporaries(folder: Path) -> None:
    """Delete what killed processes left half-written in `folder`."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def _flush(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
