"""Features of every tile of a black picture, at about the price of ten: what full soft attention needs.

Only tiles that see one of a picture's few squares differ from an empty one. Their features are maxima over windows of
the feature network's last map, which is computed once around each square and shared by all tiles. Nothing is
approximated, as long as tiles start at multiples of the network's stride.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from paper.pictures import Picture, Scale, tiles_of
from torch.nn.functional import max_pool2d, normalize, pad

from wsi_ats.errors import ConfigError
from wsi_ats.features import PaperFeatures
from wsi_ats.receptive import reach_of


@dataclass(frozen=True)
class Every:
    """Distinct features (M + 1, D) of the tiles of B pictures, the last one that of an empty tile.

    `cells` (M,): b * K + cell of the others, ascending. All cells that are not among them are empty.
    """

    features: torch.Tensor
    cells: torch.Tensor

    def expectation(self, log_p: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """sum_i a_i f_i (B, D), exactly, for log a (B, K); `features` (M + 1, D) are made of the distinct ones."""
        a = log_p.exp()
        empty = a.flatten().index_fill(0, self.cells, 0.0).view_as(a).sum(1)
        shown = a.flatten()[self.cells, None] * features[:-1]
        return (empty[:, None] * features[-1]).index_add(0, self.cells // a.shape[1], shown)


class Lattice:
    """The pixels of the feature network's last map, one every `step` px of the picture, counted from its corner."""

    def __init__(self, net: PaperFeatures, scale: Scale, square: int) -> None:
        reach = reach_of(net.layers)
        self.step, self.sees = reach.step[0], reach.size[0]
        if scale.step % self.step:
            raise ConfigError(
                f"tiles start at multiples of {scale.step} px, and the feature network takes steps of {self.step} px",
                "let the network's stride divide the tiles' step",
            )
        self.window = (scale.tile - self.sees) // self.step + 1
        """Map pixels of a tile, along an axis."""
        self.reached = (square + self.sees - 2) // self.step + 1
        """Map pixels that may see a square."""
        self.crop = self.step * (self.reached - 1) + self.sees
        """What these see, in px."""
        starts = scale.corners.reshape(scale.grid.rows, scale.grid.cols, 2) // self.step
        self.rows, self.cols = starts[:, 0, 1], starts[0, :, 0]
        """Where the windows of the cells begin."""

    def first(self, corners: np.ndarray) -> np.ndarray:
        """The first map pixel (x, y) that sees each square."""
        return -((self.sees - 1 - corners) // self.step)

    def near(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows (R, 1) and columns (1, C) of the cells whose window meets the map of a square."""
        x, y = first.tolist()
        rows, cols = (
            np.arange(*np.searchsorted(starts, (at - self.window + 1, at + self.reached)))
            for starts, at in ((self.rows, y), (self.cols, x))
        )
        return rows[:, None], cols[None]

    def covered(self, firsts: np.ndarray) -> np.ndarray:
        """(rows, cols): whether all of a cell's window lies in maps of squares: no part of it is empty."""
        least = min(self.rows[0], self.cols[0], firsts.min())
        most = max(self.rows[-1] + self.window, self.cols[-1] + self.window, firsts.max() + self.reached)
        seen = np.zeros((most - least + 1,) * 2, np.int32)
        for x, y in firsts - least + 1:
            seen[y : y + self.reached, x : x + self.reached] = 1
        total = seen.cumsum(0).cumsum(1)
        top, left = self.rows[:, None] - least, self.cols[None] - least
        bottom, right = top + self.window, left + self.window
        inside = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
        return np.asarray(inside == self.window**2)


def every_tile(
    net: PaperFeatures,
    scale: Scale,
    pictures: Sequence[Picture],
    pixels: Callable[[np.ndarray], torch.Tensor],
) -> Every:
    """Features of all tiles of black pictures; `pixels` makes the network's input (N, C, h, w) of (N, h, w, C)."""
    if any(p.squares is None for p in pictures):
        raise ConfigError(
            "every tile is read at once only of pictures that are black but for a few squares",
            "use Megapixel MNIST, or another sampler than 'all'",
        )
    lattice = Lattice(net, scale, pictures[0].square)
    firsts = [lattice.first(p.squares) for p in pictures]
    crops = [
        tiles_of(p.pixels, f * lattice.step, lattice.crop, 0) for p, f in zip(pictures, firsts, strict=True)
    ]
    maps = net.maps(pixels(np.concatenate(crops)))
    empty = net.maps(pixels(np.zeros_like(crops[0][:1])))[..., 0, 0]
    cells, places, covered = _windows(lattice, firsts)
    windows = _maxima(maps, lattice.window)[torch.from_numpy(places).to(maps.device)]
    cells, which = np.unique(cells, return_inverse=True)
    index = torch.from_numpy(which).to(maps.device)[:, None].expand_as(windows)
    found = windows.new_full((len(cells), windows.shape[1]), -torch.inf)
    found = found.scatter_reduce(0, index, windows, "amax")
    whole = torch.from_numpy(covered.reshape(-1)[cells]).to(maps.device)[:, None]
    found = torch.where(whole, found, torch.maximum(found, empty))
    return Every(normalize(torch.cat([found, empty]), dim=1), torch.from_numpy(cells).to(maps.device))


def _maxima(maps: torch.Tensor, window: int) -> torch.Tensor:
    """(P * S * S, D) maxima over all S x S windows that meet each of the maps (P, D, n, n), S = n + window - 1."""
    open_ = pad(maps, (window - 1,) * 4, value=-torch.inf)
    best = max_pool2d(max_pool2d(open_, (window, 1), 1), (1, window), 1)
    return best.permute(0, 2, 3, 1).flatten(0, 2)


def _windows(lattice: Lattice, firsts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells that see a square (b * K + cell), once a square; the rows of `_maxima` for them; what is `covered`."""
    wide, border = len(lattice.cols), lattice.window - 1
    size, k = lattice.reached + border, len(lattice.rows) * wide
    cells, places = [], []
    squares = [(b, x) for b, first in enumerate(firsts) for x in first]
    for square, (b, first) in enumerate(squares):
        rows, cols = lattice.near(first)
        cells.append((b * k + rows * wide + cols).ravel())
        y, x = lattice.rows[rows] - first[1] + border, lattice.cols[cols] - first[0] + border
        places.append(((square * size + y) * size + x).ravel())
    covered = np.stack([lattice.covered(first) for first in firsts])
    return np.concatenate(cells), np.concatenate(places), covered
