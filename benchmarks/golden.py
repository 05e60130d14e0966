"""Do two versions of the package give the same answers, bit for bit?

    python benchmarks/golden.py write before.json                 # with the one version installed
    python benchmarks/golden.py compare before.json               # with the other one

Small models are trained for two epochs from scratch: one for every sampler that can be trained with, on one and on two
levels of attention, plain and refined, all kinds of tasks at once, and one with a pretrained network where --mobilenet
has its weights. Each of them then predicts unseen slides, by every sampler, in fixed and in adaptive readings. What is
compared are digests of the weights and of every number of every prediction. Nothing but what users hold on to is
called (the commands, `open_slide`, `load_model`, `predict`), so that the same file runs on both versions; the digests
are those of one machine and one version of torch, and are not kept.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

COMMON = """\
view = { downsample = 8 }
tile = { downsample = 2, px = 16 }
tissue = { min_fraction = 0.1 }
features = { network = "paper" }
train = { epochs = 2, lr = 1e-2, val_tiles = 16 }

[attention]
stride = 4
width = 4
"""
TASKS = """
[tasks.purity]
kind = "regression"

[tasks.grade]
kind = "ordinal"
grades = ["I", "II", "III"]

[tasks.stains]
kind = "labels"
target = ["purple", "brown"]

[tasks.death]
kind = "survival"
target = "months"
event = "died"

[tasks.stain]
kind = "classes"
class_weights = "balanced"
"""
COLUMNS = ("slide", "split", "purity", "grade", "purple", "brown", "months", "died", "stain")
TRAINABLE = (
    "systematic",
    "gumbel",
    "unordered",
    "gumbel-threshold",
    "gumbel-threshold-normalised",
    "priority",
    "multinomial",
    "all",
)
TWO_LEVELS = ["attention.levels=2", "regions.side=2", "regions.shrink=2", "regions.px=16"]
READINGS: dict[str, dict[str, Any]] = {
    **{sampler: {"tiles": 16, "sampler": sampler} for sampler in (*TRAINABLE, "top")},
    "one round": {"tiles": 8, "repeats": 1, "seed": 3},
    "adaptive": {"tolerance": 1e-3, "tiles": 40},
}
SLIDES = {"train": 12, "val": 12, "test": 3}


def trainings(mobilenet: Path | None) -> Iterator[tuple[str, list[str]]]:
    """Name and settings of every model."""
    for sampler in TRAINABLE:
        for levels, more in (("one level", []), ("two levels", TWO_LEVELS)):
            yield f"{sampler}, {levels}", [f"sampling.sampler={sampler}", "sampling.tiles=12", *more]
    yield "plain", ["sampling.refined=false", "sampling.tiles=12", "train.entropy=0.01"]
    yield (
        "warm-up, shift, prior",
        ["train.warm_up=1", "train.shift=0.5", "sampling.prior=0.5", "sampling.tiles=12"],
    )
    yield "uniform, two levels", ["sampling.uniform=true", "sampling.tiles=12", *TWO_LEVELS]
    yield (
        "normalised, in blocks",
        ["view.normalise=true", "view.block=8", "view.whole=0", "attention.network=deep"],
    )
    if mobilenet is not None:
        weights = [f"{part}.network=mobilenet-v1" for part in ("attention", "features")]
        weights += [f"{part}.weights={mobilenet}" for part in ("attention", "features")]
        yield "mobilenet", [*weights, "attention.stride=8", "view.downsample=4", "tile.px=32"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--mobilenet", type=Path, help="npz of MobileNet v1")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = digests(Path(folder), arguments.mobilenet)
    if arguments.action == "write":
        arguments.file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{len(found)} digests")
        return
    before = json.loads(arguments.file.read_text())
    differing = [name for name in sorted({*before, *found}) if before.get(name) != found.get(name)]
    print(f"{len(found)} digests, {len(differing)} differ", *differing[:20], sep="\n")
    sys.exit(bool(differing))


def digests(folder: Path, mobilenet: Path | None) -> dict[str, str]:
    """Name -> digest of all models and predictions."""
    os.environ["OMP_NUM_THREADS"] = "1"  # more threads may change the last digit of a float32
    write_slides(folder / "slides")
    found = {}
    for i, (name, settings) in enumerate(trainings(mobilenet)):
        run, toml = folder / f"run{i}", folder / f"{i}.toml"
        toml.write_text(COMMON + TASKS)
        options = [option for setting in settings for option in ("--set", setting)]
        command = ["train", str(folder / "slides" / "manifest.csv"), "--out", str(run), "--config", str(toml)]
        done = subprocess.run(
            [sys.executable, "-m", "wsi_ats", *command, *options], capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{name}: {done.stdout}{done.stderr}")
        found |= {f"{name} | {key}": value for key, value in answers(run / "model", folder / "slides")}
        print(f"{name}: {len(found)} digests so far", flush=True)
    return found


def answers(model_folder: Path, slides: Path) -> Iterator[tuple[str, str]]:
    """Digests of a model's weights and of what it says of the test slides."""
    import torch
    from safetensors.torch import load_file

    import wsi_ats

    torch.set_num_threads(1)
    weights = load_file(model_folder / "model.safetensors")
    yield "weights", digest({str(i): weights[name] for i, name in enumerate(sorted(weights))})
    model = wsi_ats.load_model(model_folder)
    for slide in sorted(slides.glob("test_*.tif")):
        for reading, arguments in READINGS.items():
            prediction = model.predict(slide, **arguments)
            values = {name: getattr(prediction, name) for name in ("tissue", "attention", "cells", "weights")}
            results = getattr(prediction, "results", None) or prediction.answers  # as it was called before
            for i, answer in enumerate(results):
                values |= {
                    f"{i} {name}": getattr(answer, name) for name in ("values", "stderr", "contributions")
                }
            values["counts"] = np.array(
                [prediction.tiles_read, prediction.rounds, prediction.bytes_read], float
            )
            yield f"{slide.name} | {reading}", digest(values)


def digest(values: dict[str, Any]) -> str:
    """Of names, dtypes, shapes and bits."""
    total = hashlib.sha256()
    for name, value in sorted(values.items()):
        array = np.ascontiguousarray(value)
        total.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def write_slides(folder: Path) -> None:
    """Tiled TIFFs of stained squares on pink tissue and a manifest with all kinds of targets; the same every time."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines: list[list[object]] = []
    for split, count in SLIDES.items():
        for i in range(count):
            purity, brown, name = (
                (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)[i % 6],
                i // 2 % 2 == 0,
                f"{split}_{i}.tif",
            )
            write_slide(folder / name, round(purity * 64), 9 * brown, rng)
            stain = ("pink", "purple", "brown", "both")[(purity > 0) + 2 * brown]
            months = 1000 * rng.exponential(np.exp(-16 * purity))
            grade = ("I", "II", "III")[i % 6 // 2]
            line = [name, split, purity, grade, int(purity > 0), int(brown), f"{months:.3f}", int(i % 4 > 0)]
            lines.append([*line, stain])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])


def write_slide(path: Path, purple: int, brown: int, rng: np.random.Generator) -> None:
    """8 x 8 squares of 32 px, with as many of each colour, under a border of glass."""
    squares = np.tile(np.array((225, 150, 190)), (64, 1))
    places = rng.permutation(64)
    squares[places[:purple]] = (110, 60, 140)
    squares[places[purple : purple + brown]] = (140, 90, 40)
    tissue = squares.reshape(8, 8, 3).repeat(32, 0).repeat(32, 1)
    pixels = np.full((320, 352, 3), 244.0)
    pixels[24:280, 40:296] = tissue
    pixels = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="rgb", compression="deflate")


if __name__ == "__main__":
    main()
