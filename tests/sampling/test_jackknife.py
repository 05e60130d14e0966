"""Rounds: what is pooled, and whether the standard error is that, by enumeration of all rounds there can be."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.support.enumeration import UNBIASED, outcomes, seeded, some_log_p
from wsi_ats.estimator import expectation, log_mass, refined_expectation
from wsi_ats.sampling import Draws, draw, draw_many, pool
from wsi_ats.sampling.jackknife import jackknife, leave_one_out, pooled_summary


def some_field(k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-attention (k,), vectors (k, 3), scores (k,) that prefer some."""
    g = seeded(seed)
    vectors = torch.randn(k, 3, dtype=torch.float64, generator=g)
    return some_log_p(k, seed, 1.0), vectors, 2 * vectors[:, 0]


def summarise(
    log_p: torch.Tensor, draws: Draws, vectors: torch.Tensor, scores: torch.Tensor | None, prior: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summary and log-mass of one draw, as the model has them."""
    if scores is None:
        return expectation(log_p, draws, vectors[draws.cells]), torch.zeros((), dtype=torch.float64)
    phi, _ = refined_expectation(log_p, draws, vectors[draws.cells], scores[draws.cells], prior)
    return phi, log_mass(log_p, draws, scores[draws.cells], prior)


@pytest.mark.parametrize(("refined", "prior"), [(False, 1.0), (True, 1.0), (True, 0.3)])
@pytest.mark.parametrize("sampler", [name for name in UNBIASED if name != "all"])
def test_rounds_together_say_what_their_pooled_draws_say(sampler: str, refined: bool, prior: float) -> None:
    log_p, vectors, scores = some_field(30, 1)
    g = seeded(2)
    draws = [draw(log_p, 4, sampler, generator=g) for _ in range(5)]
    used = scores if refined else None
    parts = [summarise(log_p, d, vectors, used, prior) for d in draws]
    summaries, masses = (torch.stack(part) for part in zip(*parts, strict=True))
    pooled, _ = summarise(log_p, pool(draws), vectors, used, prior)
    torch.testing.assert_close(pooled_summary(summaries, masses), pooled)
    without = leave_one_out(summaries, masses)
    for r in range(5):
        others, _ = summarise(log_p, pool(draws[:r] + draws[r + 1 :]), vectors, used, prior)
        torch.testing.assert_close(without[r], others)
    if not refined:
        torch.testing.assert_close(pooled, summaries.mean(0))


def test_of_a_mean_the_jackknife_is_the_standard_deviation_over_the_root_of_the_rounds() -> None:
    summaries = torch.randn(7, 3, dtype=torch.float64, generator=seeded())
    expected = summaries.std(0) / 7**0.5
    torch.testing.assert_close(jackknife(leave_one_out(summaries, torch.zeros(7))), expected)


HEAD = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)


def every_answer(rounds: int, refined: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(probability, answer, stderr) of all that so many systematic rounds of 2 of 6 cells can come to."""
    log_p, vectors, scores = some_field(6, 3)
    p, drawn = outcomes("systematic", log_p, 2)
    one_by_one = [Draws(c, w) for c, w in zip(drawn.cells, drawn.log_weights, strict=True)]
    parts = [summarise(log_p, d, vectors, scores if refined else None) for d in one_by_one]
    summaries, masses = (torch.stack(part) for part in zip(*parts, strict=True))
    which = torch.tensor(list(itertools.product(range(len(p)), repeat=rounds)))
    answers = torch.stack([pooled_summary(summaries[w], masses[w]) @ HEAD for w in which])
    errors = [jackknife(leave_one_out(summaries[w], masses[w]) @ HEAD) for w in which if rounds > 1]
    return p[which].prod(1), answers[:, 0], torch.stack(errors)[:, 0] if errors else torch.zeros(0)


def variance(p: torch.Tensor, values: torch.Tensor) -> float:
    return float(p @ (values - p @ values) ** 2)


@pytest.mark.parametrize("rounds", [2, 3])
def test_the_squared_standard_error_is_unbiased_where_the_answer_is_linear(rounds: int) -> None:
    p, answers, errors = every_answer(rounds, refined=False)
    assert float(p.sum()) == pytest.approx(1)
    assert variance(p, answers) > 0.01
    assert float(p @ errors**2) == pytest.approx(variance(p, answers), rel=1e-9)


@pytest.mark.parametrize("rounds", [2, 3, 4])
def test_the_squared_standard_error_is_not_too_small_on_average(rounds: int) -> None:
    """Efron and Stein (1981): the mean of it, times R / (R - 1), is at least the variance of R - 1 rounds."""
    p, _, errors = every_answer(rounds, refined=True)
    fewer, answers, _ = every_answer(rounds - 1, refined=True)
    assert float(p @ errors**2) * rounds / (rounds - 1) >= variance(fewer, answers) * (1 - 1e-9)


@pytest.mark.parametrize("refined", [False, True])
def test_the_standard_error_is_the_spread_of_answers_over_many_seeds(refined: bool) -> None:
    """Probabilities from 8 rounds of 8 of 400 cells, a few of which matter and stand out a little in the attention."""
    g = seeded(5)
    matter = torch.arange(400) < 12
    log_p = torch.log_softmax(torch.randn(400, dtype=torch.float64, generator=g) + 1.5 * matter, 0)
    vectors = torch.randn(400, 3, dtype=torch.float64, generator=g) * 0.3
    vectors[matter] += torch.tensor([2.0, -1.0, 0.0])
    draws = draw_many([log_p] * 8 * 250, 8, generators=[g] * 8 * 250)
    cells = torch.stack([d.cells for d in draws])
    log_share = (
        torch.stack([d.log_weights for d in draws]) + log_p[cells] + refined * 2 * vectors[cells][..., 0]
    )
    masses = log_share.logsumexp(-1) * refined
    summaries = ((log_share - masses[:, None]).exp()[..., None] * vectors[cells]).sum(1)

    def answer(phi: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(phi @ HEAD - 2)

    seeds = list(zip(summaries.split(8), masses.split(8), strict=True))
    spread = float(torch.stack([answer(pooled_summary(s, m)) for s, m in seeds]).std())
    claimed = torch.stack([jackknife(answer(leave_one_out(s, m))) for s, m in seeds]).square().mean().sqrt()
    naive = torch.stack([answer(s).std() / 8**0.5 for s, _ in seeds]).square().mean().sqrt()
    assert 0.85 < claimed / spread < 1.25
    assert naive / spread > 1.4 or not refined, "the spread of the rounds' own answers is another thing"
