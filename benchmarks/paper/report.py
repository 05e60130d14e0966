"""Table and curves of what `paper.run` has found so far.

cd benchmarks && python -m paper.report results/paper-mnist-small.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from paper.model import METHODS
from paper.run import BARE

Lines = list[dict[str, float]]
LEVELS = (0.5, 0.2, 0.1, 0.05)
COLOURS = dict(zip(METHODS, ("tab:red", "tab:blue", "tab:green", "tab:grey"), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--picture", type=Path, help="instead of RESULTS with .png")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    arguments.results.with_suffix(".md").write_text(table(results))
    curves(results, arguments.picture or arguments.results.with_suffix(".png"))


def table(results: dict[str, Any]) -> str:
    """One row a method; figures of the seeds side by side. Seconds are those of training alone."""
    heads = ["method", "epochs", "last test error", "lowest"]
    heads += [f"epochs to {level:.0%}" for level in LEVELS] + [f"s to {level:.0%}" for level in LEVELS]
    heads += ["s an epoch", "CPU s an epoch", "attention, nats"]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for method, seeds in sorted(results["runs"].items(), key=rank):
        runs = [lines for _, lines in sorted(seeds.items())]
        cells = [
            each(f"{lines[-1]['epoch']:g}" for lines in runs),
            each(f"{lines[-1]['test_error']:.3f}" for lines in runs),
            each(f"{min(errors(lines)):.3f}" for lines in runs),
            *(each(reached(lines, epochs(lines), level) for lines in runs) for level in LEVELS),
            *(each(reached(lines, seconds(lines), level) for lines in runs) for level in LEVELS),
            each(f"{seconds(lines)[-1] / lines[-1]['epoch']:.1f}" for lines in runs),
            each(f"{seconds(lines, 'cpu_seconds')[-1] / lines[-1]['epoch']:.1f}" for lines in runs),
            each(f"{lines[-1]['entropy']:.1f}" for lines in runs),
        ]
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def rank(run: tuple[str, Any]) -> tuple[bool, int]:
    """Standardised features first, then bare ones; the methods in their order."""
    return run[0].endswith(BARE), list(METHODS).index(run[0].removesuffix(BARE))


def reached(lines: Lines, against: list[float], level: float) -> str:
    """Epochs, or seconds, until the test error was first at most `level`; "-" where it never was."""
    return next((f"{x:.3g}" for x, error in zip(against, errors(lines), strict=True) if error <= level), "-")


def each(figures: Iterable[str]) -> str:
    return ", ".join(figures)


def curves(results: dict[str, Any], path: Path) -> None:
    """Test error against epochs and against seconds of training; a thin line a seed, a thick one their mean.

    A row for standardised features, and one for bare ones.
    """
    kinds = sorted({method.endswith(BARE) for method in results["runs"]})
    figure, axes = plt.subplots(
        len(kinds), 2, figsize=(10, 4 * len(kinds)), sharey=True, layout="constrained", squeeze=False
    )
    for row, bare in zip(axes, kinds, strict=True):
        for method, seeds in sorted(results["runs"].items(), key=rank):
            if method.endswith(BARE) == bare:
                _lines(row, method, list(seeds.values()))
        for axis, name in zip(row, ("epochs", "seconds of training"), strict=True):
            axis.axhline(0.05, color="black", linewidth=0.6, linestyle=":")
            axis.set_xlabel(name)
            axis.set_ylim(0, 1)
        row[0].set_ylabel("test error" + (", features as they come" if bare else ""))
        row[1].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(row: Any, method: str, runs: list[Lines]) -> None:
    colour = COLOURS[method.removesuffix(BARE)]
    shortest = min(len(lines) for lines in runs)
    for axis, against in zip(row, (epochs, seconds), strict=True):
        for lines in runs:
            axis.plot(against(lines), errors(lines), color=colour, linewidth=0.8, alpha=0.5)
        across = [mean(x) for x in zip(*(against(x)[:shortest] for x in runs), strict=True)]
        along = [mean(x) for x in zip(*(errors(x)[:shortest] for x in runs), strict=True)]
        axis.plot(across, along, color=colour, linewidth=2, label=method)


def epochs(lines: Lines) -> list[float]:
    return [x["epoch"] for x in lines]


def seconds(lines: Lines, kind: str = "seconds") -> list[float]:
    """Of training, since the start, at the end of each line's part."""
    total, found = 0.0, []
    for x in lines:
        total += x[kind]
        found.append(total)
    return found


def errors(lines: Lines) -> list[float]:
    return [x["test_error"] for x in lines]


if __name__ == "__main__":
    main()
