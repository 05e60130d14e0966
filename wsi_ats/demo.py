"""The demo: make labelled synthetic slides, train on some, classify the others, say how well and how cheaply."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from wsi_ats.config import Config, parse_config
from wsi_ats.metrics import Interval, bootstrap_auc
from wsi_ats.model import AttentionSampler
from wsi_ats.prediction import Prediction
from wsi_ats.slides.phantom import Phantom, write_phantom
from wsi_ats.slides.truth import SlideTruth, lesion_fraction_in_cells

CLASSES = ("normal", "tumour")
COUNTS = {"train": 72, "val": 24, "test": 32}
SIZE = 6144
"""Level-0 px a side: 3 mm at 0.5 um/px."""

CONFIG = parse_config(
    {
        "view": {"mpp": 8.0},
        "tile": {"px": 64, "mpp": 1.0},
        "attention": {"stride": 8},
        "sampling": {"tiles": 32},
        "train": {"epochs": 30, "patience": 10},
    },
    "the demo",
)


@dataclass(frozen=True)
class Plan:
    """One slide to make."""

    path: Path
    split: str
    label: str
    phantom: Phantom


@dataclass(frozen=True)
class Concentration:
    """How much of the attention lies on the planted lesions."""

    attention_share: float
    tissue_share: float

    @property
    def times(self) -> float:
        """Attention on the lesions over their share of the tissue; 1 is chance."""
        return self.attention_share / self.tissue_share


@dataclass(frozen=True)
class Cost:
    """What a slide costs, mean over slides."""

    seconds: float
    megabytes: float
    tiles: float


def plan_slides(folder: Path, seed: int) -> Iterator[Plan]:
    """Half of every split with a lesion of 0.8 to 4 % of the tissue; decoys in all of them."""
    rng = np.random.default_rng(seed)
    number = 0
    for split, count in COUNTS.items():
        for i in range(count):
            label = CLASSES[i % 2]
            phantom = Phantom(
                size=SIZE,
                lesion=label == "tumour",
                lesion_fraction=float(np.exp(rng.uniform(np.log(0.008), np.log(0.04)))),
                decoys=int(rng.integers(1, 4)),
                seed=seed * 10_000 + number,
            )
            yield Plan(folder / f"{split}_{i:03d}.tif", split, label, phantom)
            number += 1


def make_slides(folder: Path, seed: int, processes: int, say: Callable[[str], object]) -> Path:
    """Write the slides, the outlines of their lesions as GeoJSON and `manifest.csv`; returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    plans = list(plan_slides(folder, seed))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(make_slide, plans), 1):
            if done % 32 == 0 or done == len(plans):
                say(f"made {done} of {len(plans)} slides of {SIZE} x {SIZE} px")
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "label", "split"])
        writer.writerows([plan.path.name, plan.label, plan.split] for plan in plans)
    return manifest


def make_slide(plan: Plan) -> None:
    """Write one slide and its truth."""
    write_phantom(plan.path, plan.phantom).save(plan.path.with_suffix(".geojson"))


def held_out_auc(answers: Sequence[Sequence[float]], labels: Sequence[str], seed: int) -> Interval:
    """AUC of the test slides with its bootstrap interval."""
    truth = np.array([CLASSES.index(label) for label in labels])
    return bootstrap_auc(np.array(answers, np.float64), truth, np.random.default_rng(seed))


def concentration(predictions: Sequence[Prediction], truths: Sequence[SlideTruth]) -> Concentration:
    """Mean share of attention on the lesions, and of tissue cells in them, over slides that have lesions."""
    on_lesion, in_lesion = [], []
    for prediction, truth in zip(predictions, truths, strict=True):
        covered = lesion_fraction_in_cells(truth, prediction.grid)[prediction.tissue]
        on_lesion.append(float(prediction.attention.astype(np.float64) @ covered))
        in_lesion.append(float(covered.mean()))
    return Concentration(float(np.mean(on_lesion)), float(np.mean(in_lesion)))


def measure_cost(model: AttentionSampler, slides: Sequence[Path], sampler: str, tiles: int) -> Cost:
    """Predict the slides one after the other, from disk, and take the mean of what it costs."""
    predictions, start = [], time.perf_counter()
    for slide in slides:
        predictions.append(model.predict(slide, tiles=tiles, sampler=sampler))
    seconds = (time.perf_counter() - start) / len(slides)
    return Cost(
        seconds,
        float(np.mean([p.bytes_read for p in predictions])) / 1e6,
        float(np.mean([p.tiles_read for p in predictions])),
    )


def demo_config(seed: int) -> Config:
    """The demo's settings."""
    return CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"seed": seed})})
