"""Exactly one of several classes a slide."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from wsi_ats.tasks.task import Task


class Classes(Task):
    """One logit a class, softmax, cross-entropy. Target: the index of the class."""

    def losses(self, outputs: Float[Tensor, "B O"], targets: Float[Tensor, "B 1"]) -> Float[Tensor, " B"]:
        """Cross-entropy."""
        known = ~targets[:, 0].isnan()
        return known * cross_entropy(outputs, targets[:, 0].nan_to_num().long(), reduction="none")

    def values(self, outputs: Float[Tensor, "*b O"]) -> Float[Tensor, "*b V"]:
        """Probabilities; they sum to 1."""
        return outputs.softmax(-1)
