"""The rules that the samplers of the catalogue draw by: log-probabilities and uniform numbers -> `Draws`.

Each sees a batch (B, K) of float64 log-probabilities that sum to 1, -inf where a slide has no cell, with more than n
cells of mass each, and answers `Draws` (B, n). All its randomness comes from u (B, M), uniform on [0, 1): one number a
slide, one a draw or one a cell, as its entry says. order (B, K): along which neighbours on the slide are neighbours.
"""

from __future__ import annotations

import math

import torch

from wsi_ats.sampling.draws import Draws, normalised
from wsi_ats.sampling.gumbel import des_raj, gumbel_keys, threshold_at
from wsi_ats.sampling.priority import priority_at, priority_keys
from wsi_ats.sampling.replacement import multinomial_at, picks_at
from wsi_ats.sampling.systematic import systematic_at
from wsi_ats.sampling.unordered import murthy


def systematic(log_p: torch.Tensor, n: int, u: torch.Tensor, order: torch.Tensor) -> Draws:
    """Systematic sampling: pi-ps, of fixed size (`systematic_at`)."""
    return systematic_at(log_p, n, u[:, 0], order)


def gumbel(log_p: torch.Tensor, n: int, u: torch.Tensor, order: torch.Tensor) -> Draws:
    """Gumbel top-n with Des Raj's weights (`des_raj`): the paper's draw without replacement."""
    return des_raj(log_p, gumbel_keys(log_p, u).topk(n).indices)


def unordered(log_p: torch.Tensor, n: int, u: torch.Tensor, order: torch.Tensor) -> Draws:
    """Gumbel top-n with Murthy's weights (`murthy`)."""
    return murthy(log_p, gumbel_keys(log_p, u).topk(n).indices.sort(-1).values)


def threshold(log_p: torch.Tensor, n: int, u: torch.Tensor, order: torch.Tensor) -> Draws:
    """Gumbel top-n with Kool's weights (`threshold_at`)."""
    keys, cells = gumbel_keys(log_p, u).topk(n + 1)
    return threshold_at(log_p, cells[:, :n], keys[:, n])


def threshold_normalised(log_p: torch.Tensor, n: int, u: torch.Tensor, order: torch.Tensor) -> Draws:
    """Gumbel top-n with Kool's weights, normalised so that their shares sum to 1."""
    return normalised(log_p, threshold(log_p, n, u, order))


def priority(log_p: torch.Tensor, n: int, u: torch.Tensor, order: torch.Tensor) -> Draws:
    """Priority sampling: the largest a / u (`priority_at`)."""
    keys, cells = priority_keys(log_p, u).topk(n + 1)
    return priority_at(log_p, cells[:, :n], keys[:, n])


def multinomial(log_p: torch.Tensor, n: int, u: torch.Tensor, order: torch.Tensor) -> Draws:
    """Independent draws with replacement (`multinomial_at`)."""
    return multinomial_at(log_p, picks_at(log_p, u[:, :n]))


def top(log_p: torch.Tensor, n: int, u: torch.Tensor, order: torch.Tensor) -> Draws:
    """The n cells with most attention, the first of equals; biased."""
    heavy, cells = (part[:, :n] for part in log_p.sort(stable=True, dim=-1, descending=True))
    return Draws(cells, -heavy.logsumexp(-1, keepdim=True).expand_as(heavy))


def every(log_p: torch.Tensor, n: int, u: torch.Tensor, order: torch.Tensor) -> Draws:
    """All cells that have mass, each with weight 1."""
    cells = torch.arange(log_p.shape[-1], device=log_p.device).expand(log_p.shape)
    return Draws(cells, torch.zeros_like(log_p).masked_fill(log_p == -math.inf, -math.inf))
