"""Training on slides for tests: what it leaves, and what it does with bad slides and with folders that are in use."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from tests.support.cohort import settings
from tests.support.fake_model import make_slide
from tests.support.training import assert_same_weights, silent, table, weights
from wsi_ats import load_model
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.manifest import Row
from wsi_ats.sampling import generator_for
from wsi_ats.train.data import Examples
from wsi_ats.train.folder import OWN
from wsi_ats.train.module import TrainingModule
from wsi_ats.train.run import slides_to_standardise_on, train
from wsi_ats.train.standardise import fit_standardisation


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


# ---- What a run leaves


def test_the_files_of_a_run(trained: Path, rows: list[Row]) -> None:
    assert sorted(path.name for path in trained.iterdir()) == sorted(
        {*OWN} - {"examples", "report.html", "tensorboard", "mlflow"}
    ), "the page is the command's, and loggers are asked for"
    log = table(trained / "log.csv")
    assert [row["epoch"] for row in log] == ["1", "2", "3"]
    record = json.loads((trained / "run.json").read_text())
    assert record["epochs"] == 3
    assert record["config"]["train"]["epochs"] == 3
    scores = [float(row["val_auc"]) - 0.05 * min(float(row["val_loss"]), 2) for row in log]
    best = log[int(np.argmax(scores))]
    assert record["val_auc"]["value"] == pytest.approx(float(best["val_auc"]), abs=1e-6)
    assert table(trained / "failures.csv") == []
    assert [row["split"] for row in table(trained / "slides.csv")] == [row.split for row in rows]


def test_the_features_figures_are_those_of_the_weights_that_are_kept(trained: Path, rows: list[Row]) -> None:
    """Not figures that followed the weights while these were moving."""
    model = load_model(trained / "model")
    kept = model.standardise.mean.clone(), model.standardise.var.clone()
    seed = model.config.train.seed
    train_set = Examples([r for r in rows if r.split == "train"], model.classes, model.config, 1 << 30)
    fit_standardisation(model, slides_to_standardise_on(train_set, seed), seed, uniform=False)
    torch.testing.assert_close((model.standardise.mean, model.standardise.var), kept)


def test_attention_rests_while_the_rest_warms_up(rows: list[Row], tmp_path: Path) -> None:
    for name, warm_up in (("rested", 1), ("learned", 0)):
        train(rows, settings("train.epochs=1", f"train.warm_up={warm_up}"), tmp_path / name, say=silent)
    rested, learned = (weights(tmp_path / name / "model/model.safetensors") for name in ("rested", "learned"))
    last = [key for key in rested if key.startswith("attention.head")][-1:]
    assert last
    assert all(not rested[key].any() for key in last)
    assert all(learned[key].any() for key in last)
    assert not all(torch.equal(rested[key], learned[key]) for key in rested if key.startswith("features."))


def test_the_model_answers_as_validation_csv_says(trained: Path, rows: list[Row]) -> None:
    model = load_model(trained / "model")
    assert (model.classes, model.training) == (("normal", "tumour"), False)
    val = {row.slide: row for row in rows if row.split == "val"}
    validation = table(trained / "validation.csv")
    assert [line["slide"] for line in validation] == list(val)
    for line in validation:
        prediction = model.predict(val[line["slide"]].path, tiles=8, repeats=1)
        assert prediction.probabilities[1] == pytest.approx(float(line["prob_tumour"]), abs=1e-5)
        assert line["label"] == val[line["slide"]].label


def test_the_model_folder_holds_weights_settings_and_a_card_and_nothing_that_runs(trained: Path) -> None:
    files = {path.name: path.read_bytes() for path in (trained / "model").iterdir()}
    assert sorted(files) == ["config.toml", "model-card.md", "model.safetensors"]
    # safetensors: the length of a JSON header, the header, bare numbers.
    weights = files["model.safetensors"]
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(weights) - 8 - length
    card = files["model-card.md"].decode()
    record = json.loads((trained / "run.json").read_text())
    for words in (
        "normal, tumour",
        "| train | 6 | 6 | 3 | 3 |",
        "| val | 4 | 4 | 2 | 2 |",
        "Not a medical device",
    ):
        assert words in card
    assert f"{record['val_auc']['value']:.3f}" in card


# ---- Bad slides


@pytest.fixture
def bad(rows: list[Row], tmp_path: Path) -> list[Row]:
    """One slide of each kind of bad, in both splits."""
    good = rows[0].path.read_bytes()
    (tmp_path / "truncated.tif").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.svs").write_text("this is no slide")
    make_slide(tmp_path / "blank.tif", blank=True, size=(512, 512))
    names = ("truncated.tif", "text.svs", "missing.svs", "blank.tif")
    labels = ("normal", "tumour", "normal", "tumour")
    return [
        Row(name, tmp_path / name, label, name, ("train", "val")[i % 2], 0.5)
        for i, (name, label) in enumerate(zip(names, labels, strict=True))
    ]


def test_bad_slides_are_left_out_and_the_rest_trains(rows: list[Row], bad: list[Row], tmp_path: Path) -> None:
    out = tmp_path / "run"
    said: list[str] = []
    mixed = [*rows[:2], *bad, *rows[2:]]
    result = train(mixed, settings("train.epochs=1"), out, say=said.append)
    failures = pd.read_csv(out / "failures.csv", keep_default_na=False).set_index("slide")
    assert sorted(failures.index) == sorted(row.slide for row in bad)
    assert failures.stage.to_dict() == {
        "truncated.tif": "open", "text.svs": "open", "missing.svs": "open", "blank.tif": "tissue"
    }  # fmt: skip
    for name, error in failures.error.items():
        assert str(name) in error
    assert (failures.remedy != "").all()
    assert {failure.slide for failure in result.failures} == set(failures.index)
    assert "train: 6 slides (normal 3, tumour 3)" in said
    assert "val: 4 slides (normal 2, tumour 2)" in said
    assert sum(line.startswith("left out ") for line in said) == 4
    assert load_model(result.folder).classes == ("normal", "tumour")
    assert not {row["slide"] for row in table(out / "validation.csv")} & set(failures.index)
    assert "4 slide(s) could not be used" in (result.folder / "model-card.md").read_text()


def with_damaged_tiles(source: Path, path: Path) -> Path:
    """A copy whose finest level holds no JPEG any more; the coarser ones, which the view is read from, do."""
    content = bytearray(source.read_bytes())
    with tifffile.TiffFile(source) as file:
        page = file.pages[0]
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    return path


def test_slides_with_damaged_tiles_are_left_out_when_these_are_met(rows: list[Row], tmp_path: Path) -> None:
    bad = [
        replace(row, slide=f"damaged_{row.slide}", path=with_damaged_tiles(row.path, tmp_path / row.slide))
        for row in (rows[1], rows[7])
    ]
    mixed = [*rows[:3], *bad, *rows[3:]]
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if line.startswith("epoch 1"):
            raise KeyboardInterrupt

    config, out = settings("train.epochs=2"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(mixed, config, out, say=stop)
    result = train(mixed, config, out, say=said.append)
    failures = table(out / "failures.csv")
    assert [(failure["slide"], failure["stage"]) for failure in failures] == [
        (row.slide, "tiles") for row in bad
    ]
    for failure in failures:
        assert re.search(r"tile column \d+, row \d+ cannot be decoded", failure["error"])
    assert len(result.failures) == 2
    assert [line[:7] for line in said if line.startswith("epoch")] == ["epoch 1", "epoch 2"]
    # As if the damaged slides had never been there.
    train(rows, config, tmp_path / "clean", say=silent)
    assert_same_weights(out / "model/model.safetensors", tmp_path / "clean/model/model.safetensors")


def test_damaged_tiles_can_be_tolerated_and_are_counted(rows: list[Row], tmp_path: Path) -> None:
    bad = replace(rows[1], slide="damaged", path=with_damaged_tiles(rows[1].path, tmp_path / "damaged.tif"))
    mixed = [*rows[:1], bad, *rows[1:]]
    config = settings("train.epochs=1", "train.tolerate_bad_tiles=9999")
    said: list[str] = []
    result = train(mixed, config, tmp_path / "run", say=said.append)
    assert result.failures == []
    count = json.loads((tmp_path / "run" / "run.json").read_text())["bad_tiles"]["damaged"]
    assert count > 0
    assert any(line.startswith(f"{count} damaged tile(s) of 1 slide(s) were background") for line in said)
    assert (
        f"{count} damaged tile(s) of others were background" in (result.folder / "model-card.md").read_text()
    )


def test_a_slide_that_is_gone_in_the_middle_ends_the_run_which_can_go_on(
    rows: list[Row], tmp_path: Path
) -> None:
    """A file server that is out of reach must not make the run do without its slides."""
    moving = [replace(rows[0], path=Path(shutil.copy(rows[0].path, tmp_path / "there.tif"))), *rows[1:]]
    config, out = settings("train.cache_mb=0"), tmp_path / "run"

    def lose(line: str) -> None:
        if line.startswith("epoch 1"):
            moving[0].path.rename(tmp_path / "away.tif")

    with pytest.raises(SlideError, match=r"there\.tif.* cannot be opened"):
        train(moving, config, out, say=lose)
    (tmp_path / "away.tif").rename(moving[0].path)
    assert train(moving, config, out, say=silent).failures == []


def test_what_nobody_expected_of_a_slide_is_a_failure_too(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsi_ats.train import data

    prepare = data.prepare

    def stumble(slide: object, config: object) -> object:
        if slide.name == rows[2].slide:
            raise ZeroDivisionError("a bug, says\nthe test")
        return prepare(slide, config)

    monkeypatch.setattr(data, "prepare", stumble)
    train(rows, settings("train.epochs=1"), tmp_path, say=silent)
    (failure,) = table(tmp_path / "failures.csv")
    assert (failure["slide"], failure["stage"]) == (rows[2].slide, "view")
    assert failure["error"] == "ZeroDivisionError: a bug, says the test"


def test_a_class_without_a_usable_slide_is_an_error(rows: list[Row], bad: list[Row], tmp_path: Path) -> None:
    few = [
        replace(row, path=bad[0].path) if (row.split, row.label) == ("val", "tumour") else row for row in rows
    ]
    with pytest.raises(ConfigError, match=r"the val split has no usable slide of class 'tumour' \(2 slides"):
        train(few, settings(), tmp_path / "run", say=silent)
    assert len(table(tmp_path / "run" / "failures.csv")) == 2
    with pytest.raises(ConfigError, match="at least 2 classes"):
        train([row for row in rows if row.label == "normal"], settings(), tmp_path / "one", say=silent)


# ---- The folder


def test_a_finished_run_is_not_touched(rows: list[Row], copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="holds a finished run") as caught:
        train(rows, settings(), copy, say=silent)
    assert "--overwrite" in caught.value.remedy
    with pytest.raises(ConfigError, match=r"holds a run with other settings: train\.seed was 0 and is 1 \("):
        train(rows, settings("train.seed=1"), copy, say=silent)
    other = [replace(rows[0], label="tumour"), *rows[1:]]
    with pytest.raises(ConfigError, match="holds a run on other slides, labels or splits"):
        train(other, settings(), copy, say=silent)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_overwrite_starts_again_and_leaves_other_files_alone(
    rows: list[Row], trained: Path, copy: Path
) -> None:
    (copy / "notes.txt").write_text("mine")
    result = train(rows, settings("train.epochs=1"), copy, say=silent, overwrite=True)
    assert result.epochs == 1
    assert (copy / "notes.txt").read_text() == "mine"
    train(rows, settings(), copy, say=silent, overwrite=True)
    assert_same_weights(copy / "model/model.safetensors", trained / "model/model.safetensors")


def test_a_folder_that_cannot_be_made_is_named(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output folder .*file cannot be made"):
        train(rows, settings(), tmp_path / "file", say=silent)


def test_a_step_without_its_own_knobs_is_forward(rows: list[Row], trained: Path) -> None:
    model = load_model(trained / "model")
    model.config = settings("train.augment=false")
    examples = Examples([r for r in rows if r.split == "train"], model.classes, model.config, 1 << 30)
    batch = [examples[i] for i in range(3)]
    module = TrainingModule(model)
    module.log = lambda *_, **__: None  # there is no trainer
    loss = module.training_step(batch, 0)
    generators = [generator_for(0, 0, *example.slides) for example in batch]
    estimates = model([example.prepared for example in batch], generators)
    assert torch.equal(module._loss(estimates, [example.targets for example in batch]), loss)


def test_gradients_that_are_added_up_are_those_of_the_larger_batch(rows: list[Row], tmp_path: Path) -> None:
    same = ("train.epochs=1", "train.augment=false")
    train(rows, settings("train.batch=6", *same), tmp_path / "large", say=silent)
    train(rows, settings("train.batch=2", "train.accumulate=3", *same), tmp_path / "small", say=silent)
    train(rows, settings("train.batch=2", *same), tmp_path / "steps", say=silent)
    large, small, steps = (
        weights(tmp_path / name / "model/model.safetensors") for name in ("large", "small", "steps")
    )
    learned = [key for key in large if key.endswith((".weight", ".bias"))]

    def apart(some: dict[str, torch.Tensor]) -> float:
        """Median difference of the weights: of a few the first step of Adam is the sign of next to nothing."""
        return float(torch.cat([(some[key] - large[key]).abs().flatten() for key in learned]).median())

    assert apart(small) < 1e-5
    assert apart(steps) > 1e-4


def test_the_sum_of_gradients_is_that_of_the_larger_batch(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, where no figure of the batch standardises the features."""
    stepped: dict[str, list[dict[str, torch.Tensor]]] = {}

    def keep(self: TrainingModule, optimizer: object) -> None:
        grads = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}
        stepped.setdefault(name_of_run, []).append(grads)

    monkeypatch.setattr(TrainingModule, "on_before_optimizer_step", keep)
    same = ("train.epochs=1", "train.warm_up=0", "features.frozen=true", "train.clip=1000")
    for name_of_run, how in (("large", ["batch=6"]), ("small", ["batch=2", "accumulate=3"])):
        settings_ = settings(*(f"train.{word}" for word in how), *same)
        train(rows, settings_, tmp_path / name_of_run, say=silent)
    (large,), (small,) = stepped["large"], stepped["small"]
    assert any(name.startswith("model.attention.") for name in large)
    assert large.keys() == small.keys()
    for name, grad in large.items():
        torch.testing.assert_close(small[name], grad, rtol=1e-4, atol=1e-6, msg=name)
    assert max(float(grad.abs().max()) for grad in large.values()) > 1e-3


def test_half_precision_learns_much_the_same(rows: list[Row], tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        train(rows, settings("train.epochs=1", f"features.precision={precision}"), out, say=silent)
        losses[precision] = float(table(out / "log.csv")[0]["loss"])
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]
