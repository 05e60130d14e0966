"""Logits of a view of any size, in the memory of one block, with the exact gradient.

Pass 1 walks the view in blocks without a graph and keeps the logits of the cells that are asked for. Pass 2, inside
backward(), walks them again, computes each block once more with a graph and adds up its share of the parameters'
gradients: the chain rule, nothing is approximated. Each block carries the network's halo, and glass beyond the
view, so that logits and gradients are those of the view as a whole. To the caller it is one differentiable
function of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from wsi_ats.attention.networks import ConvAttention, PretrainedAttention
from wsi_ats.geometry import Box, Grid
from wsi_ats.lowres.stain_normalisation import StainTable
from wsi_ats.prefetch import prefetch
from wsi_ats.stopwatch import WAITING, noted

Read = Callable[[Box], UInt8[np.ndarray, "h w 3"]]
"""Pixels of a box, in view px, that lies inside the view."""
Source = Callable[[], AbstractContextManager[Read]]
"""Opens the view for reading: once for each of the two passes."""


@dataclass(frozen=True, slots=True)
class Block:
    """The cells of one block: their block in cells, their place in it and among all that are asked for."""

    cells: Box
    inside: Int64[np.ndarray, " n"]
    """Flat index of each cell within the block."""
    which: Int64[np.ndarray, " n"]
    """Position of each cell among the K that are asked for."""


def blocks_of(cells: Int64[np.ndarray, " K"], grid: Grid, side: int) -> Iterator[Block]:
    """Blocks of side x side cells (fewer at the far edges), row by row; those that hold no cell are left out."""
    if not len(cells):
        return
    row, col = np.divmod(cells, grid.cols)
    block = (row // side) * -(-grid.cols // side) + col // side
    order = np.argsort(block, kind="stable")
    starts = np.flatnonzero(np.diff(block[order], prepend=-1))
    for which in np.split(order, starts[1:]):
        y, x = int(row[which[0]]) // side * side, int(col[which[0]]) // side * side
        height, width = min(side, grid.rows - y), min(side, grid.cols - x)
        inside = (row[which] - y) * width + col[which] - x
        yield Block(Box(x, y, width, height), inside, which)


def surroundings(net: ConvAttention, grid: Grid, cells: Box) -> tuple[Box, tuple[int, int, int, int]]:
    """The view px that the network sees of a block of cells, its halo included: a box inside the view, and px of glass
    left, right, above and below it."""
    stride, (left, right, top, bottom) = net.stride, net.halo
    x0, y0 = cells.x * stride - left, cells.y * stride - top
    x1, y1 = (cells.x + cells.width) * stride + right, (cells.y + cells.height) * stride + bottom
    a, b = max(x0, 0), max(y0, 0)
    c, d = min(x1, grid.cols * stride), min(y1, grid.rows * stride)
    return Box(a, b, c - a, d - b), (a - x0, x1 - c, b - y0, y1 - d)


def cell_logits(
    net: ConvAttention,
    source: Source,
    grid: Grid,
    cells: Int64[np.ndarray, " K"],
    block: int,
    stain_table: StainTable | None = None,
) -> Float[Tensor, " K"]:
    """Logits (K,) of `cells` (flat, row * cols + col) of a view, differentiable in the network's parameters.

    block: side in view px; memory is that of one block and its halo (at least one cell). stain_table: what the network
    sees of each grey level; level / 255 if None. Blocks without a cell are neither read nor computed. The view is read
    again in backward(): `source` must give the same pixels then. Autocast is honoured in both passes. A view of one
    block is computed at once, with an ordinary graph.
    """
    blockwise = BlockwisePass(net, source, grid, cells, max(1, block // net.stride), stain_table)
    learning = {f"net.{name}": p for name, p in net.named_parameters() if p.requires_grad}
    if not torch.is_grad_enabled() or not learning:
        with torch.no_grad():
            return blockwise.logits()
    parts = list(blocks_of(cells, grid, blockwise.side))
    if len(parts) == 1:
        with noted(WAITING), source() as read:
            pixels = blockwise.pixels(read, parts[0])
        return blockwise.logits_of(parts[0], pixels)[_order(parts[0])]
    logits: Tensor = _TwoPasses.apply(blockwise, tuple(learning), *learning.values())  # type: ignore[no-untyped-call]
    return logits


@torch.no_grad()
def cell_channels(
    net: PretrainedAttention,
    source: Source,
    grid: Grid,
    cells: Int64[np.ndarray, " K"],
    block: int,
    stain_table: StainTable | None = None,
) -> Float[Tensor, "K d"]:
    """Channels (K, D) that the fixed body of a pretrained network makes of each cell; arguments as of `cell_logits`.

    `net.logits_from_channels` of them gives the logits, again and again while the head learns.
    """
    blockwise = BlockwisePass(net, source, grid, cells, max(1, block // net.stride), stain_table)
    out = blockwise.like.new_empty(len(cells), net.channels)
    with torch.autocast(out.device.type, enabled=False):  # they are kept for others
        for part, pixels in blockwise.blocks():
            seen = net.channels_of(blockwise.padded(part, pixels))[0].flatten(1).T.to(out.dtype)
            inside, which = (torch.from_numpy(i).to(out.device) for i in (part.inside, part.which))
            out[which] = seen[inside]
    return out


def single(logits: Float[Tensor, "*b K"]) -> Float[Tensor, "*b K"]:
    """Logits in float32 at least: probabilities of draws are not for half precision, in which they do not sum to 1."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


@dataclass(frozen=True, eq=False)
class BlockwisePass:
    """A pass through the blocks of a view."""

    net: ConvAttention
    source: Source
    grid: Grid
    cells: Int64[np.ndarray, " K"]
    side: int
    """Side of a block, in cells."""
    stain_table: StainTable | None = None

    def logits(self) -> Float[Tensor, " K"]:
        """Logits of all cells; no graph is kept where the caller has gradients switched off."""
        out: Tensor | None = None
        for part, pixels in self.blocks():
            logits = self.logits_of(part, pixels)
            if out is None:
                out = logits.new_empty(len(self.cells))
            out[torch.from_numpy(part.which).to(out.device)] = logits
        return torch.empty(0, device=self.like.device) if out is None else out

    def blocks(self, wanted: Callable[[Block], bool] = lambda _: True) -> Iterator[tuple[Block, np.ndarray]]:
        """Blocks with their pixels, the next one being read meanwhile."""
        with self.source() as read:
            chosen = (part for part in blocks_of(self.cells, self.grid, self.side) if wanted(part))
            yield from prefetch(lambda part: self.pixels(read, part), chosen)

    def pixels(self, read: Read, part: Block) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a block and of as much of its halo as lies inside the view."""
        return read(surroundings(self.net, self.grid, part.cells)[0])

    def logits_of(
        self, part: Block, pixels: UInt8[np.ndarray, "h w 3"], instead: dict[str, Tensor] | None = None
    ) -> Float[Tensor, " n"]:
        """Logits of the cells of a block; `instead`: stand-ins for parameters, by their name in `_Valid`."""
        logits: Tensor = functional_call(_Valid(self.net), instead or {}, (self.padded(part, pixels),))
        return single(logits.reshape(-1)[torch.from_numpy(part.inside).to(logits.device)])

    def padded(self, part: Block, pixels: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 y x"]:
        """Pixels as the network sees them, with glass where the halo lies outside the view."""
        pads = surroundings(self.net, self.grid, part.cells)[1]
        return F.pad(self.seen(pixels), pads, value=self.net.background)

    def seen(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
        """Pixels as the network sees them."""
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        if self.stain_table is None:
            return torch.from_numpy(planes)[None].to(self.like.device).to(self.like.dtype).div_(255)
        seen = np.stack([np.take(tone, plane) for tone, plane in zip(self.stain_table, planes, strict=True)])
        return torch.from_numpy(seen)[None].to(self.like)

    @property
    def like(self) -> Tensor:
        """A parameter of the network, for its device and dtype."""
        return next(self.net.parameters())


class _Valid(nn.Module):
    """A network whose call is `valid`, since `functional_call` calls."""

    def __init__(self, net: ConvAttention) -> None:
        super().__init__()
        self.net = net

    def forward(self, block: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b rows cols"]:
        return self.net.valid(block)


class _TwoPasses(torch.autograd.Function):
    """Parameters -> logits (K,). Keeps no activations: the way back goes through the blocks again."""

    @staticmethod
    def forward(ctx: Any, blockwise: BlockwisePass, names: tuple[str, ...], *parameters: Tensor) -> Tensor:
        ctx.blockwise, ctx.names = blockwise, names
        ctx.autocast = _autocast(parameters[0].device.type)
        ctx.save_for_backward(*parameters)
        with ctx.autocast():
            return blockwise.logits()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Stand-ins: hooks that the user has put on a parameter see the sum over the blocks alone.
        twins = [p.detach().requires_grad_() for p in ctx.saved_tensors]
        instead = dict(zip(ctx.names, twins, strict=True))
        sums = [torch.zeros_like(p) for p in twins]
        (grad,) = grads
        # One look at the whole vector: on a GPU, one transfer instead of one a block.
        matters = (grad != 0).cpu().numpy()
        for part, pixels in ctx.blockwise.blocks(lambda part: bool(matters[part.which].any())):
            with torch.enable_grad(), ctx.autocast():
                logits = ctx.blockwise.logits_of(part, pixels, instead)
            mine = grad[torch.from_numpy(part.which).to(grad.device)]
            for total, more in zip(sums, torch.autograd.grad(logits, twins, mine), strict=True):
                total += more
        return None, None, *sums


def _autocast(device: str) -> Callable[[], torch.autocast]:
    """The mixed precision of this moment, to be entered again in backward().

    Without its cache of weights: those cast in pass 1 have no graph, and what is computed later in the same region
    would silently get no gradient through them.
    """
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)


def _order(part: Block) -> Tensor:
    """The permutation from the order of a block's cells to that in which they were asked for."""
    return torch.from_numpy(np.argsort(part.which))
