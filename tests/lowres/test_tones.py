"""Tones against the pixels that they are of."""

from __future__ import annotations

import numpy as np

from wsi_ats import open_slide
from wsi_ats.config import load_config
from wsi_ats.lowres.prepare import prepare
from wsi_ats.lowres.tones import NAMES, UNITS

CONFIG = load_config(
    overrides=["view.downsample=1", "tile.downsample=1", "tile.px=64", "attention.stride=16"]
)


def made(factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Stained tissue with even noise on glass, and where it is."""
    rng = np.random.default_rng(0)
    pixels = np.full((256, 384, 3), 240.0)
    pixels[64:192, 64:320] = np.array([170, 90, 160]) + rng.normal(0, 6, (128, 256, 3))
    tissue = np.zeros(pixels.shape[:2], bool)
    tissue[64:192, 64:320] = True
    return (pixels * factor).round().astype(np.uint8), tissue


def tones(pixels: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, prepare(open_slide(pixels), CONFIG).tones * UNITS, strict=True))


def test_tones_are_those_of_the_stained_pixels() -> None:
    pixels, tissue = made()
    found, density = tones(pixels), -np.log10(pixels[tissue] / 255)
    for index, colour in enumerate(("red", "green", "blue")):
        mine = density[:, index]
        assert np.isclose(found[f"mean of {colour}"], mine.mean(), atol=1e-3)
        assert np.isclose(found[f"spread of {colour}"], mine.std(), atol=1e-3)
        assert np.isclose(
            found[f"skew of {colour}"], ((mine - mine.mean()) ** 3).mean() / mine.std() ** 3, atol=0.05
        )
        assert np.isclose(found[f"density of the glass in {colour}"], -np.log10(240 / 255), atol=2e-3)
    share = tissue.mean()
    assert np.isclose(found["share of tissue"], np.log(share / (1 - share)), atol=0.02)


def test_half_the_light_is_more_density_of_tissue_and_glass_alike() -> None:
    light, dim = tones(made()[0]), tones(made(0.5)[0])
    for name in NAMES:
        more = np.log10(2) if name.startswith(("mean", "density")) else 0.0
        assert np.isclose(dim[name], light[name] + more, atol=0.1 if name.startswith("skew") else 0.01), name


def test_a_slide_without_glass_has_tones() -> None:
    pixels = np.full((256, 256, 3), 0, np.uint8) + np.array([170, 90, 160], np.uint8)
    assert np.isfinite(prepare(open_slide(pixels), CONFIG).tones).all()
