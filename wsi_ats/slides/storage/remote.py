"""Bytes of files behind a URL, by ranges, many of them under way at once.

A request costs a round trip of perhaps 20 ms, so that all ranges of a call are asked for together. obstore does the
transfer, driven by an event loop in a thread of its own and handed ten ranges at a time. Measured on two busy cores,
190 scattered tiles of 12 KB at 20 ms a request: 60 to 85 ms, 27 ms of processor time. A task for each range takes
80 ms (75), 128 threads 75 ms (52), one `get_ranges`, which has ten ranges under way, over 400 ms.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from wsi_ats.shown import url_id
from wsi_ats.slides.storage.ranges import Request, batches, requests
from wsi_ats.slides.storage.source import WHOLE, ByteRange, ByteSource, span, too_large
from wsi_ats.slides.storage.transfer import AT_ONCE, submit
from wsi_ats.slides.storage.urls import connect, reason, status

if TYPE_CHECKING:
    from obstore import GetOptions

TOGETHER = 10
"""Number of ranges handed to obstore in one go; as many as it asks for at the same time."""
AHEAD_BYTES = 64 << 20
"""Bytes fetched before the caller takes them."""
REMEMBERED = 4096
"""Files whose size and version are remembered, for each source."""
BODY_ATTEMPTS = 3
"""Attempts at an answer whose connection breaks: obstore itself tries again only where a request fails."""
PATIENCE_S = 60.0
SLOWEST = 32 << 10
"""Seconds that an answer may take, and bytes of it for which it may take a second more. The time limits of obstore
begin again with every byte."""

Answers = list[memoryview] | None
"""Bytes of each range of a batch; None where there is no such file."""


class RemoteSource(ByteSource):
    """A file, or all files below a prefix, behind a URL. Credentials are taken from the environment, as obstore
    has it (AWS_ACCESS_KEY_ID, ..., AWS_SKIP_SIGNATURE=true for public buckets), or are part of the URL."""

    remote = True

    def __init__(self, url: str) -> None:
        """Take a URL; the server is not asked yet. Raises ConfigError."""
        self.address = url_id(url)
        self._store, self._root = connect(url, self.address)
        self._stamps: dict[str, tuple[int, int]] = {}
        self._closed = False

    def read(self, part: ByteRange) -> bytes:
        """Bytes of a part. Raises FileNotFoundError, OSError."""
        for data in self.read_many([part]):
            if data is not None:
                return data
        raise FileNotFoundError(f"{self._name(part.key)} does not exist")

    def read_many(self, parts: Sequence[ByteRange], most: int = WHOLE) -> Iterator[bytes | None]:
        """The bytes of each part; near ones share a request, and up to 256 requests are under way."""
        known = next(iter(self._stamps), None)
        for data in self._read_many(parts, most):
            if data is None and known is not None:
                self._confirm(known)
                known = None
            yield data

    def _read_many(self, parts: Sequence[ByteRange], most: int) -> Iterator[bytes | None]:
        parts = [self._located(part) for part in parts]
        wanted = batches(requests(parts), TOGETHER, self._stamps)
        places = {
            i: (b, r) for b, batch in enumerate(wanted) for r, one in enumerate(batch) for i in one.members
        }
        last = [max(i for request in batch for i in request.members) for batch in wanted]
        window = _Window(wanted, lambda batch: self._begin(batch, most))
        try:
            for i, part in enumerate(parts):
                if i not in places:
                    yield b""
                    continue
                number, place = places[i]
                answers = window.result(number)
                yield None if answers is None else wanted[number][place].cut(part, answers[place])
                if i == last[number]:
                    window.drop(number)
        finally:
            window.cancel()

    def exists(self, key: str) -> bool:
        """Whether there is a file of that name."""
        try:
            self.stamp(key)
        except FileNotFoundError:
            return False
        return True

    def stamp(self, key: str = "") -> tuple[int, int]:
        """Pair (bytes, hash of the ETag or else of the time of change), known since the first read of the file."""
        if key not in self._stamps:
            # One byte, not HEAD, which signed URLs do not allow.
            self.read(ByteRange(key, 0, 1))
        return self._stamps.get(key, (0, 0))  # no byte, no range, no stamp: the file is empty

    def close(self) -> None:
        """Make no more requests; connections are closed when idle."""
        self._closed = True
        self._stamps = {}

    def _name(self, key: str) -> str:
        return f"{self.address}/{key}" if key else self.address

    def _located(self, part: ByteRange) -> ByteRange:
        """The part with its place in the file, where the size of the file is known."""
        known = self._stamps.get(part.key)
        return part if known is None else ByteRange(part.key, *span(part, known[0]))

    def _confirm(self, key: str) -> None:
        """Raise OSError where a file is gone that was there: then others are not absent, but gone with it."""
        if self._begin([Request(ByteRange(key, 0, 1), [0])], WHOLE).result() is None:
            raise OSError(f"{self._name(key)} is gone from its server while it is read")

    def _begin(self, batch: Sequence[Request], most: int) -> Future[Answers]:
        if self._closed:
            raise OSError(f"{self.address} is closed")
        return submit(lambda: self._answers([request.part for request in batch], most), len(batch))

    async def _answers(self, parts: Sequence[ByteRange], most: int) -> Answers:
        """Bytes of ranges of one file; empty where one lies beyond the end, None where there is no such file."""
        key = parts[0].key
        for attempt in range(1, BODY_ATTEMPTS + 1):
            try:
                async with asyncio.timeout(PATIENCE_S) as limit:
                    return await self._ask("/".join(filter(None, (self._root, key))), parts, most, limit)
            except TimeoutError:
                raise OSError(
                    f"{self._name(key)} cannot be read: the server has not answered after {PATIENCE_S:g} s and a "
                    f"second more for every {SLOWEST >> 10} KiB"
                ) from None
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise OSError(f"{self._name(key)} cannot be read: there is no such bucket") from None
                return None
            except _failures() as error:
                said = str(error)
                if status(said) == "416":
                    return [memoryview(b"")] * len(parts)
                if attempt == BODY_ATTEMPTS or "kind: Body" not in said:
                    # Not `from error`: its text has the URL as it was given, with signatures and passwords.
                    kind = PermissionError if status(said) in ("401", "403") else OSError
                    raise kind(f"{self._name(key)} cannot be read: {reason(said)}") from None
            await asyncio.sleep(0.1 * attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _ask(
        self, path: str, parts: Sequence[ByteRange], most: int, limit: asyncio.Timeout
    ) -> list[memoryview]:
        import obstore

        if len(parts) > 1:
            starts, lengths = [part.offset for part in parts], [part.count or 0 for part in parts]
            _allow(limit, sum(lengths))
            several = await obstore.get_ranges_async(
                self._store, path, starts=starts, lengths=lengths, coalesce=0
            )
            return [memoryview(data) for data in several]
        result = await obstore.get_async(self._store, path, options=_options(parts[0]))
        first, end = result.range
        if parts[0].count is None and end - first > most:
            raise OSError(too_large(self._name(parts[0].key), end - first, most))
        _allow(limit, end - first)
        data = memoryview(await result.bytes_async())
        self._check(parts[0].key, result.meta)
        return [data]

    def _check(self, key: str, meta: Mapping[str, Any]) -> None:
        """Raises OSError where the file is not the one that was read before: an index of it would not fit."""
        version = str(meta["e_tag"] or meta["last_modified"]).encode()
        digest = hashlib.blake2b(version, digest_size=7).digest()
        stamp = meta["size"], int.from_bytes(digest, "big")
        if self._stamps.setdefault(key, stamp) != stamp:
            raise OSError(f"{self._name(key)} changed on its server while it was read: open it again")
        while len(self._stamps) > REMEMBERED:
            self._stamps.pop(next(iter(self._stamps)), None)


class _Window:
    """Batches that are under way or wait to be taken: as many as may be, in order."""

    def __init__(
        self, wanted: Sequence[list[Request]], begin: Callable[[Sequence[Request]], Future[Answers]]
    ) -> None:
        self._wanted, self._begin = wanted, begin
        self._begun = 0
        self._futures: dict[int, Future[Answers]] = {}

    def result(self, number: int) -> Answers:
        while self._begun < len(self._wanted) and (self._begun <= number or self._has_room()):
            self._futures[self._begun] = self._begin(self._wanted[self._begun])
            self._begun += 1
        return self._futures[number].result()

    def drop(self, number: int) -> None:
        del self._futures[number]

    def cancel(self) -> None:
        for future in self._futures.values():
            future.cancel()

    def _has_room(self) -> bool:
        counts = [r.part.count for n in (*self._futures, self._begun) for r in self._wanted[n]]
        return len(counts) <= AT_ONCE and sum(count or 1 << 20 for count in counts) <= AHEAD_BYTES


def _failures() -> tuple[type[Exception], ...]:
    """What obstore raises where a request fails."""
    from obstore.exceptions import BaseError

    return BaseError, ValueError


def _allow(limit: asyncio.Timeout, count: int) -> None:
    """Allow an answer of so many bytes its time."""
    limit.reschedule((limit.when() or 0.0) + count / SLOWEST)


def _options(part: ByteRange) -> GetOptions:
    if part.offset < 0:
        return {"range": {"suffix": -part.offset}}
    if part.count is not None:
        return {"range": (part.offset, part.offset + part.count)}
    return {"range": {"offset": part.offset}} if part.offset else {}
