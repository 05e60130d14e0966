"""Multiple-instance learning on the features of every tissue tile, for benchmarks/mosaic.py."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from baselines import AllTiles

from wsi_ats.build import build_model
from wsi_ats.cache import Memory
from wsi_ats.config import Config
from wsi_ats.lowres.prepare import look
from wsi_ats.manifest import Row
from wsi_ats.model import direction, uniform_attention
from wsi_ats.sampling import draw
from wsi_ats.slides import open_slide
from wsi_ats.tasks.make import as_tasks
from wsi_ats.tiles import read_tiles
from wsi_ats.train.data import Examples
from wsi_ats.train.merit import epoch_figures
from wsi_ats.train.run import calibration_scenes

EPOCHS = 20
AT_ONCE = 64
"""Tiles in one pass of the network."""


def recall_features(
    rows: list[Row], config: Config, classes: Sequence[str], memory: Memory, folder: Path
) -> None:
    """Fill `memory` with the frozen features of every tissue tile, from files in `folder` or from the slides."""
    folder.mkdir(exist_ok=True)
    net = build_model(config, classes).features
    for row in rows:
        file = folder / f"{Path(row.path).stem}.npz"
        with open_slide(row.path) as slide:
            if not file.exists():
                start, scene = time.process_time(), look(slide, config)
                tiles = read_tiles(
                    slide, scene.view.grid, scene.tissue, config.tile.px, scene.tile_downsample
                )
                features = np.concatenate(
                    [_features(net, tiles[i : i + AT_ONCE]) for i in range(0, len(tiles), AT_ONCE)]
                )
                np.savez(file, cells=scene.tissue, features=features.astype(np.float16))
                print(f"{row.slide}: {len(tiles)} tiles, {time.process_time() - start:.1f} CPU s", flush=True)
            address = slide.address
        with np.load(file) as kept:
            cells, features = kept["cells"], kept["features"].astype(np.float32)
        keys = [(address, int(cell)) for cell in cells]
        memory.recall(keys, lambda positions, features=features: features[positions])


@torch.inference_mode()
def _features(net: torch.nn.Module, tiles: np.ndarray) -> np.ndarray:
    return net(torch.from_numpy(tiles).permute(0, 3, 1, 2).float().div_(255)).numpy()


@dataclass(frozen=True)
class Bag:
    features: torch.Tensor
    """(K, D), standardised as those of a model that samples."""
    label: int


def bags_of(rows: list[Row], classes: Sequence[str], config: Config, memory: Memory) -> dict[str, list[Bag]]:
    """All tiles of all slides by split; the frozen network and its standardisation are those of the other methods."""
    model = build_model(config, classes).eval()
    sets = {
        s: Examples([r for r in rows if r.split == s], classes, config, 1 << 30)
        for s in ("train", "val", "test")
    }
    model.calibrate(calibration_scenes(sets["train"], config.train.seed), config.train.seed, memory)

    def features(scene) -> torch.Tensor:
        k = len(scene.tissue)
        every = draw(uniform_attention(k), k, "all", generator=torch.Generator())
        with torch.no_grad():
            return model.describe([scene], [every], memory)[0]

    examples = {split: [some[i] for i in range(len(some))] for split, some in sets.items()}
    return {split: [Bag(features(x.scene), x.label) for x in some] for split, some in examples.items()}


def all_tiles(
    bags: dict[str, list[Bag]], config: Config, pool: str
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Answers for the test slides and their labels, of the epoch that was best on the val slides."""
    settings = config.train
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    net = AllTiles(bags["train"][0].features.shape[1], 2, pool, config.head.scale)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 0.5 * (1 + math.cos(math.pi * e / EPOCHS)))
    best, chosen = -math.inf, answers_of(net, bags["test"])
    for _ in range(EPOCHS):
        order = torch.randperm(len(bags["train"]), generator=generator)
        for batch in order.split(settings.batch):
            losses = [loss_of(net, bags["train"][i], settings.shift, generator) for i in batch.tolist()]
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
            optimizer.step()
        fall.step()
        score = score_of(*answers_of(net, bags["val"]))
        if score > best:
            best, chosen = score, answers_of(net, bags["test"])
    return chosen, EPOCHS


def loss_of(net: AllTiles, bag: Bag, shift: float, generator: torch.Generator) -> torch.Tensor:
    features = bag.features + shift * direction(bag.features, generator)
    return torch.nn.functional.cross_entropy(net(features)[None], torch.tensor([bag.label]))


def score_of(answers: np.ndarray, labels: np.ndarray) -> float:
    """What the epoch is chosen by, as in training."""
    tasks = as_tasks([str(number) for number in range(answers.shape[1])])
    return epoch_figures(tasks, [answers], [labels[:, None].astype(float)])["val_score"]


@torch.no_grad()
def answers_of(net: AllTiles, bags: list[Bag]) -> tuple[np.ndarray, np.ndarray]:
    answers = torch.stack([net(bag.features).softmax(0) for bag in bags]).double().numpy()
    return answers, np.array([bag.label for bag in bags])
