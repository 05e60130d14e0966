"""Marker ink on a slide is no tissue, whatever its colour; tissue of a pen's colour stays tissue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.filters import gaussian

from tests.support.commands import run
from tests.support.helpers import shared_data
from wsi_ats.batch.store import read_prediction
from wsi_ats.config import load_config
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.lowres.tissue import Method, tissue_mask
from wsi_ats.lowres.view import read_view, resolve_downsample
from wsi_ats.slides import open_slide
from wsi_ats.synthetic.artefacts import PENS, with_pen

GLASS = (243, 242, 241)
DENSITIES = {
    "H&E": ((0.07, 0.25, 0.11), (0.45, 0.5, 0.22)),
    "bluish H&E": ((0.09, 0.2, 0.1), (0.5, 0.48, 0.2)),
    "DAB and haematoxylin": ((0.12, 0.07, 0.04), (0.25, 0.5, 0.68)),
    "trichrome, green": ((0.3, 0.12, 0.2), (0.25, 0.5, 0.4)),
    "trichrome, blue": ((0.4, 0.25, 0.08), (0.25, 0.5, 0.4)),
    "Giemsa": ((0.25, 0.2, 0.05), (0.6, 0.45, 0.15)),
    "silver": ((0.06, 0.06, 0.07), (0.6, 0.62, 0.65)),
}
"""Optical densities (RGB) of the pale and of the dark parts of stained tissue."""


def texture(shape: tuple[int, int], seed: int, sigma: float) -> np.ndarray:
    """A random field (h, w), mean 0, deviation 1, whose detail is `sigma` px."""
    field = gaussian(np.random.default_rng(seed).normal(size=shape), sigma)
    return (field - field.mean()) / field.std()


def section(stain: str = "H&E", side: int = 256, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A view with a disc of tissue on glass, and where it is: texture fine and coarse, as cells and tissue have."""
    y, x = np.mgrid[:side, :side]
    inside = np.hypot(y - side / 2, x - side / 2) < side * 0.3
    shape = (side, side)
    dark = 1 / (1 + np.exp(-2.5 * (texture(shape, seed, 1) + texture(shape, seed + 1, 6) - 0.8)))[..., None]
    pale, full = (np.asarray(d) for d in DENSITIES[stain])
    amount = np.exp(0.25 * texture(shape, seed + 2, 0.8))[..., None]
    density = amount * (pale * (1 - dark) + full * dark) * inside[..., None]
    noise = np.random.default_rng(seed).normal(0, 1, (*shape, 3))
    return np.clip(np.asarray(GLASS) * 10**-density + noise, 0, 255).astype(np.uint8), inside


def prepared(view: np.ndarray, *settings: str) -> PreparedSlide:
    """A slide whose view is given, prepared by the settings."""
    config = load_config(
        overrides=["view.downsample=1", "tile.downsample=1", "attention.stride=8", "tile.px=16", *settings]
    )
    return prepare(open_slide(view, name="made"), config)


PLAIN, TISSUE = section()
STROKES = {
    "on glass": [(20.0, 20.0), (236.0, 22.0)],
    "across tissue": [(15.0, 200.0), (241.0, 70.0)],
    "on tissue alone": [(85.0, 120.0), (170.0, 132.0)],
}


@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("place", STROKES)
@pytest.mark.parametrize("wave", [0.0, 4.0], ids=["straight", "wavy"])
def test_no_tile_is_drawn_from_a_pen_and_its_share_is_told(pen: str, place: str, wave: float) -> None:
    stroke = {"points": STROKES[place], "width": 14.0, "wave": wave}
    inked = with_pen(PLAIN, PENS[pen], opacity=0.9, **stroke)
    ink = with_pen(np.full_like(PLAIN, 255), (0, 0, 0), opacity=1.0, **stroke)[..., 0] < 20
    before, after = prepared(PLAIN), prepared(inked)
    under_ink = ink.reshape(32, 8, 32, 8).mean((1, 3)).ravel()
    drawn_from_ink = set(after.tissue.tolist()) & set(np.flatnonzero(under_ink > 0.25).tolist())
    # Black ink over dark tissue is as a fold is: a little of it may stay tissue.
    allowed = 0.1 if pen == "black" else 0.0
    assert len(drawn_from_ink) <= allowed * np.count_nonzero(under_ink[before.tissue] > 0.25)
    assert set(after.tissue.tolist()) <= set(before.tissue.tolist()), "nothing but tissue was tissue before"
    kept = set(before.tissue.tolist()) & set(np.flatnonzero(under_ink == 0).tolist())
    assert len(kept - set(after.tissue.tolist())) <= 0.1 * len(before.tissue), "tissue beside the pen stays"
    assert after.view_shares["pen"] == pytest.approx(ink.mean(), rel=0.35 if pen != "black" else 0.6)
    assert any(note.startswith("pen on ") for note in after.notes)


@pytest.mark.parametrize("method", ["saturation", "optical-density"])
@pytest.mark.parametrize("stain", DENSITIES)
def test_tissue_of_any_stain_is_none_of_a_pen_s(stain: str, method: Method) -> None:
    view, inside = section(stain)
    mask = tissue_mask(view, method=method, min_object=64, min_hole=64)
    assert np.array_equal(mask, tissue_mask(view, method=method, min_object=64, min_hole=64, pen=False))
    if (stain, method) != ("silver", "saturation"):  # silver has no saturation: not for this method
        assert mask[inside].mean() > 0.9


@pytest.mark.parametrize("stain", ["H&E", "DAB and haematoxylin"])
def test_a_fold_and_pigment_are_tissue_on_a_slide_with_a_black_pen(stain: str) -> None:
    view, inside = section(stain)
    fold = view[120:136, 90:160]
    view[120:136, 90:160] = (np.asarray(GLASS) * (fold / np.asarray(GLASS)) ** 2).clip(0, 255)
    brown = np.asarray((70, 45, 35)) + 25 * texture((12, 30), 5, 1)[..., None]
    view[150:162, 110:140] = brown.clip(30, 255).astype(np.uint8)
    view = with_pen(view, PENS["black"], STROKES["on glass"], 14.0, opacity=0.9)
    mask = tissue_mask(view, min_object=64, min_hole=64)
    assert mask[120:136, 90:160].mean() > 0.9
    assert mask[150:162, 110:140].mean() > 0.9
    assert mask[inside].mean() > 0.9


def test_pens_are_tissue_again_where_the_setting_says_so() -> None:
    inked = with_pen(PLAIN, PENS["blue"], STROKES["on glass"], 14.0)
    slide = prepared(inked, "tissue.pen=false")
    assert len(slide.tissue) > len(prepared(PLAIN).tissue)
    assert slide.view_shares["pen"] == 0
    assert not slide.notes


def test_two_levels_leave_out_the_same_pen() -> None:
    view, _ = section(side=512)
    inked = with_pen(view, PENS["green"], [(20, 24), (490, 24)], 28.0)
    two = ["attention.levels=2", "attention.network=wide", "regions.side=4", "regions.shrink=2"]
    before, after = prepared(view, *two), prepared(inked, *two)
    assert np.array_equal(before.tissue, after.tissue)
    assert after.regions is not None
    assert after.view_shares["pen"] == pytest.approx(28 * 470 / 512**2, rel=0.35)
    assert any(note.startswith("pen on ") for note in after.notes)


def test_shares_and_notes_go_with_every_answer(place: Path) -> None:
    with open_slide("slides/test_0.tif") as slide:
        pixels = slide.read((0, 0), slide.size)
    width = slide.size[0]
    inked = with_pen(pixels, PENS["blue"], [(0.1 * width, 150), (0.9 * width, 150)], 250)
    (place / "pen").mkdir()
    tifffile.imwrite(
        "pen/a.tif", inked, tile=(256, 256), photometric="rgb", resolution=(20000, 20000), resolutionunit=3
    )
    done = run(
        "predict", "run/model", "pen/a.tif", "--tiles", "8", "--out", "out", "--no-heatmaps", "--workers", "0"
    )
    assert "pen on" in done.stdout + done.stderr
    (folder,) = Path("out/slides").iterdir()
    prediction = read_prediction(folder)
    assert set(prediction.view_shares) == {"tissue", "glass", "pen", "black", "blank"}
    assert sum(prediction.view_shares.values()) == pytest.approx(1)
    assert prediction.view_shares["pen"] > 0.002
    told = run("info", "pen/a.tif").stdout
    assert "view: tissue" in told
    assert "note: pen on" in told


def test_real_tissue_is_not_taken_for_pen() -> None:
    path = shared_data("slides/aperio-cmu1-small/CMU-1-Small-Region.svs")
    with open_slide(path) as slide:
        for mpp in (4, 8, 16, 32):
            view = read_view(slide, resolve_downsample(slide, mpp=mpp, downsample=None, setting="view"), 4)
            mask = tissue_mask(view.pixels, min_object=16, min_hole=16)
            assert np.array_equal(mask, tissue_mask(view.pixels, min_object=16, min_hole=16, pen=False))


@pytest.mark.parametrize("place", ["on glass", "on tissue alone"])
@pytest.mark.parametrize("grey", [30, 60])
def test_grey_ink_that_is_too_little_for_a_pen_is_told(grey: int, place: str) -> None:
    """On a large view, where as much may be pigment or dirt."""
    view = np.tile(PLAIN, (4, 4, 1))
    inked = with_pen(view, (grey, grey, grey), STROKES[place], 14.0, opacity=1.0)
    assert not prepared(view).notes
    (note,) = prepared(inked).notes
    assert note.startswith("even dark grey on 0.")
