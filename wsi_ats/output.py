"""Output that cannot be written: said in one line, whatever was being written, and the end of the work.

A fault of a slide concerns that slide; one of the place where all results go concerns everything that would still be
computed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_ats.errors import WsiAtsError

REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT): "make room there",
    (errno.EROFS,): "make the file system writable, or choose another place",
    (errno.EACCES, errno.EPERM): "give this user the right to write there, or choose another place",
    (errno.EFBIG,): "raise the limit of file sizes (ulimit -f)",
    (errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN): (
        "see that it is there still: not moved, not deleted, its disk mounted and well"
    ),
    (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP): "move what lies there out of the way",
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
    def of(cls, place: Path | str, error: OSError) -> OutputError:
        """The output error that an error of the system means for `place`."""
        number = error.errno or 0
        remedy = next((text for numbers, text in REMEDIES.items() if number in numbers), "see to its disk")
        # h5py puts its own inner workings into the text.
        reason = os.strerror(number) if number else str(error)
        return cls(
            f"{place} cannot be written: {reason}",
            remedy=f"{remedy}; then give the same command again: what is done is kept",
        )


@contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """A block that writes into `place` and reads nothing else: what the system refuses in it is an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError.of(error.filename if _is_below(error.filename, place) else place, error) from error


def _is_below(name: object, place: Path | str) -> bool:
    """Whether an error names something in `place` that a user would know: temporary names are hidden ones."""
    if not isinstance(name, str):
        return False
    path = Path(name)
    return path.is_relative_to(place) and not path.name.startswith(".")
