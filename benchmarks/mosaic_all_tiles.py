"""Multiple-instance learning on the features of every tissue tile, for benchmarks/mosaic.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from baselines import AllTiles

from wsi_ats.build import build_model
from wsi_ats.cache import TileCache
from wsi_ats.config import Config
from wsi_ats.lowres.prepare import PreparedSlide
from wsi_ats.manifest import Row
from wsi_ats.tasks.make import as_tasks
from wsi_ats.train.augment import bag_shift
from wsi_ats.train.data import Examples
from wsi_ats.train.figures import epoch_figures
from wsi_ats.train.run import slides_to_standardise_on
from wsi_ats.train.standardise import fit_standardisation

EPOCHS = 20


@dataclass(frozen=True)
class Bag:
    features: torch.Tensor
    """(K, D), standardised as those of a model that samples."""
    label: int


def bags_of(
    rows: list[Row], classes: Sequence[str], config: Config, cache: TileCache
) -> dict[str, list[Bag]]:
    """All tiles of all slides by split; the frozen network and its standardisation are those of the other methods."""
    model = build_model(config, classes).eval()
    sets = {
        s: Examples([r for r in rows if r.split == s], classes, config, 1 << 30)
        for s in ("train", "val", "test")
    }
    model.cache = cache
    seed = config.train.seed
    fit_standardisation(model, slides_to_standardise_on(sets["train"], seed), seed)

    def features(prepared: PreparedSlide) -> torch.Tensor:
        with torch.no_grad():
            return model.embed([model.attend(prepared, uniform=True).all()])[0]

    examples = {split: [some[i] for i in range(len(some))] for split, some in sets.items()}
    return {split: [Bag(features(x.prepared), x.label) for x in some] for split, some in examples.items()}


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
    features = bag_shift(bag.features, shift, generator)
    return torch.nn.functional.cross_entropy(net(features)[None], torch.tensor([bag.label]))


def score_of(answers: np.ndarray, labels: np.ndarray) -> float:
    """What the epoch is chosen by, as in training."""
    tasks = as_tasks([str(number) for number in range(answers.shape[1])])
    return epoch_figures(tasks, [answers], [labels[:, None].astype(float)])["val_score"]


@torch.no_grad()
def answers_of(net: AllTiles, bags: list[Bag]) -> tuple[np.ndarray, np.ndarray]:
    answers = torch.stack([net(bag.features).softmax(0) for bag in bags]).double().numpy()
    return answers, np.array([bag.label for bag in bags])
