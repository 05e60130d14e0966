"""Attentions to draw from, and every outcome of a sampler with its probability, written from the definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import strategies as st

from wsi_ats.sampling import Draws, des_raj, draw, multinomial_at, systematic_at

SIZES = [(5, 2), (6, 3), (7, 4)]
INF = math.inf
UNBIASED = ["systematic", "gumbel", "multinomial", "all"]


def some_log_p(k: int, seed: int, spread: float) -> torch.Tensor:
    """Log-probabilities (k,) float64; `spread` 0.5 is nearly flat, 3 leaves a few cells with all the mass."""
    logits = torch.randn(k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.log_softmax(spread * logits, 0)


def inclusion(a: np.ndarray, n: int) -> np.ndarray:
    """min(1, c a) with sum n, by the textbook iteration: cells over 1 become certain."""
    certain = np.zeros(len(a), bool)
    while True:
        pi = np.where(certain, 1.0, a * (n - certain.sum()) / a[~certain].sum())
        if not (pi > 1.0).any():
            return pi
        certain |= pi > 1.0


def ordered_samples(a: np.ndarray, n: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """All ordered samples without replacement, one by one in proportion to `a`, with their probabilities."""
    for sample in itertools.permutations(range(len(a)), n):
        probability, left = 1.0, 1.0
        for i in sample:
            probability *= a[i] / left
            left -= a[i]
        yield probability, sample


def intervals(pi: np.ndarray, order: np.ndarray) -> Iterator[tuple[float, float]]:
    """(length, middle) of the intervals of u in which a systematic draw along `order` does not change."""
    cuts = np.unique(np.concatenate([[0.0, 1.0], np.cumsum(pi[order]) % 1.0]))
    for low, high in itertools.pairwise(cuts):
        if high - low > 1e-13:
            yield high - low, (low + high) / 2


def outcomes(
    sampler: str, log_p: torch.Tensor, n: int, order: np.ndarray | None = None
) -> list[tuple[float, Draws]]:
    """(probability, draws) of everything `sampler` can answer."""
    log_p = log_p.detach()
    a = log_p.exp().numpy()
    if sampler == "all":
        return [(1.0, draw(log_p, n, "all", generator=torch.Generator()))]
    if sampler == "gumbel":
        return [(p, des_raj(log_p, torch.tensor(s))) for p, s in ordered_samples(a, n)]
    if sampler == "multinomial":
        tuples = itertools.product(range(len(a)), repeat=n)
        return [(float(np.prod(a[list(s)])), multinomial_at(log_p, torch.tensor(s))) for s in tuples]
    assert sampler == "systematic"
    path = np.arange(len(a)) if order is None else order
    cuts = intervals(inclusion(a, n), path)
    return [(p, systematic_at(log_p, n, u, torch.from_numpy(path))) for p, u in cuts]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def attentions(draw_: st.DrawFn, max_cells: int = 40) -> torch.Tensor:
    """Log-probabilities from flat to collapsed far beyond underflow, some cells without mass."""
    spread = draw_(st.sampled_from([0.0, 1.0, 30.0, 2000.0]))
    unit = st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, 0.0, 1.0]))
    logits = draw_(st.lists(unit, min_size=1, max_size=max_cells))
    values = spread * torch.tensor(logits, dtype=torch.float64)
    empty = draw_(st.sets(st.integers(1, max_cells), max_size=5))
    values[[i for i in empty if i < len(values)]] = -INF
    return torch.log_softmax(values, 0)


def with_mass(log_p: torch.Tensor) -> int:
    return int((log_p > -INF).sum())
