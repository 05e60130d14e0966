"""Conformal sets: classes that a slide may have, so that the true one is left out no more often than promised.

For each class, of all slides of that class the share of sets that lack it is at most `error`, whatever the model and
however small the classes, if slides to come are like those that the sets were made from (exchangeable with them).
Nothing is promised for slides of another kind: see the flag for slides unlike the training slides.

Source: V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", 2005 (label-conditional, split);
the score, 1 - probability of the class: M. Sadinle et al., "Least Ambiguous Set-Valued Classifiers", JASA 114, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from wsi_ats.errors import ConfigError


@dataclass(frozen=True)
class ConformalSets:
    """The largest 1 - probability at which a class is in the set, one a class."""

    quantiles: tuple[float, ...]
    error: float
    """Share of the slides of each class whose set may lack it."""
    slides: tuple[int, ...]
    """Number of slides of each class that the quantiles were taken from."""
    on: str
    """Name of these slides, for people."""

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> ConformalSets:
        """The sets whose plain values a model folder keeps. Raises `KeyError`, `TypeError` or `ValueError`."""
        return cls(
            tuple(map(float, values["quantiles"])),
            float(values["error"]),
            tuple(map(int, values["slides"])),
            str(values["on"]),
        )

    def to_values(self) -> dict[str, Any]:
        """Plain values for a model folder."""
        return asdict(self)

    def __call__(self, probabilities: Float64[np.ndarray, "*b C"]) -> Bool[np.ndarray, "*b C"]:
        """Whether each class is in the set, from its probability."""
        return np.asarray(1 - probabilities <= np.array(self.quantiles))


def least_slides(error: float) -> int:
    """Least number of slides of a class that an error rate can be promised with.

    >>> least_slides(0.1), least_slides(0.05)
    (9, 19)
    """
    return math.ceil(1 / error - 1 - 1e-9)


def fit_conformal(
    probabilities: Float64[np.ndarray, "n C"],
    labels: Int64[np.ndarray, " n"],
    names: tuple[str, ...],
    error: float,
    on: str,
) -> ConformalSets:
    """Conformal sets from n slides that neither training nor calibration has seen.

    Raises `ConfigError` for an error rate outside (0, 1/2], and where a class has too few slides to promise it.

    >>> p = np.linspace(0.01, 0.99, 20)
    >>> sets = fit_conformal(np.stack([1 - p, p], 1), (p > 0.5).astype(int), ("normal", "tumour"), 0.1, "20 slides")
    >>> sets(np.array([[0.55, 0.45], [0.1, 0.9]])).tolist()
    [[True, False], [False, True]]
    """
    if not 0 < error <= 0.5:
        raise ConfigError(
            f"the error rate of prediction sets is {error}; it must be above 0 and at most 0.5",
            remedy="0.1 is usual",
        )
    counts = np.bincount(labels, minlength=len(names))
    need = least_slides(error)
    few = [
        f"{name!r} has {count}" for name, count in zip(names, counts.tolist(), strict=True) if count < need
    ]
    if few:
        raise ConfigError(
            f"prediction sets that miss at most {error:.0%} of each class need {need} slides of it, and "
            f"{', '.join(few)}",
            remedy="add such slides, or allow a larger error rate",
        )
    quantiles = []
    for c, count in enumerate(counts.tolist()):
        scores = np.sort(1 - probabilities[labels == c, c])
        quantiles.append(float(scores[math.ceil((count + 1) * (1 - error) - 1e-9) - 1]))
    return ConformalSets(tuple(quantiles), error, tuple(counts.tolist()), on)
