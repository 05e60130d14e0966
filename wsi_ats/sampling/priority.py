"""Priority sampling: the largest a / u, with a threshold for weight."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int

from wsi_ats.sampling.draws import Draws


def priority_keys(
    log_p: Float64[torch.Tensor, "*b K"], u: Float64[torch.Tensor, "*b K"]
) -> Float64[torch.Tensor, "*b K"]:
    """Keys log(a / (1 - u)) (K,) of uniform numbers `u` in [0, 1)."""
    return log_p - torch.log1p(-u)


def priority_at(
    log_p: Float64[torch.Tensor, "*b K"],
    cells: Int[torch.Tensor, "*b N"],
    log_tau: Float64[torch.Tensor, "*b"],
) -> Draws:
    """Draws with weights max(a_i, tau) / a_i, tau the (N+1)-th largest a / u.

    Given the u of all other cells, a cell of the sample is in it with chance min(1, a_i / tau), which is why the
    weights are unbiased. sum_S w a is 1 on average only. N. Duffield, C. Lund, M. Thorup, "Priority sampling for
    estimation of arbitrary subset sums", J. ACM 54(6), 2007.
    """
    return Draws(cells, (log_tau.unsqueeze(-1) - log_p.gather(-1, cells)).clamp(min=0.0))
