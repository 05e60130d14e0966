"""Draw a few grid cells from an attention distribution, with the weights that keep estimates honest.

Every sampler answers `Draws`: the cells S to read and weights w. Where the sampler is marked `unbiased`,
E[w_i 1{i in S}] = 1 for every cell that has mass, so that sum_S w_i a_i f_i estimates sum_i a_i f_i.

All arithmetic is in float64 and in log space: attention collapses within a few epochs, and then probabilities
underflow to 0 long before their logarithms lose anything. The random part of every sampler is apart from the
rest (`systematic_at`, `des_raj`, `multinomial_at` are pure functions), so that tests can enumerate all
outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int

from wsi_ats.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """The cells that were drawn and the logarithms of their weights.

    `cells` (N,) int64 index into the log-probabilities they were drawn from (0 .. K-1) and are distinct.
    `log_weights` (N,) float64: logarithms, since the weight of a cell that attention all but ignores
    overflows.
    """

    cells: Int[torch.Tensor, " N"]
    log_weights: Float[torch.Tensor, " N"]

    @property
    def weights(self) -> Float[torch.Tensor, " N"]:
        """Weights (N,), 1 for a cell that is always read; infinite where float64 cannot hold them."""
        return self.log_weights.exp()

    def __len__(self) -> int:
        return len(self.cells)

    def to(self, device: torch.device | str) -> Draws:
        """The same draws on another device (in float32 where the device has no float64)."""
        real = torch.float32 if torch.device(device).type == "mps" else self.log_weights.dtype
        return Draws(self.cells.to(device), self.log_weights.to(device, real))


@dataclass(frozen=True, slots=True)
class Sampler:
    """One way to draw: the rule and what may be expected of it.

    `rule(log_p, n, generator, order)` sees float64 log-probabilities on the CPU that are finite and sum to 1,
    with 1 <= n < K (`all`: any n). `unbiased`: E[w_i 1{i in S}] = 1. `trainable`: fit for training too, not
    for evaluation alone. `summary` is one line for people.
    """

    rule: Callable[[torch.Tensor, int, torch.Generator, torch.Tensor], Draws]
    unbiased: bool
    trainable: bool
    summary: str


def draw(
    log_p: Float[torch.Tensor, " K"],
    n: int,
    sampler: str = "systematic",
    *,
    generator: torch.Generator,
    order: Int[torch.Tensor, " K"] | None = None,
) -> Draws:
    """Draw `n` of K cells; where no more than `n` have any mass, all of those, with weight 1.

    `log_p` (K,) are log-probabilities (a log-softmax); no gradient flows through a draw. `order` (K,) is a
    permutation of 0 .. K-1 along which neighbours in the slide are neighbours (`Grid.hilbert_order`); only
    `systematic` looks at it. The answer depends on nothing but the arguments and the state of `generator`.

    Raises `ConfigError` for an unknown sampler, for n < 1, for an order that is no permutation, and for
    `log_p` that is empty, holds NaN or +inf, or does not sum to 1.
    """
    chosen = find_sampler(sampler)
    if n < 1:
        raise ConfigError(f"cannot draw n = {n} cells: n must be at least 1", "ask for 1 tile or more")
    log_a, with_mass = _checked(log_p)
    path = _checked_order(order, len(log_p), with_mass)
    if n >= len(log_a):
        chosen = SAMPLERS["all"]
    drawn = chosen.rule(log_a, n, generator, path)
    return Draws(with_mass[drawn.cells], drawn.log_weights).to(log_p.device)


def find_sampler(name: str) -> Sampler:
    """The sampler of that name; `ConfigError` with the known names where there is none."""
    if name not in SAMPLERS:
        raise ConfigError(f"unknown sampler {name!r}", f"choose one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def pool(draws: Sequence[Draws]) -> Draws:
    """R exchangeable draws as one: the union of their cells, weights summed and divided by R.

    The plain estimate from the pooled draws is the mean of the R estimates; each tile is read once. Cells
    ascend.
    """
    if not draws:
        raise ConfigError("cannot pool 0 draws", "draw at least once")
    cells = torch.cat([d.cells for d in draws])
    log_w = torch.cat([d.log_weights for d in draws])
    largest = log_w.new_full((int(cells.max()) + 1,), -math.inf).scatter_reduce(0, cells, log_w, "amax")
    total = torch.zeros_like(largest).index_add(0, cells, (log_w - largest[cells]).exp())
    union = total.nonzero().squeeze(1)
    return Draws(union, largest[union] + total[union].log() - math.log(len(draws)))


def smooth(log_p: Float[torch.Tensor, " K"], strength: float) -> Float[torch.Tensor, " K"]:
    """Mix attention with the uniform distribution: a <- (1 - s) a + s / K, in log space; keeps the graph.

    Without it a cell whose probability reaches 0 is never read again and never gets a gradient (ICML 2019).
    """
    if not 0.0 <= strength < 1.0:
        raise ConfigError(f"smoothing strength {strength} is outside [0, 1)", "1e-4 is a good start")
    if strength == 0.0:
        return log_p
    uniform = log_p.new_tensor(math.log(strength / len(log_p)))
    return torch.logaddexp(log_p + math.log1p(-strength), uniform)


def log_inclusion(log_p: Float64[torch.Tensor, " K"], n: int) -> Float64[torch.Tensor, " K"]:
    """log pi (K,) of a fixed-size pi-ps design: pi_i = min(1, c a_i), sum pi = n; finite log_p, 1 <= n <= K.

    Exact, by sorting: with the m heaviest cells certain, c = (n - m) / (mass of the others); m is right as
    soon as the heaviest of the others gets c a <= 1. That condition is monotone in m and needs only the n
    heaviest cells.
    """
    heavy, index = log_p.topk(n)
    outside = _mass_outside(log_p, index)
    places = torch.arange(n, 0, -1, dtype=log_p.dtype).log()
    certain = int((places + heavy - outside[:-1] > 0)[:-1].sum())
    return (log_p + places[certain] - outside[certain]).clamp(max=0.0)


def systematic_at(
    log_p: Float64[torch.Tensor, " K"], n: int, u: float, order: Int[torch.Tensor, " K"] | None = None
) -> Draws:
    """Systematic draw at `u` in [0, 1): lay the pi_i end to end along `order`, take those at u, u + 1, ...

    Weights 1 / pi_i (`log_inclusion`); always exactly n distinct cells, ascending. Madow (1949). Cells with
    pi = 1 are taken at once and left out of the line: each holds exactly one of the points wherever it lies,
    so that the others are drawn just as if it were there.
    """
    log_pi = log_inclusion(log_p, n)
    path = torch.arange(len(log_p)) if order is None else order
    certain, path = path[log_pi[path] == 0.0], path[log_pi[path] < 0.0]
    left = n - len(certain)
    ends = log_pi[path].exp().cumsum(0)
    points = u + torch.arange(left, dtype=ends.dtype)
    at = _distinct(torch.searchsorted(ends, points, right=True), len(path))
    cells = torch.cat([certain, path[at]]).sort().values
    return Draws(cells, -log_pi[cells])


def des_raj(log_p: Float64[torch.Tensor, " K"], ordered: Int[torch.Tensor, " N"]) -> Draws:
    """Des Raj (1956) weights of an ORDERED sample drawn one by one, without replacement, in proportion to a.

    With m_k = 1 - sum_{j<k} a_j the mass that was left: w_k = [ (N - k) + m_k / a_k ] / N, k = 1 .. N. The
    forward value is that of the paper's sampling without replacement (ICML 2019).
    """
    n = len(ordered)
    left = _mass_outside(log_p, ordered)[:-1]
    later = torch.arange(n - 1, -1, -1, dtype=log_p.dtype).log()
    return Draws(ordered, torch.logaddexp(later, left - log_p[ordered]) - math.log(n))


def multinomial_at(log_p: Float64[torch.Tensor, " K"], picks: Int[torch.Tensor, " N"]) -> Draws:
    """Weights count_i / (N a_i) of N independent draws; a cell drawn twice is read once. Cells ascend."""
    counts = picks.bincount(minlength=len(log_p))
    cells = counts.nonzero().squeeze(1)
    return Draws(cells, counts[cells].to(log_p.dtype).log() - math.log(len(picks)) - log_p[cells])


def _systematic(log_p: torch.Tensor, n: int, generator: torch.Generator, order: torch.Tensor) -> Draws:
    return systematic_at(log_p, n, float(_uniform(1, generator)), order)


def _gumbel(log_p: torch.Tensor, n: int, generator: torch.Generator, order: torch.Tensor) -> Draws:
    # 1 - u is never 0, so that the noise is never -inf; u = 0 gives +inf, for one cell in 2 ** 53
    noise = -(-torch.log1p(-_uniform(len(log_p), generator))).log()
    return des_raj(log_p, (log_p + noise).topk(n).indices)


def _multinomial(log_p: torch.Tensor, n: int, generator: torch.Generator, order: torch.Tensor) -> Draws:
    ends = log_p.exp().cumsum(0)
    picks = torch.searchsorted(ends, _uniform(n, generator) * ends[-1], right=True)
    return multinomial_at(log_p, picks.clamp(max=len(log_p) - 1))


def _top(log_p: torch.Tensor, n: int, generator: torch.Generator, order: torch.Tensor) -> Draws:
    heavy, cells = log_p.topk(n)
    return Draws(cells, -heavy.logsumexp(0).expand(n))


def _all(log_p: torch.Tensor, n: int, generator: torch.Generator, order: torch.Tensor) -> Draws:
    return Draws(torch.arange(len(log_p)), torch.zeros_like(log_p))


SAMPLERS: dict[str, Sampler] = {
    "systematic": Sampler(_systematic, True, True, "even along the slide, heavy cells always read (default)"),
    "gumbel": Sampler(_gumbel, True, True, "one by one without replacement, as in the paper"),
    "multinomial": Sampler(_multinomial, True, True, "independent draws with replacement, as in the paper"),
    "top": Sampler(_top, False, False, "the n cells with most attention; biased, for evaluation only"),
    "all": Sampler(_all, True, True, "every cell: exact, and as slow as reading the whole slide"),
}


def _mass_outside(log_p: torch.Tensor, ordered: torch.Tensor) -> torch.Tensor:
    """(n + 1,) log of the mass outside the first 0, 1, ..., n cells of `ordered`.

    Summed up from the light end: subtracting from 1 instead loses everything once attention has collapsed.
    """
    rest = log_p.index_fill(0, ordered, -math.inf).logsumexp(0, keepdim=True)
    return torch.cat([log_p[ordered], rest]).flip(0).logcumsumexp(0).flip(0)


def _distinct(at: torch.Tensor, size: int) -> torch.Tensor:
    """Ascending places `at` (n,) made strictly increasing and less than `size`, for n <= size.

    In exact arithmetic a systematic draw's places are so from the start; this undoes what rounding may do.
    """
    step = torch.arange(len(at))
    return torch.minimum((at - step).cummax(0).values + step, step + size - len(at))


def _uniform(n: int, generator: torch.Generator) -> torch.Tensor:
    """(n,) float64 in [0, 1), on the CPU whichever device the generator lives on."""
    return torch.rand(n, dtype=torch.float64, device=generator.device, generator=generator).cpu()


def _checked(log_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 log-probabilities of the cells with mass, summing to 1, and the indices of those cells."""
    log_a = log_p.detach().to("cpu", torch.float64)
    if len(log_a) == 0:
        raise ConfigError("cannot draw from 0 cells", "loosen the tissue mask: it left no cell")
    nan, inf = int(log_a.isnan().sum()), int((log_a == math.inf).sum())
    if nan or inf:
        raise ConfigError(
            f"log_p of {len(log_a)} cells holds {nan} NaN and {inf} infinite values",
            "the attention network has diverged: lower its learning rate or clip its gradient",
        )
    total = log_a.logsumexp(0)
    if not abs(float(total)) < 1e-2:
        raise ConfigError(
            f"log_p of {len(log_a)} cells has log-sum {float(total):.4g}: its probabilities do not sum to 1",
            "pass log-probabilities: torch.log_softmax(logits, 0)",
        )
    with_mass = (log_a > -math.inf).nonzero().squeeze(1)
    return log_a[with_mass] - total, with_mass


def _checked_order(order: torch.Tensor | None, k: int, with_mass: torch.Tensor) -> torch.Tensor:
    """`order` among the cells with mass, as indices into those."""
    if order is None:
        return torch.arange(len(with_mass))
    order = order.to("cpu", torch.int64)
    if not torch.equal(order.sort().values, torch.arange(k)):
        raise ConfigError(f"order is not a permutation of the {k} cells", "use Grid.hilbert_order(cells)")
    slot = torch.full((k,), -1).index_copy(0, with_mass, torch.arange(len(with_mass)))
    return slot[order][slot[order] >= 0]
