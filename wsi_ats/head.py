"""From the slide's summary to class scores."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from wsi_ats.errors import ConfigError


class ClassHead(nn.Module):
    """A linear classifier on `scale` times the summary.

    The summary is a mean of unit vectors, so its entries are small; the scale gives the layer inputs of order
    1 and with them usable gradients from the first step on. Being linear, its logits split exactly over
    tiles.
    """

    def __init__(self, dim: int, classes: int, scale: float = 8.0) -> None:
        super().__init__()
        if dim < 1 or classes < 2 or not scale > 0:
            raise ConfigError(
                f"class head with dim={dim}, classes={classes}, scale={scale}",
                "use dim >= 1, classes >= 2 and scale > 0",
            )
        self.dim = dim
        self.classes = classes
        self.scale = scale
        self.linear = nn.Linear(dim, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, phi: Float[torch.Tensor, "*b dim"]) -> Float[torch.Tensor, "*b classes"]:
        """Logits (C,) or (B, C) of summaries (D,) or (B, D)."""
        logits: torch.Tensor = self.linear(self.scale * phi)
        return logits

    def contributions(
        self, features: Float[torch.Tensor, "N dim"], shares: Float[torch.Tensor, " N"]
    ) -> Float[torch.Tensor, "N classes"]:
        """What each tile adds to the logits (N, C); with the bias, they sum to those of sum_i shares_i f_i.

        `shares` (N,) are w_i a_i of plain sampling (`estimator.shares`) or p_i of refined attention.
        """
        scaled = self.scale * shares.to(features.dtype).unsqueeze(1) * features
        return scaled @ self.linear.weight.T
