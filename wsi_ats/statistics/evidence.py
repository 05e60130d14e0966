"""Evidence figures: how many of a slide's tiles its answer needs, and how it fares without them.

A summary is a mean of the tiles' vectors weighted by their attention, and the head is linear. So the outputs of any set
of tiles, their attention made to sum to 1 again, are a weighted mean of one row of outputs a tile, and a running sum
gives those of the first k tiles of an order for all k at once: exact, for the price of one look at every tile. Shapes:
K tissue tiles, O outputs, P places, R random orders.

Sources: sufficiency and deletion: J. DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models", ACL
2020; areas under such curves, and random orders beside them: V. Petsiuk et al., "RISE", BMVC 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

Sureness = Callable[[Float64[np.ndarray, "P O"]], Float64[np.ndarray, " P"]]
"""Probability (P,) that outputs (P, O) give to the answer that all tiles give."""
SUFFICIENT = 0.9
"""Probability of the answer from which tiles are sufficient for it."""
ORDERS = 20
"""Number of random orders."""
LEAST_LOG = -600.0
"""Least logarithm of an attention as a share of the largest: tiles below it, which count for nothing but among
themselves, count alike."""
LEVEL = 0.95
"""Share of the random orders that a band holds."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """What each of the K tissue tiles of a slide counts for."""

    log_share: Float64[np.ndarray, "M K"]
    """Logarithm of the attention of each tile, as the answer weighs it, but for a constant; of each of M models whose
    mean the answer is."""
    outputs: Float64[np.ndarray, "M K O"]
    """Outputs that each tile would have alone."""

    def __len__(self) -> int:
        return int(self.log_share.shape[1])

    @property
    def shares(self) -> Float64[np.ndarray, "M K"]:
        """Attention of each tile; sums to 1."""
        powers = np.exp(np.maximum(self.log_share - self.log_share.max(1, keepdims=True), LEAST_LOG))
        return np.asarray(powers / powers.sum(1, keepdims=True))

    def by_attention(self) -> Int64[np.ndarray, " K"]:
        """The tiles, the most attended first."""
        attention = self.log_share[0] if len(self.log_share) == 1 else self.shares.mean(0)
        return np.argsort(-attention, kind="stable").astype(np.int64)

    def of_first(self, order: Int64[np.ndarray, " K"]) -> Float64[np.ndarray, "K O"]:
        """Outputs of the first 1, 2, ..., K tiles of an order.

        >>> tiles = Tiles(np.log([[0.5, 0.25, 0.25]]), np.array([[[4.0], [0.0], [8.0]]]))
        >>> tiles.of_first(tiles.by_attention()).round(3).tolist()
        [[4.0], [2.667], [4.0]]
        """
        share = self.shares[:, order, None]
        return np.asarray((np.cumsum(share * self.outputs[:, order], 1) / np.cumsum(share, 1)).mean(0))

    def without_first(self, order: Int64[np.ndarray, " K"]) -> Float64[np.ndarray, "K O"]:
        """Outputs without the first 0, 1, ..., K - 1 tiles of an order."""
        return self.of_first(order[::-1])[::-1]


@dataclass(frozen=True, eq=False)
class Course:
    """Probability of the answer along the number of tiles: by attention, and in random orders."""

    by_attention: Float64[np.ndarray, " K"]
    at_random: Float64[np.ndarray, "R K"]

    @property
    def area(self) -> float:
        """Mean of the curve by attention over the number of tiles on a logarithmic scale (`area_under`)."""
        return area_under(self.by_attention)

    @property
    def random_areas(self) -> Float64[np.ndarray, " R"]:
        """The same of each random order."""
        return np.array([area_under(curve) for curve in self.at_random])


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence for the answer of a slide."""

    sure: float
    """Probability of the answer from all tiles."""
    kept: Course
    """From the first 1, 2, ..., K tiles alone."""
    removed: Course
    """From all tiles but the first 0, 1, ..., K - 1."""

    def __len__(self) -> int:
        """Number of tissue tiles."""
        return len(self.kept.by_attention)

    @property
    def minimal(self) -> int | None:
        """Least number of the most attended tiles that give the answer a probability of `SUFFICIENT`; None: none do."""
        enough = np.flatnonzero(self.kept.by_attention >= SUFFICIENT)
        return int(enough[0]) + 1 if len(enough) else None

    @property
    def minimal_at_random(self) -> float | None:
        """Median over the random orders of the same; None where half of them never get there."""
        reached = self.kept.at_random >= SUFFICIENT
        first = np.where(reached.any(1), reached.argmax(1) + 1.0, np.inf)
        middle = float(np.median(first))
        return middle if np.isfinite(middle) else None


def evidence_of(tiles: Tiles, sureness: Sureness, rng: np.random.Generator, orders: int = ORDERS) -> Evidence:
    """The evidence in a slide's tiles for its answer, by attention and in random orders."""
    ordered = tiles.by_attention()
    random = [rng.permutation(len(tiles)).astype(np.int64) for _ in range(orders)]
    kept, removed = sureness(tiles.of_first(ordered)), sureness(tiles.without_first(ordered))
    return Evidence(
        float(kept[-1]),
        Course(kept, np.stack([sureness(tiles.of_first(order)) for order in random])),
        Course(removed, np.stack([sureness(tiles.without_first(order)) for order in random])),
    )


def area_under(curve: Float64[np.ndarray, " K"]) -> float:
    """Mean of a curve over the number of tiles, 1 to K, on a logarithmic scale: the first tiles count most.

    >>> area_under(np.array([0.0, 1.0])), area_under(np.array([0.7]))
    (0.5, 0.7)
    """
    if len(curve) == 1:
        return float(curve[0])
    places = np.log2(np.arange(1, len(curve) + 1))
    return float(np.trapezoid(curve, places) / places[-1])


def doublings(count: int) -> Iterator[int]:
    """1, 2, 4, ... up to and with a number.

    >>> list(doublings(6))
    [1, 2, 4, 6]
    """
    number = 1
    while number < count:
        yield number
        number *= 2
    yield count


def cohort_curve(each: Sequence[Evidence]) -> list[dict[str, float | int | None]]:
    """The mean over slides at 1, 2, 4, ... tiles, kept alone and removed; beside it mean and band of random orders.

    A slide of fewer tiles is at its end: all tiles kept; of removed tiles it leaves none to answer from, and does not
    count. None where no slide does.
    """
    most = max(map(len, each))
    return [
        {
            "tiles": count,
            **_at("kept", [e.kept for e in each], [min(count, len(e)) - 1 for e in each]),
            **_at("removed", [e.removed for e in each if len(e) > count], [count] * len(each)),
        }
        for count in doublings(most)
    ]


def _at(name: str, courses: Sequence[Course], places: Sequence[int]) -> dict[str, float | int | None]:
    """Mean of the courses, each at its place, with the band of the mean over random orders."""
    ends = ("", "_random", "_random_low", "_random_high")
    if not courses:
        return {f"{name}_slides": 0, **{f"{name}{end}": None for end in ends}}
    pairs = list(zip(courses, places, strict=False))
    mean = float(np.mean([course.by_attention[place] for course, place in pairs]))
    orders = np.mean([course.at_random[:, place] for course, place in pairs], axis=0)
    low, high = np.quantile(orders, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    values = (mean, float(orders.mean()), float(low), float(high))
    return {f"{name}_slides": len(pairs), **{f"{name}{end}": v for end, v in zip(ends, values, strict=True)}}
