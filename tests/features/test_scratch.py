from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wsi_ats.features.scratch import PaperFeatures, ResidualBlock, SmallResNet

NETS = [PaperFeatures, SmallResNet]


def tiles(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def network(net_class: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return net_class()


@pytest.mark.parametrize("net_class", NETS)
@pytest.mark.parametrize("size", [16, 33, 64])
def test_features_are_unit_vectors(net_class: type[nn.Module], size: int) -> None:
    net = network(net_class)
    vectors = net(tiles(5, size))
    assert vectors.shape == (5, net.dim)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 5, abs=1e-5)
    assert not net.frozen


@pytest.mark.parametrize("net_class", NETS)
@pytest.mark.parametrize("training", [True, False])
def test_a_tile_does_not_depend_on_its_batch(net_class: type[nn.Module], training: bool) -> None:
    net = network(net_class).train(training)
    batch = tiles(6)
    together = net(batch)
    alone = torch.cat([net(tile[None]) for tile in batch])
    assert torch.allclose(together, alone, atol=1e-5)
    assert float((together[0] - together[1]).abs().max().detach()) > 1e-3


@pytest.mark.parametrize("net_class", NETS)
def test_every_parameter_gets_a_gradient(net_class: type[nn.Module]) -> None:
    net = network(net_class)
    (net(tiles(4)) @ torch.randn(net.dim)).pow(2).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert float(p.grad.abs().max()) > 0, name


def test_paper_network_written_out() -> None:
    net = network(PaperFeatures)
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert [tuple(c.weight.shape) for c in convolutions] == [(32, 3, 7, 7)] + 3 * [(32, 32, 3, 3)]
    maps = (tiles(2) - 0.5) / 0.25
    for c in convolutions:
        maps = nn.functional.conv2d(maps, c.weight, c.bias).clamp(min=0)
    assert maps.shape[2:] == (20, 20)
    highest = maps.flatten(2).max(2).values
    expected = highest / highest.pow(2).sum(1, keepdim=True).sqrt()
    assert torch.allclose(net(tiles(2)), expected, atol=1e-5)


@pytest.mark.parametrize("net_class", NETS)
def test_a_blank_tile_is_harmless(net_class: type[nn.Module]) -> None:
    net = network(net_class)
    vectors = net(torch.ones(2, 3, 32, 32))
    vectors.sum().backward()
    assert bool(torch.isfinite(vectors).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)


def test_small_resnet_does_not_see_a_shift_of_stain() -> None:
    net, batch = network(SmallResNet), 0.5 + 0.4 * tiles(3)
    shift = torch.tensor([0.1, -0.2, 0.05])[:, None, None]
    assert torch.allclose(net(batch + shift), net(batch), atol=1e-4)


def multiply_adds(net: nn.Module, size: int) -> int:
    total = 0

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    net(tiles(1, size))
    return total


def test_small_resnet_is_small() -> None:
    net = network(SmallResNet)
    assert multiply_adds(net, 64) == pytest.approx(6.4e6, rel=0.02)  # the figure in its docstring
    assert sum(p.numel() for p in net.parameters()) < 200_000


def test_small_resnet_learns_a_texture_in_seconds() -> None:
    """Dots of two sizes that cover the same area, so that no colour tells them apart."""
    generator = torch.Generator().manual_seed(0)

    def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        label = torch.randint(0, 2, (n,), generator=generator)
        fine = torch.rand(n, 1, 16, 16, generator=generator) < 0.2
        coarse = torch.rand(n, 1, 8, 8, generator=generator) < 0.2
        dots = [nn.functional.interpolate(d.float(), size=(32, 32)) for d in (fine, coarse)]
        grey = torch.where(label[:, None, None, None] == 1, dots[1], dots[0])
        return 0.9 - 0.5 * grey.expand(-1, 3, -1, -1), label

    net = network(SmallResNet)
    last = nn.Linear(net.dim, 2)
    optimiser = torch.optim.AdamW([*net.parameters(), *last.parameters()], 3e-3)
    for _ in range(25):
        pixels, label = batch(32)
        loss = nn.functional.cross_entropy(last(8 * net(pixels)), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pixels, label = batch(200)
    assert float((last(8 * net(pixels)).argmax(1) == label).float().mean()) > 0.95


def test_the_shortcut_is_a_strided_convolution() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 16, 2, 4)
    for side in (16, 17):
        x = torch.rand(2, 8, side, side)
        rest = block.second(F.relu(block.norm2(block.first(F.relu(block.norm1(x))))))
        torch.testing.assert_close(
            block(x) - rest, F.conv2d(x, block.short.weight, stride=2), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("width", [4, 8, 12])
def test_narrow_networks_train_on_large_tiles(width: int) -> None:
    """In a process of its own: what this is about is a crash."""
    program = (
        "import torch; from wsi_ats.features.scratch import SmallResNet; torch.set_num_threads(1);"
        f"net = SmallResNet({width});"
        "[net(torch.rand(8, 3, 256, 256)).square().sum().backward() for _ in range(2)]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
