"""McNemar's exact test: do two models decide equally well on the same slides?

Source: Q. McNemar, "Note on the Sampling Error of the Difference between Correlated Proportions or Percentages",
Psychometrika 12, 1947; exact, by the binomial distribution of the slides that one of the two alone answers right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True)
class Decisions:
    """The decisions of two models on the same slides: how many are right by both, by one alone, by neither."""

    both: int
    first_alone: int
    second_alone: int
    neither: int
    p: float
    """Two-sided; 1 where no slide tells the two apart."""


def mcnemar(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> Decisions:
    """McNemar's test, given which slides each model answers right. Slides are taken as independent.

    >>> mcnemar(np.arange(20) < 16, np.arange(20) < 10)
    Decisions(both=10, first_alone=6, second_alone=0, neither=4, p=0.03125)
    """
    from scipy.stats import binomtest

    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(one, one + other).pvalue) if one + other else 1.0
    return Decisions(int((first & second).sum()), one, other, int((~first & ~second).sum()), round(p, 12))
