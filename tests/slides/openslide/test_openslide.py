"""OpenSlide's pixels and facts, against the arrays that were written and against other readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from tests.support.helpers import shared_data
from tests.support.strategies import noise, write_tiff
from wsi_ats.slides import open_slide
from wsi_ats.slides.openslide.slide import colour_of, opaque

CMU = "slides/aperio-cmu1-small/CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def tiff(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """Lossless noise: 300 x 420 px, and levels of exactly a half and a quarter."""
    levels = [noise(300, 420, 1), noise(150, 210, 2), noise(75, 105, 3)]
    return write_tiff(tmp_path_factory.mktemp("slides") / "noise.tif", levels, mpp=0.5), levels


def test_openslide_equals_the_arrays_overhang_included(tiff: tuple[Path, list[np.ndarray]]) -> None:
    path, levels = tiff
    rng = np.random.default_rng(0)
    with open_slide(path, "openslide") as slide, open_slide(levels) as oracle:
        assert slide.levels == oracle.levels
        for index, level in enumerate(slide.levels):
            xy = rng.integers([-60, -60], [460, 340], (40, 2))
            xy -= xy % int(level.downsample[0])
            expected = oracle.read_many(xy, (70, 50), index)
            assert np.array_equal(slide.read_many(xy, (70, 50), index), expected)
            assert all(
                np.array_equal(slide.read(tuple(c), (70, 50), index), e)
                for c, e in zip(xy, expected, strict=True)
            )
        assert slide.bytes_read == 2 * oracle.bytes_read


def test_off_the_grid_of_a_level_both_backends_take_the_nearest_pixel(
    tiff: tuple[Path, list[np.ndarray]],
) -> None:
    path, levels = tiff
    with open_slide(path, "openslide") as slide, open_slide(levels) as oracle:
        for x in range(-5, 6):
            assert np.array_equal(slide.read((x, 7 - x), (20, 20), 2), oracle.read((x, 7 - x), (20, 20), 2))


def test_at_a_downsample_that_is_no_whole_number_pixels_are_copied_not_blended(tmp_path: Path) -> None:
    """OpenSlide's own read blends neighbours: noise would show it."""
    full, small = noise(611, 807, 1), noise(152, 201, 2)
    path = write_tiff(tmp_path / "odd.tif", [full, small])
    with open_slide(path, "openslide") as slide, open_slide([full, small]) as oracle:
        assert slide.levels[1].downsample == (807 / 201, 611 / 152)
        xy = np.random.default_rng(0).integers([-40, -40], [807, 611], (60, 2))
        assert np.array_equal(slide.read_many(xy, (40, 40), 1), oracle.read_many(xy, (40, 40), 1))
        assert np.array_equal(slide.read((0, 0), (201, 152), 1), small)
    handle = openslide.OpenSlide(path)
    blended = np.asarray(handle.read_region((402, 305), 1, (40, 40)))[..., :3].astype(int)
    assert np.abs(blended - small[76:116, 100:140]).max() > 5


def test_reads_longer_than_openslide_reads_at_once(tmp_path: Path) -> None:
    full, small = np.zeros((139, 20_800, 3), np.uint8), noise(60, 9_001)
    path = write_tiff(tmp_path / "long.tif", [full, small])
    with open_slide(path, "openslide") as slide, open_slide([full, small]) as oracle:
        assert np.array_equal(slide.read((0, 0), (9_001, 60), 1), small)
        for x in (37, 4_711, 9_999):
            assert np.array_equal(slide.read((x, 0), (4_500, 60), 1), oracle.read((x, 0), (4_500, 60), 1))
        assert slide.read((0, 0), slide.size).max() == 0
    handle = openslide.OpenSlide(path)
    alone = np.asarray(handle.read_region((0, 0), 1, (9_001, 60)))[..., :3]
    assert np.array_equal(alone[:, :4096], small[:, :4096])
    assert not np.array_equal(alone, small), "OpenSlide cuts long reads rightly now: spans() can go"


def test_a_tile_that_is_missing_has_the_background_colour(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "gap.tif", [np.zeros((128, 128, 3), np.uint8)])
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = file.pages[0].tags["TileByteCounts"]
        counts.overwrite([0, *counts.value[1:]])
    with open_slide(path, "openslide") as slide:
        pixels = slide.read((0, 0), (128, 128))
    assert (pixels[:64, :64] == 255).all()
    assert (pixels[64:] == 0).all()
    assert (pixels[:, 64:] == 0).all()


def test_transparent_pixels_are_composed_on_the_background() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(10, 20, 30, 255), (0, 0, 0, 0), (100, 100, 100, 128)]
    pixels = opaque(Image.fromarray(rgba), (200, 220, 240))
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, 1].tolist() == [200, 220, 240]
    assert np.abs(pixels[0, 2].astype(int) - (150, 160, 170)).max() <= 1


@pytest.mark.parametrize(
    ("text", "colour"),
    [("FFFFFF", (255,) * 3), ("e6E0d2", (230, 224, 210)), ("", (255,) * 3), ("white", (255,) * 3)],
)
def test_background_colours(text: str, colour: tuple[int, int, int]) -> None:
    assert colour_of(text) == colour


# ---- mpp


@pytest.mark.parametrize("unit", [2, 3])
def test_mpp_of_a_tiff_and_its_override(tmp_path: Path, unit: int) -> None:
    path = write_tiff(tmp_path / "a.tif", [noise(64, 64)], mpp=0.25, unit=unit)
    with open_slide(path, "openslide") as slide:
        assert slide.mpp == pytest.approx(0.25, rel=1e-5)
    with open_slide(path, "openslide", mpp=0.3) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.3, "given")
    with open_slide(write_tiff(tmp_path / "b.tif", [noise(64, 64)]), "openslide") as slide:
        assert (slide.mpp, slide.mpp_source) == (None, "none")


# ---- real slides


def test_aperio_pixels_equal_tifffile() -> None:
    path = shared_data(CMU)
    expected = tifffile.imread(path, key=0)
    with open_slide(path, "openslide") as slide:
        pixels = slide.read((0, 0), slide.size)
        assert (slide.mpp, slide.mpp_source, slide.properties["openslide.vendor"]) == (
            0.499,
            "openslide.mpp-x",
            "aperio",
        )
    assert np.abs(pixels.astype(int) - expected).max() <= 2  # JPEG decoders may round differently


def test_associated_images_of_an_aperio_slide() -> None:
    with open_slide(shared_data(CMU), "openslide") as slide:
        images = slide.associated_images
        assert set(images) == {"label", "macro", "thumbnail"}
        assert images["macro"].shape == (431, 1280, 3)
        assert images["macro"].dtype == np.uint8
        with pytest.raises(KeyError):
            images["nonsense"]


def test_both_encodings_of_a_dicom_slide_show_the_same_image() -> None:
    with (
        open_slide(shared_data("slides/dicom/raw.dicom"), "openslide") as raw,
        open_slide(shared_data("slides/dicom/jpeg.dicom"), "openslide") as jpeg,
    ):
        difference = raw.read((0, 0), raw.size).astype(int) - jpeg.read((0, 0), jpeg.size)
    assert 0.5 < np.abs(difference).mean() < 4
