"""Attentions to draw from, and every outcome of a sampler with its probability, written from the definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import strategies as st

from wsi_ats.sampling import (
    Draws,
    des_raj,
    draw,
    multinomial_at,
    murthy,
    priority_at,
    systematic_at,
    threshold_at,
)

SIZES = [(5, 2), (6, 3), (7, 4)]
INF = math.inf
UNBIASED = ["systematic", "gumbel", "unordered", "gumbel-threshold", "priority", "multinomial", "all"]


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


def below_gumbel_threshold(a: np.ndarray, n: int) -> Iterator[tuple[float, tuple[int, ...], float]]:
    """(probability, sample, kappa): quadrature over the (n + 1)-th largest log a + G.

    P(log a_i + G_i <= kappa) = exp(-a_i e^-kappa), so the largest of the cells left out, of mass r, has density
    r e^-kappa exp(-r e^-kappa). In kappa all is smooth and falls fast: the trapezoidal rule is exact.
    """
    step = 0.05
    kappas = np.arange(-6.0, 40.0, step)
    for sample in itertools.combinations(range(len(a)), n):
        inside = np.array(sample)
        r = np.delete(a, inside).sum()
        s = r * np.exp(-(kappas + math.log(r)))  # kappa counted from where that density lies
        above = (-np.expm1(-np.outer(a[inside] / r, s))).prod(0)
        for kappa, p in zip(kappas + math.log(r), step * s * np.exp(-s) * above, strict=True):
            yield float(p), sample, float(kappa)


def below_priority_threshold(a: np.ndarray, n: int) -> Iterator[tuple[float, tuple[int, ...], float]]:
    """(probability, sample, tau): quadrature over z = 1 / tau, tau the (n + 1)-th largest a / u.

    P(a_i / u_i > tau) = min(1, a_i z), so all is a polynomial in z between the places where some a_i z = 1: Gauss's
    rule is exact.
    """
    nodes, weights = np.polynomial.legendre.leggauss(n + len(a))
    for sample in itertools.combinations(range(len(a)), n):
        inside, outside = a[list(sample)], np.delete(a, list(sample))
        for low, high in itertools.pairwise(np.unique(np.concatenate([[0.0], 1 / a]))):
            if high > 1 / outside.max() + 1e-12:
                break  # some cell that was left out is sure to lie above
            for z, weight in zip((low + high) / 2 + (high - low) / 2 * nodes, weights, strict=True):
                left = 1 - outside * z
                density = sum(outside[j] * np.delete(left, j).prod() for j in range(len(outside)))
                above = np.minimum(1.0, inside * z).prod()
                yield float((high - low) / 2 * weight * density * above), sample, 1 / z


def outcomes(
    sampler: str, log_p: torch.Tensor, n: int, order: np.ndarray | None = None
) -> tuple[torch.Tensor, Draws]:
    """Probabilities (M,) and draws (M, N) of everything `sampler` can answer, as one batch."""
    log_p = log_p.detach()
    a = log_p.exp().numpy()
    if sampler == "all":
        d = draw(log_p, n, "all", generator=torch.Generator())
        return torch.ones(1, dtype=torch.float64), Draws(d.cells[None], d.log_weights[None])
    if sampler == "systematic":
        path = np.arange(len(a)) if order is None else order
        p, u = np.array(list(intervals(inclusion(a, n), path))).T
        many = log_p.expand(len(p), -1)
        paths = torch.from_numpy(path).expand(len(p), -1)
        return torch.from_numpy(p), systematic_at(many, n, torch.from_numpy(u), paths)
    if sampler in ("gumbel-threshold", "priority"):
        listed = below_gumbel_threshold if sampler == "gumbel-threshold" else below_priority_threshold
        p, samples, thresholds = zip(*listed(a, n), strict=True)
        at = threshold_at if sampler == "gumbel-threshold" else priority_at
        threshold = torch.tensor(thresholds, dtype=torch.float64)
        if sampler == "priority":
            threshold = threshold.log()
        drawn = at(log_p.expand(len(p), -1), torch.tensor(samples), threshold)
        return torch.tensor(p, dtype=torch.float64), drawn
    if sampler == "unordered":  # the probability of a set is that of all its orders
        sets: dict[tuple[int, ...], float] = {}
        for probability, sample in ordered_samples(a, n):
            key = tuple(sorted(sample))
            sets[key] = sets.get(key, 0.0) + probability
        drawn = murthy(log_p.expand(len(sets), -1), torch.tensor(list(sets)))
        return torch.tensor(list(sets.values()), dtype=torch.float64), drawn
    if sampler == "gumbel":
        p, samples = zip(*ordered_samples(a, n), strict=True)
        drawn = des_raj(log_p.expand(len(p), -1), torch.tensor(samples))
    else:
        assert sampler == "multinomial"
        samples = tuple(itertools.product(range(len(a)), repeat=n))
        p = [float(np.prod(a[list(s)])) for s in samples]
        drawn = multinomial_at(log_p.expand(len(p), -1), torch.tensor(samples))
    return torch.tensor(p, dtype=torch.float64), drawn


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
