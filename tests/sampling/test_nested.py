"""Regions, then cells inside them: every outcome of both draws, against the sums over all cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.support.enumeration import INF, UNBIASED, outcomes, seeded
from wsi_ats.estimator import entropy_penalty, expectation, refined_expectation
from wsi_ats.sampling import Draws, draw
from wsi_ats.sampling.nested import draw_nested, opened, through, within_regions

SIZES = [3, 1, 2, 3]
"""Cells of each region."""
OWNERS = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
DIM, REGIONS, CELLS = 3, 2, 2
FAST = [name for name in UNBIASED if name not in ("gumbel-threshold", "priority")]
"""Those with finitely many outcomes; the two others are worked out by quadrature, once is enough."""

Outcome = tuple[torch.Tensor, torch.Tensor, Draws, torch.Tensor]
"""Probabilities (M,), positions of the cells that are known, draws (M, N) of those, log-weights of their regions."""


class Problem:
    """Logits of both networks and features with a graph, and what is exact: Phi and the gradients of v . Phi."""

    def __init__(self, spread: float, seed: int) -> None:
        self.coarse = (spread * normal(len(SIZES), seed=seed)).requires_grad_()
        self.fine = (spread * normal(len(OWNERS), seed=seed + 1)).requires_grad_()
        self.features = normal(len(OWNERS), DIM, seed=seed + 2).requires_grad_()
        self.v = normal(DIM, seed=seed + 3)
        self.log_a = torch.log_softmax(self.coarse, 0)
        inside = torch.cat([torch.log_softmax(part, 0) for part in self.fine.split(SIZES)])
        self.log_p = self.log_a[OWNERS] + inside
        phi = self.log_p.exp() @ self.features
        self.exact = self.with_gradients(phi)

    def with_gradients(self, phi: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = (self.coarse, self.fine, self.features)
        return (phi.detach(), *torch.autograd.grad(self.v @ phi, inputs, retain_graph=True))

    def both_draws(self, sampler: str, inner: str | None = None, joint: bool = True) -> Iterator[Outcome]:
        """Everything that can be drawn; `joint` as in `inner_outcomes`."""
        p_outer, regions = outcomes(sampler, self.log_a, REGIONS)
        for p, which, log_w in zip(p_outer, regions.cells, regions.log_weights, strict=True):
            drawn = Draws(which[log_w > -INF], log_w[log_w > -INF])
            known = torch.isin(OWNERS, drawn.cells).nonzero()[:, 0]  # no other cell has a log-probability
            log_opened = opened(OWNERS[known], drawn)
            log_q = within_regions(self.log_p[known], log_opened)
            for p_inner, cells in inner_outcomes(inner or sampler, log_q, OWNERS[known], joint):
                yield p * p_inner, known, through(cells, log_opened), log_opened

    def mean(self, drawn: Iterator[Outcome], centre: bool | torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The estimate and its gradients, averaged over all outcomes."""
        phi = torch.zeros(DIM, dtype=torch.float64)
        for p, known, draws, _ in drawn:
            log_p = self.log_p[known].expand(len(p), -1)
            phi = phi + p @ expectation(log_p, draws, self.features[known[draws.cells]], centre)
        return self.with_gradients(phi)

    def mse(self, drawn: Iterator[Outcome]) -> float:
        with torch.no_grad():
            return sum(
                float(p @ ((self._phi(known, draws) - self.exact[0]) ** 2).sum(-1))
                for p, known, draws, _ in drawn
            )

    def _phi(self, known: torch.Tensor, draws: Draws) -> torch.Tensor:
        log_p = self.log_p[known].expand(len(draws.cells), -1)
        return expectation(log_p, draws, self.features[known[draws.cells]], False)


def inner_outcomes(
    sampler: str, log_q: torch.Tensor, owners: torch.Tensor, joint: bool
) -> Iterator[tuple[torch.Tensor, Draws]]:
    """Every draw of CELLS cells together, or of half of them in each of two regions."""
    if joint:
        if len(log_q) <= CELLS:
            yield (
                torch.ones(1, dtype=torch.float64),
                Draws(torch.arange(len(log_q))[None], torch.zeros(1, len(log_q))),
            )
        else:
            yield outcomes(sampler, log_q, CELLS)
        return
    parts = []
    for region in owners.unique():
        mine = (owners == region).nonzero()[:, 0]
        each = CELLS // REGIONS
        if len(mine) <= each:
            parts.append([(1.0, mine, torch.zeros(len(mine)))])
        else:
            p, d = outcomes(sampler, torch.log_softmax(log_q[mine], 0), each)
            parts.append([(float(x), mine[c], w) for x, c, w in zip(p, d.cells, d.log_weights, strict=True)])
    for combination in itertools.product(*parts):
        p = float(np.prod([part[0] for part in combination]))
        cells, log_w = (torch.cat([part[k] for part in combination])[None] for k in (1, 2))
        yield torch.tensor([p], dtype=torch.float64), Draws(cells, log_w)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def assert_equal(found: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(found, exact, strict=True):
        assert float((a - b).abs().max()) < 1e-9


@pytest.mark.parametrize(
    "centre", [False, torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64)], ids=["plain", "centred"]
)
@pytest.mark.parametrize("spread", [0.5, 2.5])
@pytest.mark.parametrize("sampler", FAST)
def test_value_and_gradients_of_both_networks_are_unbiased(
    sampler: str, spread: float, centre: bool | torch.Tensor
) -> None:
    problem = Problem(spread, 11)
    assert_equal(problem.mean(problem.both_draws(sampler), centre), problem.exact)


@pytest.mark.parametrize(("outer", "inner"), [("priority", "systematic"), ("systematic", "gumbel-threshold")])
def test_two_different_draws_are_unbiased_together(outer: str, inner: str) -> None:
    problem = Problem(1.0, 5)
    assert_equal(problem.mean(problem.both_draws(outer, inner), False), problem.exact)


def test_without_the_weights_of_the_regions_it_would_be_biased() -> None:
    problem = Problem(1.0, 11)

    def forgotten() -> Iterator[Outcome]:
        for p, known, draws, log_opened in problem.both_draws("systematic"):
            yield p, known, Draws(draws.cells, draws.log_weights - log_opened[draws.cells]), log_opened

    phi = problem.mean(forgotten(), False)[0]
    assert float((phi - problem.exact[0]).norm()) > 0.05


@pytest.mark.parametrize("sampler", [name for name in FAST if name != "all"])
def test_shares_sum_to_one_in_every_draw(sampler: str) -> None:
    problem = Problem(1.5, 3)
    for _, known, draws, _ in problem.both_draws(sampler):
        shares = (draws.log_weights + problem.log_p[known][draws.cells]).exp().sum(-1)
        torch.testing.assert_close(shares, torch.ones_like(shares), rtol=1e-9, atol=0)


def test_cells_of_all_regions_together_make_less_noise_than_as_many_in_each() -> None:
    """Systematic and independent draws; the figure in docs/method.md."""
    together, each = (
        sum(
            Problem(1.5, seed).mse(Problem(1.5, seed).both_draws("systematic", joint=joint))
            for seed in range(20)
        )
        for joint in (True, False)
    )
    assert together < 0.9 * each


def test_the_entropy_of_all_cells_is_estimated_from_those_that_are_known() -> None:
    problem = Problem(1.0, 4)
    found = [
        p.sum() * entropy_penalty(problem.log_p[known], log_opened)
        for p, known, _, log_opened in problem.both_draws("systematic")
    ]
    torch.testing.assert_close(torch.stack(found).sum(), entropy_penalty(problem.log_p), rtol=0, atol=1e-9)


def test_with_all_regions_it_is_an_ordinary_draw() -> None:
    problem = Problem(1.0, 2)
    regions = draw(problem.log_a, 4, generator=seeded())
    nested = draw_nested(problem.log_p, OWNERS, regions, 3, generator=seeded(1))
    plain = draw(problem.log_p, 3, generator=seeded(1))
    assert torch.equal(nested.cells, plain.cells)
    torch.testing.assert_close(nested.log_weights, plain.log_weights)


def test_cells_of_other_regions_are_never_drawn() -> None:
    problem = Problem(0.5, 2)
    regions = Draws(torch.tensor([2]), torch.zeros(1, dtype=torch.float64))
    found = draw_nested(problem.log_p, OWNERS, regions, 9, generator=seeded())
    assert OWNERS[found.cells].tolist() == [2, 2]


def test_refined_attention_comes_closer_with_more_regions_and_cells() -> None:
    generator = seeded(6)
    owners = torch.arange(40).repeat_interleave(20)
    log_a = torch.log_softmax(normal(40, seed=1), 0)
    inside = torch.log_softmax(normal(40, 20, seed=2), 1)
    log_p = log_a[owners] + inside.reshape(-1)
    features, scores = normal(800, DIM, seed=3), normal(800, seed=4)
    exact = torch.softmax(log_p + scores, 0) @ features

    def error(n: int) -> float:
        errors = []
        for _ in range(40):
            regions = draw(log_a, n // 2, generator=generator)
            draws = draw_nested(log_p, owners, regions, n, generator=generator)
            phi = refined_expectation(log_p, draws, features[draws.cells], scores[draws.cells])[0]
            errors.append(float(((phi - exact) ** 2).sum()))
        return float(np.mean(errors))

    assert error(64) < 0.4 * error(8)
