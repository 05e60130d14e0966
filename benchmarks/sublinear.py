"""What one prediction and one training step read, on one and on two levels, of slides of 20,000 to 200,000 px a side.

    python benchmarks/sublinear.py               # about 3 minutes on two cores; the slides take 20 MB of disk

Every figure is of a fresh process. The slides are those of memory.py, with levels until the smallest has at most 1024
px a side, as scanners write them; "cut" has none coarser than 64, so that its coarse view is made from a large level.
A run that is stopped goes on with what is missing.
Settings are the defaults: view 8 um/px, 64 tiles of 256 px at 0.5 um/px a prediction, 32 a step; two levels add a
coarse view of at most 1024 px a side and regions of 1 mm, one a tile.

Bytes are those of decoded pixels as `slide.bytes_read` counts them: "views" what either view took, "tiles" the rest.
The exponent is the slope of log bytes over log area through all sizes. Results: benchmarks/results/sublinear.{json,md}.
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

import numpy as np
from memory import ALLOCATORS, MB, RESULTS, most_resident, resident

SIZES = (20_000, 60_000, 120_000, 200_000)
TASKS = ("predict", "step")
LEVELS = (1, 2)
PYRAMIDS = ("whole", "cut")
SMALLEST = 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--set", nargs="*", default=[], help="settings, section.key=value")
    parser.add_argument("--out", type=Path, default=RESULTS / "sublinear")
    parser.add_argument("--child", nargs=3, metavar=("TASK", "LEVELS", "SLIDE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        task, levels, slide = given.child
        print(json.dumps(measure(task, slide, [f"attention.levels={levels}", *given.set])))
        return
    from huge_slide import write_huge

    known = given.out.with_suffix(".json")
    runs = json.loads(known.read_text())["runs"] if known.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for size, pyramid in itertools.product(given.sizes, PYRAMIDS):
            levels = downsamples(size, pyramid)
            todo = [
                {"px": size, "pyramid": pyramid, "task": task, "levels": level}
                for task, level in itertools.product(TASKS, LEVELS)
                if pyramid == "whole"
                or (levels != downsamples(size, "whole") and (task, level) == ("predict", 2))
            ]
            todo = [run for run in todo if not any(run.items() <= done.items() for done in runs)]
            if todo:
                slide = write_huge(Path(folder) / f"{size}.tif", size, downsamples=levels)
            for run in todo:
                child = ("--child", run["task"], str(run["levels"]), str(slide))
                command = [sys.executable, __file__, *child, "--set", *given.set]
                environment = {**os.environ, **ALLOCATORS["returns what is freed"]}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                runs.append({**run, **json.loads(done.stdout.splitlines()[-1])})
                print(runs[-1], flush=True)
                write(runs, given.set, given.out)


def downsamples(size: int, pyramid: str) -> tuple[int, ...]:
    """Of the slide's levels: 1, 4, 16, ..."""
    steps = [4**i for i in range(8)]
    last = next(step for step in steps if size / step <= SMALLEST)
    return tuple(step for step in steps if step <= (last if pyramid == "whole" else min(last, 64)))


def measure(task: str, slide: str, settings: list[str]) -> dict[str, float]:
    """In a process of its own: run the task once."""
    import torch
    from torch.nn.functional import cross_entropy

    from wsi_ats import open_slide
    from wsi_ats.build import build_model
    from wsi_ats.config import load_config
    from wsi_ats.lowres.prepare import prepare
    from wsi_ats.lowres.view import LazyView
    from wsi_ats.predict import predict_prepared
    from wsi_ats.reading import Reading
    from wsi_ats.sampling import generator_for

    torch.set_num_threads(1)
    model = build_model(load_config(None, settings), ("normal", "tumour"))
    views, read = [], LazyView.read

    def counted(view, slide, box):
        before = slide.bytes_read
        pixels = read(view, slide, box)
        views.append(slide.bytes_read - before)
        return pixels

    LazyView.read = counted
    baseline, start, cpu = resident(), time.perf_counter(), time.process_time()
    with open_slide(slide) as handle:
        prepared = prepare(handle, model.config, keep_open=True)
        if task == "predict":
            predict_prepared(model, prepared, Reading())
        else:
            (estimate,) = model.train()([prepared], [generator_for(0, "step")])
            cross_entropy(estimate.logits, torch.tensor([1])[0]).backward()
        total = handle.bytes_read
    return {
        "mb": total / MB,
        "views_mb": sum(views) / MB,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": (most_resident() - baseline) / MB,
        "coarse_px": max(prepared.view.shape) if prepared.inside is not None else 0,
        "cells_or_regions": len(prepared.tissue),
    }


def exponent(runs: list[dict], key: str) -> float:
    """Slope of log(key) over log(area)."""
    return float(np.polyfit(np.log([r["px"] ** 2 for r in runs]), np.log([r[key] for r in runs]), 1)[0])


def write(runs: list[dict], settings: list[str], out: Path) -> None:
    import torch

    out.parent.mkdir(exist_ok=True)
    runs = sorted(runs, key=lambda run: run["px"])
    machine = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    data = {"settings": settings, "threads": 1, **machine, "runs": runs}
    out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    lines = [
        "| task | levels | slide, px | pyramid | tissue cells or regions | coarse view, px | views, MB | tiles, MB "
        "| all, MB | seconds | of CPU | peak, MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    fits = ["| task | levels | all bytes | bytes of views | seconds of CPU |", "|---|---|---|---|---|"]
    for task, levels in itertools.product(TASKS, LEVELS):
        mine = [r for r in runs if (r["task"], r["levels"]) == (task, levels)]
        lines += [
            f"| {task} | {levels} | {r['px']:,} | {r['pyramid']} | {r['cells_or_regions']:,} "
            f"| {r['coarse_px'] or '-'} | {r['views_mb']:.1f} | {r['mb'] - r['views_mb']:.1f} | {r['mb']:.1f} "
            f"| {r['seconds']:.1f} | {r['cpu_seconds']:.1f} | {r['peak_mb']:.0f} |"
            for r in mine
        ]
        whole = [r for r in mine if r["pyramid"] == "whole"]
        if len(whole) < 2:
            continue
        fits.append(
            f"| {task} | {levels} | "
            + " | ".join(f"{exponent(whole, k):.2f}" for k in ("mb", "views_mb", "cpu_seconds"))
            + " |"
        )
    with_settings = f", {' '.join(settings)}" if settings else ""
    versions = f"torch {machine['torch']}, Python {machine['python']}{with_settings}"
    note = f"\n0.25 um/px, one thread, a machine shared with others, {versions}.\n"
    text = [*lines, "", "Exponents of the slide's area, fitted over all sizes:", "", *fits]
    out.with_suffix(".md").write_text("\n".join(text) + "\n" + note)


if __name__ == "__main__":
    main()
