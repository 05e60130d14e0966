"""The paper's experiments: test error against epochs and seconds, for the published estimator and for ours.

    cd benchmarks && python -m paper.run --task mnist --data MNIST --work FOLDER [--preset middle --jobs 12]

Small settings by default, an hour on one core for all methods and three seeds. Every run has a process of its own, and
`--jobs` of them work at a time. Each writes its tests to a file of its own in the work folder, and goes on from there
if it was stopped; `--minutes` lets all stop in time. The results, results/paper-TASK-PRESET.json, are put together
from those files again and again while the runs go on; `python -m paper.report` makes table and curves of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing.connection
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from paper.model import METHODS
from paper.presets import PRESETS
from paper.train import Run, Settings

RESULTS = Path(__file__).resolve().parents[1] / "results"
MERGE = 20.0
"""Seconds after which the results are put together again."""


@dataclass(frozen=True)
class Job:
    """One method and seed; `work` holds its state and its tests."""

    task: str
    preset: str
    settings: Settings
    method: str
    seed: int
    data: Path
    work: Path
    device: str

    @property
    def kind(self) -> str:
        """The method's name in the results."""
        return self.method + ("" if self.settings.standardise else BARE)

    @property
    def kept(self) -> Path:
        name = "-".join(
            ["paper", self.task, self.preset, *self.kind.replace(",", "").split(), str(self.seed)]
        )
        return self.work / f"{name}.json"


BARE = ", bare"
"""Behind the name of a method whose features are as they come from the network."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=sorted({task for task, _ in PRESETS}), default="mnist")
    parser.add_argument("--preset", choices=sorted({preset for _, preset in PRESETS}), default="small")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of MNIST, CRCHistoPhenotypes or signs"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for unfinished runs")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument(
        "--features",
        nargs="*",
        choices=["standardised", "bare"],
        default=["standardised"],
        help="spread over the sphere, or as they come from the network, as in the published code",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a process each")
    parser.add_argument("--minutes", type=float, default=1e9, help="no test ends later than that")
    parser.add_argument("--results", type=Path, help="file for the results, instead of one in results/")
    for name, kind in (
        ("epochs", int),
        ("batch", int),
        ("parts", int),
        ("workers", int),
        ("lr", float),
        ("lr_attention", float),
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the preset's")
    parser.add_argument("--fall", action="store_const", const=True, help="let the rates fall to zero")
    arguments = parser.parse_args()
    if (arguments.task, arguments.preset) not in PRESETS:
        parser.error(f"{arguments.task} has no preset {arguments.preset!r}")
    deadline = time.time() + 60 * arguments.minutes
    arguments.work.mkdir(parents=True, exist_ok=True)
    path = arguments.results or RESULTS / f"paper-{arguments.task}-{arguments.preset}.json"
    run_all(jobs_of(arguments), arguments.jobs, deadline, path)


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """Seed by seed, so that what is not reached in time is missing for all methods alike."""
    a, settings = arguments, changed(PRESETS[arguments.task, arguments.preset].settings, vars(arguments))
    return [
        Job(
            *(a.task, a.preset, replace(settings, standardise=features == "standardised")),
            *(method, seed, a.data, a.work, a.device),
        )
        for features, seed, method in product(a.features, a.seeds, a.methods)
    ]


def changed(settings: Settings, wanted: dict[str, Any]) -> Settings:
    """The preset's settings with those that were given."""
    return replace(settings, **{k: v for k, v in wanted.items() if k in asdict(settings) and v is not None})


def run_all(jobs: Sequence[Job], at_a_time: int, deadline: float, path: Path) -> None:
    """All jobs, each in a process of its own; the results are put together while they go on.

    One that fails leaves the others alone, and is told of in the end.
    """
    spawn = multiprocessing.get_context("spawn")
    waiting, running, failed = list(jobs), {}, []
    while running or (waiting and time.time() < deadline):
        while waiting and len(running) < at_a_time:
            job = waiting.pop(0)
            process = spawn.Process(target=train, args=(job, deadline))
            process.start()
            running[process.sentinel] = process, job
        for sentinel in multiprocessing.connection.wait(running, MERGE):
            process, job = running.pop(sentinel)
            process.join()
            failed += [f"{job.kind} {job.seed}"] if process.exitcode else []
        merge(jobs, path)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}")


def train(job: Job, deadline: float) -> None:
    """Train to the end or until the deadline, from where an earlier run stopped."""
    if time.time() > deadline:
        return
    torch.set_num_threads(1)
    preset = PRESETS[job.task, job.preset]
    pictures = preset.pictures(job.data, job.seed)
    run = Run(*pictures, preset.scale, job.settings, job.method, job.seed, job.device)
    state = job.kept.with_suffix(".pt")
    if state.is_file():
        run.load(state)
    took = 0.0
    while run.done < job.settings.tests and time.time() + took < deadline:
        start = time.time()
        line = run.one_part()
        run.save(state)
        add(job, line)
        print(job.kind, job.seed, json.dumps(line), flush=True)
        took = time.time() - start


def add(job: Job, line: dict[str, float]) -> None:
    """One more test of a job; a line of the same epoch is replaced, as are later ones."""
    found = json.loads(job.kept.read_text()) if job.kept.is_file() else {"lines": []}
    found["machine"] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if job.device.startswith("cuda") else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    found["lines"] = [x for x in found["lines"] if x["epoch"] < line["epoch"]] + [line]
    write(job.kept, found)


def merge(jobs: Sequence[Job], path: Path) -> None:
    """The tests of these jobs so far, put into the results; those of other jobs stay there."""
    results = json.loads(path.read_text()) if path.is_file() else {"runs": {}}
    for job in jobs:
        if job.kept.is_file():
            found = json.loads(job.kept.read_text())
            results["machine"] = found["machine"]
            results["scale"] = asdict(PRESETS[job.task, job.preset].scale)
            results["settings"] = {k: v for k, v in asdict(job.settings).items() if k != "standardise"}
            results["runs"].setdefault(job.kind, {})[str(job.seed)] = found["lines"]
    write(path, results)


def write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()
