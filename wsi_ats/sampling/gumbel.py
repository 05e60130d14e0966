"""Sampling one by one without replacement, in proportion to a, all at once: the cells with the N largest log a + noise.

The noise is Gumbel's: G = -log(-log U). J. I. Yellott, 1977; W. Kool, H. van Hoof, M. Welling, "Stochastic Beams and
Where to Find Them", ICML 2019.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int

from wsi_ats.sampling.draws import Draws
from wsi_ats.sampling.mass import log_one_minus_exp_neg, mass_outside


def gumbel_keys(
    log_p: Float64[torch.Tensor, "*b K"], u: Float64[torch.Tensor, "*b K"]
) -> Float64[torch.Tensor, "*b K"]:
    """Keys log a + G (K,) of uniform numbers `u` in [0, 1); -inf for a cell without mass."""
    # u = 0 would make infinite noise, and NaN of it for a cell without mass
    return log_p - (-torch.log1p(-u.clamp(min=2.0**-54))).log()


def des_raj(log_p: Float64[torch.Tensor, "*b K"], ordered: Int[torch.Tensor, "*b N"]) -> Draws:
    """Draws with Des Raj's weights (1956) of an ORDERED sample, drawn one by one without replacement from a.

    With m_k = 1 - sum_{j<k} a_j the mass that was left: w_k = [ (N - k) + m_k / a_k ] / N, k = 1 .. N. The
    forward value is that of the paper's sampling without replacement (ICML 2019). sum_S w a = 1.
    """
    n = ordered.shape[-1]
    left = mass_outside(log_p, ordered)[..., :-1]
    later = torch.arange(n - 1, -1, -1, dtype=log_p.dtype, device=log_p.device).log()
    own = left - log_p.gather(-1, ordered)
    return Draws(ordered, torch.logaddexp(later.expand_as(own), own) - math.log(n))


def threshold_at(
    log_p: Float64[torch.Tensor, "*b K"],
    cells: Int[torch.Tensor, "*b N"],
    kappa: Float64[torch.Tensor, "*b"],
) -> Draws:
    """Draws with weights 1 / q_i, q_i = 1 - exp(-exp(log a_i - kappa)): the chance of log a_i + G_i above `kappa`.

    `kappa` is the (N+1)-th largest log a + G. Given the noise of all other cells, a cell of the sample is in it
    with chance q_i, which is why the weights are unbiased. sum_S w a is 1 on average only. Kool et al., 2019,
    after Vieira, "Estimating means in a finite universe", 2017.
    """
    return Draws(cells, -log_one_minus_exp_neg(log_p.gather(-1, cells) - kappa.unsqueeze(-1)))
