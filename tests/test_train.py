"""Training on slides for tests: what it leaves, what it does with bad slides, and that an interruption changes
nothing."""

from __future__ import annotations

import csv
import json
import pickle
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import tifffile
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.cohort import settings
from tests.fake_model import make_slide
from wsi_ats import load_model
from wsi_ats.errors import ConfigError, ModelError, SlideError, WsiAtsError
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.train.checkpoint import model_hash
from wsi_ats.train.data import Example, Shuffled
from wsi_ats.train.folder import OWN
from wsi_ats.train.keeper import Keeper
from wsi_ats.train.module import TrainingModule
from wsi_ats.train.run import train


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def rows(cohort: Path) -> list[Row]:
    return read_manifest(cohort)


@pytest.fixture(scope="module")
def whole(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of three epochs that nothing interrupted; to be left as it is."""
    out = tmp_path_factory.mktemp("train") / "run"
    torch.set_num_threads(1)
    train(rows, settings(), out, say=silent)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def assert_same_weights(one: Path, other: Path) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


# ---- What a run leaves


def test_the_files_of_a_run(whole: Path, rows: list[Row]) -> None:
    assert sorted(path.name for path in whole.iterdir()) == sorted(OWN)
    log = table(whole / "log.csv")
    assert [row["epoch"] for row in log] == ["1", "2", "3"]
    record = json.loads((whole / "run.json").read_text())
    assert record["epochs"] == 3
    assert record["config"]["train"]["epochs"] == 3
    scores = [float(row["val_auc"]) - 0.05 * min(float(row["val_loss"]), 2) for row in log]
    best = log[int(np.argmax(scores))]
    assert record["val_auc"]["value"] == pytest.approx(float(best["val_auc"]), abs=1e-6)
    assert table(whole / "failures.csv") == []
    assert [row["split"] for row in table(whole / "slides.csv")] == [row.split for row in rows]


def test_the_model_answers_as_validation_csv_says(whole: Path, rows: list[Row]) -> None:
    model = load_model(whole / "model")
    assert (model.classes, model.training) == (("normal", "tumour"), False)
    val = {row.slide: row for row in rows if row.split == "val"}
    validation = table(whole / "validation.csv")
    assert [line["slide"] for line in validation] == list(val)
    for line in validation:
        prediction = model.predict(val[line["slide"]].path, tiles=8, repeats=1)
        assert prediction.probabilities[1] == pytest.approx(float(line["prob_tumour"]), abs=1e-5)
        assert line["label"] == val[line["slide"]].label


def test_the_model_folder_holds_weights_settings_and_a_card_and_nothing_that_runs(whole: Path) -> None:
    files = {path.name: path.read_bytes() for path in (whole / "model").iterdir()}
    assert sorted(files) == ["config.toml", "model-card.md", "model.safetensors"]
    # safetensors: the length of a JSON header, the header, bare numbers.
    weights = files["model.safetensors"]
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(weights) - 8 - length
    card = files["model-card.md"].decode()
    record = json.loads((whole / "run.json").read_text())
    for words in (
        "normal, tumour",
        "| train | 6 | 6 | 3 | 3 |",
        "| val | 4 | 4 | 2 | 2 |",
        "Not a medical device",
    ):
        assert words in card
    assert f"{record['val_auc']['value']:.3f}" in card


# ---- Interruptions


class Interruptions:
    """Ctrl-C at given moments: when a line that begins so is said, or at the n-th training step from here."""

    def __init__(self, *moments: str | int) -> None:
        self._ahead = list(moments)
        self._steps = 0

    def say(self, line: str) -> None:
        if self._ahead and isinstance(self._ahead[0], str) and line.startswith(self._ahead[0]):
            self._now()

    def step(self) -> None:
        self._steps += 1
        if self._ahead and self._steps == self._ahead[0]:
            self._now()

    def _now(self) -> None:
        self._ahead.pop(0)
        self._steps = 0
        raise KeyboardInterrupt

    def __bool__(self) -> bool:
        return bool(self._ahead)


@pytest.mark.parametrize("moments", [["looked"], ["epoch 1"], [5, "epoch 2"], ["epoch 2", 1]])
def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(
    rows: list[Row],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moments: list[str | int],
) -> None:
    """Three steps an epoch: the fifth is in the middle of the second."""
    interruptions = Interruptions(*moments)
    step = TrainingModule.training_step

    def with_interruptions(module: TrainingModule, batch: list[Example], index: int) -> torch.Tensor:
        interruptions.step()
        return step(module, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", with_interruptions)
    out = tmp_path / "run"
    while interruptions:
        with pytest.raises(KeyboardInterrupt):
            train(rows, settings(), out, say=interruptions.say)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert not (out / "run.json").exists()
    result = train(rows, settings(), out, say=silent)
    assert result.epochs == 3
    for name in ("model/model.safetensors", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert_same_weights(out / name, whole / name)
    logs = [[{**row, "seconds": ""} for row in table(folder / "log.csv")] for folder in (out, whole)]
    assert logs[0] == logs[1]
    assert (out / "validation.csv").read_bytes() == (whole / "validation.csv").read_bytes()


def test_an_epoch_that_was_told_is_not_done_again(rows: list[Row], tmp_path: Path) -> None:
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(rows, settings(), tmp_path, say=stop)
    train(rows, settings(), tmp_path, say=said.append)
    assert [line[:7] for line in said if line.startswith("epoch")] == ["epoch 1", "epoch 2", "epoch 3"]


@pytest.mark.parametrize("patience", [1, 40])
def test_a_run_that_was_killed_after_its_last_epoch_trains_no_further(
    rows: list[Row], tmp_path: Path, patience: int
) -> None:
    config = settings(f"train.patience={patience}", "train.epochs=4", "train.lr=0.1")
    first = train(rows, config, tmp_path, say=silent)
    digest = model_hash(tmp_path / "model")
    if patience == 1:
        assert first.epochs < 4, "early stopping is what this is about"
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "run.json").unlink()
    said: list[str] = []
    again = train(rows, config, tmp_path, say=said.append)
    assert [line for line in said if line.startswith("epoch")] == []
    assert again.epochs == first.epochs
    assert model_hash(tmp_path / "model") == digest


def test_sigterm_without_a_handler_ends_with_143(rows: list[Row], tmp_path: Path) -> None:
    """Lightning would end the process with status 0."""

    def terminate(line: str) -> None:
        if line.startswith("epoch 1"):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        train(rows, settings(), tmp_path, say=terminate)
    assert caught.value.code == 143
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_the_order_of_slides_depends_on_seed_and_epoch_alone() -> None:
    def orders(seed: int, epochs: list[int]) -> list[list[int]]:
        sampler = Shuffled(range(20), seed)
        found = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            found.append(list(sampler))
        return found

    first = orders(0, [0, 1, 2])
    assert all(sorted(order) == list(range(20)) for order in first)
    assert len({tuple(order) for order in first}) == 3
    assert orders(0, [2, 0]) == [first[2], first[0]]
    assert orders(1, [0]) != first[:1]


class StandIn(pl.Trainer):
    """What the keeper needs of a trainer."""

    max_epochs, should_stop, callback_metrics = 99, False, None

    def __init__(self) -> None:
        self.saved: list[str] = []

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(path.name)


@hypothesis_settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.1, 0.5, 0.7, 0.9]), min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_the_keeper_decides_as_one_that_remembers_everything(
    scores: list[float], patience: int, data: st.DataObject
) -> None:
    """Best epoch and end of training against counting by hand, with an interruption after any epoch."""
    cut = data.draw(st.integers(0, len(scores)))
    folder = Path("/nonexistent")
    keeper, trainer, module = Keeper(folder, patience, silent), StandIn(), pl.LightningModule()
    wait, best, expected, saved, stop = 0, -1.0, [], [], None
    for number, score in enumerate(scores, 1):
        wait, best = (0, score) if score > best else (wait + 1, best)
        expected += [(number, "best.ckpt")] * (wait == 0) + [(number, "last.ckpt")]
        if wait >= patience:
            stop = number
            break
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_ats.train.keeper.write_atomic", lambda *_: None)
        for number, score in enumerate(scores, 1):
            if number - 1 == cut:
                state = pickle.loads(pickle.dumps(keeper.state_dict()))  # noqa: S301
                keeper = Keeper(folder, patience, silent)
                keeper.load_state_dict(state)
                keeper.on_train_start(trainer, module)
            if trainer.should_stop:
                break
            trainer.callback_metrics = {"val_score": score, "loss": 1.0, "val_auc": 0.5, "val_loss": 1.0}
            keeper.on_train_epoch_end(trainer, module)
            epochs = len(keeper.epochs)
            assert epochs == number
            saved += [(epochs, name) for name in trainer.saved]
            trainer.saved.clear()
    assert saved == expected
    assert trainer.should_stop == (stop is not None)


def test_a_run_that_diverges_is_told(tmp_path: Path) -> None:
    trainer = StandIn()
    trainer.callback_metrics = {"val_score": 0.5, "loss": float("nan"), "val_auc": 0.5, "val_loss": 0.5}
    with pytest.raises(WsiAtsError, match=r"diverged in epoch 1: .*loss nan") as caught:
        Keeper(tmp_path, 3, silent).on_train_epoch_end(trainer, pl.LightningModule())
    assert "train.lr" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


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
        assert re.search(r"cannot be read at x=-?\d+, y=-?\d+", failure["error"])
    assert len(result.failures) == 2
    assert [line[:7] for line in said if line.startswith("epoch")] == ["epoch 1", "epoch 2"]
    # As if the damaged slides had never been there.
    train(rows, config, tmp_path / "clean", say=silent)
    assert_same_weights(out / "model/model.safetensors", tmp_path / "clean/model/model.safetensors")


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

    look = data.look

    def stumble(slide: object, config: object) -> object:
        if slide.name == rows[2].slide:
            raise ZeroDivisionError("a bug, says\nthe test")
        return look(slide, config)

    monkeypatch.setattr(data, "look", stumble)
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
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        train(rows, settings("train.seed=1"), copy, say=silent)
    other = [replace(rows[0], label="tumour"), *rows[1:]]
    with pytest.raises(ConfigError, match="holds a run on other slides, labels or splits"):
        train(other, settings(), copy, say=silent)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_overwrite_starts_again_and_leaves_other_files_alone(
    rows: list[Row], whole: Path, copy: Path
) -> None:
    (copy / "notes.txt").write_text("mine")
    result = train(rows, settings("train.epochs=1"), copy, say=silent, overwrite=True)
    assert result.epochs == 1
    assert (copy / "notes.txt").read_text() == "mine"
    train(rows, settings(), copy, say=silent, overwrite=True)
    assert_same_weights(copy / "model/model.safetensors", whole / "model/model.safetensors")


def test_a_folder_that_cannot_be_made_is_named(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output folder .*file cannot be made"):
        train(rows, settings(), tmp_path / "file", say=silent)


# ---- Loading


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(
    rows: list[Row], copy: Path, tmp_path: Path
) -> None:
    (copy / "run.json").unlink()
    torch.save({"state_dict": Bomb(tmp_path / "boom")}, copy / "checkpoints" / "last.ckpt")
    with pytest.raises(ModelError, match=r"last\.ckpt cannot be read") as caught:
        train(rows, settings(), copy, say=silent)
    assert "--overwrite" in caught.value.remedy
    assert not (tmp_path / "boom").exists()


def damage(model: Path, how: str) -> None:
    weights, config = model / "model.safetensors", model / "config.toml"
    if how == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "garbage":
        weights.write_bytes(b"garbage" * 99)
    elif how == "pickle":
        weights.write_bytes(pickle.dumps(Bomb(model / "boom")))
    elif how == "other network":
        save_file({"head.linear.weight": torch.zeros(3, 3)}, weights)
    elif how == "no weights":
        weights.unlink()
    elif how == "no settings":
        config.unlink()
    elif how == "no folder":
        shutil.rmtree(model)
    else:
        text = config.read_text()
        old, new = {
            "not TOML": ("[model]", "[model"),
            "other format": ("format = 1", "format = 99"),
            "no classes": ("classes = ", "names = "),
            "unknown setting": ("[train]", "[train]\nspeed = 3"),
        }[how]
        assert old in text
        config.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("cut short", r"model\.safetensors does not hold the weights"),
        ("garbage", r"model\.safetensors does not hold the weights"),
        ("pickle", r"model\.safetensors does not hold the weights"),
        ("other network", r"model\.safetensors does not hold the weights"),
        ("no weights", r"model\.safetensors"),
        ("no settings", r"is not a model folder: config\.toml"),
        ("no folder", r"is not a model folder"),
        ("not TOML", r"config\.toml is not TOML"),
        ("other format", r"has format 99 and .*this version reads format 1"),
        ("no classes", r"config\.toml.*classes None"),
        ("unknown setting", r"config\.toml.*train\.speed.*no such setting"),
    ],
)
def test_what_is_wrong_with_a_model_folder_is_told(copy: Path, how: str, says: str) -> None:
    damage(copy / "model", how)
    with pytest.raises((ModelError, ConfigError), match=says) as caught:
        load_model(copy / "model")
    assert str(copy) in caught.value.message
    assert not (copy / "model" / "boom").exists()


def test_the_hash_follows_weights_and_settings(copy: Path) -> None:
    def hashes() -> Iterator[str]:
        yield model_hash(copy / "model")
        (copy / "model" / "model-card.md").write_text("other words")
        yield model_hash(copy / "model")
        config = copy / "model" / "config.toml"
        config.write_text(config.read_text() + "\n")
        yield model_hash(copy / "model")
        state = load_file(copy / "model" / "model.safetensors")
        state["head.linear.bias"] += 1
        save_file(state, copy / "model" / "model.safetensors")
        yield model_hash(copy / "model")

    first, card, config, weights = hashes()
    assert first == card
    assert len({first, config, weights}) == 3
    assert load_model(copy / "model").hash == weights
