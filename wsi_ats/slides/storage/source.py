"""`ByteSource`: what every store of bytes offers, whether a file, a folder or a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

WHOLE = 2 << 30
"""Bytes beyond which a file is not read as a whole: memory is not to follow whatever a stranger put there."""


class ByteRange(NamedTuple):
    """A range of bytes to read."""

    key: str = ""
    """Name inside the store, with "/" between folders; "" for a source that is one file."""
    offset: int = 0
    """First byte; a negative one counts from the end, where the index of a Zarr shard lies."""
    count: int | None = None  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    """Number of bytes; None: all up to the end."""


class ByteSource(ABC):
    """Bytes by position, from a file, a folder or an object store.

    Threads may share it and it may be used after a fork. A file is taken not to change while it is read.
    """

    address: str
    """Absolute path, or URL without credentials, for messages."""
    remote: bool
    """Whether every read costs a round trip: all that is needed is then asked for by one `read_many`."""

    @abstractmethod
    def read(self, part: ByteRange) -> bytes:
        """The bytes of a part; fewer than asked for only where the file ends.

        Raises FileNotFoundError where the key does not exist, OSError where it cannot be read.
        """

    @abstractmethod
    def read_many(self, parts: Sequence[ByteRange], most: int = WHOLE) -> Iterator[bytes | None]:
        """The bytes of each part, in order; None where the key does not exist, and only there.

        most: bytes that a part without a count may have. Raises OSError where one has more, where what is there is
        no regular file, cannot be read or cannot be asked for, and where what was there is gone.
        A local file is read lazily, part by part, after the kernel was told about all of them. A server is
        asked for all parts at once.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is a file of that name. Raises OSError where that cannot be known, or where it is no file."""

    @abstractmethod
    def stamp(self, key: str = "") -> tuple[int, int]:
        """Pair (size in bytes, time of change or hash of the version): equal as long as the file is the same.

        The second is nanoseconds for a local file, a hash of the ETag for a remote one (0 where there is none).
        Raises FileNotFoundError, OSError.
        """

    @abstractmethod
    def close(self) -> None:
        """Release files and connections, once all reads under way are done. Reading afterwards is an OSError."""

    def __enter__(self) -> ByteSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"


def too_large(name: str, size: int, most: int) -> str:
    """What is wrong with a file that is to be read as a whole."""
    return f"{name} has {size:,} bytes; at most {most:,} are read at once"


def span(part: ByteRange, size: int) -> tuple[int, int]:
    """Pair (first byte, count) of a part in a file of `size` bytes; clipped, whatever a damaged index says."""
    start = min(part.offset if part.offset >= 0 else max(size + part.offset, 0), size)
    wanted = size if part.count is None else max(part.count, 0)
    return start, min(wanted, size - start)
