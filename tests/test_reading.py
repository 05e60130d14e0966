"""How many tiles are read: budgets are kept, tolerances obeyed, and every reading comes to its end."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_ats.errors import ConfigError
from wsi_ats.reading import ADAPTIVE_TILES, GROWTH, TILES, Reading, is_random
from wsi_ats.sampling import SAMPLERS

NAN = math.nan


def test_a_fixed_reading_is_one_look_at_all_its_tiles() -> None:
    for tiles in (1, 3, 64, 10**5):
        fixed = Reading.of(tiles)
        assert fixed.sizes == (tiles,)
        assert not fixed.falls_short(0.4)
        assert not fixed.falls_short(NAN)


@given(tiles=st.integers(2, 10**6), repeats=st.integers(2, 20), tolerance=st.floats(0, 1))
def test_an_adaptive_reading_grows_from_few_tiles_to_its_budget(
    tiles: int, repeats: int, tolerance: float
) -> None:
    sizes = Reading.of(tiles, repeats=repeats, tolerance=tolerance).sizes
    assert 2 <= sizes[0] <= TILES
    assert sizes[0] == TILES or sizes[0] <= max(2, tiles / 2), (
        "less than the budget, so that less may be read"
    )
    assert sizes[-1] == tiles
    for small, large in pairwise(sizes):
        assert small < large <= GROWTH * small + 0.5


def test_a_reach_of_the_tolerance_is_enough_and_one_that_is_not_known_is_not() -> None:
    adaptive = Reading.of(tolerance=0.02)
    assert [adaptive.falls_short(reach) for reach in (0.0, 0.02, 0.0201, NAN)] == [False, False, True, True]


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
        ({"tiles": 1}, "tiles 1 and repeats 16"),
        ({"tiles": 0}, "tiles is 0"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object], message: str) -> None:
    usual = {"tiles": None, "sampler": "systematic", "repeats": None, "tolerance": 0.02}
    with pytest.raises(ConfigError, match=message) as caught:
        Reading.of(**{**usual, **wrong})
    assert caught.value.remedy or "at least 1" in caught.value.message


def test_the_budget_of_an_adaptive_reading_is_larger() -> None:
    assert Reading.of(tolerance=0.02).sizes[-1] == ADAPTIVE_TILES > Reading.of().tiles == TILES
