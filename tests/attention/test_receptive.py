from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wsi_ats.attention.networks import ConvAttention
from wsi_ats.attention.receptive import Reach, reach_of
from wsi_ats.errors import ConfigError

SIDE = 48


@st.composite
def bodies(draw: st.DrawFn) -> tuple[nn.Sequential, int]:
    """A random chain of layers, nested at random, and its channels."""
    layers: list[nn.Module] = []
    channels, step, size = 3, 1, 1
    for _ in range(draw(st.integers(1, 4))):
        kernel = draw(st.integers(1, 4))
        stride = draw(st.sampled_from([1, 1, 2]))
        dilation = draw(st.integers(1, 2))
        padding = draw(st.integers(0, (kernel * dilation) // 2))
        half = draw(st.integers(0, kernel // 2))
        if step * stride > 4 or size + dilation * (kernel - 1) * step > 24:
            continue
        size, step = size + dilation * (kernel - 1) * step, step * stride
        kind = draw(st.sampled_from(["conv", "conv", "max", "avg"]))
        if kind == "conv":
            layers.append(nn.Conv2d(channels, 2, kernel, stride, padding, dilation))
            channels = 2
        elif kind == "max":
            layers.append(nn.MaxPool2d(kernel, stride, half, dilation))
        else:
            layers.append(nn.AvgPool2d(kernel, stride, half))
        layers.append(draw(st.sampled_from([nn.Tanh(), nn.SiLU(), nn.Identity()])))
    cut = draw(st.integers(0, len(layers)))
    return nn.Sequential(nn.Sequential(*layers[:cut]), *layers[cut:]).double(), channels


def seen_by(net: nn.Module, output: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last row and column whose change changes an output: found by trying, pixel after pixel."""
    view = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # Columns that differ in nothing but one pixel each, as a batch; then rows.
    limits = []
    for axis in (2, 3):
        batch = view.repeat(SIDE, 1, 1, 1)
        for i in range(SIDE):
            batch.select(axis, i)[i] += 100 * torch.rand(3, SIDE, dtype=torch.float64)
        answers = net(batch)[:, :, output[0], output[1]]
        touched = (answers != net(view)[:, :, output[0], output[1]]).any(1).nonzero()[:, 0]
        limits += [int(touched.min()), int(touched.max())]
    return limits[0], limits[1], limits[2], limits[3]


@settings(deadline=None, max_examples=60)
@given(bodies())
def test_no_output_sees_more_than_its_reach(body: tuple[nn.Sequential, int]) -> None:
    net, _ = body
    reach = reach_of(net)
    with torch.no_grad():
        shape = net(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64)).shape[-2:]
        output = (shape[0] // 2, shape[1] // 2)
        top, bottom, left, right = seen_by(net, output)
    for axis, (first, last) in enumerate([(top, bottom), (left, right)]):
        start = output[axis] * reach.step[axis] - reach.pad[axis]
        assert start <= first <= last <= start + reach.size[axis] - 1


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Conv2d(3, 1, 3), Reach((3, 3), (1, 1), (0, 0))),
        (nn.Conv2d(3, 1, (3, 5), (2, 1), (1, 0), (2, 1)), Reach((5, 5), (2, 1), (1, 0))),
        (nn.Conv2d(3, 1, 5, padding="same", dilation=2), Reach((9, 9), (1, 1), (4, 4))),
        (nn.Conv2d(3, 1, 5, padding="valid"), Reach((5, 5), (1, 1), (0, 0))),
        (nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 3, 3, 2, 1)), Reach((7, 7), (4, 4), (3, 3))),
        (nn.AvgPool2d(4), Reach((4, 4), (4, 4), (0, 0))),
        (nn.Sequential(nn.Sequential(nn.ReLU()), nn.PReLU()), Reach()),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 1, 3)), Reach((3, 3), (1, 1), (0, 0))),
    ],
    ids=str,
)
def test_known_networks(net: nn.Module, expected: Reach) -> None:
    assert reach_of(net) == expected


@pytest.mark.parametrize("axis", [0, 1])
def test_the_reach_is_as_tight_as_the_kernel(axis: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, (3, 2), (2, 1)), nn.Tanh(), nn.Conv2d(2, 1, 3, dilation=2)).double()
    reach = reach_of(net)
    limits = seen_by(net, (5, 5))[2 * axis : 2 * axis + 2]
    start = 5 * reach.step[axis] - reach.pad[axis]
    assert limits == (start, start + reach.size[axis] - 1)


class Residual(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean((2, 3), keepdim=True) + super().forward(x)


@pytest.mark.parametrize(
    ("layer", "why", "remedy"),
    [
        (nn.BatchNorm2d(3), "normalises over the whole view", "leave normalisation"),
        (nn.InstanceNorm2d(3), "normalises", "leave normalisation"),
        (nn.GroupNorm(1, 3), "normalises", "leave normalisation"),
        (nn.LayerNorm([3, 4, 4]), "normalises", "leave normalisation"),
        (nn.Dropout2d(0.5), "random numbers", "leave dropout"),
        (nn.AdaptiveAvgPool2d(1), "every pixel", "use convolutions"),
        (nn.MultiheadAttention(4, 1), "every pixel", "use convolutions"),
        (nn.Linear(4, 4), "every pixel", "1x1"),
        (nn.Upsample(scale_factor=2), "not known", "nn.Sequential of Conv2d"),
        (nn.ConvTranspose2d(3, 3, 3), "not known", "nn.Sequential of Conv2d"),
        (Residual(3, 3, 3, padding=1), "not known", "nn.Sequential of Conv2d"),
        (nn.Conv2d(3, 3, 2, padding="same"), "even kernel", "odd kernel"),
        (nn.MaxPool2d(2, return_indices=True), "indices", "return_indices=False"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_what_cannot_be_derived_is_named_with_its_remedy(layer: nn.Module, why: str, remedy: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sequential(nn.ReLU(), layer))
    with pytest.raises(ConfigError, match=rf"'1.1' \({type(layer).__name__}\)") as caught:
        reach_of(net)
    assert why in caught.value.message
    assert remedy in caught.value.remedy


def test_strides_that_do_not_fit_the_cells_are_refused() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=3), nn.ReLU())
    with pytest.raises(ConfigError, match=r"stride of 4 .* strides of \(3, 3\)"):
        ConvAttention(body, nn.Conv2d(4, 1, 1), stride=4)
    with pytest.raises(ConfigError, match=r"head .* \(12, 12\) view px .* instead of 6"):
        ConvAttention(body, nn.Conv2d(4, 1, 2, stride=2), stride=6)
