"""How many tiles are read: budgets are kept, tolerances obeyed, and every reading comes to its end."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_ats.errors import ConfigError
from wsi_ats.reading import (
    ADAPTIVE_REPEATS,
    ADAPTIVE_TILES,
    MOST_ROUNDS,
    ROUND,
    Plan,
    Reading,
    is_random,
    is_settled,
)
from wsi_ats.sampling import SAMPLERS

NAN = math.nan


def plan(
    tiles: int | None, sampler: str, repeats: int | None, tolerance: float | None = None, *, few: bool = False
) -> Plan:
    return Reading.of(tiles, sampler, 0, repeats, tolerance).plan(few=few)


def more_than(cells: int) -> Callable[[int], bool]:
    """Of a slide of so many tissue cells."""
    return lambda n: cells > n


HUGE = more_than(10**6)


def test_a_fixed_reading_is_one_look() -> None:
    fixed = plan(None, "systematic", None)
    assert (fixed.size, fixed.more(0, 0, NAN, HUGE), fixed.more(4, 60, 0.4, HUGE)) == (16, 4, 0)
    assert plan(3, "systematic", 4).size == 1
    assert not fixed.falls_short(4, 0.4)


@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_a_slide_with_few_tissue_cells_is_read_whole(tolerance: float | None) -> None:
    small = plan(None, "systematic", None, tolerance, few=True)
    assert small.size >= Reading.of(tolerance=tolerance).shortest == 64
    assert (small.more(0, 0, NAN, more_than(5)), small.more(1, 5, NAN, more_than(5))) == (1, 0)


def test_an_adaptive_reading_begins_with_its_shortest_and_then_looks_at_growing_intervals() -> None:
    adaptive = plan(10**5, "systematic", None, 0.01)
    assert adaptive.more(0, 0, NAN, HUGE) * adaptive.size == ADAPTIVE_REPEATS * ROUND == 64
    looks = [8]
    while more := adaptive.more(looks[-1], ROUND * looks[-1], 0.2, HUGE):
        looks.append(looks[-1] + more)
    assert looks[:12] == [8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22]
    assert looks[-1] == MOST_ROUNDS
    assert adaptive.more(8, 60, 0.001, HUGE) == 0


def test_a_slide_that_the_budget_is_enough_for_is_not_drawn_from_more_often_than_it_has_cells() -> None:
    adaptive = plan(100, "systematic", None, 0.0)
    assert adaptive.more(8, 40, 0.2, more_than(71)) == 0
    assert adaptive.more(8, 40, 0.2, more_than(72)) == 1
    assert adaptive.more(30, 40, 0.2, more_than(100)) == 0
    assert adaptive.more(30, 40, 0.2, more_than(101)) == 3


@given(
    cells=st.integers(1, 3000),
    tiles=st.integers(2, 700),
    repeats=st.integers(2, 20),
    tolerance=st.floats(0, 1),
    data=st.data(),
)
def test_no_reading_exceeds_its_budget_or_goes_on_for_ever(
    cells: int, tiles: int, repeats: int, tolerance: float, data: st.DataObject
) -> None:
    few = cells <= Reading.of(tiles, repeats=repeats, tolerance=tolerance).shortest
    todo = plan(tiles, "systematic", repeats, tolerance, few=few)
    fresh = data.draw(st.floats(0, 1))
    rounds = read = 0
    stderr = NAN
    while more := todo.more(rounds, read, stderr, more_than(cells)):
        drawn = more * todo.size
        new = drawn if rounds == 0 else math.ceil(fresh * drawn)  # from nothing new to nothing known
        rounds, read = rounds + more, min(read + new, cells)
        stderr = data.draw(st.floats(0, 0.5))
        assert read <= tiles
        assert rounds <= max(MOST_ROUNDS, repeats)
    settled = is_settled(stderr, rounds, tolerance)
    spent = read + todo.size > tiles or rounds >= MOST_ROUNDS or todo.tolerance is None
    drawn_as_many = cells <= tiles and cells < (rounds + max(1, rounds // 8)) * todo.size
    assert settled or spent or drawn_as_many
    assert todo.falls_short(rounds, stderr) == (todo.tolerance is not None and not settled)


def test_settled_is_on_the_safe_side() -> None:
    assert not is_settled(0.02, 8, 0.02)
    assert is_settled(0.02 / 1.268, 8, 0.02)
    assert is_settled(0.0199, 10**6, 0.02)
    assert not is_settled(NAN, 8, 1.0)
    assert not is_settled(0.0, 1, 1.0)
    assert is_settled(0.0, 8, 0.0)


def test_samplers_that_draw_nothing_at_random_are_known() -> None:
    assert {name for name in SAMPLERS if not is_random(name)} == {
        name for name, sampler in SAMPLERS.items() if sampler.randomness == "none"
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tolerance": -0.1}, "tolerance is -0.1"),
        ({"tolerance": NAN}, "tolerance is nan"),
        ({"sampler": "top"}, "top, which draws nothing at random"),
        ({"sampler": "all"}, "all, which draws nothing at random"),
        ({"repeats": 1}, "repeats 1: one round alone has no spread"),
        ({"tiles": 1}, "tiles 1 and repeats 8"),
        ({"tiles": 0}, "tiles is 0"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object], message: str) -> None:
    usual = {"tiles": None, "sampler": "systematic", "repeats": None, "tolerance": 0.02}
    with pytest.raises(ConfigError, match=message) as caught:
        plan(**{**usual, **wrong})
    assert caught.value.remedy or "at least 1" in caught.value.message


def test_the_budget_of_an_adaptive_reading_is_larger() -> None:
    assert plan(None, "systematic", None, 0.02).tiles == ADAPTIVE_TILES
