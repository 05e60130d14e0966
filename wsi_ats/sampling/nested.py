"""Nested sampling, two draws in a row: regions of the slide, then cells inside those that were drawn.

Source: F. Kong, R. Henao, "Efficient Classification of Very Large Images with Tiny Objects", CVPR 2022: cell j of
region i has attention a_ij = a_i a_{j|i}, and the weights of the two draws are multiplied. They draw so many cells in
each region. Here the cells of all drawn regions are drawn together, from

    q_ij = w_i a_ij / sum of w_i a_i over the drawn regions,

w_i being the weights of the regions, and v_ij those of this second draw: the weight of a cell is w_i v_ij. Given the
regions, E[v_ij 1{ij drawn}] = 1 for the cells in them; so E[w_i v_ij 1{ij drawn}] = E[w_i 1{i drawn}] = 1. Where the
shares of both draws sum to 1, so do those of the two together. A region gets cells in proportion to its share, and
cells that are not certain have equal shares: less noise than from as many cells in every region
(`tests/sampling/test_nested.py`).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64, Int

from wsi_ats.sampling.draw import draw
from wsi_ats.sampling.draws import Draws


def draw_nested(
    log_p: Float[torch.Tensor, " K"],
    owners: Int[torch.Tensor, " K"],
    regions: Draws,
    n: int,
    sampler: str = "systematic",
    *,
    generator: torch.Generator,
    order: Int[torch.Tensor, " K"] | None = None,
) -> Draws:
    """Draws of `n` of the cells in the drawn `regions`; where no more have any mass, all of those.

    log_p (K,): log a_i + log a_{j|i} of cells, those of all drawn regions among them. owners (K,): the region of each
    cell, as `regions.cells` counts them. The draws index into log_p. Raises `ConfigError` as `draw` does.
    """
    log_opened = opened(owners, regions)
    inner = draw(within_regions(log_p, log_opened), n, sampler, generator=generator, order=order)
    return through(inner, log_opened)


def opened(owners: Int[torch.Tensor, " K"], regions: Draws) -> Float64[torch.Tensor, " K"]:
    """Log-weight log w_i (K,) of each cell's region; -inf for cells of regions that were not drawn."""
    last = int(torch.cat([owners, regions.cells]).max())
    log_w = regions.log_weights.new_full((last + 1,), -math.inf)
    log_w[regions.cells] = regions.log_weights
    return log_w[owners]


def within_regions(
    log_p: Float[torch.Tensor, " K"], log_opened: Float64[torch.Tensor, " K"]
) -> Float64[torch.Tensor, " K"]:
    """Log-probabilities log q (K,) that cells are drawn from once their regions are."""
    return torch.log_softmax(log_p.detach() + log_opened, 0)


def through(inner: Draws, log_opened: Float64[torch.Tensor, " K"]) -> Draws:
    """Draws of the inner cells with the weights of both draws multiplied."""
    return Draws(inner.cells, inner.log_weights + log_opened[inner.cells])
