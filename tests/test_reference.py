"""A model that knows its training slides: its folder, its predictions and a batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from tests.support.training import table
from wsi_ats import load_model, open_slide
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.run import run_batch
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.batch.store import read_prediction
from wsi_ats.build import build_model
from wsi_ats.cli.terminal import batch_in_words
from wsi_ats.config import load_config
from wsi_ats.errors import ModelError
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import model_hash, save_model
from wsi_ats.reference import REFERENCE
from wsi_ats.slides.base import Slide
from wsi_ats.statistics.novelty import Unlike, fit_reference

SCALE = ("view.downsample=8", "tile.downsample=1", "tile.px=32", "attention.stride=8")


def pixels_of(seed: int, light: float = 1.0) -> np.ndarray:
    """Tissue of a stain and a size that differ a little from slide to slide."""
    rng = np.random.default_rng(seed)
    pixels = np.full((512, 768, 3), 240.0) + rng.normal(0, 2, 3)
    colour = np.array([170, 90, 160]) + rng.normal(0, 6, 3)
    height = int(rng.integers(200, 300))
    pixels[128 : 128 + height, 128:640] = colour + rng.normal(0, 8, (height, 512, 3))
    return np.asarray((pixels * light).round().clip(0, 255), np.uint8)


def slide_of(seed: int, light: float = 1.0) -> Slide:
    return open_slide(pixels_of(seed, light), name=f"made {seed}")


@pytest.fixture(scope="module")
def model() -> AttentionSampler:
    torch.manual_seed(0)
    model = build_model(load_config(overrides=SCALE), ["normal", "tumour"]).eval()
    found = [model.predict(slide_of(seed), tiles=16).description for seed in range(50)]
    known = [description for description in found if description is not None]
    model.reference = fit_reference(known[:30], known[30:])
    return model


@pytest.fixture(scope="module")
def folder(model: AttentionSampler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "model"
    save_model(model, folder, "# card")
    return folder


def test_a_slide_of_the_kind_is_left_alone_and_one_under_half_the_light_flagged(
    model: AttentionSampler,
) -> None:
    found = [model.predict(slide_of(seed), tiles=16) for seed in range(100, 110)]
    assert sum(bool(p.unlike and p.unlike.parts) for p in found) <= 3
    dim = model.predict(slide_of(100, 0.5), tiles=16)
    assert dim.unlike is not None
    assert "tones" in dim.unlike.parts
    assert dim.unlike.score > 2
    assert any(note.startswith("unlike the training slides: tones") for note in dim.notes)


def test_the_description_is_the_attention_s_mean_of_all_tiles(model: AttentionSampler) -> None:
    prediction = model.predict(slide_of(3), sampler="all")
    assert prediction.description is not None
    # One draw is unbiased for it: the mean over many comes near.
    draws = [model.predict(slide_of(3), tiles=16, seed=seed).description for seed in range(30)]
    mean = np.mean([d.tiles for d in draws if d is not None], axis=0)
    np.testing.assert_allclose(mean, prediction.description.tiles, atol=0.05)
    attention = prediction.attention.astype(np.float64)
    assert prediction.description.count == pytest.approx(1 / (attention**2).sum(), rel=1e-4)


def test_a_folder_keeps_what_the_training_slides_were_like(model: AttentionSampler, folder: Path) -> None:
    again = load_model(folder)
    one, other = (m.predict(slide_of(7, 0.7), tiles=16).unlike for m in (model, again))
    assert one is not None
    assert one == other
    save_model(again, folder, "# card")
    assert again.hash == model_hash(folder)


def test_a_folder_without_it_flags_nothing(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    model.reference = None
    save_model(model, tmp_path / "model", "# card")
    old = load_model(tmp_path / "model")
    assert not (tmp_path / "model" / REFERENCE).exists()
    assert old.predict(slide_of(1, 0.5), tiles=16).unlike is None
    assert old.hash != model.hash


@pytest.mark.parametrize("damage", ["cut", "junk", "other"])
def test_a_damaged_file_is_told(folder: Path, tmp_path: Path, damage: str) -> None:
    model = load_model(folder)
    assert model.reference is not None
    if damage == "other":
        spread = np.ones(3)
        tiles = replace(model.reference.tiles, mean=np.zeros(3), axes=np.eye(3), variances=np.ones(3))
        model.reference = replace(model.reference, tiles=tiles, spread=spread)
    save_model(model, tmp_path, "# card")
    content = (tmp_path / REFERENCE).read_bytes()
    if damage != "other":
        (tmp_path / REFERENCE).write_bytes(content[:-9] if damage == "cut" else b"junk" * 99)
    with pytest.raises(ModelError, match=REFERENCE):
        load_model(tmp_path)


def test_a_batch_says_which_slides_are_unlike(folder: Path, tmp_path: Path) -> None:
    items = []
    for seed, light in ((200, 1.0), (201, 0.5), (202, 0.5)):
        path = tmp_path / f"{seed}.tif"
        tifffile.imwrite(path, pixels_of(seed, light), tile=(256, 256), photometric="rgb")
        items.append(SlideItem(str(path), path))
    summary = run_batch(items, tmp_path / "out", PredictSettings(tiles=16, heatmap=False), model=folder)
    assert summary.ok, summary.failures
    rows = table(tmp_path / "out" / "predictions.csv")
    assert [row["unlike"] for row in rows] == ["no", "yes", "yes"]
    assert [float(row["unlike_score"]) > 1 for row in rows] == [False, True, True]
    assert ["unlike the training slides" in row["notes"] for row in rows] == [False, True, True]
    assert len(summary.unlike) == 3
    assert "2 of 3 slides are unlike" in batch_in_words(summary.unlike)
    again = run_batch(items, tmp_path / "out", PredictSettings(tiles=16, heatmap=False), model=folder)
    assert again.progress.known == 3
    assert again.unlike == summary.unlike
    [record] = [json.loads(p.read_text()) for p in (tmp_path / "out" / "slides").glob("201*/result.json")]
    stored = read_prediction(next((tmp_path / "out" / "slides").glob("201*")))
    assert stored.unlike is not None
    assert record["unlike"]["score"] == stored.unlike.score


def test_the_words_on_a_batch() -> None:
    like, other = Unlike(0.5, (), 95, 99), Unlike(2.0, ("tones",), 95, 99)
    assert batch_in_words([]) == batch_in_words([like] * 20) == ""
    assert "1 of 20 slides are unlike" in batch_in_words([like] * 19 + [other])
    assert "as a whole" not in batch_in_words([like] * 19 + [other])
    assert batch_in_words([other] * 20).endswith("the batch as a whole is unlike the training slides")
