"""The paper's experiments: test error against epochs and seconds, for the published estimator and for ours.

    cd benchmarks && python -m paper.run --task mnist --data MNIST --work FOLDER [--preset paper --device cuda]

Small settings by default, an hour on one core for all methods and three seeds; `--preset paper` has the paper's, for a
GPU. A run that is stopped goes on after its last test. Results go to benchmarks/results/paper-TASK-PRESET.json
after every test; `python -m paper.report` makes table and curves of them.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from paper.model import METHODS
from paper.presets import PRESETS, Preset
from paper.train import Run

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=sorted({task for task, _ in PRESETS}), default="mnist")
    parser.add_argument("--preset", choices=["small", "paper"], default="small")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of MNIST, CRCHistoPhenotypes or signs"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for unfinished runs")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path)
    for name, kind in (
        ("epochs", int),
        ("batch", int),
        ("workers", int),
        ("lr", float),
        ("lr_attention", float),
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the preset's")
    parser.add_argument(
        "--bare", dest="standardise", action="store_const", const=False, help="features as they come"
    )
    arguments = parser.parse_args()
    preset = changed(PRESETS[arguments.task, arguments.preset], vars(arguments))
    path = arguments.results or RESULTS / f"paper-{arguments.task}-{arguments.preset}.json"
    arguments.work.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for method in arguments.methods:
            train(preset, arguments.data, method, seed, arguments.device, arguments.work, path)


def changed(preset: Preset, wanted: dict[str, Any]) -> Preset:
    """The preset with the settings that were given."""
    given = {k: v for k, v in wanted.items() if k in asdict(preset.settings) and v is not None}
    return replace(preset, settings=replace(preset.settings, **given))


def train(preset: Preset, data: Path, method: str, seed: int, device: str, work: Path, path: Path) -> None:
    """Train to the end, from where an earlier run stopped; the results grow by one line a test."""
    run = Run(*preset.pictures(data, seed), preset.scale, preset.settings, method, seed, device)
    kept = work / f"{path.stem}-{method.replace(' ', '-')}-{seed}.pt"
    if kept.is_file():
        run.load(kept)
    while run.done < preset.settings.epochs * preset.settings.parts:
        line = run.one_part()
        run.save(kept)
        add(path, preset, method, seed, line)
        print(method, seed, json.dumps(line), flush=True)


def add(path: Path, preset: Preset, method: str, seed: int, line: dict[str, float]) -> None:
    """One more test in the results; a line of the same epoch is replaced, as are later ones."""
    results = json.loads(path.read_text()) if path.is_file() else {"runs": {}}
    results["machine"] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    results["scale"], results["settings"] = asdict(preset.scale), asdict(preset.settings)
    lines = results["runs"].setdefault(method, {}).setdefault(str(seed), [])
    lines[:] = [x for x in lines if x["epoch"] < line["epoch"]] + [line]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()
