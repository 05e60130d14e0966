"""Output that cannot be written: said in one line, whatever was being written, and the end of the work.

A fault of a slide concerns that slide; one of the place where all results go concerns everything that would still be
computed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_ats.atomic import write_atomic
from wsi_ats.errors import ConfigError, WsiAtsError
from wsi_ats.regular import is_folder, kind_of

REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT): "make room there",
    (errno.EROFS,): "make the file system writable, or choose another place",
    (errno.EACCES, errno.EPERM): "give this user the right to write there, or choose another place",
    (errno.EFBIG,): "raise the limit of file sizes (ulimit -f)",
    (errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN): (
        "see that it is there still: not moved, not deleted, its disk mounted and well"
    ),
    (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP): (
        "give another name, or move what lies there out of the way"
    ),
    (errno.ENAMETOOLONG,): "give a shorter name",
}
"""What to do about an error of the system, by its number."""


class OutputError(WsiAtsError):
    """A result cannot be kept where it was to be written; the message names the place and the reason.

    >>> with writing("/proc/nowhere"):
    ...     Path("/proc/nowhere").write_text("a result")
    Traceback (most recent call last):
    ...
    wsi_ats.output.OutputError: /proc/nowhere cannot be written: No such file or directory
      Remedy: see that it is there still: ...; then give the same command again: what is done is kept
    """

    @classmethod
    def of(cls, place: Path | str, number: int) -> OutputError:
        """The output error that an error of the system, by its number, means for `place`."""
        return cls(
            f"{place} cannot be written: {os.strerror(number)}",
            remedy=f"{remedy_for(number)}; then give the same command again: what is done is kept",
        )


def remedy_for(number: int | None) -> str:
    """What to do about an error of the system, by its number.

    >>> remedy_for(errno.ENOSPC)
    'make room there'
    """
    return next((text for numbers, text in REMEDIES.items() if number in numbers), "see to its disk")


def check_folder(place: Path, *read: Path | str) -> None:
    """Raise `ConfigError` where no folder can be at `place`: it, or what it is in, is something else.

    read: what the command reads, which may have been named by mistake.

    >>> check_folder(Path("/dev/null/out"))
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: output folder /dev/null/out cannot be made: /dev/null is a device, not a folder
      Remedy: name a folder, one that is there or a new one
    """
    lowest = _lowest(place)
    if lowest is not None and not is_folder(lowest):
        mine = ", and is read by this command" if any(_same(lowest, one) for one in read) else ""
        example = f": {lowest.parent / 'out'} for example" if mine else ""
        raise ConfigError(
            f"output folder {place} cannot be made: {lowest} is {kind_of(lowest)}, not a folder{mine}",
            remedy=f"name a folder, one that is there or a new one{example}",
        )


def _lowest(place: Path) -> Path | None:
    """What is there of a path: itself, or the nearest of what it is in."""
    return next((path for path in (place, *place.parents) if os.path.lexists(path)), None)


def _same(one: Path, other: Path | str) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _remedy_of(error: OSError, place: Path) -> str:
    """What to do where something new cannot be made at `place`."""
    lowest = _lowest(place.parent)
    if error.errno == errno.ENOENT and lowest is not None and is_folder(lowest):
        return f"choose another place: nothing new can be made in {lowest}"
    return remedy_for(error.errno)


def make_folder(place: Path) -> None:
    """Make the folder that results go to, and those it is in. Raises `ConfigError` where it cannot be made."""
    check_folder(place)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output folder {place} cannot be made: {error.strerror}", _remedy_of(error, place)
        ) from error


def check_within(out: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    """Find out whether what is to be written into `out` can have its names.

    Raises `OutputError` where a folder lies in the place of one of `files`, `ConfigError` where something else lies in
    that of one of `folders`.
    """
    for path in (out / name for name in files):
        if is_folder(path):
            raise OutputError.of(path, errno.EISDIR)
    for path in (out / name for name in folders):
        check_folder(path)


def write_file(place: Path, content: bytes, called: str = "") -> None:
    """Write a file that a user named, where the old one stays until the new one is whole.

    A link stays one; a device or a pipe is written to, not replaced. called: what errors call the file, if not
    by its path. Raises `ConfigError` where it cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_file(Path(folder, "heatmap.png"), b"a picture")
    ...     Path(folder, "heatmap.png").read_bytes()
    b'a picture'
    """
    try:
        if place.exists() and not place.is_file():
            place.write_bytes(content)
        else:
            write_atomic(place.resolve(), content)
    except OSError as error:
        raise ConfigError(
            f"{called or place} cannot be written: {error.strerror}", _remedy_of(error, place)
        ) from error


@contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """A block that writes into `place` and reads nothing else: what the system refuses in it is an `OutputError`.

    Libraries pass such errors on as others of their own, which are recognised."""
    try:
        yield
    except WsiAtsError:
        raise
    except Exception as error:
        number = _number(error)
        if number is None:
            raise
        raise OutputError.of(_told(error, place), number) from error


def _number(error: BaseException) -> int | None:
    """Number of the error of the system behind an error; None where there is none, or where it is not known."""
    found = re.search(r"(?:os error |\bOs \{ code: )(\d+)", str(error))  # safetensors, of today and before
    if isinstance(error, OSError):
        return error.errno or (int(found[1]) if found else errno.EIO)
    if found is not None:
        return int(found[1])
    return None if error.__context__ is None else _number(error.__context__)  # torch


def _told(error: Exception, place: Path | str) -> Path | str:
    """What is said to be at fault: the file that the error names, where it is in `place` and no temporary one."""
    named = getattr(error, "filename", None)
    if not isinstance(named, str):
        return place
    path = Path(named)
    return path if path.is_relative_to(place) and path.suffix != ".part" else place
