"""`Draws`, what a sampler answers; several of them pooled to one; attention that no cell is lost from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int

from wsi_ats.arguments import in_short, of_kind, whole_number
from wsi_ats.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """The cells that were drawn and the logarithms of their weights.

    `cells` (N,) int64 index into the log-probabilities they were drawn from (0 .. K-1) and are distinct.
    `log_weights` (N,) float64: logarithms, since the weight of a cell that attention all but ignores
    overflows. Inside the samplers both may have leading batch dimensions; there a log-weight of -inf marks an
    empty place, which counts for nothing.

    >>> batch = Draws(torch.tensor([[3, 3], [1, 4]]), torch.tensor([[2.0, 0.0], [1.0, 4.0]]).log())
    >>> [(draws.cells.tolist(), draws.weights.tolist()) for draws in batch.split()]
    [([3], [2.0]), ([1, 4], [1.0, 4.0])]
    """

    cells: Int[torch.Tensor, "*b N"]
    log_weights: Float[torch.Tensor, "*b N"]

    @property
    def weights(self) -> Float[torch.Tensor, "*b N"]:
        """Weights (N,), 1 for a cell that is always read; infinite where float64 cannot hold them."""
        return self.log_weights.exp()

    def __len__(self) -> int:
        return len(self.cells)

    def to(self, device: torch.device | str) -> Draws:
        """The draws on another device (in float32 where the device has no float64)."""
        real = torch.float32 if torch.device(device).type == "mps" else self.log_weights.dtype
        return Draws(self.cells.to(device), self.log_weights.to(device, real))

    def split(self) -> list[Draws]:
        """Draws of each slide of a batch (B, N), without their empty places."""
        taken = self.log_weights > -math.inf
        return [
            Draws(c[t], w[t]) for c, w, t in zip(self.cells, self.log_weights, taken.unbind(), strict=True)
        ]


def check_tensor(name: str, value: object) -> None:
    """Raise `ConfigError` for what is no tensor."""
    of_kind(name, value, torch.Tensor, "a tensor of torch", "torch.as_tensor(...) makes one of an array")


def check_draws(value: object) -> None:
    """Raise `ConfigError` for what are no `Draws`."""
    of_kind("draws", value, Draws, "the Draws of a sampler", "sampling.draw(...) makes them")


def normalised(log_p: Float64[torch.Tensor, "*b K"], draws: Draws) -> Draws:
    """Draws with weights divided by sum_S w_j a_j: less noise, for a bias of O(1/N)."""
    check_tensor("log_p", log_p)
    check_draws(draws)
    total = (draws.log_weights + log_p.gather(-1, draws.cells)).logsumexp(-1, keepdim=True)
    return Draws(draws.cells, draws.log_weights - total)


def pool(draws: Sequence[Draws]) -> Draws:
    """Draws that pool R independent ones: the union of their cells, the mean of their weights.

    The plain estimate from the pooled draws is the mean of the R estimates, in which a draw counts for as much as it
    has cells; each tile is read once. Cells ascend. Raises `ConfigError` where there are no draws.

    >>> weights = torch.tensor([3.0, 3.0], dtype=torch.float64).log()
    >>> both = pool([Draws(torch.tensor([0, 2]), weights), Draws(torch.tensor([2, 5]), weights)])
    >>> both.cells.tolist(), [round(w, 6) for w in both.weights.tolist()]
    ([0, 2, 5], [1.5, 3.0, 1.5])
    """
    if not draws:
        raise ConfigError("cannot pool 0 draws", "draw at least once")
    of_kind("draws", draws, (list, tuple), "a sequence of Draws", "give them as a list")
    for one in draws:
        check_draws(one)
    cells = torch.cat([d.cells for d in draws])
    log_w = torch.cat([d.log_weights + math.log(len(d)) for d in draws])
    largest = log_w.new_full((int(cells.max()) + 1,), -math.inf).scatter_reduce(0, cells, log_w, "amax")
    total = torch.zeros_like(largest).index_add(0, cells, (log_w - largest[cells]).exp())
    union = total.nonzero().squeeze(1)
    return Draws(union, largest[union] + total[union].log() - math.log(len(cells)))


def every_cell(log_p: Float[torch.Tensor, " K"]) -> Draws:
    """Draws of all K cells, each with weight 1: what the sampler `all` answers."""
    check_tensor("log_p", log_p)
    return Draws(torch.arange(len(log_p), device=log_p.device), torch.zeros_like(log_p, dtype=torch.float64))


def uniform_attention(k: int) -> Float[torch.Tensor, " K"]:
    """Log-attention (K,), float32, that prefers none of `k` cells."""
    k = whole_number("k", k, 1, "give the number of cells")
    return torch.full((k,), -float(np.log(k)))


def smooth(log_p: Float[torch.Tensor, "*b K"], strength: float) -> Float[torch.Tensor, "*b K"]:
    """Mix attention with the uniform distribution: a <- (1 - s) a + s / K, in log space; keeps the graph.

    Without it a cell whose probability reaches 0 is never read again and never gets a gradient (ICML 2019). Raises
    `ConfigError` for a strength outside [0, 1).

    >>> [round(a, 4) for a in smooth(torch.tensor([1.0, 0.0]).log(), 0.02).exp().tolist()]
    [0.99, 0.01]
    """
    check_tensor("log_p", log_p)
    if not (isinstance(strength, float | int) and 0.0 <= strength < 1.0):
        raise ConfigError(
            f"smoothing strength {in_short(strength)} is outside [0, 1)", "1e-4 is a good start"
        )
    if strength == 0.0:
        return log_p
    uniform = log_p.new_tensor(math.log(strength / log_p.shape[-1]))
    return torch.logaddexp(log_p + math.log1p(-strength), uniform)
