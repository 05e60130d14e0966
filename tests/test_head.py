from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.enumeration import some_log_p
from wsi_ats.errors import ConfigError
from wsi_ats.estimator import expectation, refined_expectation, shares
from wsi_ats.head import Head
from wsi_ats.sampling import draw


def head(dim: int, classes: int, scale: float = 8.0) -> Head:
    """A head whose weights are no longer the zeros it starts with (float64)."""
    net = Head(dim, classes, scale).double()
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = torch.randn(p.shape, dtype=p.dtype, generator=generator)
    return net


def test_nothing_is_known_at_the_start() -> None:
    net, phi = Head(5, 3), torch.rand(5, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(net(phi), torch.tensor(1))
    loss.backward()
    assert net(phi).tolist() == [0.0, 0.0, 0.0]
    assert phi.grad is not None
    assert float(phi.grad.abs().max()) == 0.0  # attention and features stay put until the head has moved
    assert net.linear.weight.grad is not None
    assert float(net.linear.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_logits_written_out(shape: tuple[int, ...]) -> None:
    net, phi = head(5, 3, scale=2.5), torch.rand(shape, dtype=torch.float64)
    oracle = 2.5 * (phi[..., None, :] * net.linear.weight).sum(-1) + net.linear.bias
    assert torch.allclose(net(phi), oracle, atol=1e-12)


@given(
    n=st.integers(1, 20), seed=st.integers(0, 1000), sampler=st.sampled_from(["systematic", "gumbel", "top"])
)
@settings(deadline=None, max_examples=25)
def test_contributions_add_up_to_the_logits(n: int, seed: int, sampler: str) -> None:
    net, generator = head(6, 3), torch.Generator().manual_seed(seed)
    log_p = some_log_p(30, seed, 1.0)
    d = draw(log_p, n, sampler, generator=generator)
    features = torch.randn(n, 6, dtype=torch.float64, generator=generator)
    scores = torch.randn(n, dtype=torch.float64, generator=generator)
    plain = net.contributions(features, shares(log_p, d))
    assert plain.shape == (n, 3)
    total = plain.sum(0) + net.linear.bias
    assert torch.allclose(total, net(expectation(log_p, d, features)), atol=1e-12)
    phi, p = refined_expectation(log_p, d, features, scores)
    assert torch.allclose(net.contributions(features, p).sum(0) + net.linear.bias, net(phi), atol=1e-12)


def test_contribution_of_a_tile_depends_on_that_tile_alone() -> None:
    net = head(4, 2)
    features, weights = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    alone = net.contributions(features[1:2], weights[1:2])
    assert torch.allclose(net.contributions(features, weights)[1:2], alone, atol=1e-12)


@pytest.mark.parametrize("arguments", [(0, 2, 8.0), (4, 0, 8.0), (4, 2, 0.0), (4, 2, float("nan"))])
def test_impossible_sizes_are_refused(arguments: tuple[int, int, float]) -> None:
    with pytest.raises(ConfigError, match=f"dim={arguments[0]}, outputs={arguments[1]}"):
        Head(*arguments)
