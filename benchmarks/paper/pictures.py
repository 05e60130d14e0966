"""What the paper's tasks have in common: pictures with a label, seen whole in a small view and near by in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from wsi_ats.geometry import Grid


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels (height, width, C) uint8, and a label; outside of `squares`, if given, there is only background.

    `squares`: corners (P, 2), x and y, of squares of `square` px.
    """

    pixels: np.ndarray
    label: int
    squares: np.ndarray | None = None
    square: int = 0


class Pictures(Protocol):
    """Labelled pictures of one size. `background`: the grey value of what lies outside of them.

    `levels`: what 0 and 255 are to the networks, which take 0.5 for their zero.
    """

    classes: int
    channels: int
    background: int
    levels: tuple[float, float]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Picture: ...


@dataclass(frozen=True)
class Scale:
    """`view`: px of the view a picture px; `tile`: side of a tile, px; `step`: tiles start at multiples of it, px.

    A cell of the attention is one pixel of the view, and its tile lies on its centre. Steps of more than 1 px (the
    stride of the feature network) let neighbouring tiles share what the network computes.
    """

    height: int
    width: int
    view: float
    tile: int
    step: int = 1

    @cached_property
    def grid(self) -> Grid:
        rows, cols = round(self.height * self.view), round(self.width * self.view)
        return Grid(rows, cols, (self.width / cols, self.height / rows))

    @cached_property
    def corners(self) -> np.ndarray:
        """(K, 2) x and y of every cell's tile, perhaps outside the picture."""
        corners = self.grid.tile_corners(np.arange(len(self.grid)), (self.tile, self.tile))
        return corners // self.step * self.step

    @cached_property
    def order(self) -> torch.Tensor:
        """(K,) the cells along a Hilbert curve."""
        return torch.from_numpy(self.grid.hilbert_order(np.arange(len(self.grid))))

    @property
    def margin(self) -> int:
        """Px of background around a picture, so that every tile lies inside."""
        return self.tile + self.step

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of a picture with its margin."""
        return self.height + 2 * self.margin, self.width + 2 * self.margin


@dataclass(frozen=True, eq=False)
class Batch:
    """B pictures on the device that learns: `pixels` (B, *scale.canvas, C) uint8, margins included.

    `views` (B, C, rows, cols) float32, 0 to 255; `labels` (B,); `squares` (B, P, 2) if all pictures have them.
    """

    pixels: torch.Tensor
    views: torch.Tensor
    labels: torch.Tensor
    squares: torch.Tensor | None = None
    square: int = 0

    def __len__(self) -> int:
        return len(self.labels)


def views_of(pixels: torch.Tensor, scale: Scale) -> torch.Tensor:
    """(B, C, rows, cols) float32: the mean in each cell of pictures (B, *scale.canvas, C)."""
    m, grid = scale.margin, scale.grid
    inner = pixels[:, m:-m, m:-m].permute(0, 3, 1, 2)
    inner = inner.to(torch.float32, memory_format=torch.contiguous_format)
    return adaptive_avg_pool2d(inner, (grid.rows, grid.cols))


def tiles_of(pixels: torch.Tensor, corners: torch.Tensor, px: int, margin: int) -> torch.Tensor:
    """(B, N, px, px, C) uint8 at corners (B, N, 2), x and y, of pictures (B, H, W, C) with margins included."""
    along = torch.arange(margin, margin + px, device=pixels.device)
    y, x = corners[..., 1, None] + along, corners[..., 0, None] + along
    which = torch.arange(len(pixels), device=pixels.device)[:, None, None, None]
    return pixels[which, y[..., :, None], x[..., None, :]]


def squares_of(pictures: Sequence[Picture]) -> torch.Tensor | None:
    """(B, P, 2), if all pictures have squares."""
    known = [p.squares for p in pictures if p.squares is not None]
    return torch.from_numpy(np.stack(known)) if len(known) == len(pictures) else None
