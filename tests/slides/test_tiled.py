"""The scheduler of tiled slides, against arrays: regions, edges, missing and damaged tiles, threads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.strategies import noise
from wsi_ats.errors import SlideError
from wsi_ats.geometry import Box, Level, Pyramid
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide, SlideAddress, SlideFacts
from wsi_ats.slides.tiled import AT_ONCE, BATCH, Buffers, TiledSlide, Tiling, UndecodableTile

moderate = settings(deadline=None, max_examples=150)
BACKGROUND = (250, 240, 230)


@dataclass
class Plan:
    """An array that is stored as tiles, and which of them are not as they should be."""

    levels: list[np.ndarray]
    tile: tuple[int, int]
    missing: set[int] = field(default_factory=set)
    unfetchable: set[int] = field(default_factory=set)
    undecodable: set[int] = field(default_factory=set)
    windowed: bool = False
    remote: bool = False
    tolerate: int = 0
    seed: int = 0

    def expected(self) -> list[np.ndarray]:
        """The levels as they are read: level 0 has the faults."""
        levels = [level.copy() for level in self.levels]
        cols = -(-levels[0].shape[1] // self.tile[0])
        for tile in self.missing | self.unfetchable | self.undecodable:
            row, col = divmod(tile, cols)
            part = levels[0][row * self.tile[1] :, col * self.tile[0] :]
            part[: self.tile[1], : self.tile[0]] = BACKGROUND
        return levels


class PlanAddress(SlideAddress):
    name = "plan"

    def open(self) -> Slide:
        raise NotImplementedError


class PlannedSlide(TiledSlide):
    """Tiles are stored in an order of their own and decode to copies of parts of the array."""

    backend = "planned"

    def __init__(self, plan: Plan) -> None:
        sizes = [(level.shape[1], level.shape[0]) for level in plan.levels]
        facts = SlideFacts(Pyramid.of_sizes(sizes), None, "none", {}, background=BACKGROUND)
        super().__init__(PlanAddress(), facts, plan.tolerate)
        self._remote = plan.remote
        self.plan = plan
        self.place = np.random.default_rng(plan.seed).permutation(10_000)
        self.fetched: Counter[int] = Counter()
        self.decoded: Counter[int] = Counter()
        self.calls: list[list[int]] = []
        self.held = 0

    def close(self) -> None:
        pass

    def _associated(self, name: str) -> np.ndarray:
        raise KeyError(name)

    def _tiling(self, level: Level) -> Tiling:
        width, height = self.plan.tile
        return Tiling(width, height, -(-level.size.width // width), -(-level.size.height // height))

    def _in_storage_order(self, level: Level, indices: Sequence[int]) -> Sequence[int]:
        return sorted(indices, key=lambda index: self.place[index])

    def _fetch(self, level: Level, indices: Sequence[int]) -> Iterator[bytes | None]:
        self.calls.append(list(indices))
        for index in indices:
            if level.index == 0 and index in self.plan.unfetchable:
                raise UndecodableTile("too short")
            self.fetched[index] += 1
            yield None if level.index == 0 and index in self.plan.missing else str(index).encode()

    def _decode(
        self, level: Level, index: int, encoded: bytes, window: Box | None
    ) -> tuple[np.ndarray, int, int]:
        assert int(encoded) == index
        self.decoded[index] += 1
        if level.index == 0 and index in self.plan.undecodable:
            raise UndecodableTile("garbage")
        width, height, cols, _ = self._tiling(level)
        row, col = divmod(index, cols)
        # Tiles have their full size; what overhangs the level must never be seen.
        tile = np.full((height, width, 3), 77, np.uint8)
        part = self.plan.levels[level.index][row * height :, col * width :][:height, :width]
        tile[: part.shape[0], : part.shape[1]] = part
        self.held += 1
        if self.plan.windowed and window is not None:
            x, y, w, h = window
            return tile[y : y + h, x : x + w], x, y
        return tile, 0, 0

    def _release(self, pixels: np.ndarray) -> None:
        pixels[:] = 0  # used again at once
        self.held -= 1


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    width, height = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    tile = draw(st.integers(1, 25)), draw(st.integers(1, 25))
    tiles = -(-width // tile[0]) * -(-height // tile[1])
    some = st.sets(st.integers(0, tiles - 1), max_size=4)
    unfetchable = draw(some)
    missing = draw(some) - unfetchable
    undecodable = draw(some) - unfetchable - missing
    return Plan(
        [noise(height, width, 1), noise(max(1, height // 3), max(1, width // 2), 2)],
        tile,
        missing=missing,
        unfetchable=unfetchable,
        undecodable=undecodable,
        windowed=draw(st.booleans()),
        remote=draw(st.booleans()),
        tolerate=len(unfetchable | undecodable),
        seed=draw(st.integers(0, 9)),
    )


corners = st.lists(st.tuples(st.integers(-20, 70), st.integers(-20, 70)), max_size=8)


@moderate
@given(plans(), corners, st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 1))
def test_regions_equal_the_array_and_tiles_are_decoded_once(
    plan: Plan, at: list[tuple[int, int]], width: int, height: int, threads: int, level: int
) -> None:
    slide = PlannedSlide(plan)
    slide.threads = threads
    xy = np.asarray(at, np.int64).reshape(-1, 2)
    got = slide.read_many(xy, (width, height), level)
    oracle = open_slide(plan.expected())
    oracle.background = BACKGROUND
    assert np.array_equal(got, oracle.read_many(xy, (width, height), level))
    assert set(slide.decoded.values()) | set(slide.fetched.values()) <= {1}
    assert slide.held == 0
    assert slide.bytes_read == oracle.bytes_read
    needed = tiles_under(slide, xy, width, height, level)
    faults = plan.unfetchable | plan.missing if level == 0 else set()
    assert set(slide.decoded) == needed - faults
    bad = plan.unfetchable | plan.undecodable if level == 0 else set()
    cols = slide._tiling(slide.levels[0]).cols
    assert slide.bad_tiles == tuple(sorted((0, t % cols, t // cols) for t in bad & needed))
    for call in slide.calls:
        assert call == sorted(call, key=lambda index: slide.place[index])


def tiles_under(slide: PlannedSlide, xy: np.ndarray, width: int, height: int, level: int) -> set[int]:
    """By a map of the level that has the number of its tile in each pixel."""
    tile_width, tile_height, cols, _ = slide._tiling(slide.levels[level])
    size = slide.levels[level].size
    y, x = np.mgrid[: size.height, : size.width]
    numbers = y // tile_height * cols + x // tile_width
    found: set[int] = set()
    for corner in xy:
        left, top = slide.levels[level].pixel_at(*map(int, corner))
        part = numbers[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        found |= set(part.ravel().tolist())
    return found


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("fault", ["unfetchable", "undecodable"])
@pytest.mark.parametrize("threads", [1, 3])
def test_one_bad_tile_more_than_is_tolerated_is_an_error(threads: int, fault: str, remote: bool) -> None:
    plan = Plan([noise(50, 70)], (10, 10), tolerate=2, remote=remote, **{fault: {3, 12, 30}})
    slide = PlannedSlide(plan)
    slide.threads = threads
    assert (slide.read((30, 0), (10, 50)) == plan.expected()[0][:, 30:40]).all()  # holds 3 alone
    assert slide.bad_tiles == ((0, 3, 0),)
    # 12 is column 5 of row 1, 30 column 2 of row 4: which of them is met last is up to the threads.
    reason = {"unfetchable": "too short", "undecodable": "garbage"}[fault]
    where = "(column 3, row 0|column 5, row 1|column 2, row 4)"
    for _ in range(2):
        with pytest.raises(
            SlideError, match=f"'plan': level 0, tile {where} cannot be decoded: {reason}"
        ) as caught:
            slide.read((0, 0), (70, 50))
        assert "tolerate-bad-tiles" in caught.value.remedy
    assert len(slide.bad_tiles) == 2


def test_without_tolerance_the_first_bad_tile_is_an_error_and_others_can_be_read() -> None:
    slide = PlannedSlide(Plan([noise(30, 30)], (10, 10), undecodable={4}))
    for _ in range(2):
        with pytest.raises(SlideError, match="level 0, tile column 1, row 1"):
            slide.read((15, 15), (1, 1))
    assert np.array_equal(slide.read((0, 0), (30, 10)), slide.plan.levels[0][:10])
    assert slide.bad_tiles == ()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_tiles_are_shared_evenly_and_in_the_order_of_the_file(threads: int) -> None:
    slide = PlannedSlide(Plan([noise(90, 90)], (5, 5)))
    slide.threads = threads
    assert np.array_equal(slide.read((0, 0), (90, 90)), slide.plan.levels[0])
    sizes = [len(call) for call in slide.calls]
    assert sum(sizes) == 324
    assert max(sizes) - min(sizes) <= len(sizes)
    assert threads == 1 or (max(sizes) <= BATCH and len(sizes) % threads == 0)
    order = [index for call in sorted(slide.calls, key=lambda call: slide.place[call[0]]) for index in call]
    assert order == sorted(order, key=lambda index: slide.place[index])


def test_a_remote_slide_asks_for_all_tiles_at_once() -> None:
    slide = PlannedSlide(Plan([noise(90, 90)], (3, 3), remote=True))
    slide.threads = 2
    assert np.array_equal(slide.read((0, 0), (90, 90)), slide.plan.levels[0])
    assert len(slide.calls) == 1
    assert len(slide.calls[0]) == 900 <= AT_ONCE


def test_a_failing_fetch_is_passed_on() -> None:
    class Gone(PlannedSlide):
        def _fetch(self, level: Level, indices: Sequence[int]) -> Iterator[bytes | None]:
            yield from super()._fetch(level, indices[:3])
            raise SlideError("gone")

    for remote in (False, True):
        for threads in (1, 2):
            slide = Gone(Plan([noise(50, 50)], (10, 10), remote=remote))
            slide.threads = threads
            with pytest.raises(SlideError, match="gone"):
                slide.read((0, 0), (50, 50))


def test_a_lock_that_was_held_at_a_fork_does_not_stop_the_child() -> None:
    slide = PlannedSlide(Plan([noise(50, 50)], (10, 10), undecodable={0}, tolerate=1))
    with slide._lock:
        slide._pid = os.getpid() + 1  # as if this were the child
        assert slide.read((0, 0), (50, 50)).shape == (50, 50, 3)


def test_buffers_are_used_again_and_few_are_kept() -> None:
    buffers = Buffers()
    first = buffers.take((4, 5, 3))
    other = buffers.take((4, 5, 3))
    assert first.shape == other.shape == (4, 5, 3)
    assert not np.shares_memory(first, other)
    buffers.give(first.transpose(2, 0, 1))
    assert not np.shares_memory(buffers.take((4, 6, 3)), first)
    again = buffers.take((3, 20))
    assert np.shares_memory(again, first)
    assert again.shape == (3, 20)
    for array in [buffers.take((2, 2, 3)) for _ in range(100)]:
        buffers.give(array)
    assert sum(len(free) for free in buffers._free.values()) < 20
