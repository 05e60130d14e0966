"""The two small layers behind the features: the score that refines the attention, and the head of all tasks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from wsi_ats.errors import ConfigError


class Head(nn.Module):
    """A linear layer on `scale` times the summary; the outputs of several tasks stand one after the other.

    The summary is a mean of unit vectors, so its entries are small; the scale gives the layer inputs of order
    1 and with them usable gradients from the first step on. Being linear, its outputs split exactly over
    tiles.
    """

    def __init__(self, dim: int, outputs: int, scale: float = 8.0) -> None:
        super().__init__()
        if dim < 1 or outputs < 1 or not scale > 0:
            raise ConfigError(
                f"head with dim={dim}, outputs={outputs}, scale={scale}",
                "use dim >= 1, outputs >= 1 and scale > 0",
            )
        self.dim = dim
        self.outputs = outputs
        self.scale = scale
        self.linear = nn.Linear(dim, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, phi: Float[torch.Tensor, "*b dim"]) -> Float[torch.Tensor, "*b outputs"]:
        """Outputs (O,) or (B, O) of summaries (D,) or (B, D): of classes, their logits."""
        outputs: torch.Tensor = self.linear(self.scale * phi)
        return outputs

    def by_member(self, vectors: Float[torch.Tensor, "N dim"]) -> Float[torch.Tensor, "*m N outputs"]:
        """Outputs (O,) that each tile would have alone; with several heads, of each of them."""
        outputs: torch.Tensor = self(vectors)
        return outputs

    def summary(
        self, shares: Float[torch.Tensor, "*b N"], features: Float[torch.Tensor, "N dim"]
    ) -> Float[torch.Tensor, "*b dim"]:
        """Summaries (D,) of tiles of these vectors (N, D) and shares."""
        return shares.to(features) @ features

    def contributions(
        self, features: Float[torch.Tensor, "N dim"], shares: Float[torch.Tensor, " N"]
    ) -> Float[torch.Tensor, "N outputs"]:
        """Contributions (N, O) of each tile to the outputs; with the bias, they sum to those of sum_i shares_i f_i.

        `shares` (N,) are w_i a_i of plain sampling (`estimator.shares`) or p_i of refined attention.
        """
        scaled = self.scale * shares.to(features.dtype).unsqueeze(1) * features
        return scaled @ self.linear.weight.T


class RefiningScore(nn.Module):
    """The refining score u(f) = w^T tanh(V f), one a feature.

    It is zero at the start, so that training begins as plain attention sampling. Source: M. Ilse et al.,
    "Attention-based Deep Multiple Instance Learning", ICML 2018, equation 8.
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
