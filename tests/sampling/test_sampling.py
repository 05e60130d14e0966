from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.enumeration import (
    INF,
    SIZES,
    UNBIASED,
    attentions,
    ordered_samples,
    outcomes,
    seeded,
    some_log_p,
    with_mass,
)
from wsi_ats.errors import ConfigError
from wsi_ats.sampling import SAMPLERS, Draws, draw, pool, smooth

# -- what every sampler promises -------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(log_p=attentions(), n=st.integers(1, 45), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_draws_are_distinct_cells_with_mass_and_their_shares_sum_to_one(
    sampler: str, log_p: torch.Tensor, n: int, seed: int
) -> None:
    drawn = draw(log_p, n, sampler, generator=seeded(seed))
    cells = drawn.cells.tolist()
    assert len(set(cells)) == len(cells)
    assert bool((log_p[drawn.cells] > -INF).all())
    assert bool(torch.isfinite(drawn.log_weights).all())
    size = with_mass(log_p) if sampler == "all" else min(n, with_mass(log_p))
    assert len(cells) <= size if sampler == "multinomial" else len(cells) == size
    shares = (drawn.log_weights + log_p[drawn.cells]).exp()
    if SAMPLERS[sampler].sums_to_one:
        assert float(shares.sum()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_depends_on_the_seed_alone(sampler: str) -> None:
    log_p = some_log_p(200, 1, 1.0)
    torch.manual_seed(1)
    first = draw(log_p, 20, sampler, generator=seeded(5))
    torch.manual_seed(2)
    again = draw(log_p, 20, sampler, generator=seeded(5))
    assert torch.equal(first.cells, again.cells)
    assert torch.equal(first.log_weights, again.log_weights)
    other = draw(log_p, 20, sampler, generator=seeded(6))
    assert torch.equal(first.cells, other.cells) == (sampler in ("top", "all"))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("n", [7, 8, 1000])
def test_as_many_draws_as_cells_read_every_cell_once(sampler: str, n: int) -> None:
    drawn = draw(some_log_p(7, 0, 3.0), n, sampler, generator=seeded())
    assert drawn.cells.tolist() == list(range(7))
    assert drawn.weights.tolist() == [1.0] * 7


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_cell(sampler: str) -> None:
    drawn = draw(torch.zeros(1), 1, sampler, generator=seeded())
    assert drawn.cells.tolist() == [0]
    assert drawn.weights.tolist() == [1.0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_fewer_cells_with_mass_than_draws(sampler: str) -> None:
    log_p = torch.full((50,), -INF).index_fill(0, torch.tensor([4, 30]), math.log(0.5))
    drawn = draw(log_p, 10, sampler, generator=seeded(), order=torch.arange(49, -1, -1))
    assert sorted(drawn.cells.tolist()) == [4, 30]
    assert drawn.weights.tolist() == [1.0, 1.0]


def test_one_cell_holds_all_the_mass_that_float32_can_see() -> None:
    logits = torch.zeros(1000).index_fill(0, torch.tensor([17]), 5000.0)
    log_p = torch.log_softmax(logits, 0)
    assert int((log_p.exp() > 0).sum()) == 1
    for seed in range(20):
        drawn = draw(log_p, 10, "systematic", generator=seeded(seed))
        assert 17 in drawn.cells.tolist()
        # the nine others are equally likely, 9 / 999 each
        others = drawn.log_weights[drawn.cells != 17]
        assert others.tolist() == pytest.approx([math.log(999 / 9)] * 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_draws_are_float64_and_carry_no_graph(dtype: torch.dtype) -> None:
    log_p = torch.full((64,), -math.log(64), dtype=dtype, requires_grad=True)
    drawn = draw(log_p, 5, generator=seeded())
    assert drawn.log_weights.dtype == torch.float64
    assert drawn.cells.dtype == torch.int64
    assert not drawn.log_weights.requires_grad


@pytest.mark.parametrize(
    ("log_p", "complaint"),
    [
        (torch.tensor([0.0, math.nan]), "1 NaN"),
        (torch.tensor([INF, -1.0, INF]), "2 infinite"),
        (torch.tensor([]), "0 cells"),
        (torch.tensor([-INF, -INF]), "do not sum to 1"),
        (torch.tensor([1.0, 2.0, 3.0]), "do not sum to 1"),
    ],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_bad_log_probabilities_are_refused(log_p: torch.Tensor, complaint: str, sampler: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        draw(log_p, 1, sampler, generator=seeded())


def test_bad_arguments_are_refused() -> None:
    log_p = some_log_p(4, 0, 1.0)
    with pytest.raises(ConfigError, match=r"unknown sampler 'hilbert'[\s\S]*systematic"):
        draw(log_p, 1, "hilbert", generator=seeded())
    with pytest.raises(ConfigError, match="n is 0"):
        draw(log_p, 0, generator=seeded())
    with pytest.raises(ConfigError, match="not a permutation of the 4 cells"):
        draw(log_p, 2, generator=seeded(), order=torch.tensor([0, 1, 1, 3]))


# -- unbiased: E[w_i 1{i in S}] = 1, over every outcome --------------------------------------------------


@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize(("k", "n"), SIZES)
@pytest.mark.parametrize("sampler", UNBIASED)
def test_expected_weight_of_every_cell_is_one(sampler: str, k: int, n: int, spread: float) -> None:
    log_p = some_log_p(k, 10 * k + n, spread)
    p, drawn = outcomes(sampler, log_p, n, np.random.default_rng(n).permutation(k))
    mean = torch.zeros(k, dtype=torch.float64)
    mean.index_add_(0, drawn.cells.flatten(), (p[:, None] * drawn.weights).flatten())
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-10)
    assert mean.tolist() == pytest.approx([1.0] * k, abs=1e-10)


def test_samplers_marked_unbiased_are_the_enumerated_ones() -> None:
    assert {name for name, s in SAMPLERS.items() if s.unbiased} == set(UNBIASED)
    assert {name for name, s in SAMPLERS.items() if s.trainable} == {*UNBIASED, "gumbel-threshold-normalised"}


def test_top_takes_the_heaviest_and_normalises() -> None:
    a = torch.tensor([0.1, 0.4, 0.2, 0.3])
    drawn = draw(a.log(), 2, "top", generator=seeded())
    assert drawn.cells.tolist() == [1, 3]
    assert drawn.weights.tolist() == pytest.approx([1 / 0.7, 1 / 0.7])


def frequencies(sampler: str, log_p: torch.Tensor, n: int, runs: int) -> dict[tuple[int, ...], float]:
    generator, seen = seeded(3), {}
    for _ in range(runs):
        key = tuple(draw(log_p, n, sampler, generator=generator).cells.tolist())
        seen[key] = seen.get(key, 0.0) + 1 / runs
    return seen


def test_gumbel_draws_in_the_order_of_sampling_without_replacement() -> None:
    log_p, runs = some_log_p(4, 2, 1.0), 1500
    seen = frequencies("gumbel", log_p, 2, runs)
    for probability, sample in ordered_samples(log_p.exp().numpy(), 2):
        assert seen.get(sample, 0.0) == pytest.approx(probability, abs=5 * math.sqrt(probability / runs))


@pytest.mark.parametrize("sampler", ["systematic", "multinomial"])
def test_the_random_part_has_the_enumerated_distribution(sampler: str) -> None:
    log_p, runs = some_log_p(4, 2, 1.0), 1500
    expected: dict[tuple[int, ...], float] = {}
    p, drawn = outcomes(sampler, log_p, 2)
    for probability, d in zip(p.tolist(), drawn.split(), strict=True):
        key = tuple(d.cells.tolist())
        expected[key] = expected.get(key, 0.0) + probability
    seen = frequencies(sampler, log_p, 2, runs)
    assert set(seen) <= set(expected)
    for key, probability in expected.items():
        assert seen.get(key, 0.0) == pytest.approx(probability, abs=5 * math.sqrt(probability / runs))


# -- pooling and smoothing -------------------------------------------------------------------------------


def test_pooled_draws_give_the_mean_of_the_estimates() -> None:
    log_p = some_log_p(30, 0, 2.0)
    draws = [draw(log_p, 6, generator=seeded(seed)) for seed in range(4)]
    pooled = pool(draws)
    assert pooled.cells.tolist() == sorted({c for d in draws for c in d.cells.tolist()})
    dense = torch.zeros(30, dtype=torch.float64)
    for d in draws:
        dense[d.cells] += d.weights / 4
    assert pooled.weights.tolist() == pytest.approx(dense[pooled.cells].tolist())


def test_pooling_holds_weights_that_overflow() -> None:
    draws = [Draws(torch.tensor([1, 0]), torch.tensor([2000.0, 0.0], dtype=torch.float64))] * 2
    pooled = pool([*draws, Draws(torch.tensor([0]), torch.tensor([0.0], dtype=torch.float64))])
    assert pooled.cells.tolist() == [0, 1]
    # of 5 cells in all, the two draws that hold the heavy one have 4
    assert pooled.log_weights.tolist() == pytest.approx([0.0, 2000.0 + math.log(4 / 5)])


def test_pooling_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="0 draws"):
        pool([])


@given(log_p=attentions(), strength=st.floats(1e-12, 0.999))
@settings(deadline=None, max_examples=25)
def test_smoothing_mixes_with_the_uniform(log_p: torch.Tensor, strength: float) -> None:
    smoothed = smooth(log_p, strength)
    oracle = (1 - strength) * log_p.exp() + strength / len(log_p)
    assert smoothed.exp().tolist() == pytest.approx(oracle.tolist(), rel=1e-9)
    assert bool(torch.isfinite(smoothed).all())


def test_smoothing_gives_a_collapsed_attention_a_finite_gradient() -> None:
    logits = torch.tensor([900.0, 0.0, -900.0], requires_grad=True)
    smooth(torch.log_softmax(logits, 0), 1e-4).sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert torch.equal(smooth(logits, 0.0), logits)
    with pytest.raises(ConfigError, match=r"1\.0"):
        smooth(logits, 1.0)
