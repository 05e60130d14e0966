"""Systematic sampling with unequal probabilities: the default."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int

from wsi_ats.sampling.draws import Draws
from wsi_ats.sampling.mass import mass_outside


def log_inclusion(log_p: Float64[torch.Tensor, "*b K"], n: int) -> Float64[torch.Tensor, "*b K"]:
    """Log-chances log pi (K,) of a fixed-size pi-ps design: pi_i = min(1, c a_i), sum pi = n, for n cells or more.

    Exact, by sorting: with the m heaviest cells certain, c = (n - m) / (mass of the others); m is right as
    soon as the heaviest of the others gets c a <= 1. That condition is monotone in m and needs only the n
    heaviest cells.
    """
    heavy, index = log_p.topk(n)
    outside = mass_outside(log_p, index)
    places = torch.arange(n, 0, -1, dtype=log_p.dtype, device=log_p.device).log()
    over = places + heavy - outside[..., :-1] > 0
    certain = over[..., :-1].sum(-1, keepdim=True)
    return (log_p + places[certain] - outside.gather(-1, certain)).clamp(max=0.0)


def systematic_at(
    log_p: Float64[torch.Tensor, "*b K"],
    n: int,
    u: float | Float64[torch.Tensor, "*b"],
    order: Int[torch.Tensor, "*b K"] | None = None,
) -> Draws:
    """Systematic draw at `u` in [0, 1): lay the pi_i end to end along `order`, take those at u, u + 1, ...

    Weights 1 / pi_i (`log_inclusion`); always exactly n distinct cells, ascending. Madow (1949). Cells with
    pi = 1 are taken at once and left out of the line: each holds exactly one of the points wherever it lies,
    so that the others are drawn just as if it were there.

    >>> log_p = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64).log()
    >>> [round(pi, 6) for pi in log_inclusion(log_p, 3).exp().tolist()]
    [1.0, 0.4, 0.4, 0.4, 0.4, 0.4]
    >>> [systematic_at(log_p, 3, u).cells.tolist() for u in (0.1, 0.5, 0.9)]
    [[0, 1, 3], [0, 2, 4], [0, 3, 5]]
    """
    log_pi = log_inclusion(log_p, n)
    along = log_pi if order is None else log_pi.gather(-1, order)
    start = torch.as_tensor(u, dtype=log_p.dtype, device=log_p.device).expand(log_p.shape[:-1])
    at, left = _places(along, n, start)
    if order is not None:
        at = order.gather(-1, at.clamp(max=order.shape[-1] - 1))
    return _marked(log_pi, at, left, n)


def _places(along: torch.Tensor, n: int, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(b, n) places along the line on which the points lie, and (b, 1) how many of them are to be taken."""
    certain = along == 0.0
    left = n - certain.sum(-1, keepdim=True)
    stretch = along.exp().masked_fill(certain, 0.0)
    point = torch.arange(n, device=along.device)
    at = torch.searchsorted(stretch.cumsum(-1), u.unsqueeze(-1) + point, right=True)
    # the same places counted among the cells that lie in the line, where none may be met twice
    rank = (~certain & (along > -math.inf)).cumsum(-1)
    before = torch.cat([torch.zeros_like(rank[..., :1]), rank], -1).gather(-1, at)
    return torch.searchsorted(rank, distinct(before, rank[..., -1:], left) + 1), left


def _marked(log_pi: torch.Tensor, at: torch.Tensor, left: torch.Tensor, n: int) -> Draws:
    """The certain cells and the first `left` of `at`, ascending."""
    k = log_pi.shape[-1]
    places = torch.arange(n, device=at.device).expand_as(at)
    slots = torch.nn.functional.pad(log_pi == 0.0, (0, 1))  # one more, for the points that are not taken
    taken = slots.scatter(-1, torch.where(places < left, at, k), True)[..., :k]
    cells = taken.nonzero()[:, -1].reshape(at.shape)
    return Draws(cells, -log_pi.gather(-1, cells))


def distinct(
    at: Int[torch.Tensor, "*b n"], size: Int[torch.Tensor, "*b 1"], left: Int[torch.Tensor, "*b 1"]
) -> Int[torch.Tensor, "*b n"]:
    """Ascending places made strictly increasing, the first `left` of them less than `size`, for left <= size.

    In exact arithmetic a systematic draw's places are so from the start; this undoes what rounding may do.
    """
    step = torch.arange(at.shape[-1], device=at.device)
    return torch.minimum((at - step).cummax(-1).values + step, step + size - left)
