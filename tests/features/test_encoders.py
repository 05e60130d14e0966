"""What all encoders share: settings that go together, tiles that fit, weights that are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, normalize

from tests.support.encoders import tiles
from wsi_ats.build import build_model
from wsi_ats.catalogue import FEATURE_NETWORKS
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.encoder import Encoder, Expects, refuse_mismatch
from wsi_ats.features.make import make_features
from wsi_ats.features.mobilenet import MobileNetV1
from wsi_ats.features.opening import find_blocks
from wsi_ats.features.published import PUBLISHED
from wsi_ats.features.settings import FeatureSettings

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"


class Middle(nn.Module):
    """The colour of the middle pixel, and that of the corner."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        half = batch.shape[2] // 2
        return torch.cat([batch[:, :, half, half], batch[:, :, 0, 0]], 1)


def middle(px: int | None = None, mpp: tuple[float, ...] | None = None, **settings: Any) -> Encoder:
    expects = Expects(px, mpp, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    return Encoder(Middle(), expects, FeatureSettings(network="resnet-18", **settings))


def test_tiles_are_normalised_and_vectors_have_unit_length() -> None:
    batch, net = tiles(40, 8), middle()
    two = torch.cat([batch[:, :, 4, 4], batch[:, :, 0, 0]], 1)
    expected = (two - torch.tensor([0.1, 0.2, 0.3] * 2)) / torch.tensor([1.0, 2.0, 4.0] * 2)
    torch.testing.assert_close(net(batch), normalize(expected))
    assert net.dim == 6
    assert net(batch[:0]).shape == (0, 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_encoder_moves_to_the_device() -> None:
    net, batch = middle(), tiles(40, 8)
    torch.testing.assert_close(net.to("cuda")(batch.to("cuda")).cpu(), middle()(batch))


def test_tiles_of_another_size_are_refused_or_resized_when_told() -> None:
    batch = tiles(2, 16)
    with pytest.raises(ConfigError, match=r"takes tiles of 8 x 8 px, got \(16, 16\)"):
        middle(8)(batch)
    smaller = interpolate(batch, (8, 8), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(middle(8, any_scale=True)(batch), middle(8)(smaller))


@pytest.mark.parametrize("output", [(2, 3, 4), (3, 4), ()])
def test_a_network_that_gives_no_vectors_is_refused(output: tuple[int, ...]) -> None:
    class Odd(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.zeros(output)

    with pytest.raises(ModelError, match="one vector each"):
        Encoder(
            Odd(), Expects(8, None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), FeatureSettings(network="resnet-18")
        )


# -- tiles against what the encoder states


@pytest.mark.parametrize(
    ("px", "mpp", "tile_px", "tile_mpp", "says"),
    [
        (224, (0.5,), 224, 0.5, None),
        (224, (0.5,), 224, 0.48, None),
        (None, None, 100, None, None),
        (224, (0.25, 0.5, 1.0), 224, 1.0, None),
        (
            224,
            (0.5,),
            256,
            0.5,
            ["takes tiles of 224 px", "tile.px is 256", "set tile.px = 224", "any_scale"],
        ),
        (224, (0.5,), 224, 0.25, ["0.5 micro", "tile.mpp is 0.25", "set tile.mpp = 0.5", "any_scale"]),
        (None, (0.25, 0.5), 64, 2.0, ["0.25 or 0.5 micro", "tile.mpp is 2", "any_scale"]),
        (224, (0.5,), 224, None, ["tile.downsample is set", "set tile.mpp = 0.5", "any_scale"]),
    ],
)
def test_a_mismatch_is_told_with_encoder_value_setting_and_remedy(
    px: int | None,
    mpp: tuple[float, ...] | None,
    tile_px: int,
    tile_mpp: float | None,
    says: list[str] | None,
) -> None:
    net = middle(px, mpp)
    refuse_mismatch(net, "resnet-18", tile_px, tile_mpp, any_scale=True)
    if says is None:
        refuse_mismatch(net, "resnet-18", tile_px, tile_mpp, any_scale=False)
        return
    with pytest.raises(ConfigError) as caught:
        refuse_mismatch(net, "resnet-18", tile_px, tile_mpp, any_scale=False)
    for words in [*says, "resnet-18"]:
        assert words in str(caught.value)


def test_a_model_refuses_tiles_that_its_encoder_was_not_trained_on() -> None:
    settings = ["features.network=resnet-18", "features.mpp=0.5", "tile.px=64"]

    def build(*more: str) -> None:
        build_model(load_config(None, [*settings, *more]), ("a", "b"), pretrained=False)

    build()
    build("tile.mpp=1.0", "features.any_scale=true")
    for wrong in ("tile.mpp=1.0", "tile.downsample=2"):
        with pytest.raises(ConfigError, match=r"resnet-18 was trained on tiles of 0\.5 micrometres"):
            build(wrong)


@pytest.mark.parametrize("name", ["paper", "small-resnet", "mobilenet-v1"])
def test_networks_of_our_own_take_any_tiles(name: Network) -> None:
    net = make_features(FeatureSettings(network=name), pretrained=False)
    assert (net.input_px, net.mpp) == (None, None)
    assert net.frozen is (name == "mobilenet-v1")


# -- settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"network": "paper", "open_blocks": 1}, "open_blocks is 1, but network 'paper' takes none"),
        ({"network": "phikon", "pooling": "mean"}, "pooling is mean, but network 'phikon' takes none"),
        ({"network": "phikon", "mpp": 0.5}, "mpp is 0.5"),
        ({"network": "timm", "trust": True}, "trust is True"),
        ({"network": "uni", "mean": (0, 0, 0), "std": (1, 1, 1)}, "mean is"),
        ({"network": "resnet-18", "mean": (0, 0, 0)}, "together"),
        ({"network": "resnet-18", "mean": (0, 0, 0), "std": (1, 0, 1)}, "above 0"),
        ({"network": "resnet-18", "frozen": True, "open_blocks": 2}, "give one of them"),
        ({"network": "exported", "frozen": False}, "cannot be trained"),
        ({"network": "uni", "frozen": False, "embed": False}, "weights of its own"),
        ({"network": "mobilenet-v1", "embed": True}, "embed is True"),
        ({"network": "resnet-101"}, "resnet-50"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], says: str) -> None:
    lines = [
        f"features.{key}={list(v) if isinstance(v, tuple) else str(v).lower()}" for key, v in settings.items()
    ]
    with pytest.raises(ConfigError) as caught:
        load_config(None, lines)
    assert says in str(caught.value)


def test_what_is_frozen_and_what_is_embedded_by_default() -> None:
    def of(network: Network, **settings: Any) -> tuple[bool, bool]:
        found = FeatureSettings(network=network, **settings)
        return found.is_frozen, found.is_embedded

    assert of("small-resnet") == (False, True)
    assert of("mobilenet-v1") == of("resnet-50") == (True, True)
    assert of("phikon") == of("timm") == of("exported") == (True, False)
    assert of("phikon", open_blocks=2) == of("phikon", frozen=False) == (False, True)
    assert of("phikon", embed=True) == (True, True)


def test_a_path_is_a_setting_too(tmp_path: Path) -> None:
    assert FeatureSettings(network="uni", weights=tmp_path).weights == str(tmp_path)  # type: ignore[arg-type]


def test_every_published_encoder_is_a_choice_and_documented() -> None:
    own = {"small-resnet", "paper", "mobilenet-v1", "resnet-18", "resnet-34", "resnet-50"}
    assert {*PUBLISHED} == {*FEATURE_NETWORKS} - own - {"huggingface", "timm", "exported"}
    rows = [
        [c.strip() for c in line.split("|")[1:-1]]
        for line in DOCUMENT.read_text().splitlines()
        if "|" in line
    ]
    table = {row[0].strip("`"): row for row in rows}
    for name, card in PUBLISHED.items():
        text = " ".join(table[name])
        assert card.repository in text
        assert table[name][1] == (str(card.input_px) if card.input_px else "from its file")
        assert table[name][2] == (", ".join(f"{s:g}" for s in card.mpp) if card.mpp else "any")
        for value in (card.mean or ()) + (card.std or ()):
            assert f"{value:g}" in text, name
        assert table[name][4] == card.pooling


# -- blocks


def test_blocks_are_the_longest_row_of_equal_modules() -> None:
    row = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
    net = nn.ModuleDict({"stem": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "layers": row})
    assert find_blocks(net, "x") == list(row)
    with pytest.raises(ConfigError, match="cannot tell the blocks of x"):
        find_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "x")


def test_mobilenet_opens_pairs_of_convolutions() -> None:
    net = make_features(FeatureSettings(network="mobilenet-v1", open_blocks=2), pretrained=False)
    assert isinstance(net, MobileNetV1)
    opened = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert opened == {"conv_dw_10", "conv_pw_10", "conv_dw_11", "conv_pw_11"}
    assert not net.frozen
    net(tiles(2, 32)).sum().backward()
    assert net.conv_pw_10.weight.grad is not None  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="has 11 blocks"):
        make_features(FeatureSettings(network="mobilenet-v1", open_blocks=12), pretrained=False)
