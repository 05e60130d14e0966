"""Encoders of the library transformers: small ones with random weights, through the real loading code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from tests.support.encoders import PROCESSOR, normalised, save_vision_model, tiles
from tests.support.training import Bomb
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.encoder import Encoder
from wsi_ats.features.make import make_features
from wsi_ats.features.settings import FeatureSettings

pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=["vit", "dinov2", "registers"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, int]:
    """A folder, the library's model, and how many tokens come before the patches."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save_vision_model(folder, request.param), 5 if request.param == "registers" else 1


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    save_vision_model(folder, "vit")
    return folder


def encoder(folder: Path, **settings: Any) -> Encoder:
    values = {"network": "huggingface", "pooling": "cls", **settings}
    found = make_features(FeatureSettings(weights=folder, **values), pretrained=True)
    assert isinstance(found, Encoder)
    return found


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_vectors_are_the_pooled_tokens_of_the_librarys_model(
    saved: tuple[Path, Any, int], pooling: str
) -> None:
    folder, model, extra = saved
    net = encoder(folder, pooling=pooling)
    with torch.no_grad():
        tokens = model(
            pixel_values=normalised(tiles(20), PROCESSOR["image_mean"], PROCESSOR["image_std"])
        ).last_hidden_state
    assert tokens.shape == (20, extra + 4, 32)
    one, mean = tokens[:, 0], tokens[:, extra:].mean(1)
    expected = {"cls": one, "mean": mean, "cls+mean": torch.cat([one, mean], 1)}[pooling]
    torch.testing.assert_close(net(tiles(20)), normalize(expected), atol=1e-5, rtol=0)
    assert (net.dim, net.input_px, net.mpp, net.frozen) == (len(expected[0]), 28, None, True)
    assert float((net(tiles(2))[0] - net(tiles(2))[1]).abs().max()) > 1e-3


def test_midnight_takes_what_its_card_says_whatever_the_files_say(tmp_path: Path) -> None:
    save_vision_model(tmp_path, "dinov2")  # its preprocessor_config.json is another's
    net = make_features(FeatureSettings(network="midnight", weights=str(tmp_path)), pretrained=True)
    assert (net.dim, net.input_px, net.mpp) == (64, 224, (0.25, 0.5, 1.0, 2.0))
    assert isinstance(net, Encoder)
    assert net.mean.flatten().tolist() == net.std.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "px"),
    [
        ({"size": 30}, 30),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 28, "width": 28}}, 28),
        ({"size": {"shortest_edge": 40}, "crop_size": 26, "do_center_crop": True}, 26),
        ({"size": {"shortest_edge": 42}, "crop_size": 28, "do_center_crop": False}, 42),
    ],
)
def test_the_input_size_is_what_the_processor_leaves_of_an_image(
    tmp_path: Path, change: dict[str, Any], px: int
) -> None:
    save_vision_model(tmp_path, "dinov2", PROCESSOR | change)
    assert encoder(tmp_path).input_px == px


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_mean": None}, "image_mean"),
        ({"image_std": [0.5]}, "image_std"),
        ({"size": {"height": 28, "width": 32}}, "square"),
        ({"size": None}, "square"),
        ({"rescale_factor": 1 / 127.5}, "1/255"),
        ({"do_rescale": False}, "1/255"),
    ],
)
def test_what_the_processor_does_not_say_is_not_guessed(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    save_vision_model(tmp_path, "vit", PROCESSOR | change)
    with pytest.raises(ModelError, match=r"preprocessor_config\.json") as caught:
        encoder(tmp_path)
    assert says in str(caught.value)


def test_images_that_are_not_normalised(tmp_path: Path) -> None:
    model = save_vision_model(tmp_path, "vit", PROCESSOR | {"do_normalize": False})
    expected = model(pixel_values=tiles(3)).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(tmp_path)(tiles(3)), normalize(expected).detach(), atol=1e-5, rtol=0)


def test_without_the_processors_file_there_is_no_encoder(tmp_path: Path) -> None:
    save_vision_model(tmp_path, "vit", {})
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        encoder(tmp_path)


def test_the_pooling_is_not_guessed_either(vit: Path) -> None:
    with pytest.raises(ConfigError, match=r"features\.pooling is not set"):
        encoder(vit, pooling=None)


def test_a_network_without_class_token_has_none_to_take(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    transformers.utils.logging.disable_progress_bar()
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    transformers.utils.logging.enable_progress_bar()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with pytest.raises(ConfigError, match="no class token"):
        encoder(tmp_path, pooling="cls+mean")
    assert encoder(tmp_path, pooling="mean")(tiles(2)).shape == (2, 16)


# -- what is trained


def trained(net: Encoder) -> set[str]:
    return {name for name, p in net.named_parameters() if p.requires_grad}


def test_frozen_opened_and_fine_tuned(vit: Path) -> None:
    everything = {name for name, _ in encoder(vit).named_parameters()}
    assert trained(encoder(vit)) == set()
    assert trained(encoder(vit, frozen=False)) == everything
    one, two = trained(encoder(vit, open_blocks=1)), trained(encoder(vit, open_blocks=2))
    assert {name.split("layers.")[1][0] for name in one if "layers." in name} == {"2"}
    assert {name.split("layers.")[1][0] for name in two if "layers." in name} == {"1", "2"}
    assert {name for name in one if "layers." not in name} == {
        "network.model.layernorm.weight",
        "network.model.layernorm.bias",
    }
    with pytest.raises(ConfigError, match="has 3 blocks"):
        encoder(vit, open_blocks=4)


@pytest.mark.parametrize("settings", [{"open_blocks": 1}, {"open_blocks": 2}, {"frozen": False}])
def test_gradients_reach_what_is_open_with_and_without_checkpointing(
    vit: Path, settings: dict[str, Any]
) -> None:
    gradients = []
    for checkpointing in (False, True):
        net = encoder(vit, checkpointing=checkpointing, **settings)
        (net(tiles(3)) * torch.arange(net.dim)).sum().backward()
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == trained(net)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
        if not name.endswith("key.bias") and not name.endswith("k_proj.bias"):  # softmax does not see it
            assert float(gradient.abs().max()) > 0, name


def test_checkpointing_keeps_fewer_activations(vit: Path) -> None:
    def kept(checkpointing: bool) -> int:
        sizes: list[int] = []
        net = encoder(vit, frozen=False, checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            net(tiles(8))
        return sum(sizes)

    assert kept(True) < 0.7 * kept(False)


def test_frozen_parts_make_no_graph_and_stay_in_evaluation_mode(vit: Path) -> None:
    net = encoder(vit).train()
    assert net.training
    assert not any(module.training for module in net.network.modules())
    assert not net(tiles(2).requires_grad_()).requires_grad
    opened = encoder(vit, open_blocks=1).train()
    first = opened.network.model.layers[0]  # type: ignore[union-attr]
    made: list[bool] = []
    first.register_forward_hook(lambda m, i, output: made.append(output.requires_grad))  # type: ignore[operator, union-attr]
    assert opened(tiles(2)).requires_grad
    assert made == [False]


# -- the hub, which no test reaches


def cache_of(home: Path, repository: str, folder: Path) -> str:
    """The local cache of the hub, as huggingface_hub lays it out, with `folder` as a model's only commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    base = home / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(commit)
    (base / "snapshots").mkdir()
    (base / "snapshots" / commit).symlink_to(folder)
    return commit


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[bool]]:
    """An empty cache, and whether each look into it was to stay offline."""
    import huggingface_hub

    real, asked = huggingface_hub.snapshot_download, []

    def download(name: str, **options: Any) -> str:
        asked.append(options["local_files_only"])
        return str(real(name, **{**options, "local_files_only": True}, cache_dir=tmp_path / "hub"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return tmp_path / "hub", asked


def test_a_name_alone_looks_into_the_local_cache_and_nowhere_else(
    hub: tuple[Path, list[bool]], tmp_path: Path
) -> None:
    cache, asked = hub
    settings = FeatureSettings(network="phikon")
    with pytest.raises(ConfigError, match="owkin/phikon is not in the local Hugging Face cache") as caught:
        make_features(settings, pretrained=True)
    assert "hub:owkin/phikon" in caught.value.remedy
    save_vision_model(tmp_path / "model", "vit")
    cache_of(cache, "owkin/phikon", tmp_path / "model")
    net = make_features(settings, pretrained=True)
    assert asked == [True, True]
    assert isinstance(net, Encoder)
    assert (net.mpp, net.input_px) == ((0.5,), 28)
    assert net.origin is not None
    assert net.origin.address is None


def test_only_hub_before_a_name_may_download(hub: tuple[Path, list[bool]], tmp_path: Path) -> None:
    cache, asked = hub
    save_vision_model(tmp_path / "model", "vit")
    commit = cache_of(cache, "some/model", tmp_path / "model")
    net = encoder("hub:some/model")  # type: ignore[arg-type]
    assert asked == [False]
    assert net.origin is not None
    assert net.origin.address == f"hub:some/model@{commit}"
    with pytest.raises(ConfigError, match="some/model is not a folder"):
        encoder("some/model")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"other/model cannot be had .* hub"):
        encoder("hub:other/model")  # type: ignore[arg-type]


# -- folders that will not do


def test_pickled_weights_are_not_touched(tmp_path: Path, vit: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((vit / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(ModelError, match="cannot load the model"):
        encoder(tmp_path)
    assert not (tmp_path / "boom").exists()


def test_code_beside_the_model_is_not_run(tmp_path: Path) -> None:
    save_vision_model(tmp_path, "vit")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'boom')!r}, 'w')")
    with pytest.raises(ModelError, match="cannot load the model"):
        encoder(tmp_path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("damage", ["cut", "lacking", "absent", "no config"])
def test_damaged_folders_are_named(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    save_vision_model(tmp_path, "vit")
    weights = tmp_path / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif damage == "lacking":
        state = {k: v for k, v in load_file(weights).items() if ".1." not in k}
        save_file(state, weights, metadata={"format": "pt"})
    elif damage == "absent":
        weights.unlink()
    else:
        (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=tmp_path.name):
        encoder(tmp_path)
