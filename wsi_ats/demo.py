"""The demo: make labelled synthetic slides, train on some, classify the others, say how well and how cheaply."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wsi_ats.batch.cluster import local_cluster
from wsi_ats.batch.inputs import find_slides, slide_id
from wsi_ats.batch.run import run_batch
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.config import Config, parse_config
from wsi_ats.errors import WsiAtsError
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.model_folder import load_model
from wsi_ats.output import make_folder, writing
from wsi_ats.prediction import Prediction
from wsi_ats.slide_model import SlideModel
from wsi_ats.statistics.interval import Interval
from wsi_ats.statistics.metrics import auc_interval
from wsi_ats.synthetic.cohort import CLASSES, Cohort, make_slides
from wsi_ats.synthetic.truth import SlideTruth, lesion_fraction_in_cells
from wsi_ats.train.run import train

Say = Callable[[str], object]
TILES = 64
"""Number of tiles a slide at prediction."""
EXACT_SLIDES = 4
"""Number of slides that are also read whole, for comparison."""


@dataclass(frozen=True)
class Concentration:
    """Concentration of the attention on the planted lesions, mean over slides that have one."""

    attention_share: float
    tissue_share: float

    @property
    def times(self) -> float:
        """Attention on the lesions over their share of the tissue; 1 is chance."""
        return self.attention_share / self.tissue_share


@dataclass(frozen=True)
class Cost:
    """Cost of a slide, mean over slides."""

    seconds: float
    megabytes: float
    tiles: float

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> Cost:
        """The mean over `predictions`, each with the time and bytes that it took."""
        return cls(
            float(np.mean([p.seconds["total"] for p in predictions])),
            float(np.mean([p.bytes_read for p in predictions])) / 1e6,
            float(np.mean([p.tiles_read for p in predictions])),
        )


@dataclass(frozen=True)
class Report:
    """A report of what the demo found out."""

    out: Path
    cohort: Cohort
    auc: Interval
    concentration: Concentration
    sampled: Cost
    exact: Cost
    largest_difference: float
    """Largest difference between the sampled and the exact probability, over the slides that were read whole."""
    seconds: float

    def lines(self) -> Iterator[str]:
        """Lines of a short table, and of where the files are."""
        spot, few, full = self.concentration, self.sampled, self.exact
        example = next((self.out / "out" / "slides").glob("test_001-*"), self.out / "out" / "slides")
        yield ""
        yield f"slides never trained on        {self.cohort.test} of {self.cohort.px} x {self.cohort.px} px"
        yield f"AUC [95 % interval]            {self.auc}"
        yield (
            f"attention on the lesions       {spot.attention_share:.0%}, where they are "
            f"{spot.tissue_share:.1%} of the tissue: {spot.times:.0f} times chance"
        )
        yield ""
        yield "a slide            sampled   all tiles"
        yield f"tiles read         {few.tiles:7.0f}   {full.tiles:9.0f}"
        yield f"megabytes read     {few.megabytes:7.1f}   {full.megabytes:9.1f}"
        yield f"seconds            {few.seconds:7.2f}   {full.seconds:9.2f}"
        yield f"largest difference between the two answers: {self.largest_difference:.3f} in probability"
        yield ""
        yield f"predictions: {self.out / 'out' / 'predictions.csv'}"
        yield f"a heatmap:   {example / 'heatmap.png'}"
        yield f"the model:   {self.out / 'run' / 'model'}"
        yield f"all this took {self.seconds:.0f} s"


def demo_config(seed: int, epochs: int = 30) -> Config:
    """The demo's settings: tiles of 64 um, cells of the same size, a small network trained from scratch."""
    return parse_config(
        {
            "view": {"mpp": 8.0},
            "tile": {"px": 64, "mpp": 1.0},
            "attention": {"stride": 8, "width": 8},
            "train": {"epochs": epochs, "patience": 10, "seed": seed},
        },
        "the demo",
    )


def run_demo(
    out: Path, seed: int, workers: int, say: Say, cohort: Cohort | None = None, epochs: int = 30
) -> Report:
    """Make `out/slides`, train `out/run/model`, predict the test slides into `out/out`."""
    start = time.perf_counter()
    cohort = cohort or Cohort()
    make_folder(out)
    with writing(out):
        manifest = make_slides(out / "slides", cohort, seed, workers, say)
    rows = read_manifest(manifest)
    model = train(rows, demo_config(seed, epochs), out / "run", say=say, overwrite=True).folder
    test = [row for row in rows if row.split == "test"]
    say(f"classifying {len(test)} slides that were not trained on, in {workers} processes")
    with local_cluster(workers) as client:
        summary = run_batch(
            find_slides([row.path for row in test]),
            out / "out",
            PredictSettings(tiles=TILES, seed=seed),
            client,
            model=model,
            overwrite=True,
        )
    if not summary.ok:
        raise WsiAtsError(f"{len(summary.failures)} of the demo's slides failed: {summary.failures[0].error}")
    return _report(out, cohort, test, load_model(model), seed, start)


def _report(
    out: Path, cohort: Cohort, test: Sequence[Row], model: SlideModel, seed: int, start: float
) -> Report:
    sampled = {row.slide: model.predict(row.path, TILES, seed=seed) for row in test}
    some = test[:EXACT_SLIDES]
    exact = [model.predict(row.path, sampler="all") for row in some]
    differences = [
        abs(sampled[row.slide].probabilities - whole.probabilities).max()
        for row, whole in zip(some, exact, strict=True)
    ]
    with_lesion = [row for row in test if row.label == "tumour"]
    return Report(
        out,
        cohort,
        held_out_auc(out / "out" / "predictions.csv", test),
        concentration(
            [sampled[row.slide] for row in with_lesion],
            [SlideTruth.load(Path(row.path).with_suffix(".geojson")) for row in with_lesion],
        ),
        Cost.of(list(sampled.values())),
        Cost.of(exact),
        float(max(differences)),
        time.perf_counter() - start,
    )


def held_out_auc(predictions: Path, test: Sequence[Row]) -> Interval:
    """AUC of predictions.csv against the labels of the manifest."""
    table = pd.read_csv(predictions).set_index("slide")
    answers = table.loc[[slide_id(row.path) for row in test], [f"prob_{c}" for c in CLASSES]].to_numpy(
        np.float64
    )
    labels = np.array([CLASSES.index(row.label) for row in test])
    return auc_interval(answers, labels)


def concentration(predictions: Sequence[Prediction], truths: Sequence[SlideTruth]) -> Concentration:
    """Mean share of the attention that lies on lesions, and of the tissue that they cover."""
    on_lesion, in_lesion = [], []
    for prediction, truth in zip(predictions, truths, strict=True):
        covered = lesion_fraction_in_cells(truth, prediction.grid)[prediction.tissue]
        on_lesion.append(float(prediction.attention.astype(np.float64) @ covered))
        in_lesion.append(float(covered.mean()))
    return Concentration(float(np.mean(on_lesion)), float(np.mean(in_lesion)))
