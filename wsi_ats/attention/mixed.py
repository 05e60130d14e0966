"""The mean of the attention of several models: a mixture, from which tiles are drawn that all of them answer from.

What any member attends to is drawn often enough for it: its weight w_i a_i is at most M times what it is in a draw of
its own. On two levels the attention of a cell is the mean of the members' products, and so of a region that of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from wsi_ats.attention.levels import SlideAttention, TwoLevelAttention


def mixed(parts: Sequence[SlideAttention]) -> SlideAttention:
    """The mean attention of models that look at the same slide in the same way."""
    first, *_ = parts
    if isinstance(first, TwoLevelAttention):
        return MixedTwoLevelAttention([part for part in parts if isinstance(part, TwoLevelAttention)])
    log_each = torch.stack([part.log_p for part in parts])
    return SlideAttention(first.slide, _mean(log_each), log_each)


class MixedTwoLevelAttention(TwoLevelAttention):
    """The mean of attentions of two levels, of which no region is open yet."""

    def __init__(self, parts: Sequence[TwoLevelAttention]) -> None:
        first, *_ = parts
        super().__init__(
            first.coarse,
            _mean(torch.stack([part.log_a for part in parts])),
            None,
            tiles_per_region=first.tiles_per_region,
            cache=first.cache,
        )
        self._parts = parts
        self.log_each = self.log_p.expand(len(parts), 0)

    def _attend_to(
        self, cells: Int64[np.ndarray, " K"], counts: Int64[Tensor, " r"], owners: Int64[Tensor, " K"]
    ) -> None:
        each = torch.stack([part.of_cells(cells, counts, owners) for part in self._parts])
        assert self.log_each is not None
        self.log_each = torch.cat([self.log_each, each], 1)
        self.log_p = torch.cat([self.log_p, _mean(each)])


def _mean(log_each: Float[Tensor, "M K"]) -> Float[Tensor, " K"]:
    return torch.logsumexp(log_each, 0) - math.log(len(log_each))
