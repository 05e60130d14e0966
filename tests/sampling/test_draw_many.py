from __future__ import annotations

import pytest
import torch

from tests.support.enumeration import INF, ordered_samples, seeded, some_log_p
from wsi_ats.errors import ConfigError
from wsi_ats.sampling import SAMPLERS, des_raj, draw, draw_many, murthy

# -- a batch of slides ----------------------------------------------------------------------------------


def ragged_batch() -> list[torch.Tensor]:
    """Slides of different K: ordinary, collapsed, with cells that have no mass, with fewer cells than draws."""
    sparse = torch.full((90,), -INF, dtype=torch.float64)
    sparse[::3] = some_log_p(30, 3, 2.0)
    return [some_log_p(40, 0, 1.0), some_log_p(300, 1, 400.0), sparse, some_log_p(5, 2, 1.0), torch.zeros(1)]


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_slide_gets_the_same_draw_in_any_batch(sampler: str, device: str) -> None:
    log_ps = ragged_batch()
    orders = [torch.randperm(len(p), generator=seeded(9)) for p in log_ps]
    generators = [seeded(10 + b) for b in range(len(log_ps))]
    on_device = [p.to(device) for p in log_ps]
    batch = draw_many(on_device, 8, sampler, generators=generators, orders=orders)
    assert [d.cells.device.type for d in batch] == [device] * len(log_ps)
    for b, (log_p, order, found) in enumerate(zip(log_ps, orders, batch, strict=True)):
        alone = draw(log_p, 8, sampler, generator=seeded(10 + b), order=order)
        assert torch.equal(found.cells.cpu(), alone.cells)
        assert found.log_weights.tolist() == pytest.approx(alone.log_weights.tolist(), rel=1e-12, abs=1e-12)


def test_another_slide_s_generator_does_not_matter() -> None:
    log_ps = [some_log_p(50, 0, 1.0), some_log_p(70, 1, 1.0)]
    for sampler in ("systematic", "priority"):
        one, two = (
            draw_many(log_ps, 6, sampler, generators=[seeded(other), seeded(5)])[1].cells for other in (1, 2)
        )
        assert torch.equal(one, two)


def test_a_batch_with_something_missing_is_refused() -> None:
    log_ps = [some_log_p(4, 0, 1.0)] * 2
    assert draw_many([], 3, generators=[]) == []
    with pytest.raises(ConfigError, match="2 slides with 1 generators"):
        draw_many(log_ps, 3, generators=[seeded()])
    with pytest.raises(ConfigError, match="2 slides with 2 generators and 1 orders"):
        draw_many(log_ps, 3, generators=[seeded()] * 2, orders=[torch.arange(4)])
    with pytest.raises(ConfigError, match="not a permutation of the 4 cells"):
        draw_many(log_ps, 3, generators=[seeded()] * 2, orders=[torch.arange(4), torch.arange(1, 5)])
    with pytest.raises(ConfigError, match="log_p of 3 cells has log-sum"):
        draw_many([*log_ps, torch.zeros(3)], 1, generators=[seeded()] * 3)


# -- weights of a set


@pytest.mark.parametrize("spread", [0.5, 5.0])
def test_weights_of_a_set_are_those_of_its_orders_averaged(spread: float) -> None:
    """Rao and Blackwell, by hand: the chance-weighted mean of Des Raj's weights over all orders."""
    log_p, chosen = some_log_p(7, 4, spread), (1, 2, 5, 6)
    total, mean = 0.0, torch.zeros(7, dtype=torch.float64)
    for probability, sample in ordered_samples(log_p.exp().numpy(), 4):
        if tuple(sorted(sample)) == chosen:
            d = des_raj(log_p, torch.tensor(sample))
            mean[d.cells] += probability * d.weights
            total += probability
    found = murthy(log_p, torch.tensor(chosen))
    assert found.weights.tolist() == pytest.approx((mean / total)[list(chosen)].tolist(), rel=1e-10)


@pytest.mark.parametrize("cell", range(3))
def test_the_weight_of_a_set_of_one_is_that_of_one_draw(cell: int) -> None:
    log_p = torch.log_softmax(torch.tensor([0.0, -3.0, -2000.0], dtype=torch.float64), 0)
    found = murthy(log_p, torch.tensor([cell]))
    assert float(found.log_weights) == pytest.approx(-float(log_p[cell]), abs=1e-10)


def test_weights_of_a_large_set_of_a_collapsed_attention_are_finite_and_sum_to_one() -> None:
    log_p = some_log_p(1500, 0, 300.0)
    cells = torch.randperm(1500, generator=seeded())[:400]
    found = murthy(log_p, cells)
    assert bool(torch.isfinite(found.log_weights).all())
    assert float((found.log_weights + log_p[cells]).logsumexp(0)) == pytest.approx(0.0, abs=1e-9)
