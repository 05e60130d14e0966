"""Training with several seeds from one command: one split, a run a seed, the spread of every figure."""

from __future__ import annotations

import json
import signal
import statistics
from pathlib import Path

import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.support.cohort import settings, write_cohort
from tests.support.commands import TRAINING, run, send_at, start
from tests.support.training import assert_same_weights, silent
from wsi_ats import load_model
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.train.run import train
from wsi_ats.train.seeds import Spread, train_seeds

SEEDS = ("--seeds", "2", "--no-report", *TRAINING)


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("seeds") / "run"
    said = run("train", cohort, "--out", out, *SEEDS).stdout
    assert "seed 1 (2 of 2)" in said
    assert "over 2 seeds" in said
    assert "val AUC" in said
    return out


def test_each_seed_is_a_run_of_its_own(whole: Path, rows: list[Row], tmp_path: Path) -> None:
    train(rows, settings("train.seed=1"), tmp_path, say=silent)
    assert_same_weights(whole / "seed-1/model/model.safetensors", tmp_path / "model/model.safetensors")


def test_the_table_is_of_the_runs(whole: Path, cohort: Path) -> None:
    table = pd.read_csv(whole / "seeds.csv").set_index("figure")
    each = [json.loads((whole / f"seed-{seed}" / "run.json").read_text()) for seed in (0, 1)]
    aucs = [record["val_auc"]["value"] for record in each]
    assert table.loc["val_auc", ["seed-0", "seed-1"]].tolist() == pytest.approx(aucs, abs=1e-5)
    for seed in (0, 1):
        model = load_model(whole / f"seed-{seed}" / "model")
        tests = [row for row in read_manifest(cohort) if row.split == "test"]
        assert len(tests) == 3
        scores = [model.predict(row.path).probabilities[1] for row in tests]
        expected = roc_auc_score([row.label == "tumour" for row in tests], scores)
        assert table.loc["test_auc", f"seed-{seed}"] == pytest.approx(expected)
    for name, line in table.iterrows():
        values = line[["seed-0", "seed-1"]].tolist()
        assert line["mean"] == pytest.approx(statistics.fmean(values), abs=1e-5), name
        assert line["sd"] == pytest.approx(statistics.stdev(values), abs=1e-5)
        assert (line["min"], line["max"]) == (min(values), max(values))


def test_killed_it_goes_on(whole: Path, cohort: Path, tmp_path: Path) -> None:
    command = ("train", cohort, "--out", tmp_path / "out", *SEEDS)
    send_at(start(*command), "seed 1", signal.SIGKILL)
    said = run(*command).stdout
    assert said.count("epoch 1/3") == 1, "the first seed is not trained again"
    assert (tmp_path / "out" / "seeds.csv").read_bytes() == (whole / "seeds.csv").read_bytes()


def test_all_seeds_have_one_split(tmp_path: Path) -> None:
    """Without a column `split`, the split of a run follows its seed."""
    manifest = write_cohort(tmp_path / "slides", train=10, val=0, test=0)
    table = pd.read_csv(manifest).drop(columns="split")
    table.to_csv(manifest, index=False)
    result = train_seeds(
        read_manifest(manifest), settings("train.epochs=1", "train.seed=3"), 3, tmp_path / "run", say=silent
    )
    assert [folder.name for folder in result.folders] == ["seed-3", "seed-4", "seed-5"]
    slides = [(folder / "slides.csv").read_bytes() for folder in result.folders]
    assert slides[0] == slides[1] == slides[2]
    assert not any(spread.name.startswith("test_") for spread in result.spreads)


def test_seeds_that_make_no_sense(cohort: Path, rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seeds is 1 from train\.seed = 0 on; it must be at least 2"):
        train_seeds(rows, settings(), 1, tmp_path / "run", say=silent)
    result = run("train", cohort, "--out", tmp_path / "run", "--folds", "3", *SEEDS, status=2)
    assert "--seeds is 2 and --folds is 3" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_figure_that_some_seeds_lack() -> None:
    spread = Spread("val_auc", (0.5, float("nan"), 0.7))
    assert (spread.mean, spread.least, spread.most) == pytest.approx((0.6, 0.5, 0.7))
    assert spread.sd == pytest.approx(statistics.stdev([0.5, 0.7]))
