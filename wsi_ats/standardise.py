"""Features spread over the sphere before they are averaged.

The features of a network share a large common part (untrained: a mean cosine of .84 between tiles of synthetic slides),
and what tells tiles apart is a small remainder. Taking off the mean and evening out the channels, once, before
training starts, gives score and head that remainder to learn from at once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn
from torch.nn.functional import normalize

LEAST = 1e-4
"""Channels that vary less than this are not blown up."""


class Standardise(nn.Module):
    """f -> unit vector along (f - mean) / std, channel by channel, with the figures of a sample of tiles.

    Data-dependent initialisation (P. Krähenbühl et al., ICLR 2016): `mean` and `std` (D,) are set once and saved
    with the model. They are constants, not statistics of a batch: a tile's vector depends on the tile alone.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @torch.no_grad()
    def calibrate(self, features: Float[torch.Tensor, "N dim"]) -> None:
        """Take the figures from N >= 2 features, of tiles drawn evenly from the tissue of several slides."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0).clamp(min=LEAST))

    def forward(self, features: Float[torch.Tensor, "N dim"]) -> Float[torch.Tensor, "N dim"]:
        """Unit vectors (N, D)."""
        return normalize((features - self.mean) / self.std, dim=1)
