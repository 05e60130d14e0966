from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.enumeration import INF, attentions, inclusion, intervals, seeded, some_log_p, with_mass
from wsi_ats.sampling import draw, log_inclusion, systematic_at
from wsi_ats.sampling.systematic import distinct


@given(log_p=attentions().filter(lambda p: with_mass(p) == len(p)), data=st.data())
@settings(deadline=None, max_examples=100)
def test_inclusion_probabilities(log_p: torch.Tensor, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(log_p)))
    log_pi = log_inclusion(log_p, n)
    assert bool((log_pi <= 0).all())
    assert float(log_pi.exp().sum()) == pytest.approx(n, abs=1e-9)
    ratio = log_pi - log_p
    below = ratio[log_pi < 0]
    if len(below):  # one c for all cells that are not certain; certain ones would exceed 1 with it
        assert float(below.max() - below.min()) < 1e-9
        assert bool((log_p[log_pi == 0] + below[0] > -1e-9).all())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_inclusion_probabilities_equal_the_textbook_iteration(seed: int, spread: float) -> None:
    log_p = some_log_p(60, seed, spread)
    for n in (1, 2, 7, 30, 59):
        oracle = inclusion(log_p.exp().numpy(), n)
        assert log_inclusion(log_p, n).exp().numpy() == pytest.approx(oracle, abs=1e-12)


def on_the_line(pi: np.ndarray, order: np.ndarray, u: float) -> list[int]:
    """The definition, cell by cell, with the certain cells lying in the line like all others."""
    taken, start = [], 0.0
    for i in order:
        end = start + pi[i]
        if math.ceil(start - u) < end - u:
            taken.append(int(i))
        start = end
    return sorted(taken)


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_systematic_equals_the_definition_on_every_interval_of_u(seed: int, spread: float) -> None:
    log_p, order = some_log_p(12, seed, spread), np.random.default_rng(seed).permutation(12)
    pi = inclusion(log_p.exp().numpy(), 5)
    for _, u in intervals(pi, order):
        drawn = systematic_at(log_p, 5, u, torch.from_numpy(order))
        assert drawn.cells.tolist() == on_the_line(pi, order, u)
        assert drawn.weights.numpy() == pytest.approx(1 / pi[drawn.cells])


@given(log_p=attentions(200), u=st.floats(0, 1, exclude_max=True), data=st.data())
@settings(deadline=None, max_examples=100)
def test_systematic_spreads_draws_along_the_order(log_p: torch.Tensor, u: float, data: st.DataObject) -> None:
    log_p = torch.log_softmax(log_p[log_p > -INF], 0)
    n = data.draw(st.integers(1, len(log_p)))
    order = torch.tensor(data.draw(st.permutations(range(len(log_p)))))
    drawn = systematic_at(log_p, n, u, order)
    assert len(set(drawn.cells.tolist())) == n
    taken = torch.zeros(len(log_p), dtype=torch.float64).index_fill(0, drawn.cells, 1.0)
    # every stretch from the start holds its expected number of draws, rounded up or down
    excess = taken[order].cumsum(0) - log_inclusion(log_p, n).exp()[order].cumsum(0)
    assert float(excess.abs().max()) < 1 + 1e-9


@pytest.mark.parametrize("u", [0.0, 0.3, 1 - 2.0**-53])
@pytest.mark.parametrize("n", [1, 9_999, 99_998])
def test_systematic_draws_exactly_n_of_many_cells(u: float, n: int) -> None:
    log_p = some_log_p(100_000, 0, 2.0)
    drawn = systematic_at(log_p, n, u)
    assert len(torch.unique(drawn.cells)) == n


@pytest.mark.parametrize("u", [0.0, 1e-12, 0.3, 0.7, 1 - 2.0**-53])
def test_rounding_takes_no_cell_twice(u: float) -> None:
    """Stretches of length 1 - 1e-13 at positions up to 1e5, where float64 resolves 1e-11."""
    logits = torch.zeros(100_001, dtype=torch.float64)
    logits[50_000] = math.log(1e-8)
    drawn = systematic_at(torch.log_softmax(logits, 0), 100_000, u)
    assert len(torch.unique(drawn.cells)) == 100_000


@given(data=st.data(), size=st.integers(1, 30))
@settings(deadline=None, max_examples=50)
def test_places_spoilt_by_rounding_become_distinct_again(data: st.DataObject, size: int) -> None:
    n = data.draw(st.integers(0, size))
    at = sorted(data.draw(st.lists(st.integers(0, size), min_size=n, max_size=n)))
    places = torch.tensor(at, dtype=torch.int64)
    found = distinct(places, torch.tensor([size]), torch.tensor([n])).tolist()
    assert found == sorted(set(found))
    assert len(found) == n
    assert all(0 <= i < size for i in found)
    if len(set(at)) == n and max(at, default=0) < size:
        assert found == at


def test_a_cell_of_no_account_is_not_drawn_for_lying_first() -> None:
    log_p = torch.log_softmax(torch.tensor([-2000.0, 0.0, 0.0, 0.0], dtype=torch.float64), 0)
    assert systematic_at(log_p, 2, 0.0).cells.tolist() == [1, 2]


def test_cells_without_mass_leave_the_order_of_the_others_alone() -> None:
    log_p, order = some_log_p(20, 0, 1.0), torch.randperm(20, generator=seeded(1))
    sparse = torch.full((41,), -INF, dtype=torch.float64)
    places = 2 * torch.arange(20) + 1
    sparse[places] = log_p
    long_order = torch.cat([torch.arange(0, 41, 2), places[order]])
    for seed in range(5):
        drawn = draw(sparse, 6, generator=seeded(seed), order=long_order)
        compact = draw(log_p, 6, generator=seeded(seed), order=order)
        assert torch.equal(drawn.cells, places[compact.cells])
        assert torch.equal(drawn.log_weights, compact.log_weights)


def test_neighbours_in_the_order_make_the_estimate_of_a_smooth_feature_better() -> None:
    k, n = 400, 10
    feature = torch.sin(torch.arange(k, dtype=torch.float64) / 30)
    log_p = torch.full((k,), -math.log(k), dtype=torch.float64)
    shuffled = torch.randperm(k, generator=seeded(1))

    def error(order: torch.Tensor) -> float:
        starts = torch.linspace(0, 0.99, 60).tolist()
        means = [float(feature[systematic_at(log_p, n, u, order).cells].mean()) for u in starts]
        return float(np.mean((np.array(means) - float(feature.mean())) ** 2))

    assert error(torch.arange(k)) < error(shuffled) / 5


def test_a_whole_slide_of_cells_is_drawn_in_a_fraction_of_a_second() -> None:
    log_p = some_log_p(600_000, 0, 3.0)
    start = time.process_time()
    draw(log_p, 64, generator=seeded())
    assert time.process_time() - start < 1.0
