"""A pretrained, fixed body in the attention network: the same numbers as the whole, kept instead of computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.attention.test_blockwise import Pixels, gradients, some_cells
from tests.features.test_mobilenet import random_weights
from tests.support.cohort import settings, write_cohort
from wsi_ats.attention.blockwise import cell_channels, cell_logits
from wsi_ats.attention.networks import PretrainedAttention
from wsi_ats.build import build_model
from wsi_ats.cache import TileCache
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.mobilenet import MobileNetV1, attention_body
from wsi_ats.geometry import Grid
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.lowres.view import LazyView, View
from wsi_ats.manifest import read_manifest
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import load_model
from wsi_ats.slides import open_slide
from wsi_ats.train.data import Examples
from wsi_ats.train.run import train
from wsi_ats.train.standardise import fit_standardisation

STRIDE = 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mobilenet") / "weights.npz"
    np.savez(path, **random_weights())
    return path


def network(weights: Path, layer: str = "conv_pw_2") -> PretrainedAttention:
    """In float64, with opinions."""
    torch.manual_seed(3)
    body, channels = attention_body(weights, layer)
    net = PretrainedAttention(body, channels, STRIDE, width=4).double()
    assert isinstance(net.head, torch.nn.Sequential)
    torch.nn.init.normal_(net.head[-1].weight)
    return net


@pytest.mark.parametrize(("layer", "left", "skipped"), [("conv_pw_1", 0, (1, 0)), ("conv_pw_2", 2, (1, 1))])
def test_the_body_is_mobilenet_without_its_padding(
    weights: Path, layer: str, left: int, skipped: tuple[int, int]
) -> None:
    """Padding moves MobileNet's outputs by one, and by half a step where it strides behind that: `left` px here."""
    body, channels = attention_body(weights, layer)
    tile = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs, mine = skipped
    padded = MobileNetV1(weights, layer).activations(tile[..., left:, left:])[..., theirs:, theirs:]
    found = body((tile - 0.5) / 0.25)[..., mine:, mine:]
    rows, cols = (min(a, b) - 1 for a, b in zip(padded.shape[2:], found.shape[2:], strict=True))
    assert found.shape[1] == channels
    assert min(rows, cols) > 8
    torch.testing.assert_close(found[..., :rows, :cols], padded[..., :rows, :cols], rtol=0, atol=1e-4)


@pytest.mark.parametrize("block", [STRIDE, 3 * STRIDE, 1000])
def test_kept_channels_give_the_logits_and_gradients_of_the_whole_view(weights: Path, block: int) -> None:
    net, grid = network(weights), Grid(5, 7, (1.0, 1.0))
    view, cells = Pixels(5 * STRIDE, 7 * STRIDE), some_cells(grid, 0.6, 1)
    whole = net(view.tensor()).flatten()[torch.from_numpy(cells)]
    kept = cell_channels(net, view.open, grid, cells, block)
    assert not kept.requires_grad
    torch.testing.assert_close(net.logits_from_channels(kept), whole, rtol=0, atol=1e-10)
    again = cell_logits(net, view.open, grid, cells, block)
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-10)
    expected, found = gradients(net, whole), gradients(net, net.logits_from_channels(kept))
    assert any(g.abs().max() > 0 for g in expected)
    for theirs, mine in zip(expected, found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_calibration_brings_every_channel_to_mean_0_and_variance_1(weights: Path) -> None:
    net = network(weights)
    seen = 3 + 5 * torch.randn(200, net.channels, dtype=torch.float64)
    seen[:, 0] = 7.0  # never varies: is not blown up
    net.standardise(seen)
    assert isinstance(net.head, torch.nn.Sequential)
    evened = net.head[0](seen[..., None, None])[..., 0, 0]
    torch.testing.assert_close(evened.mean(0), torch.zeros_like(evened[0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(evened[:, 1:].std(0), torch.ones_like(evened[0, 1:]), rtol=0, atol=1e-6)
    assert float(evened[:, 0].abs().max()) < 1e-6


def pretrained(weights: Path, *more: str) -> list[str]:
    network = ["attention.network=mobilenet-v1", f"attention.weights={weights}", "attention.layer=conv_pw_2"]
    return [*network, *more]


def test_a_run_learns_the_head_alone_and_looks_at_every_view_once(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        looked.append(1)
        return cell_channels(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("wsi_ats.attention.attend.cell_channels", counted)
    write_cohort(tmp_path, train=4, val=2, test=1)
    rows = read_manifest(tmp_path / "manifest.csv")
    config = settings(*pretrained(weights, "train.epochs=3", "train.patience=3"))
    result = train(rows, config, tmp_path / "run")
    assert len(looked) == 6, "once a slide of training and validation, for three epochs"
    before, after = build_model(config, ("benign", "tumour")), load_model(result.folder)
    assert isinstance(after.attention, PretrainedAttention)
    for mine, theirs in zip(
        before.attention.body.parameters(), after.attention.body.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert isinstance(before.attention, PretrainedAttention)
    moved = zip(before.attention.head.parameters(), after.attention.head.parameters(), strict=True)
    assert all(not torch.equal(mine, theirs) for mine, theirs in moved)


def test_in_training_views_are_not_kept_beside_what_the_body_makes_of_them(
    weights: Path, tmp_path: Path
) -> None:
    write_cohort(tmp_path, train=1, val=0, test=0)
    rows = read_manifest(tmp_path / "manifest.csv")
    kept, looked = (
        Examples(rows, ("normal", "tumour"), config, 1 << 30)[0].prepared
        for config in (settings(), settings(*pretrained(weights)))
    )
    assert isinstance(kept.view, View)
    assert isinstance(looked.view, LazyView)
    np.testing.assert_array_equal(kept.tissue, looked.tissue)


def test_a_saved_model_needs_no_weights_file_and_answers_alike(weights: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path, train=4, val=2, test=1)
    mine = tmp_path / "copy.npz"
    mine.write_bytes(weights.read_bytes())
    config = settings(*pretrained(mine, "train.epochs=1"))
    folder = train(read_manifest(tmp_path / "manifest.csv"), config, tmp_path / "run").folder
    assert str(mine) not in (folder / "config.toml").read_text(), (
        "a path of one machine means nothing on another"
    )
    slide = next(tmp_path.glob("test_*.tif"))
    first = load_model(folder).predict(slide)
    mine.unlink()
    second = load_model(folder).predict(slide)
    np.testing.assert_array_equal(first.attention, second.attention)


def prepared(weights: Path, folder: Path) -> tuple[AttentionSampler, PreparedSlide]:
    write_cohort(folder, train=1, val=0, test=0)
    config = settings(*pretrained(weights))
    model = build_model(config, ("benign", "tumour"))
    with open_slide(next(folder.glob("train_*.tif"))) as slide:
        return model, prepare(slide, config)


def test_remembering_changes_no_attention(weights: Path, tmp_path: Path) -> None:
    model, one = prepared(weights, tmp_path)
    fit_standardisation(model, [one], 0)
    torch.nn.init.normal_(model.attention.head[-1].weight)  # type: ignore[union-attr, index, arg-type]
    with torch.no_grad():
        fresh = model.attend(one).log_p
        model.cache = TileCache(1 << 24)
        kept = model.attend(one).log_p
    assert torch.equal(fresh, kept)
    assert torch.equal(kept, model.attend(one).log_p)
    assert len(model.cache) == 1
    assert float(fresh.max() - fresh.min()) > 0.1


def test_what_does_not_go_together_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"attention\.weights is not set"):
        build_model(load_config(None, ["attention.network=mobilenet-v1"]), ("a", "b"))
    with pytest.raises(ConfigError, match=r"'wide' takes none"):
        load_config(None, [f"attention.weights={weights}"])
    with pytest.raises(ConfigError, match="levels = 1"):
        load_config(None, pretrained(weights, "attention.levels=2"))
    with pytest.raises(ConfigError, match="strides"):
        build_model(load_config(None, pretrained(weights, "attention.stride=6")), ("a", "b"))
    with pytest.raises(ModelError, match=r"nothing\.npz"):
        build_model(load_config(None, pretrained(tmp_path / "nothing.npz")), ("a", "b"))
