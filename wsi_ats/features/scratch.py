"""Feature networks trained with the model: a full-resolution tile -> a unit vector.

Unit length, because drawing tiles in proportion to attention gives the least noise when all features are
equally long (ICML 2019). No batch normalisation: the tiles of one batch come from few slides, chosen by an
attention that moves, and a tile's feature must not depend on the others that were drawn.

They take tiles of any size and mpp (`input_px` and `mpp` are None). Pretrained networks are in
the other modules of `wsi_ats.features`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional as F


class PaperFeatures(nn.Module):
    """The paper's network for Megapixel MNIST: conv7 and three conv3 of 32 channels, ReLU, global maximum.

    Tiles (N, 3, h, w), RGB in [0, 1], h and w at least 13 px -> (N, 32), L2-normalised. `channels` is 1 for grey
    pictures; the first layer takes steps of `stride` px, and tiles are then at least 7 + 6 * stride px.
    """

    def __init__(self, channels: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.dim = 32
        self.frozen = False
        self.input_px: int | None = None
        self.mpp: tuple[float, ...] | None = None
        first = nn.Conv2d(channels, self.dim, 7, stride)
        others = [part for _ in range(3) for part in (nn.Conv2d(self.dim, self.dim, 3), nn.ReLU())]
        self.layers = nn.Sequential(first, nn.ReLU(), *others)

    def forward(self, tiles: Float[torch.Tensor, "N c h w"]) -> Float[torch.Tensor, "N dim"]:
        """Features (N, dim) of unit length."""
        return F.normalize(self.maps(tiles).amax((2, 3)), dim=1)

    def maps(self, tiles: Float[torch.Tensor, "N c h w"]) -> Float[torch.Tensor, "N dim y x"]:
        """Maps (N, 32, h', w') of the last layer, of which the maximum is taken."""
        maps: torch.Tensor = self.layers((tiles - 0.5) / 0.25)
        return maps


class SmallResNet(nn.Module):
    """A residual network (He et al., 2016) small enough to train on a laptop's processor.

    Tiles (N, 3, h, w), RGB in [0, 1], at least 16 px -> (N, dim), L2-normalised; `dim` = 8 * width. The
    features are the trunk's mean over the tile. 6.4 million multiply-adds for a tile of 64 px at the default
    width.

    Every tile's mean colour is taken off first: stain and scanner shift it from slide to slide. On real colon
    tiles with jittered stain, that took the AUC after one pass over 1,200 tiles from about .6 to .8.
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.dim = 8 * width
        self.frozen = False
        self.input_px: int | None = None
        self.mpp: tuple[float, ...] | None = None
        self.trunk = residual_trunk(width)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, tiles: Float[torch.Tensor, "N 3 h w"]) -> Float[torch.Tensor, "N dim"]:
        """Features (N, dim) of unit length."""
        tiles = tiles.contiguous(memory_format=torch.channels_last)
        maps = self.trunk((tiles - tiles.mean((2, 3), keepdim=True)) / 0.2)
        return F.normalize(maps.mean((2, 3)), dim=1)


def residual_trunk(width: int, groups: int = 4) -> nn.Sequential:
    """Convolutions: scaled pixels (N, 3, h, w) -> maps (N, 8 * width, h / 16, w / 16), not negative.

    A 3x3 stem and three blocks, each halving the tile and doubling the channels. A coarser stem (7x7, stride 4)
    of the same cost saw hardly anything of nuclei after eight passes over real tiles, where this one was done.
    Weights after He et al. (2015): they learn at learning rates at which PyTorch's smaller ones do not.
    """
    trunk = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1),
        ResidualBlock(width, 2 * width, 2, groups),
        ResidualBlock(2 * width, 4 * width, 2, groups),
        ResidualBlock(4 * width, 8 * width, 2, groups),
        nn.GroupNorm(groups, 8 * width),
        nn.ReLU(),
    )
    for layer in trunk.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return trunk


class ResidualBlock(nn.Module):
    """Pre-activation block (He et al., 2016b): x + conv(relu(norm(conv(relu(norm(x))))))."""

    def __init__(self, channels: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.norm2 = nn.GroupNorm(groups, out)
        reshape = channels != out or stride != 1
        self.short = nn.Conv2d(channels, out, 1, bias=False) if reshape else nn.Identity()

    def forward(self, x: Float[torch.Tensor, "N c h w"]) -> Float[torch.Tensor, "N out r s"]:
        """Output (N, out, h / stride, w / stride) of the block."""
        y = self.first(F.relu(self.norm1(x)))
        y = self.second(F.relu(self.norm2(y)))
        # The stride is taken before the 1x1 convolution, not by it: with fewer than 16 channels and large tiles, the
        # gradient of a strided one crashes the process (torch 2.13 on processors with AVX-512).
        result: torch.Tensor = self.short(x[..., :: self.stride, :: self.stride]) + y
        return result
