"""Times side by side: every contestant in every round, in a new order each time, so that noise hits all alike.

And how results are saved.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


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
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time all contestants in turn; the first round warms up and is not counted, `before` each is not timed.

    clock: time.process_time counts processor time, which other programs on the machine disturb far less. It is for
    one thread: it says nothing of waiting, nor of threads that share the work.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = random.Random(0)
    for round_ in range(rounds + 1):
        for name in order.sample(list(contestants), len(contestants)):
            before()
            start = clock()
            contestants[name]()
            if round_:
                seconds[name].append(clock() - start)
    return {name: _timing(taken, seconds[base]) for name, taken in seconds.items()}


def _timing(taken: list[float], base: list[float]) -> Timing:
    ratios = sorted(t / b for t, b in zip(taken, base, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    median = statistics.median(ratios)
    return Timing(round(1e3 * statistics.median(taken), 2), round(median, 3), round(low, 3), round(high, 3))


def save(results: dict[str, object], path: Path, title: str, script: str) -> None:
    """The results, a dictionary for each part, as JSON, and as tables beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    lines = [
        f"# {title}",
        "",
        f"Made by `benchmarks/{script}`; a ratio is against the base of its rows (1).",
        "",
    ]
    for name, part in results.items():
        lines += [f"## {name}", ""]
        plain = {key: value for key, value in part.items() if not _is_timing(value) and not _is_table(value)}
        lines += [f"- {key}: {value}" for key, value in plain.items()]
        tables = {key: value for key, value in part.items() if _is_table(value)}
        loose = {key: value for key, value in part.items() if _is_timing(value)}
        for title, table in {**tables, **({name: loose} if loose else {})}.items():
            lines += ["", f"{title}:", "", "| reader | ms | ratio | quartiles |", "|---|---|---|---|"]
            lines += [
                f"| {reader} | {t['ms']} | {t['ratio']} | {t['low']} to {t['high']} |"
                for reader, t in table.items()
            ]
        lines.append("")
    path.with_suffix(".md").write_text("\n".join(lines))


def _is_timing(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"ms", "ratio", "low", "high"}


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_timing, value.values()))
