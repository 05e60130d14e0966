"""What the paper's tasks have in common: pictures with a label, seen whole in a small view and near by in tiles."""

from __future__ import annotations

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


@dataclass(frozen=True, eq=False)
class Example:
    """A picture, its view (C, rows, cols), 0 to 255, and its place in the data."""

    picture: Picture
    view: torch.Tensor
    index: int


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


class Examples(torch.utils.data.Dataset[Example]):
    """Pictures with their views."""

    def __init__(self, pictures: Pictures, scale: Scale) -> None:
        self.pictures, self.scale = pictures, scale

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Example:
        picture = self.pictures[index]
        return Example(picture, view_of(picture.pixels, self.scale.grid), index)


def view_of(picture: np.ndarray, grid: Grid) -> torch.Tensor:
    """(C, rows, cols) float32: the mean of the picture's pixels in each cell, 0 to 255."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)
    return adaptive_avg_pool2d(pixels.float(), (grid.rows, grid.cols))


def tiles_of(picture: np.ndarray, corners: np.ndarray, px: int, background: int) -> np.ndarray:
    """(N, px, px, C) uint8 at corners (N, 2), x and y; what lies outside the picture is `background`."""
    tiles = np.full((len(corners), px, px, picture.shape[2]), background, np.uint8)
    height, width = picture.shape[:2]
    for tile, (x, y) in zip(tiles, corners.tolist(), strict=True):
        left, top = max(x, 0), max(y, 0)
        seen = (
            picture[top : max(y + px, 0), left : max(x + px, 0)]
            if x < width and y < height
            else picture[:0, :0]
        )
        tile[top - y : top - y + seen.shape[0], left - x : left - x + seen.shape[1]] = seen
    return tiles
