from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.baselines import GatedScore
from tests.support.enumeration import SIZES, UNBIASED, ordered_samples, outcomes, seeded, some_log_p
from wsi_ats.errors import ConfigError
from wsi_ats.estimator import (
    attention_loss,
    entropy_penalty,
    expectation,
    log_mass,
    refined_expectation,
    shares,
)
from wsi_ats.head import RefiningScore
from wsi_ats.sampling import SAMPLERS, Draws, draw, smooth

DIM = 3
CENTRES = [False, torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


class Problem:
    """Logits and features with a graph, and what is exact: Phi and the gradients of v . Phi."""

    def __init__(self, k: int, spread: float, seed: int) -> None:
        self.logits = (spread * normal(k, seed=seed)).requires_grad_()
        self.features = normal(k, DIM, seed=seed + 1).requires_grad_()
        self.v = normal(DIM, seed=seed + 2)
        self.log_p = torch.log_softmax(self.logits, 0)
        phi = self.log_p.exp() @ self.features
        self.exact = (phi.detach(), *self.gradients(phi))

    def gradients(self, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, features = torch.autograd.grad(
            self.v @ phi, (self.logits, self.features), retain_graph=True, allow_unused=True
        )
        return logits, features

    def mean(
        self, drawn: tuple[torch.Tensor, Draws], centre: bool | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The estimate and its two gradients, averaged over all outcomes."""
        p, d = drawn
        log_p = self.log_p.expand(len(p), -1)
        phi = p @ expectation(log_p, d, self.features[d.cells], centre)
        return (phi.detach(), *self.gradients(phi))


def assert_equal(found: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(found, exact, strict=True):
        assert float((a - b).abs().max()) < 1e-9


# -- unbiased, over every outcome


@pytest.mark.parametrize("centre", CENTRES, ids=["plain", "centred"])
@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize(("k", "n"), SIZES)
@pytest.mark.parametrize("sampler", UNBIASED)
def test_value_and_both_gradients_are_unbiased(
    sampler: str, k: int, n: int, spread: float, centre: bool | torch.Tensor
) -> None:
    problem = Problem(k, spread, 100 * k + n)
    order = np.random.default_rng(k).permutation(k)
    assert_equal(problem.mean(outcomes(sampler, problem.log_p, n, order), centre), problem.exact)


def proposals(log_p: torch.Tensor) -> dict[str, torch.Tensor]:
    """Distributions that tiles may have been drawn from before `log_p` was known."""
    log_p = log_p.detach()
    return {
        "wrong": some_log_p(len(log_p), 99, 2.0),
        "opposite": torch.log_softmax(-log_p, 0),
        "tempered": torch.log_softmax(0.4 * log_p, 0),
        "mixed with uniform": smooth(log_p, 0.3),
    }


@pytest.mark.parametrize("centre", CENTRES, ids=["plain", "centred"])
@pytest.mark.parametrize("proposal", ["wrong", "opposite", "tempered", "mixed with uniform"])
@pytest.mark.parametrize("sampler", UNBIASED)
def test_draws_of_another_distribution_stay_unbiased(
    sampler: str, proposal: str, centre: bool | torch.Tensor
) -> None:
    problem = Problem(6, 1.5, 7)
    log_q = proposals(problem.log_p)[proposal]
    assert_equal(problem.mean(outcomes(sampler, log_q, 3), centre), problem.exact)


@pytest.mark.parametrize("sampler", UNBIASED)
def test_weights_of_the_wrong_distribution_would_not_do(sampler: str) -> None:
    """Drawn from q, weighted as if drawn from p: the proof above can fail."""
    if sampler == "all":
        return
    problem = Problem(6, 1.5, 7)
    p, d = outcomes(sampler, some_log_p(6, 99, 2.0), 3)
    log_a = problem.log_p.detach()
    moved = Draws(d.cells, d.log_weights + (some_log_p(6, 99, 2.0) - log_a)[d.cells])
    phi = problem.mean((p, moved), False)[0]
    assert float((phi - problem.exact[0]).norm()) > 0.05


@pytest.mark.parametrize("sampler", UNBIASED)
def test_centring_on_the_estimate_keeps_the_value_of_such_draws_unbiased(sampler: str) -> None:
    problem = Problem(6, 1.5, 7)
    found = problem.mean(outcomes(sampler, some_log_p(6, 99, 2.0), 3), True)
    assert_equal(found[:1], problem.exact[:1])


@pytest.mark.parametrize("centre", [True, False])
def test_normalised_weights_are_the_normalised_estimate(centre: bool) -> None:
    """Value and attention gradient, whichever way it is asked for."""
    problem = Problem(30, 2.0, 3)
    plain = draw(problem.log_p, 6, "gumbel-threshold", generator=seeded())
    own = draw(problem.log_p, 6, "gumbel-threshold-normalised", generator=seeded())
    assert torch.equal(own.cells, plain.cells)
    f = problem.features[own.cells]
    by_weights = expectation(problem.log_p, own, f, centre=True)
    by_estimator = expectation(problem.log_p, plain, f, centre, normalise=True)
    assert by_weights.tolist() == pytest.approx(by_estimator.tolist())
    for one, other in zip(problem.gradients(by_weights), problem.gradients(by_estimator), strict=True):
        assert one.numpy() == pytest.approx(other.numpy(), abs=1e-12)


def published_gradient(a: torch.Tensor, f: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """d(v . Phi_hat)/da of an ordered sample as the code published with the paper has it.

    With m_k = 1 - sum_{j<k} a_j and E_k = sum_{j<k} a_j f_j + m_k f_k, k = 1 .. N:
    (1/N) v . [ E_k m_k / a_k + sum_{j<k} f_j - (k - 1) f_k ].
    """
    before = torch.arange(len(a), dtype=a.dtype)[:, None]
    m = (1 - a.cumsum(0) + a)[:, None]
    part = (a[:, None] * f).cumsum(0) - a[:, None] * f + m * f
    return (part * m / a[:, None] + f.cumsum(0) - f - before * f) @ v / len(a)


@pytest.mark.parametrize(("k", "n"), SIZES)
def test_the_published_gradient_without_replacement_is_biased(k: int, n: int) -> None:
    """Why this package has its own estimator: same forward value, wrong attention gradient."""
    problem = Problem(k, 1.5, 100 * k + n)
    a, f = problem.log_p.exp().detach(), problem.features.detach()
    mean = torch.zeros(k, dtype=torch.float64)
    for probability, sample in ordered_samples(a.numpy(), n):
        cells = torch.tensor(sample)
        mean[cells] += probability * published_gradient(a[cells], f[cells], problem.v)
    to_logits = a * (mean - a @ mean)
    relative = (to_logits - problem.exact[1]).norm() / problem.exact[1].norm()
    assert float(relative) > 0.2


def test_the_published_gradient_points_away_where_most_cells_are_drawn() -> None:
    """6 of 7 cells: mean over problems of the relative error and of the cosine with the exact gradient."""
    errors, cosines = [], []
    for seed in range(2):
        problem = Problem(7, 1.0, 1000 * seed + 7)
        a, f = problem.log_p.exp().detach(), problem.features.detach()
        mean = torch.zeros(7, dtype=torch.float64)
        for probability, sample in ordered_samples(a.numpy(), 6):
            cells = torch.tensor(sample)
            mean[cells] += probability * published_gradient(a[cells], f[cells], problem.v)
        to_logits, exact = a * (mean - a @ mean), problem.exact[1]
        errors.append(float((to_logits - exact).norm() / exact.norm()))
        cosines.append(float(torch.cosine_similarity(to_logits, exact, 0)))
    assert np.mean(errors) > 1.0
    assert np.mean(cosines) < -0.8


# -- centring


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_centring_does_not_change_the_value(sampler: str) -> None:
    problem = Problem(40, 2.0, 3)
    d = draw(problem.log_p, 8, sampler, generator=seeded())
    f = problem.features[d.cells]
    plain = expectation(problem.log_p, d, f, centre=False)
    assert torch.equal(expectation(problem.log_p, d, f, centre=True), plain)
    shifted = expectation(problem.log_p, d, f, centre=torch.full((DIM,), 7.0))
    if SAMPLERS[sampler].sums_to_one:
        assert shifted.tolist() == pytest.approx(plain.tolist(), abs=1e-9)
    else:  # why the estimate itself must not be taken off the features there
        assert float((shifted - plain).detach().abs().min()) > 1e-3


def test_centring_removes_the_noise_of_a_shared_mean() -> None:
    log_p = some_log_p(100, 0, 1.0)
    features = 10.0 + 0.1 * normal(100, DIM)
    noise = {}
    for centre in (False, True):
        gradients = []
        for seed in range(50):
            leaf = log_p.clone().requires_grad_()
            d = draw(log_p, 10, generator=seeded(seed))
            expectation(torch.log_softmax(leaf, 0), d, features[d.cells], centre).sum().backward()
            gradients.append(leaf.grad)
        noise[centre] = float(torch.stack(gradients).var(0).sum())
    assert noise[True] < noise[False] / 100


# -- all: the whole slide


def test_reading_every_tile_is_exact() -> None:
    problem = Problem(9, 2.0, 1)
    assert_equal(problem.mean(outcomes("all", problem.log_p, 9), True), problem.exact)


def test_shares_meet_in_log_space() -> None:
    log_p = torch.tensor([-2000.0, 0.0], dtype=torch.float64)
    d = Draws(torch.tensor([0, 1]), torch.tensor([1999.0, 0.0], dtype=torch.float64))
    assert shares(log_p, d).tolist() == pytest.approx([np.exp(-1.0), 1.0])


def test_a_batch_of_draws_gives_a_batch_of_summaries() -> None:
    problem = Problem(40, 2.0, 3)
    log_p = problem.log_p.detach().expand(5, -1)
    alone = [draw(problem.log_p, 8, "priority", generator=seeded(b)) for b in range(5)]
    batch = Draws(torch.stack([d.cells for d in alone]), torch.stack([d.log_weights for d in alone]))
    for centre, normalise in [(True, False), (False, True), (torch.ones(DIM), False)]:
        found = expectation(log_p, batch, problem.features[batch.cells], centre, normalise)
        for row, d in zip(found, alone, strict=True):
            one = expectation(problem.log_p, d, problem.features[d.cells], centre, normalise)
            assert row.tolist() == pytest.approx(one.tolist())


def test_float32_features_give_a_float32_summary() -> None:
    log_p = torch.log_softmax(torch.arange(5.0), 0)
    d = draw(log_p, 2, generator=seeded())
    assert expectation(log_p, d, torch.ones(2, DIM)).dtype == torch.float32
    phi, p = refined_expectation(log_p, d, torch.ones(2, DIM), torch.zeros(2))
    assert (phi.dtype, p.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("rows", [1, 4])
def test_features_that_do_not_match_the_draws_are_refused(rows: int) -> None:
    log_p = some_log_p(5, 0, 1.0)
    d = draw(log_p, 2, generator=seeded())
    with pytest.raises(ConfigError, match=f"{rows} features for 2 drawn cells"):
        expectation(log_p, d, normal(rows, DIM))
    with pytest.raises(ConfigError, match=f"{rows} features for 2 drawn cells"):
        refined_expectation(log_p, d, normal(rows, DIM), normal(rows))


# -- refined attention


def attention_mil(a: np.ndarray, features: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Attention MIL over all tiles, written out."""
    phi, total = np.zeros(features.shape[1]), 0.0
    for a_i, f_i, u_i in zip(a, features, scores, strict=True):
        phi += a_i * np.exp(u_i) * f_i
        total += a_i * np.exp(u_i)
    return phi / total


@pytest.mark.parametrize("prior", [0.0, 0.5, 1.0])
def test_refined_with_every_tile_is_attention_mil(prior: float) -> None:
    log_p, features, scores = some_log_p(20, 0, 2.0), normal(20, DIM, seed=1), normal(20, seed=2)
    d = draw(log_p, 20, "all", generator=seeded())
    phi, p = refined_expectation(log_p, d, features, scores, prior)
    oracle = attention_mil(log_p.exp().numpy() ** prior, features.numpy(), scores.numpy())
    assert phi.numpy() == pytest.approx(oracle, abs=1e-12)
    assert float(p.sum()) == pytest.approx(1.0)


@given(seed=st.integers(0, 1000), sampler=st.sampled_from(sorted(SAMPLERS)))
@settings(deadline=None, max_examples=30)
def test_refined_without_scores_is_the_self_normalised_estimate(seed: int, sampler: str) -> None:
    log_p, proposal = some_log_p(30, seed, 2.0), some_log_p(30, seed + 1, 1.0)
    d = draw(proposal, 7, sampler, generator=seeded(seed))
    features = normal(len(d), DIM, seed=seed)
    phi, p = refined_expectation(log_p, d, features, torch.zeros(len(d), dtype=torch.float64))
    share = shares(log_p, d)
    assert p.tolist() == pytest.approx((share / share.sum()).tolist())
    plain = expectation(log_p, d, features, centre=False)
    assert phi.tolist() == pytest.approx((plain / share.sum()).tolist())


def test_refined_gradients_reach_attention_scores_and_features() -> None:
    logits = normal(12).requires_grad_()
    scores, features = normal(5, seed=2).requires_grad_(), normal(5, DIM, seed=3).requires_grad_()
    d = draw(torch.log_softmax(logits, 0), 5, generator=seeded())

    def phi(*inputs: torch.Tensor) -> torch.Tensor:
        return refined_expectation(torch.log_softmax(inputs[0], 0), d, inputs[2], inputs[1])[0]

    assert torch.autograd.gradcheck(phi, (logits, scores, features))
    phi(logits, scores, features).sum().backward()
    assert all(float(t.grad.abs().max()) > 1e-3 for t in (logits, scores, features))


@pytest.mark.parametrize("prior", [0.5, 1.0])
@pytest.mark.parametrize("sampler", ["systematic", "gumbel", "multinomial"])
def test_refined_error_falls_with_the_number_of_tiles(sampler: str, prior: float) -> None:
    k = 400
    log_p, features, scores = some_log_p(k, 0, 1.0), normal(k, DIM, seed=1), normal(k, seed=2)
    exact = torch.from_numpy(attention_mil(log_p.exp().numpy() ** prior, features.numpy(), scores.numpy()))

    def error(n: int) -> float:
        total = 0.0
        for seed in range(40):
            d = draw(log_p, n, sampler, generator=seeded(seed))
            phi, _ = refined_expectation(log_p, d, features[d.cells], scores[d.cells], prior)
            total += float(((phi - exact) ** 2).sum()) / 40
        return total

    few, some, many = error(10), error(50), error(250)
    assert few > 2 * some > 4 * many


# -- regularisers


def test_proposal_loss_is_least_where_the_proposal_is_the_target() -> None:
    p = torch.softmax(normal(6), 0).requires_grad_()
    d = Draws(torch.arange(6), torch.zeros(6, dtype=torch.float64))
    logits = p.detach().log().requires_grad_()
    loss = attention_loss(torch.log_softmax(logits, 0), d, p)
    loss.backward()
    assert p.grad is None
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-12
    assert float(loss.detach()) == pytest.approx(float(-(p * p.log()).sum().detach()))
    assert float(attention_loss(torch.log_softmax(normal(6, seed=5), 0), d, p)) > float(loss.detach())


def test_proposal_loss_counts_the_drawn_cells_alone() -> None:
    log_p = some_log_p(5, 0, 1.0)
    d = Draws(torch.tensor([3, 1]), torch.zeros(2, dtype=torch.float64))
    loss = attention_loss(log_p, d, torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert float(loss) == pytest.approx(-0.25 * float(log_p[3]) - 0.75 * float(log_p[1]))


def test_entropy_penalty() -> None:
    log_p = some_log_p(8, 0, 1.0)
    oracle = sum(a * np.log(a + 1e-6) for a in log_p.exp().tolist())
    assert float(entropy_penalty(log_p)) == pytest.approx(oracle)
    flat = torch.full((8,), -np.log(8), dtype=torch.float64)
    assert float(entropy_penalty(flat)) < float(entropy_penalty(log_p))
    collapsed = torch.tensor([0.0, -2000.0], requires_grad=True)
    entropy_penalty(collapsed).backward()
    assert collapsed.grad is not None
    assert bool(torch.isfinite(collapsed.grad).all())


# -- a batch of slides


@pytest.mark.parametrize("score", [RefiningScore, GatedScore])
def test_a_batch_is_its_slides_one_by_one(score: type[RefiningScore]) -> None:
    """Every term of the loss of refined attention, and its gradients."""
    logits, features = normal(4, 30).requires_grad_(), normal(4, 6, DIM, seed=1).requires_grad_()
    net = score(DIM).double()
    net.out.weight.data = normal(1, 64, seed=2)
    alone = [draw(torch.log_softmax(p, 0), 6, "priority", generator=seeded(b)) for b, p in enumerate(logits)]
    batch = Draws(torch.stack([d.cells for d in alone]), torch.stack([d.log_weights for d in alone]))
    log_opened = normal(4, 30, seed=3)

    def terms(
        logits: torch.Tensor, draws: Draws, features: torch.Tensor, log_opened: torch.Tensor
    ) -> list[torch.Tensor]:
        log_p = smooth(torch.log_softmax(logits, -1), 0.1)
        scores = net(features)
        phi, p = refined_expectation(log_p, draws, features, scores, 0.5)
        penalties = [entropy_penalty(log_p), entropy_penalty(log_p, log_opened)]
        return [phi, p, log_mass(log_p, draws, scores, 0.5), attention_loss(log_p, draws, p), *penalties]

    together = terms(logits, batch, features, log_opened)
    rows = [terms(*row) for row in zip(logits, alone, features, log_opened, strict=True)]
    inputs = [logits, features, *net.parameters()]
    for found, one_by_one in zip(together, zip(*rows, strict=True), strict=True):
        expected = torch.stack(one_by_one)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        of_batch, of_rows = (
            torch.autograd.grad((x**2).sum(), inputs, retain_graph=True, materialize_grads=True)
            for x in (found, expected)
        )
        torch.testing.assert_close(of_batch, of_rows, rtol=0, atol=1e-12)
