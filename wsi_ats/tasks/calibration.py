"""Calibration: from the outputs of a head to outputs whose probabilities hold on slides that it has not learned from.

A head that was trained on few tiles a slide ranks unseen slides well and still gives benign ones of new tissue too
much: its outputs are off by a constant, and one half is the wrong place to part them. An intercept an output, fitted on
slides that training has not seen, takes that off; a slope, which also says how sure the answers may be, needs more
slides (`SLIDES_FOR_SLOPE`). Both are held near 0 and 1 by a weak prior, since on few slides, or where the classes are
parted without an error, the likelihood alone would have them run off to infinity.

Sources: J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999; C. Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017 (vector scaling); E. Steyerberg, "Clinical Prediction Models", 2nd ed. 2019, chapter 20
(intercept first, slope with more data).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float

Misfit = Callable[[torch.Tensor], torch.Tensor]

SLIDES_FOR_SLOPE = 40
"""Number of slides from which a slope is fitted beside the intercept: with fewer its noise costs more than it mends."""
PRIOR_OF_INTERCEPT = 5.0
"""Standard deviation of the prior of an intercept, in logits: e^5 to one is far off for any head."""
PRIOR_OF_SLOPE = 0.5
"""Standard deviation of the prior of the logarithm of a slope."""


@dataclass(frozen=True)
class Calibration:
    """A calibration: output o of a head becomes `slopes[o]` * output + `intercepts[o]`."""

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    slides: int
    """Number of slides that it was fitted on."""
    on: str
    """Name of these slides, for people."""

    def __post_init__(self) -> None:
        numbers = (*self.slopes, *self.intercepts)
        if len(self.slopes) != len(self.intercepts) or not all(map(math.isfinite, numbers)):
            raise ValueError(f"a calibration has as many finite slopes as intercepts, got {self}")
        if min(self.slopes, default=1) <= 0:
            raise ValueError(
                f"slopes are {self.slopes}; each must be above 0, or answers would be turned round"
            )

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Calibration:
        """The calibration whose plain values a model folder keeps. Raises `KeyError`, `TypeError` or `ValueError`."""
        slopes, intercepts = (tuple(map(float, values[name])) for name in ("slopes", "intercepts"))
        return cls(slopes, intercepts, int(values["slides"]), str(values["on"]))

    def to_values(self) -> dict[str, Any]:
        """Plain values for a model folder."""
        return asdict(self)

    def __call__(self, outputs: Float[torch.Tensor, "*b O"]) -> Float[torch.Tensor, "*b O"]:
        """Calibrated outputs.

        >>> calibration = Calibration((1.0, 1.0), (0.0, -2.0), 12, "slides of our own")
        >>> calibration(torch.tensor([[0.5, 3.0]])).tolist()
        [[0.5, 1.0]]
        """
        slopes, intercepts = (outputs.new_tensor(numbers) for numbers in (self.slopes, self.intercepts))
        return slopes * outputs + intercepts


def fit_affine(
    misfit: Misfit, outputs: Float[torch.Tensor, "n O"], *, slope: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Slopes and intercepts (O,) that make outputs (n, O) fit best; `slope` False: slopes of 1.

    misfit: minus the log-likelihood of all slides, of outputs in float64. What it does not depend on stays as it is.
    """
    outputs = outputs.detach().double()
    count = outputs.shape[1]
    free = torch.zeros(2 if slope else 1, count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [free], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def penalised() -> torch.Tensor:
        optimizer.zero_grad()
        scales = free[1].exp() if slope else 1.0
        loss = misfit(scales * outputs + free[0]) + (free[0] / PRIOR_OF_INTERCEPT).square().sum() / 2
        if slope:
            loss = loss + (free[1] / PRIOR_OF_SLOPE).square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(penalised)  # type: ignore[no-untyped-call]
    found = free.detach()
    slopes = found[1].exp() if slope else torch.ones(count, dtype=torch.float64)
    return tuple(slopes.tolist()), tuple(found[0].tolist())
