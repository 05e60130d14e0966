"""ResNet against the one of transformers, with torchvision's names, and its weights files."""

from __future__ import annotations

import pickle
from pathlib import Path
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
from wsi_ats.features.published import IMAGENET_MEAN, IMAGENET_STD
from wsi_ats.features.resnet import ResNet
from wsi_ats.features.settings import FeatureSettings

KINDS: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet-18": ((2, 2, 2, 2), False),
    "resnet-34": ((3, 4, 6, 3), False),
    "resnet-50": ((3, 4, 6, 3), True),
}
IMAGENET = (list(IMAGENET_MEAN), list(IMAGENET_STD))


def network(name: str) -> ResNet:
    stages, bottleneck = KINDS[name]
    return ResNet(stages, bottleneck=bottleneck)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As torchvision's file of ResNet-18: with the last layer."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(state_18(), path)
    return path


def state_18() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = shaken(network("resnet-18")).state_dict()
    return {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def encoder(weights: Path | None, **settings: Any) -> Encoder:
    values = {"network": "resnet-18", **settings}
    net = make_features(FeatureSettings(weights=weights, **values), pretrained=weights is not None)
    assert isinstance(net, Encoder)
    return net


def test_names_and_sizes_are_torchvisions() -> None:
    # Counts of torchvision's models less those of their last layer.
    counts = {
        "resnet-18": 11_689_512 - 513_000,
        "resnet-34": 21_797_672 - 513_000,
        "resnet-50": 25_557_032 - 2_049_000,
    }
    with torch.device("meta"):
        nets = {name: network(name) for name in KINDS}
    assert {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()} == counts
    names = nets["resnet-50"].state_dict()
    for name, shape in {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.num_batches_tracked": (),
        "layer4.0.downsample.1.running_mean": (2048,),
    }.items():
        assert tuple(names[name].shape) == shape, name
    assert "layer1.0.downsample.0.weight" not in nets["resnet-34"].state_dict()


def test_the_stride_of_resnet_50_is_in_its_3x3_convolutions() -> None:
    with torch.device("meta"):
        block = network("resnet-50").blocks[3]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))  # type: ignore[union-attr]


@pytest.mark.parametrize("name", KINDS)
def test_activations_are_those_of_the_resnet_of_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    stages, bottleneck = KINDS[name]
    sizes = [256, 512, 1024, 2048] if bottleneck else [64, 128, 256, 512]
    theirs = transformers.ResNetModel(
        transformers.ResNetConfig(
            hidden_sizes=sizes, depths=list(stages), layer_type="bottleneck" if bottleneck else "basic"
        )
    )
    torch.manual_seed(1)
    mine = shaken(network(name))
    # Both have the same layers; only the shortcut comes before the block's convolutions there, and after them here.
    theirs.load_state_dict({renamed(key): value for key, value in mine.state_dict().items()})
    batch = tiles(2, 64)
    with torch.no_grad():
        expected = theirs.eval()(batch).last_hidden_state.mean((2, 3))
        found = mine(batch)
    assert float(expected.std()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def renamed(key: str) -> str:
    """torchvision's name -> that of transformers."""
    parts = key.split(".")
    kind = (
        "normalization"
        if parts[-2].startswith("bn") or parts[-3:-1] == ["downsample", "1"]
        else "convolution"
    )
    if parts[0] in ("conv1", "bn1"):
        return f"embedder.embedder.{kind}.{parts[-1]}"
    place = f"encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{place}.shortcut.{kind}.{parts[-1]}"
    return f"{place}.layer.{int(parts[2][-1]) - 1}.{kind}.{parts[-1]}"


def test_the_encoder_normalises_and_gives_unit_vectors(weights: Path) -> None:
    net, plain = encoder(weights), network("resnet-18").eval()
    plain.load_state_dict({k: v for k, v in state_18().items() if not k.startswith("fc.")})
    batch = tiles(18, 48)
    with torch.no_grad():
        expected = normalize(plain(normalised(batch, *IMAGENET)))
    torch.testing.assert_close(net(batch), expected, atol=1e-5, rtol=0)
    assert (net.dim, net.input_px, net.mpp, net.frozen) == (512, None, None, True)
    own = {"mean": (0.7, 0.5, 0.6), "std": (0.2, 0.2, 0.1)}
    with torch.no_grad():
        expected = normalize(plain(normalised(batch, list(own["mean"]), list(own["std"]))))
    torch.testing.assert_close(encoder(weights, **own)(batch), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"frozen": True}, {"frozen": False}, {"open_blocks": 3}])
def test_batch_normalisation_keeps_its_statistics_and_sees_one_tile_at_a_time(
    weights: Path, settings: dict[str, Any]
) -> None:
    net, batch = encoder(weights, **settings).train(), tiles(5, 40)
    before = {name: value.clone() for name, value in net.named_buffers()}
    together = net(batch).detach()
    alone = torch.cat([net(tile[None]) for tile in batch]).detach()
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_the_last_blocks_open_with_their_normalisation(weights: Path) -> None:
    def opened(blocks: int) -> set[str]:
        net = encoder(weights, open_blocks=blocks)
        return {".".join(n.split(".")[1:3]) for n, p in net.named_parameters() if p.requires_grad}

    assert opened(1) == {"layer4.1"}
    assert opened(3) == {"layer3.1", "layer4.0", "layer4.1"}
    assert len(opened(8)) == 8
    net = encoder(weights, open_blocks=1)
    assert net.network.layer4[1].bn2.weight.requires_grad  # type: ignore[index, union-attr]
    with pytest.raises(ConfigError, match=r"open_blocks is 9, but resnet-18 has 8 blocks"):
        opened(9)


# -- files


@pytest.mark.parametrize("old", [True, False])
def test_pth_files_are_read_without_unpickling_anything_but_tensors(
    weights: Path, tmp_path: Path, old: bool
) -> None:
    torch.save(state_18(), tmp_path / "r.pth", _use_new_zipfile_serialization=not old)
    torch.testing.assert_close(encoder(tmp_path / "r.pth")(tiles(2, 40)), encoder(weights)(tiles(2, 40)))
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "boom"), protocol=2))
    torch.save({"conv1.weight": Bomb(tmp_path / "boom")}, tmp_path / "bomb2.pth")
    for name in ("bomb.pth", "bomb2.pth"):
        with pytest.raises(ModelError, match=name):
            encoder(tmp_path / name)
    assert not (tmp_path / "boom").exists()


def test_files_that_will_not_do_are_named(tmp_path: Path) -> None:
    state = state_18()
    state.pop("layer2.0.conv1.weight")
    save_file(state, tmp_path / "lacking.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {}}, tmp_path / "nested.pth")
    (tmp_path / "text.safetensors").write_text("not tensors")
    for path in (*tmp_path.iterdir(), tmp_path / "absent.safetensors", tmp_path / "absent.pth"):
        with pytest.raises(ModelError, match=path.name):
            encoder(path)
    with pytest.raises(ModelError, match=r"layer2\.0\.conv1\.weight"):
        encoder(tmp_path / "lacking.safetensors")


def test_another_networks_weights_are_refused(weights: Path) -> None:
    with pytest.raises(ModelError, match="not of this network"):
        encoder(weights, network="resnet-50")


def test_a_pretrained_network_needs_its_weights() -> None:
    with pytest.raises(ConfigError, match=r"resnet-18 and features\.weights is not set"):
        make_features(FeatureSettings(network="resnet-18"), pretrained=True)
    assert isinstance(encoder(None), nn.Module)
