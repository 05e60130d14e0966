"""Encoders of timm. With timm itself where it can be imported; else with a stand-in that has its interface."""

from __future__ import annotations

import builtins
import json
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import normalize

from tests.support.encoders import normalised, shaken, tiles
from tests.support.training import Bomb
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.encoder import Encoder
from wsi_ats.features.make import make_features
from wsi_ats.features.settings import FeatureSettings, Network

MEAN, STD = [0.7, 0.5, 0.6], [0.2, 0.25, 0.3]
ARGUMENTS = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "depth": 3, "num_heads": 2, "reg_tokens": 4}
CONFIG: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 7,
    "global_pool": "token",
    "model_args": ARGUMENTS,
    "pretrained_cfg": {"input_size": [3, 28, 28], "mean": MEAN, "std": STD, "classifier": "head"},
}
CREATED: list[tuple[str, dict[str, Any]]] = []


class StandIn(nn.Module):
    """A vision transformer as far as an encoder looks at it: forward_features, cls_token, num_prefix_tokens."""

    def __init__(
        self, patch_size: int, embed_dim: int, depth: int, reg_tokens: int, num_classes: int
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.reg_token = nn.Parameter(torch.randn(1, reg_tokens, embed_dim))
        self.num_prefix_tokens = 1 + reg_tokens
        self.patch_embed = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        self.blocks = nn.Sequential(
            *[nn.TransformerEncoderLayer(embed_dim, 2, 32, 0.0, batch_first=True) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        before = torch.cat([self.cls_token, self.reg_token], 1).expand(len(x), -1, -1)
        found: torch.Tensor = self.norm(self.blocks(torch.cat([before, patches], 1)))
        return found


def create_model(name: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
    assert not pretrained
    CREATED.append((name, arguments))
    small = {"patch_size": 14, "embed_dim": 32, "depth": 3, "reg_tokens": 4, "num_classes": 0}
    own = {key: arguments[key] for key in small if arguments.get(key, 99) < 40}
    return StandIn(**{**small, **own})


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = ModuleType("timm")
    timm.__version__ = "0"  # type: ignore[attr-defined]
    timm.create_model = create_model  # type: ignore[attr-defined]
    timm.layers = SimpleNamespace(SwiGLUPacked="the class SwiGLUPacked")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    CREATED.clear()


def save(folder: Path, config: dict[str, Any] | None = None, suffix: str = "safetensors") -> nn.Module:
    torch.manual_seed(0)
    model = shaken(StandIn(14, 32, 3, 4, 7))
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    if suffix == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        save_file(model.state_dict(), folder / "model.safetensors")
    return model


def encoder(folder: Path, network: Network = "timm", **settings: Any) -> Encoder:
    if network == "timm":
        settings.setdefault("pooling", "cls")
    net = make_features(FeatureSettings(network=network, weights=str(folder), **settings), pretrained=True)
    assert isinstance(net, Encoder)
    return net


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_vectors_are_pooled_tokens_without_registers(tmp_path: Path, pooling: str, suffix: str) -> None:
    model, batch = save(tmp_path, suffix=suffix), tiles(18)
    net = encoder(tmp_path, pooling=pooling)
    with torch.no_grad():
        tokens = model.forward_features(normalised(batch, MEAN, STD))  # type: ignore[operator]
    one, mean = tokens[:, 0], tokens[:, 5:].mean(1)
    expected = {"cls": one, "mean": mean, "cls+mean": torch.cat([one, mean], 1)}[pooling]
    torch.testing.assert_close(net(batch), normalize(expected), atol=1e-5, rtol=0)
    assert (net.input_px, net.mpp, net.frozen) == (28, None, True)
    name, arguments = CREATED[0]
    assert name == "vit_tiny_patch16_224"
    assert arguments == {**ARGUMENTS, "num_classes": 0, "global_pool": "token"}


def test_the_last_block_opens_with_the_norm_after_it(tmp_path: Path) -> None:
    save(tmp_path)
    net = encoder(tmp_path, open_blocks=1, checkpointing=True)
    opened = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {f"network.model.{name}" for name in ("blocks.2.norm1.weight", "norm.weight")} <= opened
    assert not any(p.requires_grad for n, p in net.named_parameters() if "blocks.1" in n or "token" in n)
    net(tiles(2)).sum().backward()
    assert net.network.model.norm.weight.grad is not None  # type: ignore[union-attr]


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CARDS: dict[Network, tuple[str, dict[str, Any]]] = {
    "uni": ("vit_large_patch16_224", {"init_values": 1e-5, "dynamic_img_size": True, "patch_size": 16}),
    "uni2": (
        "vit_giant_patch14_224",
        {
            "reg_tokens": 8,
            "mlp_layer": "the class SwiGLUPacked",
            "act_layer": nn.SiLU,
            "mlp_ratio": 2.66667 * 2,
        },
    ),
    "virchow2": ("vit_tiny_patch16_224", {"mlp_layer": "the class SwiGLUPacked", "act_layer": nn.SiLU}),
    "h-optimus-0": ("vit_tiny_patch16_224", {"init_values": 1e-5, "dynamic_img_size": False}),
    "h-optimus-1": ("vit_tiny_patch16_224", {"init_values": 1e-5, "dynamic_img_size": False}),
    "gigapath": ("vit_tiny_patch16_224", {}),
}


@pytest.mark.parametrize("name", CARDS)
def test_published_encoders_are_made_as_their_cards_say(tmp_path: Path, name: Network) -> None:
    save(tmp_path)
    architecture, arguments = CARDS[name]
    net = make_features(FeatureSettings(network=name, weights=str(tmp_path)), pretrained=False)
    assert isinstance(net, Encoder)
    made, given = CREATED[0]
    assert made == architecture
    assert {key: given[key] for key in arguments} == arguments
    assert given["num_classes"] == 0
    assert (net.input_px, net.dim) == (224, 64 if name == "virchow2" else 32)
    mean, std = IMAGENET
    if name.startswith("h-optimus"):
        mean, std = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
    assert net.mean.flatten().tolist() == pytest.approx(mean)
    assert net.std.flatten().tolist() == pytest.approx(std)
    assert net.mpp == ((0.25, 0.5, 1.0, 2.0) if name == "virchow2" else (0.5,))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mean": None}, "mean"),
        ({"std": [1, 2]}, "std"),
        ({"input_size": [3, 28, 32]}, "input_size"),
        ({"input_size": None}, "input_size"),
    ],
)
def test_what_the_configuration_does_not_say_is_not_guessed(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    save(tmp_path, CONFIG | {"pretrained_cfg": CONFIG["pretrained_cfg"] | change})
    with pytest.raises(ModelError, match=r"config\.json: pretrained_cfg") as caught:
        encoder(tmp_path)
    assert says in str(caught.value)


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        encoder(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelError, match="holds neither"):
        encoder(tmp_path / "empty")
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "boom"), protocol=2))
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        encoder(tmp_path / "empty")
    assert not (tmp_path / "boom").exists()
    with pytest.raises(ConfigError, match="is not a folder"):
        encoder(tmp_path / "absent")


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'timm'"), RuntimeError("operator torchvision::nms")]
)
def test_a_timm_that_cannot_be_imported_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.delitem(sys.modules, "timm")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "timm":
            raise error
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="needs the package timm") as caught:
        encoder(tmp_path)
    assert str(error) in caught.value.message
    assert "wsi-ats[timm]" in caught.value.remedy
    assert "torchvision" in caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_args": {"checkpoint_path": "evil.pth"}}, "model_args has checkpoint_path"),
        ({"model_args": {"pretrained": True, "cache_dir": "x"}}, "model_args has cache_dir, pretrained"),
        ({"architecture": "hf-hub:somebody/model"}, "'hf-hub:somebody/model' is not the bare name"),
        ({"architecture": "local-dir:/elsewhere"}, "is not the bare name"),
        ({"architecture": 3}, "3 is not the bare name"),
    ],
)
def test_nothing_is_loaded_that_the_configuration_names(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ModelError, match=re.escape(says)):
        encoder(tmp_path)
    assert CREATED == []
