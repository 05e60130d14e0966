"""The jackknife: the drawn tiles dealt out to rounds, and what the answer would be without each of them.

One draw of N cells is dealt out to R rounds. Of a cell's weight w a part (`loose`) goes with its round, the rest is
shared by all. With sqrt(1 - 1 / w), where 1 / w is the chance of the cell, cells that are always read are in every
round, and the variance that the rounds tell is that of a draw without replacement, sum_S (1 - 1 / w_i) e_i^2 of what
the tiles add (J. Hajek, "Asymptotic Theory of Rejective Sampling", 1964): it vanishes as the draw comes to hold every
cell. To shift a part of a weight instead of all of it is R. Fay's way ("Some Properties of Estimates of Variance Based
on Replication Methods", 1984); groups of a draw at random: K. Wolter, "Introduction to Variance Estimation", 2007.

The factors of the R replicates have 1 for their mean. The jackknife's standard error (J. Tukey, 1958) is taken of
whatever the replicates answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64

from wsi_ats.sampling.draws import Draws


def loose(log_p: Float[torch.Tensor, " K"], draws: Draws, *, chances: bool) -> Float64[torch.Tensor, " N"]:
    """Part (N,) of each drawn cell's weight that is not certain, 0 to 1.

    chances: whether weights are inverse chances of being drawn: sqrt(1 - 1 / w). Else, with n cells drawn, what it is
    with replacement, where a cell of share w a is drawn about n w a times: 1 / sqrt(n w a), 1 at most.

    >>> log_p, draws = torch.tensor([0.5, 0.1, 0.4]).log(), Draws(torch.tensor([0, 1]), torch.tensor([1.0, 4.0]).log())
    >>> [[round(x, 3) for x in loose(log_p, draws, chances=each).tolist()] for each in (True, False)]
    [[0.0, 0.866], [1.0, 1.0]]
    """
    if chances:
        return (-torch.expm1(-draws.log_weights.double())).clamp(min=0.0).sqrt()
    log_shares = draws.log_weights.double() + log_p.detach().double()[draws.cells]
    return (-(log_shares + math.log(len(draws))) / 2).clamp(max=0.0).exp()


def loose_pooled(
    draws: Sequence[Draws], parts: Sequence[Float[torch.Tensor, " _"]], pooled: Draws
) -> Float64[torch.Tensor, " N"]:
    """Part (N,) of each weight of the pooled draws that is not certain, from those of independent draws (`loose`).

    The squares of what is not certain add up: (sum_r (c_r w_r part_r)^2)^(1/2) / w, c_r being the share of the cells
    that draw r has, and w the pooled weight.

    >>> from wsi_ats.sampling import pool
    >>> one = Draws(torch.tensor([0, 1]), torch.tensor([2.0, 2.0]).log())
    >>> twice = pool([one, one])
    >>> [round(x, 4) for x in loose_pooled([one, one], [torch.ones(2)] * 2, twice).tolist()]  # the root of 1 / 2
    [0.7071, 0.7071]
    """
    total = sum(map(len, draws))
    squares = pooled.log_weights.new_zeros(len(pooled))
    for draw, part in zip(draws, parts, strict=True):
        at = torch.searchsorted(pooled.cells, draw.cells)
        share = (draw.log_weights + math.log(len(draw) / total) - pooled.log_weights[at]).exp()
        squares = squares.index_add(0, at, (share * part).to(squares).square())
    return squares.sqrt().clamp(max=1.0).double()


def without_each(
    draws: Draws,
    part: Float[torch.Tensor, " N"],
    rounds: int,
    *,
    generator: torch.Generator,
    clusters: Int64[torch.Tensor, " N"] | None = None,
) -> Float64[torch.Tensor, "R N"]:
    """Factors (R, N) of the weights of a draw without each of R rounds that it is dealt out to at random; none where
    fewer than two of its cells are loose.

    part (N,): how loose each is (`loose`). clusters (N,): cells of one number are dealt to one round, since they came
    by one chance. R is `rounds`, or the number of loose cells or clusters where that is less. Cells of the round lose
    the loose part of their weight, and the others make up for it.

    >>> draws = Draws(torch.tensor([0, 1, 2]), torch.tensor([1.0, 4.0, 4.0]).log())
    >>> every = without_each(draws, torch.tensor([0.0, 1.0, 1.0]), 8, generator=torch.Generator().manual_seed(0))
    >>> sorted(every.tolist())
    [[1.0, 0.0, 2.0], [1.0, 2.0, 0.0]]
    """
    which = part.nonzero()[:, 0]
    chosen = (draws.cells if clusters is None else clusters)[which]
    found, cluster = torch.unique(chosen, return_inverse=True)
    count = min(rounds, len(found))
    if count < 2:
        return part.new_empty(0, len(part)).double()
    owner = torch.full_like(draws.cells, -1)
    owner[which] = torch.randperm(len(found), generator=generator).to(which.device)[cluster] % count
    mine = owner == torch.arange(count, device=owner.device)[:, None]
    return (1 - part * (count * mine.to(part) - 1) / (count - 1)).clamp(min=0.0).double()


def jackknife(without: Float[torch.Tensor, "R V"]) -> Float[torch.Tensor, " V"]:
    """Standard error (V,) of values of the draw, from the values without each of the R rounds, R at least 2.

    Of a mean over rounds it is their standard deviation / sqrt(R). It is itself uncertain, by a factor of about
    1 +- 1 / sqrt(2 (R - 1)).
    """
    rounds = len(without)
    stderr: torch.Tensor = without.std(0) * (rounds - 1) / rounds**0.5
    return stderr
