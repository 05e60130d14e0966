from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_ats.cache import Memory


def row(key: int) -> np.ndarray:
    return np.full(4, key, np.int64)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=12), st.integers(0, 8))
def test_recall_equals_making_every_row_and_stays_within_its_bytes(asked: list[list[int]], room: int) -> None:
    memory = Memory(room * row(0).nbytes)
    for keys in asked:
        made = memory.recall(keys, lambda positions, keys=keys: np.stack([row(keys[p]) for p in positions]))
        assert (made == np.stack([row(k) for k in keys])).all()
        assert memory.bytes <= memory.max_bytes
        assert len(memory) * row(0).nbytes == memory.bytes


def test_a_remembered_row_is_not_made_again_and_the_oldest_goes_first() -> None:
    memory = Memory(2 * row(0).nbytes)
    made: list[int] = []

    def ask(*keys: int) -> None:
        def make(positions: list[int]) -> np.ndarray:
            made.extend(keys[p] for p in positions)
            return np.stack([row(keys[p]) for p in positions])

        memory.recall(keys, make)

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
    memory = Memory(1 << 20)
    memory.recall([1, 2], lambda positions: np.zeros((2, 8)))
    assert all(kept.base is None for kept in memory._rows.values())


def test_a_failure_to_make_is_passed_on_and_leaves_the_memory_usable() -> None:
    memory = Memory(1 << 10)

    def fail(positions: list[int]) -> np.ndarray:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        memory.recall([1], fail)
    assert memory.recall([1], lambda positions: row(1)[None]).tolist() == [[1, 1, 1, 1]]
