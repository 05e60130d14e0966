"""Table and curves of what `paper.run` has found so far.

cd benchmarks && python -m paper.report results/paper-mnist-small.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Lines = list[dict[str, float]]
LEVELS = (0.5, 0.2, 0.1, 0.05)
COLOURS = ("tab:red", "tab:blue", "tab:green", "tab:grey")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--picture", type=Path, help="instead of RESULTS with .png")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    arguments.results.with_suffix(".md").write_text(table(results))
    curves(results, arguments.picture or arguments.results.with_suffix(".png"))


def reached(lines: Lines, level: float) -> str:
    """Epochs until the test error was first at most `level`; "-" where it never was."""
    return next((f"{x['epoch']:g}" for x in lines if x["test_error"] <= level), "-")


def table(results: dict[str, Any]) -> str:
    """One row a method; figures of the seeds side by side."""
    heads = ["method", "epochs", "last test error", "lowest"]
    heads += [f"epochs to {level:.0%}" for level in LEVELS] + ["CPU s an epoch", "attention, nats"]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for method, seeds in results["runs"].items():
        runs = list(seeds.values())
        cells = [
            each(f"{lines[-1]['epoch']:g}" for lines in runs),
            each(f"{lines[-1]['test_error']:.3f}" for lines in runs),
            each(f"{min(x['test_error'] for x in lines):.3f}" for lines in runs),
            *(each(reached(lines, level) for lines in runs) for level in LEVELS),
            each(f"{seconds(lines)[-1] / lines[-1]['epoch']:.0f}" for lines in runs),
            each(f"{lines[-1]['entropy']:.1f}" for lines in runs),
        ]
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def each(figures: Any) -> str:
    return ", ".join(figures)


def curves(results: dict[str, Any], path: Path) -> None:
    """Test error against epochs and against seconds of one core; a thin line a seed, a thick one their mean."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for colour, (method, seeds) in zip(COLOURS, results["runs"].items(), strict=False):
        runs = list(seeds.values())
        for axis, against in zip(axes, (epochs, seconds), strict=True):
            for lines in runs:
                axis.plot(against(lines), errors(lines), color=colour, linewidth=0.8, alpha=0.5)
            shortest = min(len(lines) for lines in runs)
            whole = [lines[:shortest] for lines in runs]
            across = [mean(x) for x in zip(*map(against, whole), strict=True)]
            along = [mean(x) for x in zip(*map(errors, whole), strict=True)]
            axis.plot(across, along, color=colour, linewidth=2, label=method)
    for axis, name in zip(axes, ("epochs", "CPU seconds of training, one thread"), strict=True):
        axis.axhline(0.05, color="black", linewidth=0.6, linestyle=":")
        axis.set_xlabel(name)
        axis.set_ylim(0, 1)
    axes[0].set_ylabel("test error")
    axes[1].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def epochs(lines: Lines) -> list[float]:
    return [x["epoch"] for x in lines]


def seconds(lines: Lines) -> list[float]:
    """Since the start, at the end of each epoch."""
    total, found = 0.0, []
    for x in lines:
        total += x["cpu_seconds"]
        found.append(total)
    return found


def errors(lines: Lines) -> list[float]:
    return [x["test_error"] for x in lines]


if __name__ == "__main__":
    main()
