"""Times side by side: every contestant in every round, in a new order each time, so that noise hits all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """`ms`: median of the rounds; `ratio`: median over rounds of the time against the base's of the same round."""

    ms: float
    ratio: float
    low: float
    """Quartiles of the ratio."""
    high: float


def paired(
    contestants: Mapping[str, Callable[[], object]],
    base: str,
    rounds: int = 15,
    before: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Time all contestants in turn; the first round warms up and is not counted, `before` each is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = random.Random(0)
    for round_ in range(rounds + 1):
        for name in order.sample(list(contestants), len(contestants)):
            before()
            start = time.perf_counter()
            contestants[name]()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: _timing(taken, seconds[base]) for name, taken in seconds.items()}


def _timing(taken: list[float], base: list[float]) -> Timing:
    ratios = sorted(t / b for t, b in zip(taken, base, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    median = statistics.median(ratios)
    return Timing(round(1e3 * statistics.median(taken), 2), round(median, 3), round(low, 3), round(high, 3))
