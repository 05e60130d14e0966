"""The demo at test size, and its figures against slow, obvious counts."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image

from tests.conftest import SmallRun
from tests.statistics.test_metrics import slow_auc
from tests.test_prediction import make_prediction
from wsi_ats import load_model
from wsi_ats.batch.inputs import slide_id
from wsi_ats.demo import Concentration, Cost, concentration, held_out_auc
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.synthetic.cohort import Cohort, plan_slides
from wsi_ats.synthetic.truth import SlideTruth


def numbers(line: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?\d+\.?\d*", line)]


def line_of(run: SmallRun, begin: str) -> str:
    (line,) = (line for line in run.lines if line.startswith(begin))
    return line


def test_the_demo_leaves_slides_a_model_and_predictions(small_run: SmallRun) -> None:
    rows = read_manifest(small_run.manifest)
    assert [row.split for row in rows] == ["train"] * 6 + ["val"] * 4 + ["test"] * 4
    for row in rows:
        truth = SlideTruth.load(row.path.with_suffix(".geojson"))
        assert bool(truth.lesions) == (row.label == "tumour")
    assert load_model(small_run.model).classes == ("normal", "tumour")
    table = pd.read_csv(small_run.folder / "out" / "predictions.csv")
    assert [Path(slide).name for slide in table.slide] == [path.name for path in small_run.slides]
    assert (table.status == "done").all()
    pictures = sorted((small_run.folder / "out" / "slides").glob("*/heatmap.png"))
    assert len(pictures) == 4
    for picture in pictures:
        with Image.open(picture) as image:
            image.verify()


def test_the_report_says_what_was_found_and_where_it_is(small_run: SmallRun) -> None:
    table = pd.read_csv(small_run.folder / "out" / "predictions.csv")
    assert line_of(small_run, "slides never trained on").endswith("  4 of 1536 x 1536 px")
    line = line_of(small_run, "AUC [95 % interval]")
    assert line.endswith(" (2 and 2 slides: too few for an interval)")
    value = numbers(line)[1]
    tumour = table.prob_tumour.to_numpy()
    assert value == pytest.approx(slow_auc(tumour, np.array([0, 1, 0, 1])), abs=6e-4)
    sampled, everything = numbers(line_of(small_run, "tiles read"))
    assert sampled == pytest.approx(table.tiles_read.mean(), abs=0.51)
    assert sampled < everything
    megabytes, all_megabytes = numbers(line_of(small_run, "megabytes read"))
    assert megabytes == pytest.approx(table.bytes_read.mean() / 1e6, abs=0.06)
    assert megabytes < all_megabytes
    share, in_tissue, times = numbers(line_of(small_run, "attention on the lesions"))
    assert 0 < in_tissue < 10
    assert times == pytest.approx(share / in_tissue, abs=0.6 + 0.6 / in_tissue)
    for begin in ("predictions: ", "a heatmap: ", "the model: "):
        assert Path(line_of(small_run, begin).partition(": ")[2].strip()).exists()


def test_progress_is_told_on_the_way(small_run: SmallRun) -> None:
    said = "\n".join(small_run.lines)
    for words in (
        "made 14 of 14 slides",
        "train: 6 slides (normal 3, tumour 3)",
        "epoch 2/2",
        "classifying 4 slides",
    ):
        assert words in said


def test_plans_are_balanced_reproducible_and_all_different(tmp_path: Path) -> None:
    cohort = Cohort(train=6, val=4, test=2, px=1024)
    plans = list(plan_slides(tmp_path, cohort, 0))
    assert plans == list(plan_slides(tmp_path, cohort, 0))
    for split, count in cohort.counts.items():
        labels = [plan.label for plan in plans if plan.split == split]
        assert sorted(labels) == ["normal"] * (count // 2) + ["tumour"] * (count // 2)
    assert all(plan.phantom.lesion == (plan.label == "tumour") for plan in plans)
    seeds = {plan.phantom.seed for plan in plans}
    assert len(seeds) == len({plan.path for plan in plans}) == 12
    assert not seeds & {plan.phantom.seed for plan in plan_slides(tmp_path, cohort, 1)}


# ---- Figures against oracles


def covered_by_counting_pixels(outlines: list[np.ndarray], box: tuple[float, float, float, float]) -> float:
    """Share of a rectangle's area inside the outlines, on a fine net of points."""
    x0, y0, x1, y1 = box
    x, y = np.meshgrid(np.linspace(x0, x1, 80, endpoint=False), np.linspace(y0, y1, 80, endpoint=False))
    points = np.stack([x.ravel() + (x1 - x0) / 160, y.ravel() + (y1 - y0) / 160], axis=1)
    return float(np.any([Polygon(outline).contains_points(points) for outline in outlines], axis=0).mean())


def test_concentration_is_the_attention_on_the_lesions() -> None:
    rng = np.random.default_rng(0)
    predictions, truths, on_lesion, in_lesion = [], [], [], []
    for scale in (1.0, 0.6):
        prediction = make_prediction((1000, 700), 61.7)
        attention = rng.dirichlet(np.ones(len(prediction.tissue))).astype(np.float32)
        outlines = [
            np.array([[200.0, 100.0], [520.0, 180.0], [400.0, 420.0], [150.0, 300.0]]) * scale,
            np.array([[700.0, 500.0], [900.0, 480.0], [820.0, 690.0]]) * scale,
        ]
        predictions.append(replace(prediction, attention=attention))
        truths.append(SlideTruth((1000, 700), 0.5, 0.5, tuple(outlines)))
        shares = []
        for cell in prediction.tissue:
            row, col = divmod(int(cell), prediction.grid.cols)
            box = (col * 61.7, row * 61.7, (col + 1) * 61.7, (row + 1) * 61.7)
            shares.append(covered_by_counting_pixels(outlines, box))
        on_lesion.append(sum(a * s for a, s in zip(attention.tolist(), shares, strict=True)))
        in_lesion.append(sum(shares) / len(shares))
    found = concentration(predictions, truths)
    assert found.attention_share == pytest.approx(np.mean(on_lesion), rel=0.02)
    assert found.tissue_share == pytest.approx(np.mean(in_lesion), rel=0.02)
    assert found.times == found.attention_share / found.tissue_share


def test_attention_wholly_on_a_lesion_and_wholly_beside_it() -> None:
    prediction = make_prediction((1000, 700), 100.0)
    x, y = prediction.grid.centres(prediction.tissue[:1])[0] - 50
    cell = np.array([[x, y], [x + 100, y], [x + 100, y + 100], [x, y + 100]])
    truth = SlideTruth((1000, 700), 0.5, 0.5, (cell,))
    for hot, share in ((0, 1.0), (1, 0.0)):
        attention = np.zeros(len(prediction.tissue), np.float32)
        attention[hot] = 1
        found = concentration([replace(prediction, attention=attention)], [truth])
        assert found.attention_share == share
        assert found.tissue_share == pytest.approx(1 / len(prediction.tissue))
    assert Concentration(0.5, 0.02).times == 25


def test_held_out_auc_joins_slides_by_id_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = np.array([0, 1] * 12)
    tumour = np.round(rng.uniform(0, 1, 24), 1)  # ties included
    test = [
        Row(f"{i}.tif", Path("deep") / ".." / f"{i}.tif", ("normal", "tumour")[label], str(i), "test", None)
        for i, label in enumerate(labels)
    ]
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "prediction", "prob_normal", "prob_tumour"])
        for i in rng.permutation(24):
            writer.writerow([slide_id(test[i].path), "?", 1 - tumour[i], tumour[i]])
        writer.writerow(["another.tif", "?", 0.5, 0.5])
    found = held_out_auc(tmp_path / "predictions.csv", test)
    assert found.value == pytest.approx(slow_auc(tumour, labels), abs=1e-6)
    assert found.low < found.value < found.high


def test_cost_is_a_mean() -> None:
    cheap, dear = (
        replace(make_prediction(), tiles_read=tiles, bytes_read=tiles * 10**6, seconds={"total": tiles / 4})
        for tiles in (2, 6)
    )
    assert Cost.of([cheap, dear]) == Cost(seconds=1.0, megabytes=4.0, tiles=4.0)
