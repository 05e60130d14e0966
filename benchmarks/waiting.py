"""How long do the networks wait for tiles, with and without reading ahead, when they only take a GPU's time?

    python benchmarks/waiting.py OUT [--slides 24] [--ms 2 5 10]

Slides are synthetic (4,096 px, JPEG tiles of 256 px); the feature network sleeps so many milliseconds a tile, a third
of it forward and two thirds backward, and computes next to nothing. Every tile is met for the first time: one epoch.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import torch

from wsi_ats.config import load_config
from wsi_ats.manifest import Row
from wsi_ats.synthetic.phantom import Phantom, write_phantom
from wsi_ats.train import run as training
from wsi_ats.train.module import TrainingModule

SETTINGS = (
    "train.epochs=1",
    "train.warm_up=0",
    "features.frozen=false",
    "features.width=4",
    "attention.width=4",
)


class Sleep(torch.autograd.Function):
    """The identity, which takes its time both ways."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seconds: float) -> torch.Tensor:
        ctx.seconds = seconds
        time.sleep(seconds / 3)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        time.sleep(ctx.seconds * 2 / 3)
        return grads[0], None


class Tiny(torch.nn.Module):
    """Mean and spread of each colour, learned a little, in place of a feature network."""

    frozen = False

    def __init__(self, seconds: float, dim: int) -> None:
        super().__init__()
        self.seconds = seconds
        self.head = torch.nn.Linear(6, dim)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        small = tiles[:, :, ::16, ::16].flatten(2)
        out = self.head(torch.cat([small.mean(2), small.std(2)], 1))
        return Sleep.apply(out, self.seconds * len(tiles))


def rows_in(folder: Path, count: int) -> list[Row]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        path, label = folder / f"{i}.tif", ("normal", "tumour")[i % 2]
        if not path.exists():
            write_phantom(path, Phantom(size=4096, lesion=i % 2 == 1, lesion_fraction=0.05, seed=i))
        rows.append(Row(path.name, path, label, path.name, "val" if i < 4 else "train", 0.25))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--slides", type=int, default=24)
    parser.add_argument("--ms", type=float, nargs="+", default=[2.0, 5.0, 10.0])
    arguments = parser.parse_args()
    rows, build = rows_in(arguments.out / "slides", arguments.slides), training.build_model
    TrainingModule.on_validation_epoch_start = lambda self: (
        None
    )  # it would read tiles for the figures of features
    print("| ms a tile | read ahead | waiting, s | share of the steps |\n|---|---|---|---|")
    for ms in arguments.ms:
        for ahead in ("false", "true"):

            def with_sleep(*args: Any, ms: float = ms) -> Any:
                model = build(*args)
                model.features = Tiny(ms / 1000, model.head.dim)
                return model

            training.build_model = with_sleep
            config = load_config(None, [*SETTINGS, f"train.read_ahead={ahead}"])
            out = arguments.out / f"{ms:g}-{ahead}"
            training.train(rows, config, out, overwrite=True, say=lambda line: None)
            with (out / "stages.csv").open(newline="") as file:
                seconds = {line["stage"]: float(line["seconds"]) for line in csv.DictReader(file)}
            steps = sum(seconds[name] for name in ("waiting", "forward", "backward", "update"))
            print(
                f"| {ms:g} | {ahead} | {seconds['waiting']:.2f} | {seconds['waiting'] / steps:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
