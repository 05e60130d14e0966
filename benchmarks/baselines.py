"""What attention sampling must beat, in the same harness.

Uniform sampling of tiles needs no code of its own: it is the model with a constant attention, log a_i = -log
K for every cell, drawn and pooled by the same sampler and estimator (`sampling.uniform`). Full soft attention is the
model with the sampler `all`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from wsi_ats.errors import ConfigError
from wsi_ats.features.scratch import residual_trunk
from wsi_ats.head import Head, RefiningScore

POOLS = ("mean", "max", "attention", "gated")
"""How `AllTiles` makes a slide of its tiles."""


class DownsampledCNN(nn.Module):
    """Classifies the low-resolution view alone: what is known without reading any tile.

    Views (B, 3, H, W), RGB in [0, 1], of any size -> logits (B, classes). Mean AND maximum over the view go
    to the last layer, since a small lesion is lost in a mean.
    """

    def __init__(self, classes: int, width: int = 12) -> None:
        super().__init__()
        self.trunk = residual_trunk(width)
        self.linear = nn.Linear(16 * width, classes)

    def forward(self, view: Float[torch.Tensor, "b 3 h w"]) -> Float[torch.Tensor, "b classes"]:
        """Logits (B, classes)."""
        maps = self.trunk((view - 0.5) / 0.25)
        logits: torch.Tensor = self.linear(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))
        return logits


class AllTiles(nn.Module):
    """Multiple-instance learning on the features of every tissue tile: what reading everything is worth.

    `pool`: "mean"; "max" of each entry; "attention", sum a f with a = softmax(w^T tanh(V f)); "gated", with
    a = softmax(w^T [tanh(V f) * sigmoid(U f)]) (M. Ilse et al., "Attention-based Deep Multiple Instance Learning",
    ICML 2018, equations 4 to 9). Features (K, D) of unit length -> logits (classes,).
    """

    def __init__(self, dim: int, classes: int, pool: str, scale: float = 8.0) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(f"pool = {pool!r} is unknown", f"use one of {', '.join(POOLS)}")
        self.pool = pool
        self.head = Head(dim, classes, scale)
        scores = {"attention": RefiningScore, "gated": GatedScore}
        self.score = scores[pool](dim) if pool in scores else None

    def forward(self, features: Float[torch.Tensor, "K dim"]) -> Float[torch.Tensor, " classes"]:
        """Logits (classes,) of one slide."""
        logits: torch.Tensor = self.head(self._summary(features))
        return logits

    def _summary(self, features: Float[torch.Tensor, "K dim"]) -> Float[torch.Tensor, " dim"]:
        if self.pool == "max":
            return features.amax(0)
        if self.score is None:
            return features.mean(0)
        return torch.softmax(self.score(features), 0) @ features


class GatedScore(RefiningScore):
    """u(f) = w^T [tanh(V f) * sigmoid(U f)] (M. Ilse et al., ICML 2018, equation 9); zero at the start."""

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__(dim, hidden)
        self.gate = nn.Linear(dim, hidden)

    def forward(self, features: Float[torch.Tensor, "*b N dim"]) -> Float[torch.Tensor, "*b N"]:
        """Scores (N,) of features (N, D)."""
        scaled = self.scale * features
        scores: torch.Tensor = self.out(torch.tanh(self.hidden(scaled)) * torch.sigmoid(self.gate(scaled)))
        return scores.squeeze(-1)
