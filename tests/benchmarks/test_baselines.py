from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.baselines import POOLS, AllTiles, DownsampledCNN, GatedScore
from wsi_ats.errors import ConfigError
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


def by_the_book(net: AllTiles, features: torch.Tensor) -> torch.Tensor:
    """The poolings as their papers write them, tile by tile."""
    if net.pool == "max":
        return net.head(torch.stack([max(column) for column in features.T]))
    shares = torch.full((len(features),), 1 / len(features))
    if net.score is not None:
        scores = []
        for f in features * net.score.scale:
            h = torch.tanh(net.score.hidden.weight @ f + net.score.hidden.bias)
            if isinstance(net.score, GatedScore):
                h = h * torch.sigmoid(net.score.gate.weight @ f + net.score.gate.bias)
            scores.append(float((net.score.out.weight[0] @ h).detach()))
        e = np.exp(np.array(scores) - max(scores))
        shares = torch.from_numpy(e / e.sum()).float()
    return net.head((shares[:, None] * features).sum(0))


@pytest.mark.parametrize("pool", POOLS)
def test_all_tiles_are_pooled_as_published(pool: str) -> None:
    torch.manual_seed(0)
    net = AllTiles(6, 3, pool)
    for parameter in net.parameters():  # some start at zero
        torch.nn.init.normal_(parameter)
    features = torch.nn.functional.normalize(torch.randn(11, 6), dim=1)
    torch.testing.assert_close(net(features), by_the_book(net, features))
    torch.testing.assert_close(net(features.flip(0)), net(features))


@pytest.mark.parametrize("pool", POOLS)
def test_all_tiles_learn_to_find_one_tile_among_many(pool: str) -> None:
    torch.manual_seed(0)
    net = AllTiles(8, 2, pool)
    optimizer = torch.optim.Adam(net.parameters(), 3e-2)

    def bag(label: int) -> torch.Tensor:
        features = torch.randn(30, 8)
        features[:, 0] = 0
        features[0, 0] = 6.0 * label
        return torch.nn.functional.normalize(features, dim=1)

    for step in range(300):
        loss = torch.nn.functional.cross_entropy(net(bag(step % 2))[None], torch.tensor([step % 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        answers = [int(net(bag(i % 2)).argmax()) == i % 2 for i in range(50)]
    assert sum(answers) >= 45


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pool = 'median' is unknown\n.*use one of mean, max"):
        AllTiles(4, 2, "median")
