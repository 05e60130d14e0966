"""Murthy's estimator: the draw of the sampler `gumbel` with its order averaged out."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int

from wsi_ats.sampling.draws import Draws
from wsi_ats.sampling.mass import log_one_minus_exp_neg, mass_outside

_AT_ONCE = 1 << 24
"""Numbers held at a time (128 MiB)."""


def murthy(log_p: Float64[torch.Tensor, "*b K"], cells: Int[torch.Tensor, "*b N"]) -> Draws:
    """Draws with weights P^{D - i}(S - i) / P(S) of an unordered sample S drawn one by one, in proportion to a, from D.

    M. N. Murthy (1957); W. Kool, H. van Hoof, M. Welling, "Estimating Gradients for Discrete Random Variables by
    Sampling without Replacement", ICLR 2020. They are those of Des Raj averaged over all orders in which S can
    have come (Rao-Blackwell), so that no estimate is worse for it; sum_S w a = 1.

    P(S) = int_0^1 prod_S (1 - v^b_i) dv, b_i = a_i / (1 - sum_S a), and without its factor i that is
    P^{D - i}(S - i). With v = exp(-exp(y)) the integrand is log-concave in y, entire, and falls at least
    exponentially on both sides, so that the trapezoidal rule reaches the precision of float64.
    """
    n = cells.shape[-1]
    log_b = log_p.gather(-1, cells)
    log_b = log_b - mass_outside(log_p, cells)[..., -1:]
    y = _nodes(n).to(log_b.device)
    flat = log_b.reshape(-1, n)
    chunk = max(1, _AT_ONCE // (n * len(y)))
    weights = [_log_ratio(part, y) for part in torch.split(flat, chunk)]
    return Draws(cells, torch.cat(weights).reshape(log_b.shape) if len(flat) else log_b)


def _log_ratio(log_b: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(B, n) log of P^{D - i}(S - i) / P(S)."""
    factors = log_one_minus_exp_neg(log_b.unsqueeze(-1) + y)
    integrand = factors.sum(-2, keepdim=True) + (y - y.exp())
    return (integrand - factors).logsumexp(-1) - integrand.logsumexp(-1)


def _nodes(n: int) -> torch.Tensor:
    """Where the integrand counts, at steps of a fraction of its width, which is 1 / sqrt(n + 1) or more."""
    step = min(0.1, 0.6 / math.sqrt(n + 1))
    low, high = -40.0, math.log(n + 1.0) + math.log(45.0)
    return torch.arange(low, high, step, dtype=torch.float64)
