"""A batch of good slides among hostile ones: the good are done once, the others named, the same wherever it runs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.field.test_timeout import load_slow
from tests.support.fake_model import calls, make_model, make_slide
from wsi_ats.batch.cluster import connect, local_cluster
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.run import Summary, run_batch
from wsi_ats.batch.settings import PredictSettings

GOOD = 60


def truncated(path: Path) -> None:
    make_slide(path)
    path.write_bytes(path.read_bytes()[:-20_000])


def no_tiff(path: Path) -> None:
    path.write_bytes(b"II*\0" + np.random.default_rng(0).bytes(5_000))


def headless(path: Path) -> None:
    path.write_bytes(b"II*\0\x08\0\0\0\xff\xff" + bytes(12))  # 65,535 tags are promised


def photograph(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((8, 8), np.float64))


KINDS: dict[str, Callable[[Path], object]] = {
    "empty": Path.touch,
    "text": lambda path: path.write_text("no slide"),
    "truncated": truncated,
    "garbage": no_tiff,
    "headless": headless,
    "float": photograph,
    "folder": Path.mkdir,
    "missing": lambda path: None,
    "loop": lambda path: path.symlink_to(path.name),
    "blank": lambda path: make_slide(path, blank=True),
    "explode": make_slide,
    "spins": make_slide,
    "waits-not-utf8-\udcff": lambda path: path.write_text("no slide"),
    "line\nend": lambda path: path.write_text("no slide"),
    "=1+1": lambda path: path.write_text("no slide"),
    "esc\x1b[2J": lambda path: path.write_text("no slide"),
    "comma,'\"": lambda path: path.write_text("no slide"),
    "\u202erevers": lambda path: path.write_text("no slide"),
    "y" * 240: lambda path: path.write_text("no slide"),
    "z" * 5000: lambda path: None,
}


def hostile_batch(folder: Path) -> list[SlideItem]:
    """60 good slides and 20 hostile ones, mixed."""
    folder.mkdir()
    first = make_slide(folder / "good-0.tif")
    paths = [first]
    for number in range(1, GOOD):
        paths.append(Path(shutil.copy(first, folder / f"good-{number}.tif")))
    for number, (name, make) in enumerate(KINDS.items()):
        path = folder / f"{name}.tif"
        make(path)
        paths.insert(number * 3, path)
    return [SlideItem(path.name, path) for path in paths]


def run_of(folder: Path, slides: list[SlideItem], client: object = None) -> Summary:
    model = make_model(folder / "model")
    settings = PredictSettings(tiles=5, heatmap=False)
    return run_batch(slides, folder / "out", settings, client, model=model, load=load_slow, timeout=3.0)  # type: ignore[arg-type]


def tables_of(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Both tables without what depends on the place: seconds, and the texts of errors, which have paths."""
    import pandas as pd

    out = folder / "out"
    predictions = pd.read_csv(out / "predictions.csv", dtype=str, keep_default_na=False)
    failures = pd.read_csv(out / "failures.csv", dtype=str, keep_default_na=False)
    return predictions.drop(columns="seconds").to_csv().split("\n"), failures[
        ["slide", "stage"]
    ].values.tolist()


@pytest.mark.slow
def test_good_slides_among_hostile_ones(tmp_path: Path) -> None:
    slides = hostile_batch(tmp_path / "slides")
    serial, workers, cluster = (tmp_path / place for place in ("serial", "workers", "cluster"))
    summaries = [run_of(serial, slides)]
    with local_cluster(2) as client:
        summaries.append(run_of(workers, slides, client))
        with connect(client.scheduler.address) as other:
            summaries.append(run_of(cluster, slides, other))
    for folder, summary in zip((serial, workers, cluster), summaries, strict=True):
        assert not summary.ok  # exit status 1
        assert (summary.progress.done, summary.progress.failed) == (GOOD, len(KINDS))
        predicted = Counter(calls(folder / "model"))
        assert {name: n for name, n in predicted.items() if name.startswith("good")} == {
            f"good-{number}.tif": 1 for number in range(GOOD)
        }
        assert [failure.slide for failure in summary.failures] == [f"{name}.tif" for name in KINDS]
        assert all(failure.remedy for failure in summary.failures)
        assert tables_of(folder) == tables_of(serial)
        assert list((folder / "out").rglob(".*")) == []
    stages = {failure.slide.removesuffix(".tif"): failure.stage for failure in summaries[0].failures}
    assert (stages["blank"], stages["explode"], stages["spins"]) == ("tissue", "predict", "tiles")
