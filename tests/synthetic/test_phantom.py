"""Phantoms: what was planted is in the pixels, at the size, resolution and scale that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2hed
from skimage.morphology import disk, opening

from wsi_ats.errors import ConfigError
from wsi_ats.synthetic import phantom
from wsi_ats.synthetic.nuclei import LESIONAL, SMALL, STROMAL, Kind, Scatter, stamps
from wsi_ats.synthetic.phantom import Phantom, write_phantom
from wsi_ats.synthetic.stain import EOSIN, HAEMATOXYLIN, UNITS_AT_255, Stain
from wsi_ats.synthetic.texture import clouds, fibres, window
from wsi_ats.synthetic.truth import SlideTruth, mask


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SlideTruth]:
    path = tmp_path_factory.mktemp("phantom") / "slide.tif"
    return path, write_phantom(path, Phantom(size=2048, lesion_fraction=0.03, decoys=2, jitter=0.0, seed=3))


def pixels_of(path: Path, level: int = 0) -> np.ndarray:
    with openslide.OpenSlide(path) as handle:
        return np.asarray(handle.read_region((0, 0), level, handle.level_dimensions[level]).convert("RGB"))


def shrunk(outline: np.ndarray, factor: float = 0.8) -> np.ndarray:
    return outline.mean(0) + factor * (outline - outline.mean(0))


def test_openslide_opens_it_with_its_levels_and_resolution(slide: tuple[Path, SlideTruth]) -> None:
    with openslide.OpenSlide(slide[0]) as handle:
        assert handle.level_dimensions == ((2048, 2048), (512, 512), (128, 128))
        assert float(handle.properties["openslide.mpp-x"]) == pytest.approx(0.5)


def test_the_truth_tells_the_planted_area(slide: tuple[Path, SlideTruth]) -> None:
    truth = slide[1]
    assert len(truth.lesions) == 1
    assert len(truth.decoys) == 2
    assert truth.lesion_share == pytest.approx(0.03, rel=1e-6)
    coloured = np.ptp(pixels_of(slide[0], 2).astype(int), axis=2) > 20
    assert coloured.mean() == pytest.approx(truth.tissue_fraction, rel=0.1)
    together = mask((*truth.lesions, *truth.decoys), (512, 512), (4, 4))
    each = [mask((outline,), (512, 512), (4, 4)).sum() for outline in (*truth.lesions, *truth.decoys)]
    assert together.sum() == sum(each)  # nothing overlaps


def share_of_large_nuclei(pixels: np.ndarray, outline: np.ndarray, diameter: int) -> float:
    """Share of the dark pixels inside that a disk of this diameter (px) fits over without leaving the dark."""
    left, top = (outline.min(0) - 20).astype(int)
    right, bottom = (outline.max(0) + 20).astype(int)
    dark = pixels[top:bottom, left:right, 0] < 125
    inside = mask((shrunk(outline) - (left, top),), dark.shape, (1, 1))
    return float((opening(dark, disk(diameter // 2)) & inside).sum() / (dark & inside).sum())


def test_lesions_have_large_nuclei_and_decoys_small_ones(slide: tuple[Path, SlideTruth]) -> None:
    """A disk of 9 um fits into lesional nuclei (12 to 16 um), not into small ones (6 to 7 um); one of 4 um does."""
    path, truth = slide
    pixels = pixels_of(path)
    assert share_of_large_nuclei(pixels, truth.lesions[0], 18) > 0.3
    for decoy in truth.decoys:
        assert share_of_large_nuclei(pixels, decoy, 18) < 0.1
        assert share_of_large_nuclei(pixels, decoy, 8) > 0.6


def test_lesions_and_decoys_are_both_bluish_patches_at_low_resolution(slide: tuple[Path, SlideTruth]) -> None:
    path, truth = slide
    view = pixels_of(path, 2).astype(float)
    inside = [
        view[mask(tuple(shrunk(o) for o in outlines), view.shape[:2], (16, 16))]
        for outlines in (truth.lesions, truth.decoys)
    ]
    lesion, decoy = (pixels.mean(0) for pixels in inside)
    tissue = np.ptp(view, axis=2) > 20
    tissue &= ~mask(tuple(shrunk(o, 1.3) for o in (*truth.lesions, *truth.decoys)), tissue.shape, (16, 16))
    stroma = view[tissue].mean(0)
    for patch in (lesion, decoy):
        assert (patch < stroma - 30).all()  # darker
        assert patch[2] - patch[0] > stroma[2] - stroma[0] + 20  # and bluer
    assert np.abs(lesion - decoy).max() < 20
    grain = [pixels.std(0) for pixels in inside]  # nor does their texture tell them apart
    assert (grain[0] / grain[1]).min() > 0.6
    assert (grain[0] / grain[1]).max() < 1.6


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    small = Phantom(size=(600, 900), decoys=1, seed=5)
    first = write_phantom(tmp_path / "a.tif", small)
    second = write_phantom(tmp_path / "b.tif", small)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert (first.lesions[0] == second.lesions[0]).all()
    write_phantom(tmp_path / "c.tif", Phantom(size=(600, 900), decoys=1, seed=6))
    assert (tmp_path / "a.tif").read_bytes() != (tmp_path / "c.tif").read_bytes()


def test_bands_and_blocks_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same picture, bit by bit, however it is cut: no seams, nothing repeated, no nucleus lost or cut."""
    settings_ = Phantom(size=(900, 700), decoys=1, seed=2)
    first = write_phantom(tmp_path / "a.tif", settings_)
    monkeypatch.setattr(phantom, "BAND", 192)
    monkeypatch.setattr(phantom, "BLOCK", 320)
    second = write_phantom(tmp_path / "b.tif", settings_)
    assert (first.lesions[0] == second.lesions[0]).all()
    assert (pixels_of(tmp_path / "a.tif") == pixels_of(tmp_path / "b.tif")).all()


def test_a_negative_slide_has_decoys_and_no_lesion(tmp_path: Path) -> None:
    truth = write_phantom(tmp_path / "a.tif", Phantom(size=1024, lesion=False, decoys=3, seed=1))
    assert truth.lesions == ()
    assert len(truth.decoys) == 3
    assert truth.lesion_share == 0


@given(seed=st.integers(0, 100_000))
@settings(deadline=None, max_examples=25)
def test_every_seed_finds_room_in_the_tissue(seed: int) -> None:
    """As the demo asks for: up to 4 % lesion and three decoys, in small slides too."""
    settings_ = Phantom(size=2048, lesion_fraction=0.04, decoys=3, seed=seed)
    layout = phantom._Layout(settings_, np.random.default_rng(seed))
    assert 0.25 < layout.truth.tissue_fraction < 0.65
    planted = mask((*layout.lesions, *layout.decoys), layout.shape, (layout.step, layout.step))
    assert (layout.tissue[planted] > phantom.EDGE).all()


def test_maps_stay_small_for_huge_slides() -> None:
    layout = phantom._Layout(Phantom(size=200_000, seed=0), np.random.default_rng(0))
    assert max(layout.shape) <= phantom.MAP_CELLS
    assert layout.truth.lesion_share == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 100}, "at least 512"),
        ({"mpp": 5.0}, "0.1 to 2"),
        ({"lesion_fraction": 0.0}, "lesion_fraction = 0.0"),
        ({"lesion_fraction": 0.5}, "at most 0.2"),
        ({"regions": 0}, "regions = 0"),
        ({"decoys": -1}, "decoys = -1"),
    ],
)
def test_settings_out_of_range_are_named(arguments: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Phantom(**arguments)


def test_too_much_for_the_tissue_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no room in the tissue for decoy"):
        write_phantom(tmp_path / "a.tif", Phantom(size=512, decoys=60, seed=0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", [STROMAL, SMALL, LESIONAL])
def test_stamps_have_their_size_in_micrometres(kind: Kind, mpp: float) -> None:
    drawn = stamps(kind, mpp, np.random.default_rng(0), variants=200)
    assert (drawn[:, 0] == 0).all()  # nothing is cut at the stamp's border
    assert (drawn[:, :, 0] == 0).all()
    areas = (drawn > 40).sum((1, 2)) * mpp**2
    long, thin = np.mean(kind.length), np.mean(kind.width)
    assert areas.mean() == pytest.approx(np.pi / 4 * long**2 * thin, rel=0.25)


@pytest.mark.parametrize("kind", [STROMAL, SMALL, LESIONAL])
def test_scattering_equals_stamping_one_nucleus_at_a_time(kind: Kind) -> None:
    scatter = Scatter(kind, 0.5, 300, (7,))
    rows, cols, top, margin = 200, 300, 96, scatter.side

    def density(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(x < 200, 230, 90).astype(np.uint8)

    canvas = np.zeros((rows + 2 * margin, cols + 2 * margin), np.uint8)
    scatter.stamp(canvas, top, density, margin)
    expected = np.zeros_like(canvas)
    for row in range(-20, 80):
        for x, y, thin, variant in zip(*scatter.row(row), strict=True):
            if thin >= (230 if x < 200 else 90):
                continue
            left = int(np.floor(x - scatter.side / 2 + 0.5)) + margin
            upper = int(np.floor(y - scatter.side / 2 + 0.5)) + margin - top
            if 0 <= left <= canvas.shape[1] - scatter.side and 0 <= upper <= canvas.shape[0] - scatter.side:
                under = expected[upper : upper + scatter.side, left : left + scatter.side]
                np.maximum(under, scatter.stamps[variant], out=under)
    seen = (slice(margin, -margin), slice(margin, -margin))
    assert expected[seen].any()
    assert (canvas[seen] == expected[seen]).all()


def test_the_colour_table_follows_beer_and_lambert() -> None:
    stain = Stain(strengths=(1.1, 0.8), white=(240.0, 241.0, 242.0))
    table = stain.table()
    assert table[0].tolist() == [240, 241, 242]
    assert stain.background().tolist() == [240, 241, 242]
    haematoxylin, eosin = 100, 60
    density = 1.1 * haematoxylin / 255 * UNITS_AT_255 * np.array(HAEMATOXYLIN)
    density += 0.8 * eosin / 255 * UNITS_AT_255 * np.array(EOSIN)
    expected = np.array(stain.white) * 10**-density
    assert np.abs(table[256 * haematoxylin + eosin] - expected).max() <= 0.51


def test_nuclei_are_haematoxylin_and_stroma_is_eosin() -> None:
    """An independent unmixing (Ruifrok's vectors) tells the two apart."""
    table = Stain().table()
    nucleus, stroma = (rgb2hed(table[row][None, None])[0, 0] for row in (256 * 120 + 10, 256 * 5 + 60))
    assert nucleus[0] > 3 * stroma[0]
    assert stroma[1] > stroma[0]


def test_jitter_spreads_stains_and_zero_is_the_reference() -> None:
    assert np.allclose(Stain.jittered(np.random.default_rng(0), 0.0).vectors, (HAEMATOXYLIN, EOSIN))
    colours = [Stain.jittered(np.random.default_rng(seed)).table()[256 * 100 + 40] for seed in range(40)]
    spread = np.array(colours).std(0)
    assert (spread > 5).all()
    assert (spread < 40).all()


@given(
    top=st.integers(-500, 500),
    left=st.integers(-500, 500),
    rows=st.integers(1, 150),
    cols=st.integers(1, 150),
)
@settings(deadline=None, max_examples=40)
def test_windows_of_a_texture_wrap(top: int, left: int, rows: int, cols: int) -> None:
    texture = clouds(64, 5.0, 1)
    expected = texture[np.arange(top, top + rows)[:, None] % 64, np.arange(left, left + cols)[None] % 64]
    assert (window(texture, top, left, (rows, cols)) == expected).all()


def test_textures_are_periodic_and_balanced() -> None:
    for texture in (clouds(128, 8.0, 1), fibres(128, 3.0, 2)):
        values = texture.astype(float)
        assert abs(values.mean() - 128) < 3
        assert 30 < values.std() < 45
        inner = np.abs(np.diff(values, axis=1)).mean()
        assert np.abs(values[:, 0] - values[:, -1]).mean() < 1.6 * inner  # the border is no step
