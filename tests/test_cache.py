from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_ats.cache import Key, TileCache


def row(key: int) -> np.ndarray:
    return np.full(4, key, np.int64)


def named(items: Sequence[int], made_by: str = "rows", stored_as: str = "") -> list[Key]:
    return [Key(made_by, item, stored_as) for item in items]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=12), st.integers(0, 8))
def test_what_is_kept_equals_making_every_row_and_stays_within_its_bytes(
    asked: list[list[int]], room: int
) -> None:
    cache = TileCache(room * row(0).nbytes)
    for keys in asked:
        made = cache.get_or_make(
            named(keys), lambda positions, keys=keys: np.stack([row(keys[p]) for p in positions])
        )
        assert (made == np.stack([row(k) for k in keys])).all()
        assert cache.bytes <= cache.max_bytes
        assert len(cache) * row(0).nbytes == cache.bytes


def test_a_remembered_row_is_not_made_again_and_the_oldest_goes_first() -> None:
    cache = TileCache(2 * row(0).nbytes)
    made: list[int] = []

    def ask(*keys: int) -> None:
        def make(positions: list[int]) -> np.ndarray:
            made.extend(keys[p] for p in positions)
            return np.stack([row(keys[p]) for p in positions])

        cache.get_or_make(named(keys), make)

    ask(1, 1)
    assert made == [1]
    ask(2)
    ask(1)
    ask(3)  # 2 was used least recently
    made.clear()
    ask(1, 3)
    assert made == []
    ask(2)
    assert made == [2]


def test_what_was_remembered_does_not_keep_the_stack_it_came_from_alive() -> None:
    cache = TileCache(1 << 20)
    cache.get_or_make(named([1, 2]), lambda positions: np.zeros((2, 8)))
    assert all(kept.base is None for kept in cache._rows.values())


def test_a_failure_to_make_is_passed_on_and_leaves_the_memory_usable() -> None:
    cache = TileCache(1 << 10)

    def fail(positions: list[int]) -> np.ndarray:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        cache.get_or_make(named([1]), fail)
    assert cache.get_or_make(named([1]), lambda positions: row(1)[None]).tolist() == [[1, 1, 1, 1]]


def test_what_another_maker_made_is_not_taken_for_ones_own() -> None:
    cache = TileCache(1 << 20)
    cache.get_or_make(named([1], "one network"), lambda positions: row(1)[None])
    other = cache.get_or_make(named([1], "another"), lambda positions: row(2)[None])
    assert other.tolist() == [[2, 2, 2, 2]]
    assert cache.get_or_make(named([1], "one network"), lambda positions: row(3)[None]).tolist() == [[1] * 4]


class Shelf:
    """A store in memory that counts."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], np.ndarray] = {}

    def get(self, made_by: str, items: Sequence[int]) -> dict[int, np.ndarray]:
        return {item: self.rows[made_by, item] for item in items if (made_by, item) in self.rows}

    def put(self, made_by: str, rows: dict[int, np.ndarray]) -> None:
        self.rows |= {(made_by, item): value for item, value in rows.items()}


def test_a_store_spares_another_process_what_this_one_made() -> None:
    shelf = Shelf()
    keys = [*named([1, 2], stored_as="a"), *named([2], "other", stored_as="b"), *named([5], "not stored")]
    values = {key[:2]: row(i) for i, key in enumerate(keys)}
    for most in (1 << 20, 0):
        made: list[int] = []

        def make(positions: list[int], made: list[int] = made) -> np.ndarray:
            made.extend(positions)
            return np.stack([values[keys[p][:2]] for p in positions])

        found = TileCache(most, shelf).get_or_make(keys, make)
        assert (found == np.stack([values[key[:2]] for key in keys])).all()
        assert made == ([0, 1, 2, 3] if most else [3])
    assert set(shelf.rows) == {("a", 1), ("a", 2), ("b", 2)}


def test_a_copy_starts_empty() -> None:
    cache = TileCache(1 << 20)
    cache.get_or_make(named([1]), lambda positions: row(1)[None])
    for copied in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):  # noqa: S301
        assert (len(copied), copied.max_bytes, len(cache)) == (0, 1 << 20, 1)
