from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_ats.attention.networks import WideAttention
from wsi_ats.build import build_model
from wsi_ats.config import load_config
from wsi_ats.lowres.prepare import prepare
from wsi_ats.lowres.stain_normalisation import CENTRE, SPREAD, make_stain_table
from wsi_ats.lowres.view import View
from wsi_ats.sampling import smooth
from wsi_ats.slides.memory import MemoryAddress


def counts_of(pixels: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(pixels[:, c], minlength=256) for c in range(3)]).astype(np.int64)


def test_density_of_every_colour_has_the_same_mean_and_spread() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers((60, 90, 120), (200, 180, 250), (5000, 3)).astype(np.uint8)
    table = make_stain_table(counts_of(pixels))
    seen = np.stack([table[c][pixels[:, c]] for c in range(3)], 1)
    assert seen.mean(0) == pytest.approx([CENTRE] * 3, abs=1e-5)
    assert seen.std(0) == pytest.approx([SPREAD] * 3, abs=1e-5)
    assert (np.diff(table, axis=1) >= 0).all(), "dark stays darker than light"


def test_a_stronger_stain_is_seen_as_the_weaker_one() -> None:
    rng = np.random.default_rng(0)
    light = rng.uniform(0.3, 0.9, (4000, 3))
    weak, strong = (np.rint(255 * light**power).astype(np.uint8) for power in (0.8, 1.3))
    seen = [np.stack([make_stain_table(counts_of(p))[c][p[:, c]] for c in range(3)]) for p in (weak, strong)]
    assert np.abs(seen[0] - seen[1]).max() < 0.03


def test_tissue_of_one_colour_stays_finite() -> None:
    table = make_stain_table(counts_of(np.full((10, 3), 120, np.uint8)))
    assert np.isfinite(table).all()
    assert table[:, 120] == pytest.approx([CENTRE] * 3)


def slide_of(strength: float) -> MemoryAddress:
    """Speckled tissue on glass, stained more or less."""
    rng = np.random.default_rng(3)
    light = np.full((128, 128, 3), 1.0)
    light[32:96, 32:96] = rng.uniform((0.3, 0.2, 0.4), (0.8, 0.6, 0.9), (64, 64, 3))
    return MemoryAddress((np.rint(243 * light**strength).astype(np.uint8),), mpp=(1.0, 1.0))


@pytest.mark.parametrize(("normalise", "alike"), [("true", True), ("false", False)])
def test_attention_does_not_follow_the_strength_of_the_stain(normalise: str, alike: bool) -> None:
    config = load_config(
        None,
        [f"view.normalise={normalise}", "view.mpp=1.0", "tile.mpp=1.0", "tile.px=16", "attention.stride=8"],
    )
    model = build_model(config, ["a", "b"])
    for p in model.attention.parameters():
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), slide_of(0.8).open() as pale, slide_of(1.2).open() as dark:
        attention = [model.attend(prepare(slide, config)).log_p for slide in (pale, dark)]
    assert isinstance(model.attention, WideAttention)
    difference = float((attention[0] - attention[1]).abs().max() / attention[0].std())
    assert (difference < 0.3) == alike, difference


@pytest.mark.parametrize("levels", [1, 2])
def test_both_networks_see_the_tones(levels: int) -> None:
    """Attention of cells, or of regions, is that of the whole view with its grey levels replaced."""
    settings = ["view.mpp=1.0", "tile.mpp=1.0", "tile.px=16", "attention.stride=8", "regions.side=2"]
    model = build_model(
        load_config(None, [*settings, "view.normalise=true", f"attention.levels={levels}"]), ["a", "b"]
    )
    net = model.attention if model.region_attention is None else model.region_attention
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), slide_of(1.0).open() as slide:
        prepared = prepare(slide, model.config)
        assert prepared.stain_table is not None
        assert isinstance(prepared.view, View)
        seen = np.stack([prepared.stain_table[c][prepared.view.pixels[..., c]] for c in range(3)])
        logits = net.at(prepared.view.stride)(torch.from_numpy(seen)[None])[0].reshape(-1)[prepared.tissue]
        area = torch.zeros(1) if prepared.regions is None else torch.from_numpy(prepared.regions.area).log()
        expected = smooth(torch.log_softmax(logits + area, 0), model.config.attention.smoothing).exp()
        cells, attention = model.attend(prepared).by_cell()
    row, col = np.divmod(cells, 16)
    owners = row // 2 * 8 + col // 2 if levels == 2 else cells
    found = [attention[owners == owner].sum() for owner in prepared.tissue]
    assert expected.std() > 1e-3, "flat attention would not show a difference"
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
