"""Regions from slides that are stored as tiles: each tile that any region needs is read and decoded once.

Where before what: regions -> distinct tiles -> the order they have in the file -> fetch -> decode -> copy into
the regions. A backend says how its tiles are laid out, fetched and decoded.
"""

from __future__ import annotations

import math
import os
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Box, Level
from wsi_ats.slides.base import Slide, SlideAddress, SlideFacts, Whole
from wsi_ats.stopwatch import DECODING, READING, noted, noted_each

Encoded = bytes | memoryview
BATCH = 32
"""Tiles that a thread takes at a time: enough for the kernel to read ahead, few enough to share evenly."""
AT_ONCE = 1024
"""Tiles that are asked of a server in one go."""
THREADS = min(8, os.cpu_count() or 1)
LINE = 64
"""Bytes of a cache line."""


class Tiling(NamedTuple):
    """Tiling of a level: size of a tile in px, tiles a row and rows of them; index = row * cols + col."""

    width: int
    height: int
    cols: int
    rows: int


class Job(NamedTuple):
    """A tile to decode: its number in the level, and what to copy where."""

    tile: int
    copies: list[Copy]


class Copy(NamedTuple):
    """A copy to make: `box` of the tile, in px of the tile, goes to `target`, an array of its shape."""

    box: Box
    target: UInt8[np.ndarray, "_ _ 3"]


class UndecodableTile(Exception):
    """A tile's bytes are damaged: a backend's word to the scheduler, which knows where the tile lies."""


class TiledSlide(Slide):
    """A slide stored as tiles that are decoded one by one, in threads, outside the interpreter's lock."""

    _remote: bool = False
    """Each fetch costs a round trip: all tiles of a call are fetched at once, not batch by batch."""

    def __init__(self, address: SlideAddress, facts: SlideFacts, tolerate_bad_tiles: int = 0) -> None:
        super().__init__(address, facts)
        self.threads = THREADS
        self._tolerated = tolerate_bad_tiles
        self._bad: set[tuple[int, int, int]] = set()
        self._pid = os.getpid()

    @property
    def bad_tiles(self) -> tuple[tuple[int, int, int], ...]:
        """Tiles (level, column, row) met so far that could not be decoded and were tolerated."""
        return tuple(sorted(self._bad))

    def tile_size(self, level: Whole = 0) -> tuple[int, int]:
        """Size (width, height) of a tile of the level in px."""
        tiling = self._tiling(self._level(level))
        return tiling.width, tiling.height

    @abstractmethod
    def _tiling(self, level: Level) -> Tiling:
        """How the level is cut into tiles."""

    @abstractmethod
    def _in_storage_order(self, level: Level, indices: Sequence[int]) -> Sequence[int]:
        """The same tiles in the order in which they lie in the file."""

    @abstractmethod
    def _fetch(self, level: Level, indices: Sequence[int]) -> Iterator[Encoded | None]:
        """Bytes of the tiles, in the order asked for; None for one that is not stored. Threads call it at once.

        Raises UndecodableTile where the file is too short for a tile, SlideError where nothing can be read.
        """

    @abstractmethod
    def _decode(
        self, level: Level, index: int, encoded: Encoded, window: Box | None
    ) -> tuple[UInt8[np.ndarray, "_ _ 3"], int, int]:
        """Pixels of a tile, in any order of memory, and the (x, y) within the tile where they begin.

        window: the only part that is needed, or None for more than one; a backend may decode more than it.
        Raises UndecodableTile where the bytes are damaged.
        """

    def _release(self, pixels: UInt8[np.ndarray, "_ _ 3"]) -> None:
        """Called when `pixels` of `_decode` were copied: a backend may use the array again."""

    def _fill(
        self, level: Level, boxes: Sequence[Box], targets: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> None:
        if self._pid != os.getpid():  # a thread of the parent may have held the lock when it forked
            self._lock, self._pid = threading.Lock(), os.getpid()
        found = _jobs(self._tiling(level), boxes, targets)
        jobs = [Job(tile, found[tile]) for tile in self._in_storage_order(level, list(found))]
        if self._remote:
            self._stream(level, jobs)
        elif self.threads == 1 or len(jobs) < 4:
            self._work(level, jobs)
        else:
            self._share(level, jobs)

    def _stream(self, level: Level, jobs: Sequence[Job]) -> None:
        """Decode tiles in threads as they arrive."""
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(jobs), AT_ONCE):
                fetched = self._fetched(level, jobs[start : start + AT_ONCE])
                list(pool.map(lambda job: self._place(level, *job), fetched))

    def _share(self, level: Level, jobs: Sequence[Job]) -> None:
        """Fetch and decode tiles in threads, each a part of the file at a time."""
        rounds = math.ceil(len(jobs) / (self.threads * BATCH))
        size = math.ceil(len(jobs) / (self.threads * rounds))
        batches = [jobs[i : i + size] for i in range(0, len(jobs), size)]
        # A pool a call: threads do not survive a fork, and starting them costs less than one tile.
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(lambda batch: self._work(level, batch), batches))

    def _work(self, level: Level, jobs: Sequence[Job]) -> None:
        """Fetch and decode tiles and copy them to where they are wanted."""
        for job, encoded in self._fetched(level, jobs):
            self._place(level, job, encoded)

    def _fetched(self, level: Level, jobs: Sequence[Job]) -> Iterator[tuple[Job, Encoded | None]]:
        """Tiles with their bytes; those that cannot be fetched are painted over, if that is tolerated."""
        left = iter(jobs)
        while rest := list(left):
            left = iter(rest)
            try:
                for encoded in noted_each(READING, self._fetch(level, [job.tile for job in rest])):
                    yield next(left), encoded
                return
            except UndecodableTile as error:
                self._give_up(level, next(left), error)

    def _place(self, level: Level, job: Job, encoded: Encoded | None) -> None:
        """Decode a tile and copy it to where it is wanted."""
        if encoded is None:
            _paint(job, self.background)
            return
        window = job.copies[0].box if len(job.copies) == 1 else None
        try:
            with noted(DECODING):
                pixels, x, y = self._decode(level, job.tile, encoded, window)
        except UndecodableTile as error:
            self._give_up(level, job, error)
            return
        for box, target in job.copies:
            left, top = box.x - x, box.y - y
            _copy(pixels[top : top + box.height, left : left + box.width], target)
        self._release(pixels)

    def _give_up(self, level: Level, job: Job, error: UndecodableTile) -> None:
        """Background instead of a damaged tile, if it is tolerated."""
        self._tolerate(level, job.tile, error)
        _paint(job, self.background)

    def _tolerate(self, level: Level, index: int, error: UndecodableTile) -> None:
        """Count a damaged tile. Raises SlideError, with its coordinates, where it is one too many."""
        row, col = divmod(index, self._tiling(level).cols)
        with self._lock:
            if len(self._bad | {(level.index, col, row)}) <= self._tolerated:
                self._bad.add((level.index, col, row))
                return
        raise SlideError(
            f"slide {self.name!r}: level {level.index}, tile column {col}, row {row} cannot be decoded: {error}",
            "the file is damaged there: copy it again from its source, or allow a few such tiles "
            "(--tolerate-bad-tiles, or tolerate_bad_tiles=... of open_slide)",
        ) from error


def _jobs(tiling: Tiling, boxes: Sequence[Box], targets: Sequence[np.ndarray]) -> dict[int, list[Copy]]:
    """What to copy from which tile."""
    jobs: dict[int, list[Copy]] = {}
    tile_w, tile_h, cols, _ = tiling
    for (x, y, width, height), target in zip(boxes, targets, strict=True):
        for row in range(y // tile_h, (y + height - 1) // tile_h + 1):
            top, bottom = max(y, row * tile_h), min(y + height, (row + 1) * tile_h)
            for col in range(x // tile_w, (x + width - 1) // tile_w + 1):
                left, right = max(x, col * tile_w), min(x + width, (col + 1) * tile_w)
                box = Box(left - col * tile_w, top - row * tile_h, right - left, bottom - top)
                part = target[top - y : bottom - y, left - x : right - x]
                jobs.setdefault(row * cols + col, []).append(Copy(box, part))
    return jobs


def _copy(pixels: UInt8[np.ndarray, "h w 3"], target: UInt8[np.ndarray, "h w 3"]) -> None:
    """Copy pixels; where the channels lie apart, one by one, which takes numpy a quarter of the time."""
    if pixels.strides[2] == 1:
        target[:] = pixels
        return
    for channel in range(3):
        target[..., channel] = pixels[..., channel]


def _paint(job: Job, colour: tuple[int, int, int]) -> None:
    for _, target in job.copies:
        target[:] = colour


class Buffers:
    """Arrays to decode into, used again: a fresh one costs a page fault for every 4 KiB.

    They begin 16 bytes behind a cache line. To rows that begin at a multiple of 32 bytes libjpeg-turbo writes past the
    cache, and the tile, which is copied from right afterwards, has to come back from memory: measured, 16 decodes in
    0.8 of the time of 0, 32 in 1.2.
    Without a lock, which a fork could leave locked: taking from a list and adding to it are single steps.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, " ..."]:
        """An array of the given shape with anything in it."""
        size = math.prod(shape)
        try:
            memory = self._free[size].pop()
        except (KeyError, IndexError):
            memory = np.empty(size + LINE, np.uint8)
        start = (16 - memory.ctypes.data) % LINE
        return memory[start : start + size].reshape(shape)

    def give(self, array: UInt8[np.ndarray, " ..."]) -> None:
        """Put back an array that was taken, or a view of one; a few of each size are kept."""
        memory = array.base
        assert memory is not None
        free = self._free.setdefault(len(memory) - LINE, [])
        if len(free) < THREADS:
            free.append(memory)
