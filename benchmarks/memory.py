"""Peak memory of one training step and of one prediction, for slides of 20,000 to 200,000 px a side.

    python benchmarks/memory.py                  # about 5 minutes on two cores; the slides take 20 MB of disk

Every figure is of a fresh process: peak resident memory less what is resident once the model is built. The slides are
at 0.25 um/px, the settings the defaults (view 8 um/px, 32 tiles of 256 px at 0.5 um/px a training step, 64 a
prediction). Results go to benchmarks/results/memory.{json,md}.

Twice each: with an allocator that gives freed memory back at once (glibc with a fixed MALLOC_MMAP_THRESHOLD_), which
shows what is in use, and with glibc as it comes, which keeps tens of MB of what was freed, more or less by chance.
The index of the slide's tiles is part of every figure: about 10 MB at 200,000 px.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (20_000, 60_000, 120_000, 200_000)
TASKS = ("step", "predict")
ALLOCATORS = {"returns what is freed": {"MALLOC_MMAP_THRESHOLD_": "131072"}, "as it comes": {}}
RESULTS = Path(__file__).parent / "results"
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=TASKS)
    parser.add_argument("--set", nargs="*", default=[], help="settings, section.key=value")
    parser.add_argument(
        "--device", default="cpu", help="of the networks; the peak of its own memory is told, too"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "memory")
    parser.add_argument("--child", nargs=2, metavar=("TASK", "SLIDE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(*given.child, given.set, given.device)))
        return
    from huge_slide import write_huge

    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for size in given.sizes:
            slide = write_huge(Path(folder) / f"{size}.tif", size)
            for task, allocator in itertools.product(given.tasks, ALLOCATORS):
                command = [sys.executable, __file__, "--child", task, str(slide), "--device", given.device]
                command += ["--set", *given.set]
                environment = {**os.environ, **ALLOCATORS[allocator]}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                run = {
                    "px": size,
                    "task": task,
                    "allocator": allocator,
                    **json.loads(done.stdout.splitlines()[-1]),
                }
                runs.append({"file_mb": slide.stat().st_size / MB, **run})
                print(runs[-1], flush=True)
            slide.unlink()
    write(runs, given.set, given.device, given.out)


def measure(task: str, slide: str, settings: list[str], device: str) -> dict[str, float]:
    """In a process of its own: run the task once."""
    import torch
    from torch.nn.functional import cross_entropy

    from wsi_ats import open_slide
    from wsi_ats.build import build_model
    from wsi_ats.config import load_config
    from wsi_ats.lowres.prepare import prepare
    from wsi_ats.sampling import generator_for

    torch.set_num_threads(1)
    model = build_model(load_config(None, settings), ("normal", "tumour")).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    baseline, held = resident(), allocated(device)
    start = time.perf_counter()
    if task == "predict":
        prediction = model.predict(slide)
        cells, grid = len(prediction.tissue), len(prediction.grid)
    else:
        with open_slide(slide) as handle:
            prepared = prepare(handle, model.config)
        cells, grid = len(prepared.tissue), len(prepared.view.grid)
        model.train()
        (estimate,) = model([prepared], [generator_for(0, "step")])
        cross_entropy(estimate.logits, torch.tensor(1, device=device)).backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    on_device = {} if device == "cpu" else {"device_peak_mb": (allocated(device) - held) / MB}
    return {
        "peak_mb": (most_resident() - baseline) / MB,
        **on_device,
        "baseline_mb": baseline / MB,
        "seconds": seconds,
        "tissue_cells": cells,
        "grid_cells": grid,
    }


def most_resident() -> int:
    """Bytes of this process in memory at its peak. Not ru_maxrss, which a child takes over from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def allocated(device: str) -> int:
    """Bytes of a GPU's memory that were in use at once, at most, so far."""
    import torch

    return 0 if device == "cpu" else torch.cuda.max_memory_allocated(device)


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def write(runs: list[dict], settings: list[str], device: str, out: Path) -> None:
    import torch

    device = device if device == "cpu" else torch.cuda.get_device_name(device)

    out.parent.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    data = {"settings": settings, "threads": 1, "device": device, **machine, "runs": runs}
    out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    lines = [
        "| task | allocator | slide, px | tissue cells | peak, MB | growth, MB | growth, % | a K-vector of 8 bytes, MB "
        "| seconds | peak on the GPU, MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task, allocator in itertools.product(TASKS, ALLOCATORS):
        mine = [run for run in runs if (run["task"], run["allocator"]) == (task, allocator)]
        for run in mine:
            on_device = f"{run['device_peak_mb']:.1f}" if "device_peak_mb" in run else "-"
            grown = run["peak_mb"] - mine[0]["peak_mb"]
            lines.append(
                f"| {task} | {allocator} | {run['px']:,} | {run['tissue_cells']:,} | {run['peak_mb']:.1f} "
                f"| {grown:.1f} | {100 * grown / mine[0]['peak_mb']:.1f} | {8 * run['tissue_cells'] / MB:.2f} "
                f"| {run['seconds']:.1f} | {on_device} |"
            )
    with_settings = f", {' '.join(settings)}" if settings else ""
    note = f"\n0.25 um/px, one thread, torch {machine['torch']}, Python {machine['python']}{with_settings}, {device}.\n"
    out.with_suffix(".md").write_text("\n".join(lines) + "\n" + note)


if __name__ == "__main__":
    main()
