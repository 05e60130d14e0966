"""Independent draws with replacement: the first scheme of the paper (ICML 2019)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int

from wsi_ats.sampling.draws import Draws


def multinomial_at(log_p: Float64[torch.Tensor, "*b K"], picks: Int[torch.Tensor, "*b N"]) -> Draws:
    """Draws with weights count_i / (N a_i) of N independent picks; a cell drawn twice is read once. Cells ascend.

    The second and later places of a cell are empty: log-weight -inf (Hansen and Hurwitz, 1943).
    """
    cells = picks.sort(-1).values
    ones = torch.ones_like(cells)
    counts = torch.zeros(log_p.shape, dtype=ones.dtype, device=log_p.device).scatter_add(-1, cells, ones)
    log_w = counts.gather(-1, cells).to(log_p.dtype).log() - math.log(picks.shape[-1])
    again = torch.zeros_like(cells, dtype=torch.bool)
    again[..., 1:] = cells[..., 1:] == cells[..., :-1]
    return Draws(cells, (log_w - log_p.gather(-1, cells)).masked_fill(again, -math.inf))


def picks_at(
    log_p: Float64[torch.Tensor, "*b K"], u: Float64[torch.Tensor, "*b N"]
) -> Int[torch.Tensor, "*b N"]:
    """The cells (N,) that `u` in [0, 1) fall on when cells are laid end to end, each as long as its a."""
    ends = log_p.exp().cumsum(-1)
    # where rounding takes u * total up to the total itself, the last cell with mass is meant
    points = torch.minimum(
        u * ends[..., -1:], torch.nextafter(ends[..., -1:], torch.zeros_like(ends[..., -1:]))
    )
    return torch.searchsorted(ends, points, right=True)
