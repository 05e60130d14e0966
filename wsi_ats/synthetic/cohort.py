"""The demo's slides: synthetic, labelled, half of them with a planted lesion, look-alikes in all."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from wsi_ats.synthetic.phantom import Phantom, write_phantom

CLASSES = ("normal", "tumour")


@dataclass(frozen=True)
class Cohort:
    """A cohort: how many slides of what size."""

    train: int = 72
    val: int = 24
    test: int = 32
    px: int = 5120
    """Side of a slide in level-0 px; the default is 2.6 mm at 0.5 um/px."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of slides of each split."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True)
class Plan:
    """A plan of one slide to make."""

    path: Path
    split: str
    label: str
    phantom: Phantom


def plan_slides(folder: Path, cohort: Cohort, seed: int) -> Iterator[Plan]:
    """Plans of all slides: half of every split have a lesion of 1 to 5 % of the tissue, the others one look-alike
    more, so that the number of blue patches tells nothing."""
    rng = np.random.default_rng(seed)
    number = 0
    for split, count in cohort.counts.items():
        for i in range(count):
            label = CLASSES[i % 2]
            phantom = Phantom(
                size=cohort.px,
                lesion=label == "tumour",
                lesion_fraction=float(np.exp(rng.uniform(np.log(0.01), np.log(0.05)))),
                decoys=int(rng.integers(1, 3)) + (label == "normal"),
                seed=seed * 10_000 + number,
            )
            yield Plan(folder / f"{split}_{i:03d}.tif", split, label, phantom)
            number += 1


def make_slides(
    folder: Path, cohort: Cohort, seed: int, processes: int, say: Callable[[str], object]
) -> Path:
    """Write the slides, the outlines of their lesions as GeoJSON and `manifest.csv`; returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    plans = list(plan_slides(folder, cohort, seed))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(make_slide, plans), 1):
            if done % 32 == 0 or done == len(plans):
                say(f"made {done} of {len(plans)} slides of {cohort.px} x {cohort.px} px")
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "label", "split"])
        writer.writerows([plan.path.name, plan.label, plan.split] for plan in plans)
    return manifest


def make_slide(plan: Plan) -> None:
    """Write one slide and its truth."""
    write_phantom(plan.path, plan.phantom).save(plan.path.with_suffix(".geojson"))
