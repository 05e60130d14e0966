"""Estimators: from a few drawn tiles to the slide's summary Phi = sum_i a_i f_i, with gradients right on average.

Phi is linear in the attention `a` and in the features `f`. With detached weights w for which E[w_i 1{i in S}]
= 1, the sum of w_i a_i f_i over the draws is therefore unbiased for Phi and, through plain autograd, for its
gradients with respect to both: no custom backward pass is needed. The draws may come from another
distribution than `a` (an earlier attention, a tempered one, a mixture with the uniform): the weights carry
that, so that tiles can be read before the attention is known that they will be used with.

Model: Katharopoulos & Fleuret, "Processing Megapixel Images with Deep Attention-Sampling Models", ICML 2019.
The attention gradient of its code for sampling without replacement is biased (`tests/test_estimator.py` shows
it). Unbiased for Phi is not unbiased for the gradient of a non-linear loss of Phi: that gap is of order 1/N.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from wsi_ats.errors import ConfigError
from wsi_ats.sampling import Draws
from wsi_ats.sampling.draws import check_draws, check_tensor


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """A slide's summary, estimated from the drawn tiles, and what each of them counts for in it."""

    phi: Float[torch.Tensor, " D"]
    """Estimate of the slide's summary Phi, with its graph."""
    shares: Float[torch.Tensor, "*m N"]
    """Share of each drawn tile in phi: w_i a_i, or p_i of refined attention; of each of m models; detached."""
    log_mass: Float[torch.Tensor, "*m"]
    """Logarithm of what phi counts for among the summaries of other draws (`log_mass`): 0 for a plain one; detached."""

    def reweighted(
        self, factors: Float[torch.Tensor, "R N"], *, sums_to_one: bool
    ) -> Float[torch.Tensor, "R *m N"]:
        """The shares where the weights of the tiles are so many times what they are, R times; `sums_to_one`: what one
        tile loses the others have."""
        each = factors.to(self.shares).reshape(
            factors.shape[0], *[1] * (self.shares.ndim - 1), factors.shape[1]
        )
        shares = self.shares * each
        return shares / shares.sum(-1, keepdim=True) if sums_to_one else shares


def plain_summary(
    log_p: Float[torch.Tensor, " K"], draws: Draws, features: Float[torch.Tensor, "N D"], centre: bool = True
) -> Summary:
    """Attention sampling as published (ICML 2019): `expectation` of the features (N, D) under the attention.

    >>> log_p = torch.tensor([0.5, 0.25, 0.25]).log()
    >>> draws = Draws(torch.tensor([0, 2]), torch.tensor([1.0, 2.0]).log())
    >>> summary = plain_summary(log_p, draws, torch.tensor([[4.0, 0.0], [8.0, 1.0]]))
    >>> [round(x, 6) for x in summary.phi.tolist()], [round(x, 6) for x in summary.shares.tolist()]
    ([6.0, 0.5], [0.5, 0.5])
    """
    phi = expectation(log_p, draws, features, centre=centre)
    return Summary(phi, shares(log_p, draws).detach(), log_p.new_zeros(()))


def refined_summary(
    log_p: Float[torch.Tensor, " K"],
    draws: Draws,
    features: Float[torch.Tensor, "N D"],
    scores: Float[torch.Tensor, " N"],
    prior: float = 1.0,
) -> Summary:
    """Attention MIL (ICML 2018) from a few tiles: `refined_expectation` of the features (N, D) with their scores."""
    phi, p = refined_expectation(log_p, draws, features, scores, prior)
    return Summary(phi, p.detach(), log_mass(log_p, draws, scores, prior).detach())


def shares(log_p: Float[torch.Tensor, "*b K"], draws: Draws) -> Float[torch.Tensor, "*b N"]:
    """Shares sg(w_i) a_i (N,), float64: what each drawn tile counts for in Phi; the gradient flows to `log_p`.

    Multiplied in log space, where a huge weight and a tiny probability meet without overflow.
    """
    return _log_shares(log_p, draws).exp()


def expectation(
    log_p: Float[torch.Tensor, "*b K"],
    draws: Draws,
    features: Float[torch.Tensor, "*b N D"],
    centre: bool | Float[torch.Tensor, " D"] = True,
    normalise: bool = False,
) -> Float[torch.Tensor, "*b D"]:
    """The plain estimate Phi_hat (D,) = sum_S sg(w_i) a_i f_i, in the features' dtype.

    `features` (N, D) are those of `draws.cells`, in their order. `log_p` need not be what the draw was made from:
    the weights belong to the distribution that made it, which must have had mass wherever `log_p` has.

    Centring takes a constant c off every feature before it meets the gradient of `a`. That leaves the mean of
    the gradient alone (the probabilities' gradients sum to 0) and removes most of its noise where features
    share a mean:

    - True: c is the self-normalised estimate, detached, sum_S w_i a_i f_i / sum_S w_i a_i. The forward value is
      that of False, also where the shares w_i a_i do not sum to 1 (`gumbel-threshold`, `priority`, draws made
      from another distribution); with c in the forward value too, as for a tensor, it would change there.
    - a tensor (D,): c + sum_S w_i a_i (f_i - c), unbiased for every c that does not depend on the draw.
    - False: no centring.

    `normalise` divides by sum_S w_i a_i: less noise where that is not 1 anyway, for a bias of O(1/N). Such an
    estimate has its centring built in, and `centre` makes no difference. Raises `ConfigError` where there is not
    one feature a drawn cell.

    >>> from wsi_ats.sampling import systematic_at
    >>> log_p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    >>> features = torch.tensor([[4.0], [0.0], [8.0]])
    >>> for draws in (systematic_at(log_p, 2, u) for u in (0.25, 0.75)):  # both draws that there are
    ...     print(draws.cells.tolist(), expectation(log_p, draws, features[draws.cells]).tolist())
    [0, 1] [2.0]
    [0, 2] [6.0]
    >>> (log_p.exp().float() @ features).tolist()  # their mean is that of all tiles
    [4.0]
    """
    _check_rows(draws, features)
    log_share = _log_shares(log_p, draws)
    share = (torch.log_softmax(log_share, -1) if normalise else log_share).exp().to(features.dtype)
    if isinstance(centre, torch.Tensor):
        c = centre.detach().to(features)
        return c + _weighted(share, features - c)
    phi = _weighted(share, features)
    if not centre:
        return phi
    total = share.sum(-1, keepdim=True)
    c = (phi / total).detach()
    return phi - c * (total - total.detach())


def refined_expectation(
    log_p: Float[torch.Tensor, "*b K"],
    draws: Draws,
    features: Float[torch.Tensor, "*b N D"],
    scores: Float[torch.Tensor, "*b N"],
    prior: float = 1.0,
) -> tuple[Float[torch.Tensor, "*b D"], Float[torch.Tensor, "*b N"]]:
    """Phi (D,) refined: under p_i proportional to a_i^prior exp(scores_i); and p (N,) of the drawn cells (sum 1).

    The low resolution proposes, the full resolution decides: attention MIL (Ilse 2018) evaluated from a few
    tiles by self-normalised importance weights, p = softmax over S of log w_i + prior log a_i + scores_i. Bias
    O(1/N); with the sampler `all` and prior = 0 it is attention MIL over all tiles; with prior = 1 and all scores
    0 it is the self-normalised plain estimate. The gradient flows to `log_p`, `scores` and `features`. Raises
    `ConfigError` where there is not one feature a drawn cell.

    >>> from wsi_ats.sampling import every_cell
    >>> log_p = torch.tensor([0.5, 0.5]).log()
    >>> features, scores = torch.tensor([[0.0], [8.0]]), torch.tensor([1.0, 3.0]).log()
    >>> phi, p = refined_expectation(log_p, every_cell(log_p), features, scores)
    >>> [round(x, 4) for x in p.tolist()], round(phi.item(), 4)  # the second tile's score has it count for more
    ([0.25, 0.75], 6.0)
    """
    _check_rows(draws, features)
    check_tensor("scores", scores)
    p = torch.softmax(_log_shares(log_p, draws, prior) + scores, -1).to(features.dtype)
    return _weighted(p, features), p


def log_mass(
    log_p: Float[torch.Tensor, "*b K"], draws: Draws, scores: Float[torch.Tensor, "*b N"], prior: float = 1.0
) -> Float[torch.Tensor, "*b"]:
    """Mass log sum_S w_i a_i^prior exp(scores_i): what a draw's refined summary counts for among other draws'.

    The mean of several draws' summaries weighted by it is the summary of the pooled draws.
    """
    return (_log_shares(log_p, draws, prior) + scores).logsumexp(-1)


def attention_loss(
    log_p: Float[torch.Tensor, "*b K"], draws: Draws, p: Float[torch.Tensor, "*b N"]
) -> Float[torch.Tensor, "*b"]:
    """Cross-entropy - sum_S sg(p_i) log a_i: attention learns where the refined attention `p` (N,) was.

    Least where a is p; only `log_p` gets a gradient.
    """
    return -(p.detach() * log_p.gather(-1, draws.cells)).sum(-1)


def entropy_penalty(
    log_p: Float[torch.Tensor, "*b K"], log_opened: Float[torch.Tensor, "*b K"] | None = None
) -> Float[torch.Tensor, "*b"]:
    """Negative entropy sum_i a_i log(a_i + 1e-6): added to the loss with a positive strength, it spreads attention.

    log_opened (K,): log-weights of the cells' regions, where cells of drawn regions alone are known
    (`sampling.opened`); the sum over all cells is then estimated, without bias.
    """
    a = log_p.exp()
    terms = a * (a + 1e-6).log()
    return terms.sum(-1) if log_opened is None else (log_opened.exp() * terms).sum(-1)


def _log_shares(log_p: torch.Tensor, draws: Draws, power: float = 1.0) -> torch.Tensor:
    check_tensor("log_p", log_p)
    check_draws(draws)
    return draws.log_weights.detach() + power * log_p.gather(-1, draws.cells).to(draws.log_weights.dtype)


def _weighted(share: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return (share.unsqueeze(-2) @ features).squeeze(-2)


def _check_rows(draws: Draws, features: torch.Tensor) -> None:
    check_draws(draws)
    check_tensor("features", features)
    if features.shape[:-1] != draws.cells.shape:
        raise ConfigError(
            f"{features.shape[-2]} features for {draws.cells.shape[-1]} drawn cells",
            "pass one row for each of draws.cells, in that order",
        )
