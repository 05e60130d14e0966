"""The refining score: what the full resolution thinks of a tile that the low resolution proposed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn


class RefiningScore(nn.Module):
    """u(f) = w^T tanh(V f): one score a feature, as in attention MIL (M. Ilse et al., ICML 2018, equation 8).

    Zero at the start, so that training begins as plain attention sampling.
    """

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.scale = dim**0.5  # brings the entries of unit vectors to order 1
        self.hidden = nn.Linear(dim, hidden)
        self.out = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, features: Float[torch.Tensor, "*b N dim"]) -> Float[torch.Tensor, "*b N"]:
        """Scores (N,) of features (N, D)."""
        scores: torch.Tensor = self.out(torch.tanh(self.hidden(self.scale * features)))
        return scores.squeeze(-1)
