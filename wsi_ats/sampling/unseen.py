"""The unseen: what a draw would weigh if there were more cells like one of its own that it missed.

The jackknife (`jackknife.py`) knows the spread that the drawn cells tell of. Where few cells decide, as a small lesion
does in refined attention, most draws of few cells miss what would have told of it: their spread is then too small.
Against that, each drawn cell in turn stands for `UNSEEN` cells that were not drawn, with its vector and its score, and
with as much attention as it has, but no more than any cell has that was not drawn. How far the answer moves is added to
how far its interval reaches (`tasks/spread.py`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64

from wsi_ats.sampling.draws import Draws

UNSEEN = 2
"""Cells like a drawn one that a draw may have missed: so many, that intervals cover what they say they do
(`benchmarks/coverage.py`)."""


def with_unseen(
    log_p: Float[torch.Tensor, " K"], draws: Draws, prior: float = 1.0
) -> Float64[torch.Tensor, "N N"]:
    """Factors (N, N) of the weights of a draw: those of row i if there were `UNSEEN` more cells like its i-th.

    prior: power of the attention that cells count with (`estimator.refined_expectation`).

    >>> log_p, draws = torch.tensor([0.5, 0.1, 0.4]).log(), Draws(torch.tensor([0, 1]), torch.tensor([1.0, 4.0]).log())
    >>> with_unseen(log_p, draws).tolist()  # a cell of .5 would have been drawn: the most is .4
    [[2.6..., 1.0], [1.0, 1.5]]
    """
    drawn = log_p.detach()[draws.cells].to(draws.log_weights)
    missed = torch.ones_like(log_p, dtype=torch.bool)
    missed[draws.cells] = False
    most = log_p.detach()[missed].to(drawn).amax() if missed.any() else drawn.amax()
    excess = prior * ((most - drawn).clamp(max=0.0)) - draws.log_weights
    return 1 + torch.diag(UNSEEN * excess.exp()).double()
