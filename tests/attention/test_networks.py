from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wsi_ats.attention.networks import (
    ConvAttention,
    DeepAttention,
    PaperAttention,
    WideAttention,
    log_attention,
)
from wsi_ats.errors import ConfigError

NETS = [PaperAttention, WideAttention, DeepAttention]


def trained(net_class: type[ConvAttention], stride: int) -> ConvAttention:
    """A network whose weights, the last layer's included, are no longer the initial ones (float64)."""
    net = net_class(stride).double()
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = 0.5 * torch.randn(p.shape, dtype=p.dtype, generator=generator)
    return net


def views(h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("net_class", NETS)
@pytest.mark.parametrize("stride", [1, 4])
def test_attention_starts_uniform_and_can_learn(net_class: type[ConvAttention], stride: int) -> None:
    torch.manual_seed(0)
    net = net_class(stride)
    logits = net(views(8, 12).float())
    assert logits.shape == (1, 8 // stride, 12 // stride)
    assert float(logits.detach().abs().max()) == 0.0
    target = torch.rand(logits.shape)
    for _ in range(2):  # the zero last layer shields the layers before it in the first step alone
        net.zero_grad()
        ((net(views(8, 12).float()) - target) ** 2).sum().backward()
        for p in net.parameters():
            assert p.grad is not None
            p.data -= 0.01 * p.grad
    assert all(float(p.grad.abs().max()) > 0 for p in net.parameters() if p.grad is not None)


def test_paper_network_written_out() -> None:
    net = trained(PaperAttention, 1)
    first, second, third = (net.body[i] for i in (0, 2, 4))
    assert [layer.out_channels for layer in (first, second, third)] == [8, 8, 1]
    x = nn.functional.pad((views(6, 7) - 0.5) / 0.25, (3, 3, 3, 3), value=2.0)
    assert torch.allclose(net(views(6, 7)), third(second(first(x).tanh()).tanh())[:, 0], atol=1e-12)


@pytest.mark.parametrize("net_class", NETS)
@given(
    top=st.integers(0, 5),
    left=st.integers(0, 5),
    rows=st.integers(1, 5),
    cols=st.integers(1, 5),
    stride=st.integers(1, 5),
)
@settings(deadline=None, max_examples=25)
def test_a_block_with_its_halo_gives_the_logits_of_the_whole_view(
    net_class: type[ConvAttention], top: int, left: int, rows: int, cols: int, stride: int
) -> None:
    net, view = trained(net_class, stride), views(10 * stride, 10 * stride)
    padded = nn.functional.pad(view, net.halo, value=1.0)
    y, x = top * stride, left * stride
    before_x, behind_x, before_y, behind_y = net.halo
    height, width = rows * stride + before_y + behind_y, cols * stride + before_x + behind_x
    block = padded[..., y : y + height, x : x + width]
    whole = net(view)[:, top : top + rows, left : left + cols]
    assert torch.allclose(net.valid(block), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("net_class", NETS)
def test_the_border_looks_like_glass(net_class: type[ConvAttention]) -> None:
    net, view = trained(net_class, 4), views(12, 16)
    larger = torch.ones(1, 3, 20, 24, dtype=torch.float64)
    larger[..., 4:16, 4:20] = view
    assert torch.allclose(net(larger)[:, 1:4, 1:5], net(view), rtol=0, atol=1e-12)
    blank = net(torch.ones_like(view))
    assert torch.allclose(blank, blank[:, :1, :1].expand_as(blank), rtol=0, atol=1e-12)


@pytest.mark.parametrize("net_class", NETS)
def test_a_logit_sees_its_halo_and_no_further(net_class: type[ConvAttention]) -> None:
    net, stride = trained(net_class, 4), 4
    view = views(20, 20).requires_grad_()
    net(view)[0, 2, 2].backward()
    assert view.grad is not None
    rows, cols = view.grad[0].abs().sum(0).nonzero(as_tuple=True)
    left, right, top, bottom = net.halo
    assert left == top, "the same in both directions"
    assert right == bottom in (left, left + 1), "what a stride sees need not have a middle"
    low, high = 2 * stride - left, 3 * stride - 1 + right
    assert (int(rows.min()), int(rows.max()), int(cols.min()), int(cols.max())) == (low, high, low, high)


@pytest.mark.parametrize("net_class", NETS)
def test_views_that_do_not_divide_into_cells_are_refused(
    net_class: type[ConvAttention],
) -> None:
    with pytest.raises(ConfigError, match="16 x 10 px does not divide into cells of 4"):
        net_class(4)(torch.rand(1, 3, 10, 16))
    with pytest.raises(ConfigError, match="stride of 0"):
        net_class(0)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(8), nn.InstanceNorm2d(8), nn.GroupNorm(2, 8), nn.LayerNorm([8, 4, 4])]
)
def test_networks_that_tie_far_pixels_together_are_refused(layer: nn.Module) -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), layer)
    with pytest.raises(ConfigError, match=rf"'body.1' \({type(layer).__name__}\)"):
        ConvAttention(body, nn.Conv2d(8, 1, 1), stride=4)


def test_log_attention_is_a_softmax_over_the_tissue_alone() -> None:
    logits = torch.tensor([[0.0, 1.0, 100.0], [2.0, -3.0, 50.0]], dtype=torch.float64)
    log_a = log_attention(logits, torch.tensor([1, 3, 4]))
    exp = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64).exp()
    assert log_a.exp().tolist() == pytest.approx((exp / exp.sum()).tolist())


def test_collapsed_attention_keeps_its_logarithms_and_gradient() -> None:
    logits = torch.tensor([[0.0, 3000.0, -3000.0]], requires_grad=True)
    log_a = log_attention(logits, torch.arange(3))
    assert log_a.tolist() == [-3000.0, 0.0, -6000.0]
    log_a[2].backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, -1.0, 1.0]]
