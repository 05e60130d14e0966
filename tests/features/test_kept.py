"""Model folders with encoders: referred to by digest, or embedded; what moved or changed is told."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.features.test_exported import export
from tests.support.encoders import PROCESSOR, save_vision_model, shaken, tiles
from wsi_ats import load_model
from wsi_ats.build import build_model
from wsi_ats.config import load_config, parse_config, to_values
from wsi_ats.errors import ModelError
from wsi_ats.features.encoder import Encoder
from wsi_ats.features.resnet import ResNet
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import save_model

CLASSES = ("a", "b")


def model_of(features: dict[str, Any], px: int = 28) -> AttentionSampler:
    values = {"tile": {"px": px, "mpp": 0.5}, "features": features}
    return build_model(parse_config(values, "test"), CLASSES)


def vision(folder: Path, **settings: Any) -> AttentionSampler:
    save_vision_model(folder, "vit")
    return model_of(
        {"network": "huggingface", "weights": str(folder), "pooling": "cls", "mpp": 0.5, **settings}
    )


def record(model: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((model / "config.toml").read_text())
    return found


def same(first: AttentionSampler, second: AttentionSampler, px: int = 28) -> None:
    with torch.no_grad():
        torch.testing.assert_close(
            first.features(tiles(3, px)), second.features(tiles(3, px)), rtol=0, atol=0
        )
    for (name, a), (other, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_frozen_encoder_is_referred_to_by_its_digest(tmp_path: Path) -> None:
    model = vision(tmp_path / "vit")
    save_model(model, tmp_path / "model", "card")
    values = record(tmp_path / "model")
    assert values["features"]["weights"] == str(tmp_path / "vit")
    assert len(values["model"]["encoder"]["sha256"]) == 64
    assert not [name for name in load_file(tmp_path / "model" / "model.safetensors") if "features" in name]
    assert not (tmp_path / "model" / "encoder").exists()
    same(load_model(tmp_path / "model"), model)
    # A training run keeps its state in the same way.
    assert not [name for name in model.state_dict() if "features" in name]
    other = vision(tmp_path / "vit")
    other.load_state_dict(model.state_dict())


def test_an_encoder_that_moved_or_changed_is_told(tmp_path: Path) -> None:
    model = vision(tmp_path / "vit")
    save_model(model, tmp_path / "model", "card")
    shutil.move(tmp_path / "vit", tmp_path / "elsewhere")
    with pytest.raises(Exception, match="vit is not a folder"):
        load_model(tmp_path / "model")
    same(load_model(tmp_path / "model", encoder=tmp_path / "elsewhere"), model)
    weights = tmp_path / "elsewhere" / "model.safetensors"
    state = load_file(weights)
    state["layernorm.bias"] += 1
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"has sha256 [0-9a-f]{64}, and the model was trained with [0-9a-f]{64}"
    ):
        load_model(tmp_path / "model", encoder=tmp_path / "elsewhere")


@pytest.mark.parametrize("settings", [{"embed": True}, {"open_blocks": 1}, {"frozen": False}])
def test_an_embedded_encoder_needs_nothing_but_the_model_folder(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    model = vision(tmp_path / "vit", **settings)
    with torch.no_grad():  # as training would
        for parameter in model.features.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    save_model(model, tmp_path / "model", "card")
    shutil.rmtree(tmp_path / "vit")
    moved = Path(shutil.move(tmp_path / "model", tmp_path / "moved"))
    assert sorted(p.name for p in (moved / "encoder").iterdir()) == [
        "config.json",
        "preprocessor_config.json",
    ]
    assert "weights" not in record(moved)["features"]
    loaded = load_model(moved)
    same(loaded, model)
    assert isinstance(loaded.features, Encoder)
    assert loaded.features.mean.flatten().tolist() == pytest.approx(PROCESSOR["image_mean"])
    # And once more, from what was loaded.
    save_model(loaded, tmp_path / "again", "card")
    same(load_model(tmp_path / "again"), model)
    assert record(tmp_path / "again")["model"] == record(moved)["model"]


@pytest.mark.parametrize("settings", [{}, {"open_blocks": 2}])
def test_resnets_are_embedded(tmp_path: Path, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    save_file(shaken(ResNet((2, 2, 2, 2), bottleneck=False)).state_dict(), tmp_path / "r.safetensors")
    own = {"mean": [0.7, 0.5, 0.6], "std": [0.2, 0.2, 0.1]}
    model = model_of(
        {"network": "resnet-18", "weights": str(tmp_path / "r.safetensors"), **own, **settings}, 40
    )
    save_model(model, tmp_path / "model", "card")
    (tmp_path / "r.safetensors").unlink()
    same(load_model(tmp_path / "model"), model, 40)
    assert "encoder" not in record(tmp_path / "model")["model"]


@pytest.mark.parametrize("embed", [False, True])
def test_a_program_is_loaded_with_a_model_only_if_the_caller_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embed: bool
) -> None:
    settings = {
        "network": "exported",
        "weights": str(export(tmp_path / "p.pt2")),
        "trust": True,
        "embed": embed,
    }
    says = {"input_px": 16, "mean": [0.5] * 3, "std": [0.2] * 3}
    model = model_of({**settings, **says}, 16)
    save_model(model, tmp_path / "model", "card")
    values = record(tmp_path / "model")
    assert not values["features"].get("trust")
    place = tmp_path / "model" / "encoder" / "p.pt2" if embed else tmp_path / "p.pt2"
    assert place.exists()
    with pytest.raises(ModelError, match=r"p\.pt2 is a program") as caught:
        load_model(tmp_path / "model")
    same(load_model(tmp_path / "model", trust=True), model, 16)
    sha256 = values["model"]["encoder"]["sha256"]
    assert f"WSI_ATS_TRUST={sha256}" in caught.value.remedy
    monkeypatch.setenv("WSI_ATS_TRUST", f"{'0' * 64} {sha256}")
    same(load_model(tmp_path / "model"), model, 16)
    # Whoever writes trust into the folder has not got the caller's.
    monkeypatch.setenv("WSI_ATS_TRUST", "")
    config = tmp_path / "model" / "config.toml"
    config.write_text(config.read_text().replace("[features]", "[features]\ntrust = true"))
    with pytest.raises(ModelError, match="is a program"):
        load_model(tmp_path / "model")
    # Another program in its place is not loaded even by who trusts the model.
    place.write_bytes(b"other")
    with pytest.raises(ModelError, match="was trained with"):
        load_model(tmp_path / "model", trust=True)


def test_settings_of_encoders_survive_toml(tmp_path: Path) -> None:
    config = load_config(
        None, ["features.network=uni", "features.open_blocks=2", "features.checkpointing=true"]
    )
    assert parse_config(to_values(config), "x") == config
