"""Bytes of local files: positional reads, which need neither a seek nor a lock."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from wsi_ats.regular import open_descriptor, regular_stat
from wsi_ats.slides.storage.source import WHOLE, ByteRange, ByteSource, span, too_large

OPEN_FILES = 64
"""Files that a folder keeps open; a process may have about 1,000, and shares them among all of its slides."""
BESIDE = (".dcm", ".dicom", ".vms", ".vmu")
"""Slides that are several files of one folder, of which any may be named."""
AHEAD = 32
"""Number of parts of a folder that the kernel is told about before they are read."""


def companions_of(path: Path) -> list[Path]:
    """What lies beside a slide of several files (MIRAX, DICOM, Hamamatsu), and may be a part of it. Raises OSError."""
    suffix = path.suffix.lower()
    if suffix not in (".mrxs", *BESIDE) or path.is_dir():
        return []
    folder = path.with_suffix("") if suffix == ".mrxs" else path.parent
    return [file for file in folder.iterdir() if file != path] if folder.is_dir() else []


def refuse_irregular(path: Path | str) -> None:
    """Raise OSError where a slide is no regular file, or has something beside it that its reader would wait for.

    For readers that open files by their names; folders beside a slide are let be, and links that lead nowhere."""
    regular_stat(path)
    for other in companions_of(Path(path)):
        if other.exists() and not other.is_dir():
            regular_stat(other)


class _File:
    """An open file, closed when nobody holds it any more: a number may be given to another file at once after
    that, and a thread that still reads by it would get that file's bytes."""

    __slots__ = ("fd", "lock", "path", "size", "stamp")

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.path = path
        self.lock = threading.Lock()
        self.fd = open_descriptor(path)
        facts = os.fstat(self.fd)
        self.size = facts.st_size
        self.stamp = facts.st_size, facts.st_mtime_ns

    def hint(self, part: ByteRange) -> None:
        """Let the kernel begin to read a part."""
        if hasattr(os, "posix_fadvise"):
            start, count = span(part, self.size)
            if count:
                os.posix_fadvise(self.fd, start, count, os.POSIX_FADV_WILLNEED)

    def read(self, part: ByteRange, most: int = WHOLE) -> bytes:
        """Bytes of a part."""
        start, count = span(part, self.size)
        if part.count is None and count > most:
            raise OSError(too_large(self.path, count, most))
        pieces: list[bytes] = []
        try:
            while count:
                piece = _read_at(self, count, start)
                if not piece:  # cut short since it was opened
                    break
                if len(piece) == count and not pieces:
                    return piece
                pieces.append(piece)
                start, count = start + len(piece), count - len(piece)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} at byte {start}", self.path) from error
        return b"".join(pieces)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _positional(file: _File, count: int, start: int) -> bytes:
    return os.pread(file.fd, count, start)


def _by_seeking(file: _File, count: int, start: int) -> bytes:
    with file.lock:
        os.lseek(file.fd, start, os.SEEK_SET)
        return os.read(file.fd, count)


_read_at = _positional if hasattr(os, "pread") else _by_seeking  # Windows has no pread, and no fork either


class FileSource(ByteSource):
    """A file as a source of bytes; its key is ""."""

    remote = False

    def __init__(self, path: str) -> None:
        """Open the file. Raises FileNotFoundError, OSError."""
        self.address = str(Path(path).absolute())
        self._open: _File | None = _File(self.address)

    def read(self, part: ByteRange) -> bytes:
        """Bytes of a part. Raises OSError."""
        return self._file(part.key).read(part)

    def read_many(self, parts: Sequence[ByteRange], most: int = WHOLE) -> Iterator[bytes | None]:
        """The bytes of each part; all of them are announced to the kernel before the first is read."""
        file = self._file("")
        for part in parts:
            if not part.key:
                file.hint(part)
        for part in parts:
            yield None if part.key else file.read(part, most)

    def exists(self, key: str) -> bool:
        """Whether the key is "", the file itself."""
        return not key

    def stamp(self, key: str = "") -> tuple[int, int]:
        """Pair (size in bytes, time of change in ns) of the file that is open."""
        return self._file(key).stamp

    def close(self) -> None:
        """Close the file as soon as no read is under way."""
        self._open = None

    def _file(self, key: str) -> _File:
        file = self._open
        if file is None:
            raise OSError(f"{self.address} is closed")
        if key:
            raise FileNotFoundError(f"{self.address} is one file and has no {key!r} in it")
        return file


class FolderSource(ByteSource):
    """The files below a folder as a source of bytes; keys are paths relative to it."""

    remote = False

    def __init__(self, path: str) -> None:
        """Take a folder. Raises NotADirectoryError, FileNotFoundError where there is no such folder."""
        folder = Path(path).absolute()
        self.address = str(folder)
        if not folder.is_dir():
            error = NotADirectoryError if folder.exists() else FileNotFoundError
            raise error(f"{self.address} is not a folder")
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False

    def read(self, part: ByteRange) -> bytes:
        """Bytes of a part. Raises OSError."""
        return self._file(part.key).read(part)

    def read_many(self, parts: Sequence[ByteRange], most: int = WHOLE) -> Iterator[bytes | None]:
        """The bytes of each part; a number of parts ahead are announced to the kernel."""
        rest = iter(parts)
        while some := list(islice(rest, AHEAD)):
            files = [self._file_or_none(part.key) for part in some]
            for file, part in zip(files, some, strict=True):
                if file is not None:
                    file.hint(part)
            for file, part in zip(files, some, strict=True):
                yield None if file is None else file.read(part, most)

    def exists(self, key: str) -> bool:
        """Whether there is a file of that name. Raises OSError where something else is."""
        return self._file_or_none(key) is not None

    def stamp(self, key: str = "") -> tuple[int, int]:
        """Pair (size in bytes, time of change in ns) of a file."""
        return self._file(key).stamp

    def close(self) -> None:
        """Close the files as soon as no read is under way."""
        self._closed = True
        self._files = OrderedDict()

    def _file_or_none(self, key: str) -> _File | None:
        try:
            return self._file(key)
        except FileNotFoundError:
            return None

    def _file(self, key: str) -> _File:
        if self._closed:
            raise OSError(f"{self.address} is closed")
        if self._pid != os.getpid():  # a thread of the parent may have held the lock when it forked
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        path = self._path(key)
        try:
            file = _File(path)
        except FileNotFoundError:
            self._refuse_lost(path)
            raise
        with self._lock:
            self._files[key] = file
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
        return file

    def _refuse_lost(self, path: str) -> None:
        """Raise OSError where a file is not absent but lost: behind a link that leads nowhere (files that were not
        fetched, as git-annex has them), or with the whole folder, as when its disk is gone."""
        while not os.path.isdir(path):  # noqa: PTH112
            if os.path.lexists(path):
                raise OSError(f"{path} is a link to what is not there")
            if path == self.address:
                raise OSError(f"{path} is gone")
            path = path.rpartition("/")[0]

    def _path(self, key: str) -> str:
        """Where the file of a key lies. Keys may come from a stranger's metadata: none leads out of the folder."""
        if not key or key.startswith("/") or "\0" in key or ".." in key.split("/"):
            raise FileNotFoundError(f"{self.address}: {key!r} is not the name of a file in this folder")
        return f"{self.address}/{key}"
