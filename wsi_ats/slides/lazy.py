"""A level of a slide as a Dask array: chunks are read when and where they are computed.

The graph carries the slide's address, once, and for every chunk its place; never pixels (but for slides that are
arrays in memory, whose address they are) and never anything open. A process opens a slide when it first computes a
chunk of it and keeps the last few open.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from jaxtyping import Int64, UInt8

from wsi_ats.arguments import whole_number
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.geometry import Level

CHUNK_BYTES = 8 << 20
"""Bytes of a chunk by default: some 30 tiles, 50 ms of work, which makes Dask's 0.2 ms a task small."""
OPEN_SLIDES = 16
"""Slides that a process keeps open for its chunks."""


@runtime_checkable
class Address(Protocol):
    """The part of a `SlideAddress` that Dask arrays need."""

    name: str

    def open(self) -> Readable:
        """Open the slide of this address."""


@runtime_checkable
class Readable(Protocol):
    """The part of a `Slide` that Dask arrays need."""

    name: str
    threads: int

    @property
    def address(self) -> Any:
        """Address that opens the slide again."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels of the slide, finest first."""

    def tile_size(self, level: int = 0) -> tuple[int, int]:
        """Size (width, height) in px of what is decoded at a time."""

    def read(
        self, location: tuple[int, int], size: tuple[int, int], level: int = 0
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a region, (h, w, 3) uint8."""

    def close(self) -> None:
        """Release the files of the slide."""


def lazy_level(slide: Readable, level: int = 0, chunk: int | None = None) -> da.Array:
    """A level as a Dask array, (h, w, 3) uint8; nothing is read before it is computed.

    chunk: length of a chunk's sides in px of the level, rounded up to whole tiles; None: about 8 MB a chunk.
    Computing raises SlideError where the slide cannot be read or is no longer the one that it was.
    Works with every scheduler of Dask: on a cluster, the slide's path must hold on the workers, too.
    """
    levels = slide.levels
    if not 0 <= level < len(levels):
        raise ConfigError(
            f"level={level}: slide {slide.name!r} has levels 0 to {len(levels) - 1}", "give one of these"
        )
    chunk = None if chunk is None else whole_number("chunk", chunk, 1)
    size = levels[level].size
    side_x, side_y = _sides(slide.tile_size(level), chunk)
    address = _bare(slide.address)
    name = f"slide-{tokenize(address, level, side_x, side_y)}"
    return da.map_blocks(
        _chunk,
        # A key of its own, which all chunks refer to: an address may be large, that of an array has its pixels.
        dask.delayed(address, name=f"address-{name}", traverse=False),
        level=level,
        size=(size.width, size.height),
        sides=(side_x, side_y),
        name=name,
        chunks=(_cuts(size.height, side_y), _cuts(size.width, side_x), (3,)),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
    )


def _sides(tile: tuple[int, int], chunk: int | None) -> tuple[int, int]:
    """Width and height of a chunk: whole tiles, near a square."""
    if chunk is not None:
        return -(-chunk // tile[0]) * tile[0], -(-chunk // tile[1]) * tile[1]
    pixels = CHUNK_BYTES // 3
    across = max(1, min(int(pixels**0.5) // tile[0], pixels // (tile[0] * tile[1])))
    down = max(1, pixels // (across * tile[0] * tile[1]))
    return across * tile[0], down * tile[1]


def _cuts(length: int, side: int) -> tuple[int, ...]:
    """Lengths of the chunks of an axis."""
    whole, rest = divmod(length, side)
    return (side,) * whole + ((rest,) if rest else ())


def _bare(address: Any) -> Any:
    """The address without what it remembers beside it (fields that do not count when addresses are compared)."""
    if not is_dataclass(address) or isinstance(address, type):
        return address
    memory = {f.name: f.default for f in fields(address) if not f.compare and f.default is not MISSING}
    return replace(address, **memory) if memory else address


def _chunk(
    address: Address,
    level: int,
    size: tuple[int, int],
    sides: tuple[int, int],
    block_id: tuple[int, ...] = (0, 0, 0),
) -> UInt8[np.ndarray, "h w 3"]:
    """Read a chunk, on a worker; `size` is (width, height) of the level as the graph was made for."""
    x, y = block_id[1] * sides[0], block_id[0] * sides[1]
    width, height = min(sides[0], size[0] - x), min(sides[1], size[1] - y)
    with _slides.borrow(address) as slide:
        if level >= len(slide.levels) or size != _extent(slide.levels[level]):
            raise SlideError(
                f"slide {slide.name!r}: level {level} no longer has {size[0]} x {size[1]} px",
                "the file changed since the Dask array was made: make it again",
            )
        location = slide.levels[level].location_of(np.asarray([[x, y]], np.int64))
        return slide.read(_pair(location), (width, height), level)


def _extent(level: Level) -> tuple[int, int]:
    return level.size.width, level.size.height


def _pair(location: Int64[np.ndarray, "1 2"]) -> tuple[int, int]:
    return int(location[0, 0]), int(location[0, 1])


class _Entry:
    """An open slide and how many read from it."""

    def __init__(self, slide: Readable) -> None:
        self.slide = slide
        self.users = 0
        self.evicted = False


class _Slides:
    """The slides that this process has open for chunks; the least recently used is closed when no one reads it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left_behind: list[OrderedDict[Any, _Entry]] = []
        self._begin()

    def _begin(self) -> None:
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._lock, self._pid = threading.Lock(), os.getpid()

    @contextmanager
    def borrow(self, address: Address) -> Iterator[Readable]:
        """The slide, open; it stays so within the block."""
        entry = self._enter(address)
        try:
            yield entry.slide
        finally:
            self._leave(entry)

    def _enter(self, address: Address) -> _Entry:
        if self._pid != os.getpid():
            # Of the parent: a thread of it may have been reading, or held the lock, when it forked.
            self._left_behind.append(self._entries)
            self._begin()
        with self._lock:
            entry = self._entries.get(address)
            if entry is not None:
                self._entries.move_to_end(address)
                entry.users += 1
                return entry
        opened = _Entry(address.open())
        opened.slide.threads = 1  # Dask's workers are the threads
        with self._lock:
            entry = self._entries.setdefault(address, opened)
            entry.users += 1
            idle = self._evict()
        for slide in idle if entry is opened else [*idle, opened.slide]:
            slide.close()
        return entry

    def _evict(self) -> list[Readable]:
        """Take out the oldest slides; those that no one reads are to be closed now, the others by their last reader."""
        idle = []
        while len(self._entries) > self._most:
            _, oldest = self._entries.popitem(last=False)
            oldest.evicted = True
            if not oldest.users:
                idle.append(oldest.slide)
        return idle

    def _leave(self, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            last = entry.evicted and not entry.users
        if last:
            entry.slide.close()


_slides = _Slides(OPEN_SLIDES)
