"""Training with two levels of attention, through the command's own run: what it learns, repeats and goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.cohort import settings
from tests.support.training import assert_same_weights, silent, table, weights
from wsi_ats import load_model
from wsi_ats.build import build_model
from wsi_ats.config import Config
from wsi_ats.manifest import Row
from wsi_ats.train.module import TrainingModule
from wsi_ats.train.run import train


def two_levels(*more: str) -> Config:
    """Nine regions a slide, of which two are opened a step."""
    return settings(
        "attention.levels=2", "regions.side=4", "regions.shrink=2", "regions.tiles=3", "train.epochs=2", *more
    )


@pytest.fixture(scope="module")
def run(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two-levels") / "run"
    torch.set_num_threads(1)
    train(rows, two_levels(), out, say=silent)
    return out


def test_both_attention_networks_learn(run: Path) -> None:
    learned = weights(run / "model" / "model.safetensors")
    start = build_model(two_levels(), ("normal", "tumour")).state_dict()
    assert any(name.startswith("region_attention.") for name in learned)
    for name, value in learned.items():
        if name.startswith(("region_attention.", "attention.")):
            assert not torch.equal(value, start[name]), name


def test_the_model_answers_as_validation_csv_says(run: Path, rows: list[Row]) -> None:
    model = load_model(run / "model")
    for row, line in zip(
        [row for row in rows if row.split == "val"], table(run / "validation.csv"), strict=True
    ):
        prediction = model.predict(row.path, tiles=8, repeats=1)
        assert prediction.probabilities[1] == pytest.approx(float(line["prob_tumour"]), abs=1e-5)


@pytest.mark.parametrize("cache", [2048, 0], ids=["remembered", "read again"])
def test_a_run_that_was_interrupted_ends_with_the_same_weights(
    run: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: int
) -> None:
    step, steps = TrainingModule.training_step, iter(range(1000))

    def interrupted(module: TrainingModule, *args: object) -> torch.Tensor:
        if next(steps) == 4:
            raise KeyboardInterrupt
        return step(module, *args)

    monkeypatch.setattr(TrainingModule, "training_step", interrupted)
    config = two_levels(f"train.cache_mb={cache}")
    with pytest.raises(KeyboardInterrupt):
        train(rows, config, tmp_path / "run", say=silent)
    train(rows, config, tmp_path / "run", say=silent)
    assert_same_weights(tmp_path / "run" / "model" / "model.safetensors", run / "model" / "model.safetensors")


def test_attention_rests_while_the_rest_warms_up(rows: list[Row], tmp_path: Path) -> None:
    train(rows, two_levels("train.epochs=1", "train.warm_up=1"), tmp_path / "run", say=silent)
    learned = weights(tmp_path / "run" / "model" / "model.safetensors")
    last = [key for key in learned if key.startswith(("region_attention.head", "attention.head"))]
    assert len(last) == 2
    assert not any(learned[key].any() for key in last)
