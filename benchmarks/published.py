"""The attention gradient of the code published with the paper, for sampling without replacement.

Written from its formula. It is not the gradient of anything: drawn without replacement, differentiated as if with.
`benchmarks/estimators.py` measures how far off it is, `benchmarks/paper` trains with it.
"""

from __future__ import annotations

import torch

from wsi_ats.sampling import Draws
from wsi_ats.sampling.mass import mass_outside


def published_gradient(log_p: torch.Tensor, cells: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """a_k dPhi/da_k (*b, N, D) of the cells (*b, N), in the order in which they were drawn.

    With m_k = 1 - sum_{j<k} a_j and E_k = sum_{j<k} a_j f_j + m_k f_k, dPhi/da_k is taken for
    (1/N) [ E_k m_k / a_k + sum_{j<k} f_j - (k - 1) f_k ].
    """
    n = cells.shape[-1]
    a, m = log_p.gather(-1, cells).exp()[..., None], mass_outside(log_p, cells)[..., :-1, None].exp()
    before = torch.arange(n, dtype=features.dtype, device=features.device)[:, None]
    value = (a * features).cumsum(-2) - a * features + m * features
    return (value * m + a * (features.cumsum(-2) - features - before * features)) / n


def published_expectation(log_p: torch.Tensor, draws: Draws, features: torch.Tensor) -> torch.Tensor:
    """Phi_hat (*b, D) of `gumbel` draws: its value and its gradient to the features, and the published one to log a."""
    own = log_p.gather(-1, draws.cells)
    share = (draws.log_weights + own.detach()).exp().to(features.dtype)
    slope = published_gradient(log_p.detach().double(), draws.cells, features.detach().double())
    moved = ((own - own.detach()).unsqueeze(-1) * slope.to(own.dtype)).sum(-2)  # 0, for its gradient alone
    return (share.unsqueeze(-2) @ features).squeeze(-2) + moved.to(features.dtype)
