"""Random changes in training of what the networks see, so that they do not learn slides by heart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def turned(tiles: Float[Tensor, "N 3 h h"], generator: torch.Generator) -> Float[Tensor, "N 3 h h"]:
    """Tiles (N, 3, h, h), each flipped and turned by one of the eight symmetries of the square: tissue has no up."""
    which = torch.randint(8, (len(tiles),), generator=generator)
    out = torch.empty_like(tiles)
    for symmetry in range(8):
        mine = (which == symmetry).nonzero()[:, 0].to(tiles.device)
        rotated = torch.rot90(tiles[mine], symmetry % 4, (2, 3))
        out[mine] = rotated.flip(3) if symmetry >= 4 else rotated
    return out


def bag_shift(
    vectors: Float[Tensor, "N D"], length: float, generator: torch.Generator
) -> Float[Tensor, "N D"]:
    """Tile vectors (N, D) of a slide, all moved by one random vector of about `length`, as stain and scanner do."""
    drawn = torch.randn(vectors.shape[1], generator=generator).to(vectors)
    return vectors + length * drawn.div(vectors.shape[1] ** 0.5)
