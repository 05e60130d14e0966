"""What attention sampling must beat, in the same harness.

Uniform sampling of tiles needs no code of its own: it is the model with a constant attention, log a_i = -log
K for every cell, drawn and pooled by the same sampler and estimator.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn

from wsi_ats.features import residual_trunk


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
