"""Sums of probabilities in log space."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int


def mass_outside(
    log_p: Float64[torch.Tensor, "*b K"], ordered: Int[torch.Tensor, "*b n"]
) -> Float64[torch.Tensor, "*b n_and_1"]:
    """Log of the mass outside the first 0, 1, ..., n cells of `ordered`, (n + 1,).

    Summed up from the light end: subtracting from 1 instead loses everything once attention has collapsed.
    """
    rest = log_p.scatter(-1, ordered, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, ordered), rest], -1).flip(-1).logcumsumexp(-1).flip(-1)


def log_one_minus_exp_neg(x: Float64[torch.Tensor, "*s"]) -> Float64[torch.Tensor, "*s"]:
    """The function log(1 - exp(-exp(x))), which is x itself for small x and 0 for large."""
    return torch.where(x < -37.0, x, (-torch.expm1(-x.exp())).log())
