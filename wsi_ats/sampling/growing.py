"""Draws that grow: each holds all cells of the one before, so that what was read for it is used again.

The largest is drawn first, and each smaller one from the next larger, as cells are from drawn regions (`nested.py`):
with w the weights of the larger draw, from w_i a_i, and the weights of both are multiplied. Each draw is therefore
unbiased where the sampler is; in a systematic one the chance of a cell is again min(1, c a_i), just as if it were drawn
from the slide at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from wsi_ats.sampling.draw import draw
from wsi_ats.sampling.draws import Draws


def draw_growing(
    log_p: Float[torch.Tensor, " K"],
    sizes: Sequence[int],
    sampler: str = "systematic",
    *,
    generator: torch.Generator,
    order: Int[torch.Tensor, " K"] | None = None,
) -> list[Draws]:
    """Draws of each of the ascending `sizes`, each within the next. Raises `ConfigError` as `draw` does.

    >>> from wsi_ats.sampling import generator_for
    >>> small, large = draw_growing(torch.full((100,), 0.01).log(), (5, 20), generator=generator_for(0, "a.svs"))
    >>> len(small), len(large), set(small.cells.tolist()) <= set(large.cells.tolist())
    (5, 20, True)
    >>> [round(float(draws.weights.sum())) for draws in (small, large)]
    [100, 100]
    """
    found = [draw(log_p, sizes[-1], sampler, generator=generator, order=order)]
    for n in reversed(sizes[:-1]):
        found.append(_thinned(log_p, found[-1], n, sampler, generator, order))
    return found[::-1]


def _thinned(
    log_p: torch.Tensor,
    draws: Draws,
    n: int,
    sampler: str,
    generator: torch.Generator,
    order: torch.Tensor | None,
) -> Draws:
    log_q = torch.log_softmax(log_p.detach()[draws.cells].to(draws.log_weights) + draws.log_weights, 0)
    along = None if order is None else _ranks(order)[draws.cells].argsort()
    inner = draw(log_q, n, sampler, generator=generator, order=along)
    return Draws(draws.cells[inner.cells], draws.log_weights[inner.cells] + inner.log_weights)


def _ranks(order: torch.Tensor) -> torch.Tensor:
    """Place of each cell in `order`."""
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks
