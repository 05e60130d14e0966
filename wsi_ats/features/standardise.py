"""Features spread over the sphere before they are averaged.

The features of a network share a large common part (untrained: a mean cosine of .84 between tiles of synthetic slides),
and what tells tiles apart is a small remainder. Worse, at the start of training a slide's label is noise to almost
all of its tiles, and a network that may answer that noise by giving every tile the same vector does so: mean cosine
.999 after ten epochs, and nothing is ever learned from there. Taking off the mean and evening out the channels gives
score and head the remainder to learn from at once, and leaves the network nothing to gain from that collapse.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import nn
from torch.nn.functional import batch_norm, normalize

LEAST_VARIANCE = 1e-8
"""Channels that vary less than this are not blown up."""
MOMENTUM = 0.1
"""Weight of the newest batch in the running mean and variance."""


class Standardise(nn.Module):
    """Standardisation of features (N, D): f -> unit vector along (f - mean) / std, channel by channel.

    `mean` and `var` (D,) are set from a sample of tiles before training starts (data-dependent initialisation,
    P. Krähenbühl et al., ICLR 2016). While a network that learns is trained they are those of the batch of tiles,
    all slides together (batch normalisation, S. Ioffe, C. Szegedy, ICML 2015), and the stored ones follow, until they
    are set again before the weights are judged (`TrainingModule.on_validation_epoch_start`). At prediction, and always
    behind a frozen network, they are constants: a tile's vector depends on the tile alone.
    """

    mean: torch.Tensor
    var: torch.Tensor
    summed: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Sum over the processes that train together, with its gradient; None: this one has the whole batch."""

    def __init__(self, dim: int, *, follow: bool) -> None:
        super().__init__()
        self.follow = follow
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))

    @torch.no_grad()
    def fit(self, features: Float[torch.Tensor, "N dim"]) -> None:
        """Take mean and variance from N >= 2 features, of tiles drawn uniformly from the tissue of several slides."""
        self.mean.copy_(features.mean(0))
        self.var.copy_(features.var(0))

    def forward(self, features: Float[torch.Tensor, "N dim"]) -> Float[torch.Tensor, "N dim"]:
        """Unit vectors (N, D)."""
        from_batch = self.training and self.follow
        if from_batch and self.summed is not None:
            return normalize(self._of_all(features, self.summed), dim=1)
        from_batch = from_batch and len(features) > 1
        return normalize(
            batch_norm(features, self.mean, self.var, None, None, from_batch, MOMENTUM, LEAST_VARIANCE), dim=1
        )

    def _of_all(
        self, features: Float[torch.Tensor, "N dim"], summed: Callable[[torch.Tensor], torch.Tensor]
    ) -> Float[torch.Tensor, "N dim"]:
        """The same, by mean and variance of the tiles of all processes, of which this one has N."""
        sums = summed(torch.cat([features.sum(0), features.new_full((1,), len(features))]))
        count = sums[-1].detach()
        if count < 2:
            return batch_norm(features, self.mean, self.var, None, None, False, MOMENTUM, LEAST_VARIANCE)
        mean = sums[:-1] / count
        var = summed(((features - mean) ** 2).sum(0)) / count
        with torch.no_grad():
            self.mean.lerp_(mean, MOMENTUM)
            self.var.lerp_(var * count / (count - 1), MOMENTUM)
        return (features - mean) / (var + LEAST_VARIANCE).sqrt()
