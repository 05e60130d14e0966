"""Mixed precision: the arithmetic of training changes; draws, kept features and validation do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.cohort import settings
from tests.support.training import silent, table
from wsi_ats import load_model
from wsi_ats.build import build_model
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row
from wsi_ats.sampling import generator_for
from wsi_ats.tasks.make import as_tasks
from wsi_ats.train.data import Examples
from wsi_ats.train.hardware import check_precision
from wsi_ats.train.module import TrainingModule, answer
from wsi_ats.train.run import train


@pytest.fixture(scope="module")
def mixed(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("precision") / "run"
    train(rows, settings("train.precision=bf16-mixed"), out, say=silent)
    return out


def test_training_in_bfloat16_learns_much_the_same(mixed: Path, trained: Path) -> None:
    half, full = (float(table(run / "log.csv")[0]["loss"]) for run in (mixed, trained))
    assert half == pytest.approx(full, rel=0.1)
    assert half != full


def test_validation_is_what_a_user_would_get(mixed: Path, rows: list[Row]) -> None:
    """Predictions are made in full precision, and so are the figures that the epoch is chosen by."""
    model = load_model(mixed / "model")
    val = {row.slide: row for row in rows if row.split == "val"}
    for line in table(mixed / "validation.csv"):
        prediction = model.predict(val[line["slide"]].path, tiles=8, repeats=1)
        assert prediction.probabilities[1] == pytest.approx(float(line["prob_tumour"]), abs=1e-5)


def test_validation_steps_are_in_full_precision(rows: list[Row]) -> None:
    config = settings()
    torch.manual_seed(0)
    module = TrainingModule(build_model(config, as_tasks(["normal", "tumour"])))
    example = Examples([r for r in rows if r.split == "val"], ["normal", "tumour"], config, 1 << 30)[0]
    plain = answer(module.model, example).results[0].values
    with torch.autocast("cpu", torch.bfloat16):
        assert (answer(module.model, example).results[0].values == plain).all()


@pytest.mark.parametrize("frozen", [True, False])
def test_kept_features_are_in_the_precision_of_their_setting(rows: list[Row], frozen: bool) -> None:
    """What is kept on disk for other runs must not depend on how this one trains; what is learned does."""
    config = settings(f"features.frozen={str(frozen).lower()}")
    torch.manual_seed(0)
    model = build_model(config, as_tasks(["normal", "tumour"]))
    example = Examples([r for r in rows if r.split == "train"], ["normal", "tumour"], config, 1 << 30)[0]
    drawn = model.attend(example.prepared).draw(6, "systematic", generator_for(0, "draw"))
    plain = model.raw_features([drawn])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.raw_features([drawn])
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain) == frozen


def test_probabilities_of_draws_are_in_full_precision(rows: list[Row]) -> None:
    """In bfloat16 those of 76 cells summed to 1.018, and the draw was refused."""
    for more in ([], ["view.block=32"], ["attention.levels=2", "regions.side=2"]):
        config = settings(*more)
        torch.manual_seed(0)
        model = build_model(config, as_tasks(["normal", "tumour"]))
        torch.nn.init.normal_(next(p for n, p in model.attention.named_parameters() if "head" in n))
        example = Examples([r for r in rows if r.split == "train"], ["normal", "tumour"], config, 1 << 30)[0]
        with torch.autocast("cpu", torch.bfloat16):
            attention = model.attend(example.prepared)
            drawn = attention.draw(6, "systematic", generator_for(0, "draw"))
        assert drawn.log_p.dtype == torch.float32
        drawn.log_p[drawn.draws.cells].sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.attention.parameters())


def test_what_the_device_cannot_compute_is_told_first(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"train\.precision is '16-mixed', and PyTorch finds no GPU"
    ) as caught:
        train(rows, settings("train.precision=16-mixed"), tmp_path / "run", say=silent)
    assert "bf16-mixed" in caught.value.remedy
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old GPU")
    with pytest.raises(ConfigError, match="which an old GPU cannot compute"):
        check_precision(settings("train.precision=bf16-mixed"))
    check_precision(settings("train.precision=16-mixed"))
    with pytest.raises(ConfigError, match=r"train\.precision = 'half'"):
        settings("train.precision=half")
