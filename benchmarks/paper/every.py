"""Features of every tile of a black picture, at about the price of ten: what full soft attention needs.

Only tiles that see one of a picture's few squares differ from an empty one. Their features are maxima over windows of
the feature network's last map, which is computed once around each square and shared by all tiles. Nothing is
approximated, as long as tiles start at multiples of the network's stride.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from paper.pictures import Batch, Scale, tiles_of
from torch.nn.functional import max_pool2d, normalize, pad

from wsi_ats.attention.receptive import reach_of
from wsi_ats.errors import ConfigError
from wsi_ats.features.scratch import PaperFeatures


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

    def __init__(self, net: PaperFeatures, scale: Scale, square: int, device: torch.device) -> None:
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
        starts = torch.from_numpy(scale.corners).view(scale.grid.rows, scale.grid.cols, 2) // self.step
        self.rows, self.cols = (s.contiguous().to(device) for s in (starts[:, 0, 1], starts[0, :, 0]))
        """Where the windows of the cells begin."""
        ends = [int(s[-1]) + self.window for s in (starts[:, 0, 1], starts[0, :, 0])]
        self.before = max(-int(starts.min()), self.sees // self.step) + 1
        self.extent = self.before + max(*ends, max(scale.height, scale.width) // self.step + self.reached) + 1
        """Map pixels before the picture's corner, and all in all, that windows and squares may reach."""

    def first(self, corners: torch.Tensor) -> torch.Tensor:
        """The first map pixel (x, y) that sees each square."""
        return -((self.sees - 1 - corners) // self.step)

    def near(self, first: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows, or columns, (..., n) of cells whose window meets the map of a square, and which n there are."""
        span = self.window + self.reached - 1
        places = torch.arange(len(starts), device=starts.device)
        most = int((torch.searchsorted(starts, starts + span) - places).max())
        at = torch.searchsorted(starts, first - self.window + 1)[..., None] + places[:most]
        there = at < len(starts)
        at = at.clamp(max=len(starts) - 1)
        return at, there & (starts[at] < first[..., None] + self.reached)

    def covered(self, firsts: torch.Tensor) -> torch.Tensor:
        """(B, K): whether all of a cell's window lies in maps of squares (B, P, 2): no part of it is empty."""
        along = torch.arange(self.reached, device=firsts.device) + self.before
        y, x = firsts[..., 1, None] + along, firsts[..., 0, None] + along
        which = torch.arange(len(firsts), device=firsts.device)[:, None, None, None]
        seen = torch.zeros(len(firsts), self.extent, self.extent, dtype=torch.int32, device=firsts.device)
        seen[which, y[..., :, None], x[..., None, :]] = 1
        total = seen.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
        top, left = self.rows[:, None] + self.before - 1, self.cols + self.before - 1
        bottom, right = top + self.window, left + self.window
        inside = total[:, bottom, right] - total[:, top, right] - total[:, bottom, left] + total[:, top, left]
        return (inside == self.window**2).flatten(1)


def every_tile(
    net: PaperFeatures, scale: Scale, batch: Batch, pixels: Callable[[torch.Tensor], torch.Tensor]
) -> Every:
    """Features of all tiles of black pictures; `pixels` makes the network's input (N, C, h, w) of (N, h, w, C)."""
    if batch.squares is None:
        raise ConfigError(
            "every tile is read at once only of pictures that are black but for a few squares",
            "use Megapixel MNIST, or another sampler than 'all'",
        )
    lattice = Lattice(net, scale, batch.square, batch.pixels.device)
    firsts = lattice.first(batch.squares)
    crops = tiles_of(batch.pixels, firsts * lattice.step, lattice.crop, scale.margin).flatten(0, 1)
    maps = net.maps(pixels(torch.cat([crops, torch.zeros_like(crops[:1])])))
    empty = maps[-1:, :, 0, 0]
    cells, places = _windows(lattice, firsts)
    windows = _maxima(maps[:-1], lattice.window).index_select(0, places)
    cells, which = cells.unique(return_inverse=True)
    found = windows.new_full((len(cells), windows.shape[1]), -torch.inf)
    found = found.scatter_reduce(0, which[:, None].expand_as(windows), windows, "amax")
    whole = lattice.covered(firsts).flatten()[cells, None]
    found = torch.where(whole, found, torch.maximum(found, empty))
    return Every(normalize(torch.cat([found, empty]), dim=1), cells)


def _maxima(maps: torch.Tensor, window: int) -> torch.Tensor:
    """(P * S * S, D) maxima over all S x S windows that meet each of the maps (P, D, n, n), S = n + window - 1."""
    open_ = pad(maps, (window - 1,) * 4, value=-torch.inf)
    best = max_pool2d(max_pool2d(open_, (window, 1), 1), (1, window), 1)
    return best.permute(0, 2, 3, 1).flatten(0, 2)


def _windows(lattice: Lattice, firsts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells that see a square (b * K + cell), once a square, and the rows of `_maxima` for them."""
    border, wide = lattice.window - 1, len(lattice.cols)
    size, k = lattice.reached + border, len(lattice.rows) * wide
    rows, near_y = lattice.near(firsts[..., 1], lattice.rows)
    cols, near_x = lattice.near(firsts[..., 0], lattice.cols)
    pictures = torch.arange(len(firsts), device=firsts.device)[:, None, None, None]
    squares = torch.arange(firsts[..., 0].numel(), device=firsts.device).view(*firsts.shape[:2], 1, 1)
    y = (lattice.rows[rows] - firsts[..., 1, None] + border)[..., :, None]
    x = (lattice.cols[cols] - firsts[..., 0, None] + border)[..., None, :]
    cells = pictures * k + rows[..., :, None] * wide + cols[..., None, :]
    places = (squares * size + y) * size + x
    near = near_y[..., :, None] & near_x[..., None, :]
    return cells[near], places[near]
