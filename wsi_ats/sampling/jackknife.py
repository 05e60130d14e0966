"""The jackknife: independent draws of one slide, pooled for the answer: how far that answer may be off.

Each round r has its own summary Phi_r and mass m_r: sum_S w_i a_i^prior exp(u_i) of refined attention, 1 of plain. The
summary of the pooled draws is the mean of the Phi_r weighted by m_r, so that the answer without one of the rounds
costs next to nothing, and with it the jackknife's standard error (J. Tukey, 1958; not too small on average: B. Efron,
C. Stein, 1981). The spread of the rounds' own answers is no match for it where the full resolution decides: a round
that missed what matters has a confident answer of its own and next to no say in the pooled one.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float


def pooled_summary(
    summaries: Float[torch.Tensor, "R D"], log_masses: Float[torch.Tensor, " R"]
) -> Float[torch.Tensor, " D"]:
    """The summary (D,) of R rounds' pooled draws."""
    return torch.softmax(log_masses, 0).to(summaries.dtype) @ summaries


def leave_one_out(
    summaries: Float[torch.Tensor, "R D"], log_masses: Float[torch.Tensor, " R"]
) -> Float[torch.Tensor, "R D"]:
    """The pooled summaries (R, D), each without one of the R rounds; R at least 2."""
    others = log_masses.repeat(len(log_masses), 1).fill_diagonal_(-math.inf)
    return torch.softmax(others, 1).to(summaries.dtype) @ summaries


def jackknife(without: Float[torch.Tensor, "R V"]) -> Float[torch.Tensor, " V"]:
    """Standard error (V,) of values of the pooled draws, from the values without each of the R rounds, R at least 2.

    Of a mean over rounds it is their standard deviation / sqrt(R). It is itself uncertain, by a factor of about
    1 +- 1 / sqrt(2 (R - 1)).
    """
    rounds = len(without)
    stderr: torch.Tensor = without.std(0) * (rounds - 1) / rounds**0.5
    return stderr
