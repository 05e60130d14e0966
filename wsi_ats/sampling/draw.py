"""Drawing: from log-probabilities of a slide, or of a batch of slides, to `Draws`; the table of samplers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from wsi_ats import catalogue
from wsi_ats.arguments import of_kind, whole_number
from wsi_ats.catalogue import code_of
from wsi_ats.errors import ConfigError
from wsi_ats.sampling.draws import Draws, check_tensor


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler, one way to draw: the rule and what may be expected of it.

    `rule(log_p, n, u, order)` sees a batch (B, K) of float64 log-probabilities that sum to 1, -inf where a slide
    has no cell, with more than n cells of mass each, and answers `Draws` (B, n). It takes all its randomness from
    u (B, M), uniform on [0, 1): one number a slide, one a draw or one a cell, as `randomness` says.
    `unbiased`: E[w_i 1{i in S}] = 1. `sums_to_one`: sum_S w a = 1 in every draw, not on average only.
    `chances`: weights are inverse chances of being drawn.
    `trainable`: fit for training too, not for evaluation alone. `summary` is one line for people.
    """

    rule: Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor], Draws]
    randomness: str
    unbiased: bool
    sums_to_one: bool
    trainable: bool
    summary: str
    chances: bool = True

    def numbers(self, k: int, n: int) -> int:
        """Number of uniform numbers that a draw of `n` of `k` cells takes."""
        return {"none": 0, "slide": 1, "draw": n, "cell": k}[self.randomness]


def draw(
    log_p: Float[torch.Tensor, " K"],
    n: int,
    sampler: str = "systematic",
    *,
    generator: torch.Generator,
    order: Int[torch.Tensor, " K"] | None = None,
) -> Draws:
    """Draws of `n` of K cells; where no more than `n` have any mass, of all those, with weight 1.

    `log_p` (K,) are log-probabilities (a log-softmax); no gradient flows through a draw. `order` (K,) is a
    permutation of 0 .. K-1 along which neighbours in the slide are neighbours (`Grid.hilbert_order`); only
    `systematic` looks at it. The answer depends on nothing but the arguments and the state of `generator`.

    Raises `ConfigError` for an unknown sampler, for n < 1, for an order that is no permutation, and for
    `log_p` that is empty, holds NaN or +inf, or does not sum to 1.

    >>> log_p = torch.tensor([0.8, 0.04, 0.04, 0.04, 0.04, 0.04]).log()
    >>> draws = draw(log_p, 3, generator=torch.Generator().manual_seed(0))
    >>> draws.cells.tolist()[0], draws.weights.tolist()  # the heavy cell always, each other stands for 2.5
    (0, [1.0, 2.5..., 2.5...])
    >>> round(float(draws.weights @ log_p.double().exp()[draws.cells]), 4)
    1.0
    """
    return draw_many([log_p], n, sampler, generators=[generator], orders=None if order is None else [order])[
        0
    ]


def draw_many(
    log_ps: Sequence[torch.Tensor],
    n: int,
    sampler: str = "systematic",
    *,
    generators: Sequence[torch.Generator],
    orders: Sequence[torch.Tensor] | None = None,
) -> list[Draws]:
    """Draws (`draw`) of a batch of slides with different K, all at once, on the device of the first.

    `log_ps`: (K_b,) each. `generators`: one a slide, and a slide's draw depends on no other than its own: it gets
    the cells that it would get alone. `orders`: (K_b,) each. Raises as `draw` does.

    >>> from wsi_ats.sampling import generator_for
    >>> log_ps = [torch.full((k,), 1 / k).log() for k in (2, 9)]
    >>> both = draw_many(log_ps, 3, generators=[generator_for(0, name) for name in ("a.svs", "b.svs")])
    >>> [len(draws) for draws in both]  # the first slide has no more than 2 cells
    [2, 3]
    >>> torch.equal(both[1].cells, draw(log_ps[1], 3, generator=generator_for(0, "b.svs")).cells)
    True
    """
    chosen = find_sampler(sampler)
    n = whole_number("n", n, 1, "ask for 1 tile or more")
    for generator in generators:
        of_kind(
            "generator", generator, torch.Generator, "a generator of torch", "take generator_for(seed, name)"
        )
    if len(generators) != len(log_ps) or (orders is not None and len(orders) != len(log_ps)):
        raise ConfigError(
            f"{len(log_ps)} slides with {len(generators)} generators and {len(orders or log_ps)} orders",
            "pass one of each a slide",
        )
    if not log_ps:
        return []
    log_p = _checked(log_ps)
    order = _checked_orders(orders, log_ps, log_p)
    u = _uniforms([chosen.numbers(len(p), n) for p in log_ps], generators).to(log_p.device)
    enough = (log_p > -math.inf).sum(-1) > n
    drawn: dict[int, Draws] = {}
    for rule, rows in (
        (chosen.rule, enough.nonzero()[:, 0]),
        (SAMPLERS["all"].rule, (~enough).nonzero()[:, 0]),
    ):
        if len(rows):
            found = rule(log_p[rows], n, u[rows], order[rows]).split()
            drawn |= zip(rows.tolist(), found, strict=True)
    return [drawn[b].to(p.device) for b, p in enumerate(log_ps)]


def find_sampler(name: str) -> Sampler:
    """The sampler called `name`; raises `ConfigError` with the known names where there is none."""
    catalogue.refuse_unknown_sampler(name)
    return SAMPLERS[name]


SAMPLERS: dict[str, Sampler] = {
    name: Sampler(
        code_of(entry.rule),
        entry.randomness,
        entry.unbiased,
        entry.sums_to_one,
        entry.trainable,
        entry.summary,
        entry.chances,
    )
    for name, entry in catalogue.SAMPLERS.items()
}


def _uniforms(counts: Sequence[int], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """(B, M) float64 in [0, 1), on the CPU whichever device the generators live on; each row from its own."""
    rows = [
        torch.rand(m, dtype=torch.float64, device=g.device, generator=g).cpu()
        for m, g in zip(counts, generators, strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _checked(log_ps: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, K) float64 log-probabilities that sum to 1, padded with -inf."""
    for log_p in log_ps:
        check_tensor("log_p", log_p)
    device = torch.device("cpu") if log_ps[0].device.type == "mps" else log_ps[0].device
    rows = [p.detach().to(device, torch.float64) for p in log_ps]
    log_p = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-math.inf)
    if min(len(p) for p in rows) == 0:
        raise ConfigError("cannot draw from 0 cells", "loosen the tissue mask: it left no cell")
    total = log_p.logsumexp(-1, keepdim=True)
    facts = torch.cat(
        [log_p.isnan().sum(-1, keepdim=True), (log_p == math.inf).sum(-1, keepdim=True), total], -1
    )
    for p, (nan, inf, log_sum) in zip(rows, facts.tolist(), strict=True):
        _check(len(p), int(nan), int(inf), log_sum)
    return log_p - total


def _check(k: int, nan: int, inf: int, log_sum: float) -> None:
    if nan or inf:
        raise ConfigError(
            f"log_p of {k} cells holds {nan} NaN and {inf} infinite values",
            "the attention network has diverged: lower its learning rate or clip its gradient",
        )
    if not abs(log_sum) < 1e-2:
        raise ConfigError(
            f"log_p of {k} cells has log-sum {log_sum:.4g}: its probabilities do not sum to 1",
            "pass log-probabilities: torch.log_softmax(logits, 0)",
        )


def _checked_orders(
    orders: Sequence[torch.Tensor] | None, log_ps: Sequence[torch.Tensor], log_p: torch.Tensor
) -> torch.Tensor:
    """(B, K): each row a permutation, the padding last."""
    path = torch.arange(log_p.shape[1]).repeat(len(log_p), 1)
    for row, p, order in zip(path, log_ps, orders or (), strict=orders is not None):
        order = order.to("cpu", torch.int64)
        if not torch.equal(order.sort().values, row[: len(p)]):
            raise ConfigError(
                f"order is not a permutation of the {len(p)} cells", "use Grid.hilbert_order(cells)"
            )
        row[: len(p)] = order
    return path.to(log_p.device)
