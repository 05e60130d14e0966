"""Feature networks trained with the model: a full-resolution tile -> a unit vector.

Unit length, because drawing tiles in proportion to attention gives the least noise when all features are
equally long (ICML 2019). No batch normalisation: the tiles of one batch come from few slides, chosen by an
attention that moves, and a tile's feature must not depend on the others that were drawn.

The pretrained network is `wsi_ats.mobilenet.MobileNetV1`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional as F


class PaperFeatures(nn.Module):
    """The paper's network for Megapixel MNIST: conv7 and three conv3 of 32 channels, ReLU, global maximum.

    Tiles (N, 3, h, w), RGB in [0, 1], h and w at least 13 px -> (N, 32), L2-normalised.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dim = 32
        self.frozen = False
        sizes = ((3, 7), (32, 3), (32, 3), (32, 3))
        layers = [part for n, k in sizes for part in (nn.Conv2d(n, self.dim, k), nn.ReLU())]
        self.layers = nn.Sequential(*layers)

    def forward(self, tiles: Float[torch.Tensor, "N 3 h w"]) -> Float[torch.Tensor, "N dim"]:
        """Features (N, dim) of unit length."""
        maps = self.layers((tiles - 0.5) / 0.25)
        return F.normalize(maps.amax((2, 3)), dim=1)


class SmallResNet(nn.Module):
    """A residual network (He et al., 2016) small enough to train on a laptop's processor.

    Tiles (N, 3, h, w), RGB in [0, 1] -> (N, dim), L2-normalised; `dim` = 4 * width. A strided stem takes the
    tile to a quarter of its size, then come three residual blocks of `width`, 2 * width and 4 * width
    channels with group normalisation, then the mean over the tile. About 15 million multiplications and
    additions a 64 px tile.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.dim = 4 * width
        self.frozen = False
        self.trunk = residual_trunk(width)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, tiles: Float[torch.Tensor, "N 3 h w"]) -> Float[torch.Tensor, "N dim"]:
        """Features (N, dim) of unit length."""
        maps = self.trunk((tiles.contiguous(memory_format=torch.channels_last) - 0.5) / 0.25)
        return F.normalize(maps.mean((2, 3)), dim=1)


def residual_trunk(width: int) -> nn.Sequential:
    """(N, 3, h, w) normalised pixels -> (N, 4 * width, h / 16, w / 16)."""
    return nn.Sequential(
        nn.Conv2d(3, width, 7, stride=4, padding=3),
        ResidualBlock(width, width, 1),
        ResidualBlock(width, 2 * width, 2),
        ResidualBlock(2 * width, 4 * width, 2),
    )


class ResidualBlock(nn.Module):
    """Pre-activation block (He et al., 2016b): x + conv(relu(norm(conv(relu(norm(x))))))."""

    def __init__(self, channels: int, out: int, stride: int, groups: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.norm2 = nn.GroupNorm(groups, out)
        reshape = channels != out or stride != 1
        self.short = nn.Conv2d(channels, out, 1, stride, bias=False) if reshape else nn.Identity()

    def forward(self, x: Float[torch.Tensor, "N c h w"]) -> Float[torch.Tensor, "N out r s"]:
        """The block's output (N, out, h / stride, w / stride)."""
        y = self.first(F.relu(self.norm1(x)))
        y = self.second(F.relu(self.norm2(y)))
        result: torch.Tensor = self.short(x) + y
        return result
