from __future__ import annotations

import pytest
import torch

from wsi_ats.baselines import DownsampledCNN
from wsi_ats.estimator import expectation
from wsi_ats.sampling import draw


@pytest.mark.parametrize(("h", "w"), [(48, 64), (101, 37)])
@pytest.mark.parametrize("classes", [2, 5])
def test_views_of_any_size_give_one_logit_a_class(h: int, w: int, classes: int) -> None:
    torch.manual_seed(0)
    net = DownsampledCNN(classes)
    logits = net(torch.rand(2, 3, h, w))
    assert logits.shape == (2, classes)
    logits.pow(2).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in net.parameters())


def test_a_small_dark_spot_shows_in_a_large_view() -> None:
    torch.manual_seed(0)
    net = DownsampledCNN(2)
    view = torch.full((1, 3, 256, 256), 0.8)
    view[..., 100:104, 60:64] = 0.2
    assert float((net(view) - net(torch.full_like(view, 0.8))).abs().max().detach()) > 1e-2


def test_constant_attention_is_uniform_sampling() -> None:
    """The baseline of uniformly drawn tiles: every share is 1 / N, the estimate is the mean of the tiles."""
    log_p = torch.full((100,), 1 / 100, dtype=torch.float64).log()
    d = draw(log_p, 10, generator=torch.Generator().manual_seed(0))
    features = torch.rand(10, 4, dtype=torch.float64)
    assert expectation(log_p, d, features).tolist() == pytest.approx(features.mean(0).tolist())
