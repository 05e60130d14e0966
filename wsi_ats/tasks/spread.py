"""`Spread`, how far the values of an answer may be from those of all tiles: standard errors, and intervals that cover.

Of a number the interval is value +- t * stderr. Of a probability it is that of the logit, turned back: probabilities
near 0 and 1 have a short side and a long one, and no limit is beyond them. t is Student's quantile with as many degrees
of freedom as the rounds tell of the spread, (sum_r d_r^2)^2 / sum_r d_r^4 of their deviations d_r (F. Satterthwaite,
"An Approximate Distribution of Estimates of Variance Components", Biometrics Bulletin 2, 1946): R where all deviate by
as much, 1 where one alone does, which is met where a few heavy tiles decide and others like them were not drawn. What
tiles that the draw missed could change comes on top, on each side what it is there (`sampling/unseen.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsi_ats.sampling.jackknife import jackknife
from wsi_ats.statistics.interval import LEVEL

LEAST_ERROR = float(np.finfo(np.float64).eps)
"""Least standard error of a value that was estimated: the rounding of a float64 next to 1."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Standard error and interval of the V values of an answer, float64; nan where they are not known."""

    stderr: Float[Tensor, " V"]
    low: Float[Tensor, " V"]
    high: Float[Tensor, " V"]

    @classmethod
    def exact(cls, values: Float[Tensor, " V"]) -> Spread:
        """The spread of the values of all tiles: none."""
        values = values.double()
        return cls(torch.zeros_like(values), values, values)

    @classmethod
    def of(
        cls,
        values: Float[Tensor, " V"],
        without: Float[Tensor, "R V"],
        unseen: Float[Tensor, "M V"] | None = None,
        probabilities: int = 0,
    ) -> Spread:
        """The spread of values, of which the first so many are probabilities, from those without each of R rounds and
        those with more cells like each of M that may have been missed.

        It is not known where there are not two rounds. The standard error is never 0, which is said of exact answers
        alone: where the values agree to the last digit, it is `LEAST_ERROR`.

        >>> values, without = torch.tensor([0.5, 3.0]), torch.tensor([[0.52, 3.0], [0.5, 3.1], [0.48, 2.9]])
        >>> spread = Spread.of(values, without, probabilities=1)
        >>> [[round(x, 3) for x in part.tolist()] for part in (spread.stderr, spread.low, spread.high)]
        [[0.023, 0.115], [0.402, 2.503], [0.598, 3.497]]
        """
        values, without = values.double(), without.double()
        unseen = values[None] if unseen is None else torch.cat([values[None], unseen.double()])
        if len(without) < 2:
            unknown = torch.full_like(values, float("nan"))
            return cls(unknown, unknown, unknown)
        stretched = _stretched(without, probabilities)
        reach = _quantile(stretched) * _error(stretched)
        centre, moved = _stretched(values, probabilities), _stretched(unseen, probabilities)
        ends = moved.amin(0).minimum(centre) - reach, moved.amax(0).maximum(centre) + reach
        low, high = (_shrunk(end, probabilities) for end in ends)
        # what is stretched and shrunk again may miss the value by its last digit
        return cls(_error(without), torch.minimum(low, values), torch.maximum(high, values))


def _error(without: Float[Tensor, "R V"]) -> Float[Tensor, " V"]:
    return jackknife(without).clamp_min(LEAST_ERROR)


def _quantile(without: Float[Tensor, "R V"]) -> Float[Tensor, " V"]:
    from scipy.special import stdtrit  # takes a while to import, and the command line has no need of it

    squares = (without - without.mean(0)).square()
    squares = squares / squares.amax(0).clamp_min(torch.finfo(squares.dtype).tiny)
    freedom = squares.sum(0).square() / squares.square().sum(0)
    # where no round deviates there is no spread to tell
    degrees = freedom.nan_to_num(1.0).clamp(1.0, len(without) - 1)
    return torch.from_numpy(stdtrit(degrees.cpu().numpy(), (1 + LEVEL) / 2)).to(without)


def _stretched(values: Float[Tensor, "*b V"], probabilities: int) -> Float[Tensor, "*b V"]:
    return torch.cat([torch.logit(values[..., :probabilities], LEAST_ERROR), values[..., probabilities:]], -1)


def _shrunk(values: Float[Tensor, "*b V"], probabilities: int) -> Float[Tensor, "*b V"]:
    return torch.cat([values[..., :probabilities].sigmoid(), values[..., probabilities:]], -1)
