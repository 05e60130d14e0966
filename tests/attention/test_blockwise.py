"""Blocks against the view at once: logits and gradients in float64, for networks and cuts of every kind."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wsi_ats.attention.blockwise import Read, blocks_of, cell_logits
from wsi_ats.attention.networks import ConvAttention, WideAttention
from wsi_ats.geometry import Box, Grid
from wsi_ats.prefetch import prefetch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Pixels:
    """A view in memory that counts how it is read."""

    def __init__(self, height: int, width: int, seed: int = 0) -> None:
        self.array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        self.opened = 0
        self.boxes: list[Box] = []

    @contextmanager
    def open(self) -> Iterator[Read]:
        self.opened += 1
        yield self.read

    def read(self, box: Box) -> np.ndarray:
        self.boxes.append(box)
        out = self.array[box.y : box.y + box.height, box.x : box.x + box.width]
        assert out.shape == (box.height, box.width, 3), "a box lies inside the view"
        return out

    def tensor(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.from_numpy(self.array).permute(2, 0, 1)[None].to(dtype) / 255


LAYERS = st.lists(
    st.tuples(
        st.sampled_from(["conv", "conv", "max", "avg"]),
        st.integers(1, 3),  # kernel
        st.sampled_from([1, 1, 2]),  # stride
        st.integers(0, 2),  # padding
        st.integers(1, 2),  # dilation
        st.booleans(),  # anything else
    ),
    min_size=1,
    max_size=3,
)
HEADS = st.tuples(
    st.sampled_from([1, 1, 3]), st.integers(1, 3), st.sampled_from([1.0, 0.3]), st.integers(0, 999)
)
"""Cells that the head sees along an axis, px averaged, background, seed."""


def network(
    layers: list[tuple[str, int, int, int, int, bool]], head: tuple[int, int, float, int]
) -> ConvAttention:
    """An attention network of given layers, whose cells fit its strides."""
    body: list[nn.Module] = []
    channels, step = 3, 1
    for kind, kernel, stride, padding, dilation, other in layers:
        half = min(padding, kernel // 2)
        if kind == "conv":
            mode = "replicate" if other else "zeros"
            body.append(nn.Conv2d(channels, 3, kernel, stride, padding, dilation, padding_mode=mode))
            channels = 3
        elif kind == "max":
            body.append(nn.MaxPool2d(kernel, stride, half, dilation))
        else:
            body.append(nn.AvgPool2d(kernel, stride, half, ceil_mode=other))
        body.append(nn.PReLU() if other else nn.Tanh())
        step *= stride
    wide, pooled, background, seed = head
    top = nn.Sequential(nn.Conv2d(channels, 2, wide, padding=wide // 2), nn.Tanh(), nn.Conv2d(2, 1, 1))
    nested = nn.Sequential(nn.Sequential(*body[:2]), *body[2:])
    return shaken(ConvAttention(nested, top, step * pooled, background).double(), seed)


def shaken(net: ConvAttention, seed: int) -> ConvAttention:
    """The network with weights drawn from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = 0.5 * torch.randn(p.shape, dtype=p.dtype, generator=generator)
    return net


def gradients(net: nn.Module, logits: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """Of a loss that is not linear in the logits, as a log-softmax and a cross-entropy are not."""
    net.zero_grad()
    weights = torch.rand(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    loss = (torch.log_softmax(logits, 0).exp() * weights.to(logits)).sum() + (0.1 * logits**2).sum()
    loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]


def some_cells(grid: Grid, share: float, seed: int) -> np.ndarray:
    chosen = np.random.default_rng(seed).random(len(grid)) < share
    chosen[seed % len(grid)] = True
    return np.flatnonzero(chosen).astype(np.int64)


@settings(deadline=None, max_examples=70)
@given(
    LAYERS,
    HEADS,
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 60),
    st.sampled_from([0.1, 0.6, 1.0]),
    st.integers(0, 999),
)
def test_logits_and_gradients_are_those_of_the_view_at_once(
    layers: list, head: tuple, rows: int, cols: int, block: int, share: float, seed: int
) -> None:
    net = network(layers, head)
    grid = Grid(rows, cols, (10, 10))
    view = Pixels(rows * net.stride, cols * net.stride, seed)
    cells = some_cells(grid, share, seed)
    whole = net(view.tensor())[0].reshape(-1)[torch.from_numpy(cells)]
    expected = gradients(net, whole, seed)
    blocks = cell_logits(net, view.open, grid, cells, block)
    torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-10)
    for mine, theirs in zip(gradients(net, blocks, seed), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    assert max(box.width for box in view.boxes) <= max(block, net.stride) + sum(net.halo[:2])
    with torch.no_grad():
        torch.testing.assert_close(cell_logits(net, view.open, grid, cells, block), whole, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(LAYERS, HEADS, st.integers(1, 5), st.integers(1, 5))
def test_the_border_is_glass_and_padding_of_layers_has_no_say(
    layers: list, head: tuple, rows: int, cols: int
) -> None:
    """A view on a larger glass plate has the same logits: nothing marks where it ends."""
    net = network(layers, head)
    view = Pixels(rows * net.stride, cols * net.stride).tensor()
    more = -(-max(net.halo) // net.stride) * net.stride
    larger = nn.functional.pad(view, (more,) * 4, value=net.background)
    at = more // net.stride
    inner = net(larger)[:, at : at + rows, at : at + cols]
    torch.testing.assert_close(net(view), inner, rtol=0, atol=1e-12)


def wide() -> ConvAttention:
    return shaken(WideAttention(4, 4).double(), 0)


GRID = Grid(10, 12, (10, 10))
ALL = np.arange(120)


def logits_of(net: ConvAttention, view: Pixels, cells: np.ndarray = ALL, block: int = 16) -> torch.Tensor:
    return cell_logits(net, view.open, GRID, cells, block)


def test_each_pass_reads_each_block_once_and_blocks_without_cells_never() -> None:
    net, view = wide(), Pixels(40, 48)
    logits = logits_of(net, view)
    assert (view.opened, len(view.boxes)) == (1, 9)
    logits.sum().backward()
    assert (view.opened, len(view.boxes)) == (2, 18)
    assert view.boxes[:9] == view.boxes[9:]
    corner = Pixels(40, 48)
    logits_of(net, corner, np.asarray([0, 119]))[0].backward()  # the gradient of the other block is 0
    last = 32 - net.halo[0]
    assert [(box.x, box.y) for box in corner.boxes] == [(0, 0), (last, last), (0, 0)]


def test_the_cells_may_come_in_any_order() -> None:
    net, view = wide(), Pixels(40, 48)
    shuffled = np.random.default_rng(0).permutation(120)
    for block in (16, 100):
        assert torch.equal(logits_of(net, view, shuffled, block), logits_of(net, view, ALL, block)[shuffled])


def test_the_view_itself_is_enough_of_a_block() -> None:
    net, view = wide(), Pixels(40, 48)
    logits = logits_of(net, view, block=48)
    logits.sum().backward()
    assert (view.opened, view.boxes) == (1, [Box(0, 0, 48, 40)])


def test_parts_hold_every_cell_once() -> None:
    cells = some_cells(GRID, 0.4, 1)
    parts = list(blocks_of(cells, GRID, 5))
    assert sorted(np.concatenate([part.which for part in parts]).tolist()) == list(range(len(cells)))
    for part in parts:
        row, col = np.divmod(part.inside, part.cells.width)
        assert np.array_equal((part.cells.y + row) * GRID.cols + part.cells.x + col, cells[part.which])
    assert list(blocks_of(np.zeros(0, np.int64), GRID, 5)) == []


# ---- as one function among others of autograd


def test_two_slides_and_a_shared_network_add_up() -> None:
    net, views = wide(), [Pixels(40, 48, seed) for seed in (1, 2)]
    whole = torch.cat([net(view.tensor())[0].reshape(-1) for view in views])
    expected = gradients(net, whole)
    blocks = torch.cat([logits_of(net, view) for view in views])
    for mine, theirs in zip(gradients(net, blocks), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_backward_twice_doubles_the_gradient_where_the_graph_is_kept() -> None:
    net, view = wide(), Pixels(40, 48)
    logits = logits_of(net, view)
    logits.square().sum().backward(retain_graph=True)
    once = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    logits.square().sum().backward()
    for p, first in zip(net.parameters(), once, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        logits.square().sum().backward()


def test_gradients_are_returned_and_not_left_behind() -> None:
    net, view = wide(), Pixels(40, 48)
    parameters = list(net.parameters())
    seen: list[int] = []
    parameters[0].register_hook(lambda grad: seen.append(1))
    returned = torch.autograd.grad(logits_of(net, view).square().sum(), parameters)
    assert all(p.grad is None for p in parameters)
    assert seen == [1], "hooks run once, on the sum over the blocks"
    expected = torch.autograd.grad(net(view.tensor()).square().sum(), parameters)
    for mine, theirs in zip(returned, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_frozen_parameters_are_left_alone() -> None:
    net, view = wide(), Pixels(40, 48)
    first = next(net.parameters()).requires_grad_(False)
    expected = gradients(net, net(view.tensor())[0].reshape(-1))
    for mine, theirs in zip(gradients(net, logits_of(net, view)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    assert first.grad is None
    assert not logits_of(net.requires_grad_(False), view).requires_grad


def test_parameters_that_change_between_the_passes_are_an_error() -> None:
    net, view = wide(), Pixels(40, 48)
    logits = logits_of(net, view)
    with torch.no_grad():
        next(net.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logits.sum().backward()


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    net, view = wide(), Pixels(40, 48)
    (grad, *_) = torch.autograd.grad(
        logits_of(net, view).square().sum(), list(net.parameters()), create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.square().sum().backward()


def test_clipping_sees_the_norm_of_the_whole() -> None:
    net, view = wide(), Pixels(40, 48)
    norms = []
    for logits in (net(view.tensor())[0].reshape(-1), logits_of(net, view)):
        net.zero_grad()
        logits.square().sum().backward()
        norms.append(float(nn.utils.clip_grad_norm_(net.parameters(), 1.0)))
    assert norms[0] == pytest.approx(norms[1], rel=1e-10)
    assert norms[0] > 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_holds_in_both_passes(device: str, dtype: torch.dtype) -> None:
    net, view = wide().float().to(device), Pixels(40, 48)
    seen: list[torch.dtype] = []
    net.body[0].register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast(device, dtype=dtype):
        logits = logits_of(net, view)
    mine = gradients(net, logits.float())
    assert seen == [dtype] * 18
    assert logits.dtype == torch.float32, "draws are refused where probabilities do not sum to 1"
    with torch.autocast(device, dtype=dtype):
        whole = net(view.tensor(torch.float32).to(device))[0].reshape(-1)
    for one, other in zip(mine, gradients(net, whole.float()), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.02 * float(other.abs().max()))
    torch.testing.assert_close(
        logits, whole.float(), rtol=0.05, atol=0.05 * float(whole.detach().abs().max())
    )


def test_what_is_computed_after_it_under_autocast_keeps_its_gradient() -> None:
    """Weights cast without a graph must not stay in autocast's cache: the gradient of the rest would be lost."""
    net, view = wide().float(), Pixels(40, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_of(net, view)
        after = net(view.tensor(torch.float32))
    assert all(float(grad.abs().max()) > 0 for grad in gradients(net, after.float()[0].reshape(-1)))


def test_no_activation_outlives_its_block() -> None:
    net, view = wide(), Pixels(40, 48)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watch(_: nn.Module, __: object, out: torch.Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(out))
        most = max(most, sum(ref() is not None for ref in alive))

    net.body[0].register_forward_hook(watch)
    logits = logits_of(net, view)
    assert sum(ref() is not None for ref in alive) == 0
    logits.sum().backward()
    assert len(alive) == 18
    assert most <= 2
    assert sum(ref() is not None for ref in alive) == 0


@pytest.mark.parametrize("device", DEVICES)
def test_float32_blocks_on_every_device(device: str) -> None:
    net, view = wide().float().to(device), Pixels(40, 48)
    torch.backends.cudnn.allow_tf32 = False
    blocks, whole = logits_of(net, view), net(view.tensor(torch.float32).to(device))[0].reshape(-1)
    torch.testing.assert_close(blocks, whole, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(gradients(net, blocks), gradients(net, whole), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


# ---- reading ahead


def test_one_is_read_ahead_and_no_more() -> None:
    read: list[int] = []
    for item, value in prefetch(lambda i: read.append(i) or -i, range(6)):
        assert value == -item
        assert len(read) <= item + 2
    assert read == list(range(6))
    assert list(prefetch(str, [])) == []


def test_an_error_of_reading_comes_where_its_item_would() -> None:
    ahead = prefetch(lambda i: 1 // (2 - i), range(5))
    assert [next(ahead)[0], next(ahead)[0]] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
