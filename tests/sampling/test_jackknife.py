"""Rounds: what they share and what they leave out, and whether the errors that they tell are those of all outcomes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tests.support.enumeration import UNBIASED, outcomes, seeded, some_log_p
from wsi_ats.estimator import expectation
from wsi_ats.reading import REPEATS
from wsi_ats.sampling import Draws, draw, draw_many, draw_nested, find_sampler, generator_for, opened, pool
from wsi_ats.sampling.growing import draw_growing
from wsi_ats.sampling.jackknife import jackknife, loose, loose_pooled, without_each
from wsi_ats.sampling.unseen import with_unseen
from wsi_ats.tasks.spread import Spread

RANDOM = [name for name in UNBIASED if name != "all"]


def drawn(sampler: str, n: int = 12, k: int = 40, seed: int = 1) -> tuple[torch.Tensor, Draws, torch.Tensor]:
    """Log-attention (k,), a draw of n cells, how loose each of these is."""
    log_p = some_log_p(k, seed, 1.5)
    draws = draw(log_p, n, sampler, generator=seeded(seed))
    return log_p, draws, loose(log_p, draws, chances=find_sampler(sampler).chances)


@pytest.mark.parametrize("rounds", [2, 5, 100])
@pytest.mark.parametrize("sampler", RANDOM)
def test_the_weights_without_each_round_have_those_of_the_draw_for_their_mean(
    sampler: str, rounds: int
) -> None:
    _, draws, part = drawn(sampler)
    every = without_each(draws, part, rounds, generator=seeded())
    assert len(every) == min(rounds, int((part > 0).sum()))
    torch.testing.assert_close(every.mean(0), torch.ones_like(part))
    assert (every >= 0).all()


@pytest.mark.parametrize("sampler", ["systematic", "priority", "gumbel-threshold"])
def test_every_tile_its_own_round_tells_the_variance_of_tiles_drawn_by_their_chances(sampler: str) -> None:
    """n / (n - 1) times sum_S (1 - 1 / w) e^2 of the loose tiles, e their parts in a plain estimate less their mean."""
    log_p, draws, part = drawn(sampler)
    values = torch.randn(40, 1, dtype=torch.float64, generator=seeded(7))
    every = without_each(draws, part, 100, generator=seeded())
    each = [Draws(draws.cells, draws.log_weights + factors.log()) for factors in every]
    answers = torch.stack([expectation(log_p, one, values[one.cells]) for one in each])
    pieces = (part * draws.weights * log_p.exp()[draws.cells] * values[draws.cells, 0])[part > 0]
    n = len(pieces)
    expected = n / (n - 1) * (pieces - pieces.mean()).square().sum()
    assert float(jackknife(answers)) ** 2 == pytest.approx(float(expected))


def test_cells_that_are_always_read_are_in_every_round_and_a_draw_of_all_has_none() -> None:
    _, draws, part = drawn("systematic")
    certain = draws.log_weights == 0
    assert certain.any()
    assert (without_each(draws, part, 5, generator=seeded())[:, certain] == 1).all()
    _, draws, part = drawn("systematic", n=40)
    assert len(without_each(draws, part, 5, generator=seeded())) == 0


def test_of_a_mean_the_jackknife_is_the_standard_deviation_over_the_root_of_the_rounds() -> None:
    rounds = torch.randn(7, 3, dtype=torch.float64, generator=seeded())
    without = (rounds.sum(0) - rounds) / 6
    torch.testing.assert_close(jackknife(without), rounds.std(0) / 7**0.5)


@pytest.mark.parametrize("sizes", [(2, 4), (2, 3, 5)])
@pytest.mark.parametrize("sampler", ["systematic", "priority"])
def test_draws_that_grow_hold_one_another_and_are_unbiased(sampler: str, sizes: tuple[int, ...]) -> None:
    log_p, order = some_log_p(7, 3, 1.0), torch.randperm(7, generator=seeded(2))
    total = torch.zeros(len(sizes), 7, dtype=torch.float64)
    g, times = seeded(5), 1000
    for _ in range(times):
        chain = draw_growing(log_p, sizes, sampler, generator=g, order=order)
        assert [len(draws) for draws in chain] == [*sizes]
        for small, large in pairwise(chain):
            assert set(small.cells.tolist()) <= set(large.cells.tolist())
        for row, draws in zip(total, chain, strict=True):
            row[draws.cells] += draws.weights / times
    largest = float((1 / log_p.exp()).max())
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=4 * (largest / 2 / times) ** 0.5)


def test_a_small_draw_within_a_large_one_is_that_of_the_slide_itself() -> None:
    """Every outcome of both: the chance of a cell is min(1, c a), as if it were drawn from the slide at once."""
    log_p = some_log_p(7, 3, 1.0)
    p, large = outcomes("systematic", log_p, 4)
    chances = torch.zeros(7, dtype=torch.float64)
    for likely, cells, log_w in zip(p, large.cells, large.log_weights, strict=True):
        log_q = torch.log_softmax(log_p[cells] + log_w, 0)
        q, small = outcomes("systematic", log_q, 2)
        for also, inner, inner_w in zip(q, small.cells, small.log_weights, strict=True):
            chances[cells[inner]] += likely * also
            torch.testing.assert_close(
                (inner_w + log_w[inner] + log_p[cells[inner]]).exp().sum(), torch.ones_like(also)
            )
    direct = torch.zeros(7, dtype=torch.float64)
    p, small = outcomes("systematic", log_p, 2)
    for likely, cells in zip(p, small.cells, strict=True):
        direct[cells] += likely
    torch.testing.assert_close(chances, direct, rtol=0, atol=1e-9)


def test_growing_draws_depend_on_seed_and_name_alone() -> None:
    log_p = some_log_p(50, 1, 1.0)
    one, again, other = (
        draw_growing(log_p, (5, 9), generator=generator_for(0, name)) for name in ("a", "a", "b")
    )
    assert all(torch.equal(a.cells, b.cells) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a.cells, b.cells) for a, b in zip(one, other, strict=True))


def some_slide(k: int, refined: bool, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-attention (k,), the logit that each tile pulls to (k,), scores (k,): 12 tiles matter, and stand out a
    little."""
    matter = torch.arange(k) < 12
    log_p = torch.log_softmax(torch.randn(k, dtype=torch.float64, generator=g) + 1.5 * matter, 0)
    vectors = torch.randn(k, 3, dtype=torch.float64, generator=g) * 0.3
    vectors[matter] += torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)
    return log_p, vectors @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 2 * vectors[:, 0] * refined


def answers(
    slide: tuple[torch.Tensor, torch.Tensor, torch.Tensor], cells: torch.Tensor, log_weights: torch.Tensor
) -> torch.Tensor:
    """Probabilities (R, 1) of R draws of the same cells."""
    log_p, pulls, scores = slide
    p = torch.softmax(log_weights + log_p[cells] + scores[cells], -1)
    return torch.sigmoid(p @ pulls[cells] - 2)[:, None]


@pytest.mark.parametrize(
    ("sampler", "refined"),
    [
        ("systematic", False),
        ("systematic", True),
        ("gumbel", True),
        ("multinomial", True),
        ("priority", True),
    ],
)
@pytest.mark.parametrize("n", [32, 64])
def test_intervals_cover_the_answer_of_all_cells(sampler: str, refined: bool, n: int) -> None:
    """Of 32 or 64 of 341 cells; each of 600 draws is of another slide."""
    g, times, covered, squares = seeded(5), 300, 0, torch.zeros(2, dtype=torch.float64)
    for _ in range(times):
        slide = some_slide(341, refined, g)
        (draws,) = draw_many([slide[0]], n, sampler, generators=[g])
        part = loose(slide[0], draws, chances=find_sampler(sampler).chances)
        every = without_each(draws, part, REPEATS, generator=g)
        value = answers(slide, draws.cells, draws.log_weights[None])[0]
        exact = answers(slide, torch.arange(341), torch.zeros(1, 341))[0]
        without = answers(slide, draws.cells, draws.log_weights + every.log())
        missed = answers(slide, draws.cells, draws.log_weights + with_unseen(slide[0], draws).log())
        spread = Spread.of(value, without, missed, probabilities=1)
        covered += bool((spread.low <= exact) & (exact <= spread.high))
        squares += torch.cat([(value - exact) ** 2, spread.stderr**2])
    assert covered / times >= 0.93
    true, claimed = squares.sqrt().tolist()
    assert 0.8 < claimed / true < 1.8, "too large rather than too small (Efron and Stein, 1981)"


def test_of_independent_draws_the_squares_of_what_is_loose_add_up() -> None:
    """Against the sum over the draws of sum_S (1 - 1 / w) (w a f)^2, cell by cell."""
    log_p = some_log_p(40, 1, 1.5)
    several = [draw(log_p, n, generator=seeded(n)) for n in (6, 9, 15)]
    pooled = pool(several)
    together = loose_pooled(several, [loose(log_p, each, chances=True) for each in several], pooled)
    expected = torch.zeros(40, dtype=torch.float64)
    for each in several:
        expected[each.cells] += (len(each) / 30) ** 2 * (each.weights**2 - each.weights)
    torch.testing.assert_close((together * pooled.weights) ** 2, expected[pooled.cells])
    alone = several[2]
    torch.testing.assert_close(
        loose_pooled([alone], [loose(log_p, alone, chances=True)], alone), loose(log_p, alone, chances=True)
    )


def test_cells_of_one_chance_go_to_one_round() -> None:
    _, draws, part = drawn("systematic")
    clusters = torch.arange(len(draws)) // 3
    every = without_each(draws, torch.ones_like(part), 8, generator=seeded(), clusters=clusters)
    assert len(every) == 4
    left_out = every == 0
    assert (left_out.sum(0) == 1).all()
    for number in range(4):
        assert (left_out[:, clusters == number].sum(1).sort().values == torch.tensor([0, 0, 0, 3])).all()


def test_the_interval_of_two_draws_in_a_row_covers() -> None:
    """Regions first, cells in them after: tiles of a region are alike, and came by one chance."""
    g, times, covered, single = seeded(3), 300, 0, 0
    owners = torch.arange(400) // 10
    for _ in range(times):
        by_region = torch.randn(40, dtype=torch.float64, generator=g)
        pulls = 2 * by_region[owners] + 0.3 * torch.randn(400, dtype=torch.float64, generator=g)
        log_p = torch.log_softmax(torch.randn(40, dtype=torch.float64, generator=g), 0)[owners] - math.log(10)
        regions = draw(log_p[::10] + math.log(10), 8, generator=g)
        draws = draw_nested(log_p, owners, regions, 24, generator=g)
        slide = log_p, pulls, torch.zeros(400, dtype=torch.float64)
        value = answers(slide, draws.cells, draws.log_weights[None])[0]
        exact = answers(slide, torch.arange(400), torch.zeros(1, 400))[0]
        part = loose(log_p, draws, chances=True)
        sure = opened(owners, regions)[draws.cells] == 0
        own = torch.where(sure, 400 + draws.cells, owners[draws.cells])
        for clusters in (own, None):
            every = without_each(draws, part, REPEATS, generator=g, clusters=clusters)
            without = answers(slide, draws.cells, draws.log_weights + every.log())
            spread = Spread.of(value, without, probabilities=1)
            held = bool((spread.low <= exact) & (exact <= spread.high))
            covered, single = covered + (held and clusters is not None), single + (held and clusters is None)
    assert covered / times >= 0.93
    assert single / times < 0.9, "tiles of a region are not drawn apart"


def test_unseen_cells_have_the_attention_of_cells_that_were_not_drawn_at_most() -> None:
    """Against the summary of a slide in which they are there."""
    log_p, draws, _ = drawn("systematic")
    values = torch.randn(40, dtype=torch.float64, generator=seeded(7))
    a, missed = log_p.exp(), torch.ones(40, dtype=torch.bool)
    missed[draws.cells] = False
    for prior in (1.0, 0.5):
        factors = with_unseen(log_p, draws, prior)
        masses = draws.weights * a[draws.cells] ** prior
        for i, cell in enumerate(draws.cells):
            mass = min(a[cell], a[missed].max()) ** prior
            expected = (masses @ values[draws.cells] + 2 * mass * values[cell]) / (masses.sum() + 2 * mass)
            shares = masses * factors[i]
            torch.testing.assert_close(shares @ values[draws.cells] / shares.sum(), expected)
    heaviest = int(a[draws.cells].argmax())
    assert a[draws.cells[heaviest]] > a[missed].max(), "which is the case that the attention is limited for"


def test_what_was_missed_widens_an_interval_on_its_own_side() -> None:
    value = torch.tensor([0.3, 5.0], dtype=torch.float64)
    without = value + torch.randn(16, 2, dtype=torch.float64, generator=seeded()) * 0.01
    bare = Spread.of(value, without, probabilities=1)
    more = Spread.of(value, without, torch.tensor([[0.6, 5.0], [0.3, 4.0]]), probabilities=1)
    assert (more.stderr == bare.stderr).all()
    assert (more.high[0] > 0.6, more.low[0]) == (True, bare.low[0])
    assert more.low[1] == pytest.approx(float(bare.low[1]) - 1)
    assert more.high[1] == pytest.approx(float(bare.high[1]))


@pytest.mark.parametrize("n", [32, 64])
def test_intervals_cover_where_few_cells_decide(n: int) -> None:
    """Seven of 670 cells decide, a lesion of 1 %, and stand out a little in the attention."""
    g, times, covered = seeded(11), 300, 0
    for _ in range(times):
        matter = torch.arange(670) < 7
        scores = torch.randn(670, dtype=torch.float64, generator=g) + 4.0 * matter
        log_p = torch.log_softmax(torch.randn(670, dtype=torch.float64, generator=g) + 0.5 * scores, 0)
        pulls = torch.randn(670, dtype=torch.float64, generator=g) + 2 + 6.0 * matter - 1.0
        slide = log_p, pulls, scores
        draws = draw(log_p, n, generator=g)
        value = answers(slide, draws.cells, draws.log_weights[None])[0]
        exact = answers(slide, torch.arange(670), torch.zeros(1, 670))[0]
        every = without_each(draws, loose(log_p, draws, chances=True), REPEATS, generator=g)
        without = answers(slide, draws.cells, draws.log_weights + every.log())
        missed = answers(slide, draws.cells, draws.log_weights + with_unseen(log_p, draws).log())
        spread = Spread.of(value, without, missed, probabilities=1)
        covered += bool((spread.low <= exact) & (exact <= spread.high))
    assert covered / times >= 0.93
