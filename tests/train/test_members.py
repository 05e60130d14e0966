"""Training of a model of several members: one run, that can be interrupted in each of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.cohort import settings
from tests.support.training import assert_same_weights, silent, table, weights
from wsi_ats import load_model
from wsi_ats.ensemble import Ensemble
from wsi_ats.manifest import Row
from wsi_ats.train.run import train

TWO = settings("train.members=2", "train.epochs=2")


@pytest.fixture(scope="module")
def run(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("members") / "run"
    torch.set_num_threads(1)  # as many threads, as many orders of sums
    train(rows, TWO, out, say=silent)
    return out


def test_each_member_is_what_a_run_of_its_seed_makes(run: Path, rows: list[Row], tmp_path: Path) -> None:
    both = weights(run / "model" / "model.safetensors")
    for number in range(2):
        train(rows, settings("train.epochs=2", f"train.seed={number}"), tmp_path / str(number), say=silent)
        alone = weights(tmp_path / str(number) / "model" / "model.safetensors")
        assert alone.keys() == {
            n.partition(".")[2].partition(".")[2] for n in both if f"members.{number}." in n
        }
        for name, value in alone.items():
            assert both[f"members.{number}.{name}"].tolist() == value.tolist(), name


def test_the_log_has_every_epoch_of_every_member(run: Path) -> None:
    lines = [(line["member"], line["epoch"]) for line in table(run / "log.csv")]
    assert lines == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]


def test_validation_and_calibration_are_of_all_members_together(run: Path, rows: list[Row]) -> None:
    model = load_model(run / "model")
    assert isinstance(model, Ensemble)
    for row, line in zip(
        [row for row in rows if row.split == "val"], table(run / "validation.csv"), strict=True
    ):
        prediction = model.predict(row.path, tiles=8, repeats=1)
        assert prediction.probabilities[1] == pytest.approx(float(line["prob_tumour"]), abs=1e-5)
    assert "An ensemble of 2 networks" in (run / "model" / "model-card.md").read_text()


@pytest.mark.parametrize(
    "moment", [("epoch 1", 1), ("epoch 2", 1), ("member 2", 1), ("epoch 1", 2), ("epoch 2", 2)]
)
def test_a_run_that_is_interrupted_in_any_member_ends_as_one_that_was_not(
    run: Path, rows: list[Row], tmp_path: Path, moment: tuple[str, int]
) -> None:
    line, times = moment
    met: list[str] = []

    def stop(said: str) -> None:
        if said.startswith(line):
            met.append(said)
            if len(met) == times:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(rows, TWO, tmp_path, say=stop)
    told: list[str] = []
    train(rows, TWO, tmp_path, say=told.append)
    assert_same_weights(tmp_path / "model" / "model.safetensors", run / "model" / "model.safetensors")
    before = {("epoch 1", 1): 1, ("epoch 2", 1): 2, ("member 2", 1): 2, ("epoch 1", 2): 3, ("epoch 2", 2): 4}
    assert sum(said.startswith("epoch") for said in told) == 4 - before[moment]  # none was done again
    lines = table(tmp_path / "log.csv")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["seconds"] >= sum(float(each["seconds"]) for each in lines) - 0.1  # those of both starts
    again = [{k: v for k, v in each.items() if k != "seconds"} for each in table(tmp_path / "log.csv")]
    whole = [{k: v for k, v in each.items() if k != "seconds"} for each in table(run / "log.csv")]
    assert again == whole


def test_members_differ_and_their_mean_is_between_them(run: Path, rows: list[Row]) -> None:
    model = load_model(run / "model")
    assert isinstance(model, Ensemble)
    slide = next(row.path for row in rows if row.split == "val")
    alone = [member.predict(slide, sampler="all").results[0].outputs for member in model.members]
    together = model.predict(slide, sampler="all").results[0].outputs
    assert not np.allclose(alone[0], alone[1])  # type: ignore[arg-type]
    assert together == pytest.approx(np.mean(alone, axis=0), abs=1e-5)  # type: ignore[arg-type]
