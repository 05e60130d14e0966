"""Model folders: what is wrong with one is told, loading runs no code, and the hash follows what counts."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.cohort import settings
from tests.support.helpers import give_opinions
from tests.support.training import Bomb
from wsi_ats import load_model
from wsi_ats.build import build_model
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.manifest import Row
from wsi_ats.model_folder import model_hash, save_model


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


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
            "other format": ("format = 3", "format = 99"),
            "no tasks": ("[[model.tasks]]", "[[model.questions]]"),
            "unknown kind": ('kind = "classes"', 'kind = "colours"'),
            "no name": ('name = "label"', 'called = "label"'),
            "unknown setting": ("[train]", "[train]\nspeed = 3"),
        }[how]
        assert old in text
        config.write_text(text.replace(old, new, 1))


def test_a_model_of_the_first_format_still_answers(copy: Path, rows: list[Row]) -> None:
    slide = rows[0].path
    now = load_model(copy / "model").predict(slide, tiles=8)
    config = copy / "model" / "config.toml"
    text = config.read_text()
    start, end = text.index("[[model.tasks]]"), text.index("[view]")
    old = text[:start].replace("format = 3", 'format = 1\nclasses = ["normal", "tumour"]') + text[end:]
    config.write_text(old)
    then = load_model(copy / "model").predict(slide, tiles=8)
    assert (then.classes, then.label) == (now.classes, now.label)
    np.testing.assert_array_equal(then.probabilities, now.probabilities)


def test_a_model_of_the_second_format_still_answers(tmp_path: Path, rows: list[Row]) -> None:
    """Where settings and weights had other names."""
    model = build_model(
        settings("attention.levels=2", "regions.side=2", "train.attention_loss=0.3"), ("normal", "tumour")
    )
    give_opinions(model)
    folder = tmp_path / "model"
    save_model(model, folder, "a card")
    now = load_model(folder).predict(rows[0].path, tiles=8)
    config, file = folder / "config.toml", folder / "model.safetensors"
    text = (
        config.read_text()
        .replace("format = 3", "format = 2")
        .replace("attention_loss = 0.3", "proposal = 0.3")
    )
    assert "proposal = 0.3" in text
    config.write_text(text)
    weights = load_file(file)
    save_file({key.replace("region_attention.", "overview."): w for key, w in weights.items()}, file)
    assert any(key.startswith("overview.") for key in load_file(file))
    loaded = load_model(folder)
    assert loaded.config.train.attention_loss == 0.3
    np.testing.assert_array_equal(loaded.predict(rows[0].path, tiles=8).attention, now.attention)


def test_the_folder_of_a_run_is_told_from_that_of_its_model(copy: Path, trained: Path) -> None:
    with pytest.raises(ModelError, match="is the folder of a run") as caught:
        load_model(trained)
    assert caught.value.remedy.endswith(str(trained / "model"))


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
        ("other format", r"has format 99 and .*this version reads formats 2 and 3"),
        ("no tasks", r"config\.toml.*tasks None"),
        ("unknown kind", r"config\.toml.*\[\[model\.tasks\]\] is damaged.*colours"),
        ("no name", r"config\.toml.*\[\[model\.tasks\]\] is damaged.*label"),
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
