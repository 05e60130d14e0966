"""The fast path for tiled TIFFs: which files it takes, what it says of them. Their pixels: test_equality.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from tests.support.equality import HEIGHT, WIDTH, whole_levels
from tests.support.helpers import shared_data
from tests.support.tiffs import (
    drop_tiles,
    edit_tag,
    picture,
    write_aperio,
    write_ome,
    write_philips,
    write_pyramid,
)
from wsi_ats.slides import open_slide


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_aperio(tmp_path_factory.mktemp("svs") / "a.svs", whole_levels(3))


def test_an_svs_says_what_openslide_says(svs: Path) -> None:
    with open_slide(svs) as slide, openslide.OpenSlide(svs) as handle:
        assert (slide.backend, slide.backend_reason) == ("tiff", "tiled JPEG TIFF, Aperio")
        assert dict(slide.properties) == dict(handle.properties)
        assert slide.mpp == pytest.approx(0.499)
        assert set(slide.associated_images) == {"thumbnail", "label", "macro"} == {*handle.associated_images}
        for name, image in slide.associated_images.items():
            np.testing.assert_array_equal(image, np.asarray(handle.associated_images[name].convert("RGB")))


def test_missing_tiles_are_background(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", whole_levels(1), "jpeg-420")
    drop_tiles(path, 0, [0, 7, 8])
    with open_slide(path) as slide:
        assert slide.backend == "tiff"
        assert (slide.read((0, 0), (64, 64)) == 255).all()
        assert (slide.read((64, 0), (64, 64)) < 255).any()


def test_an_ome_tiff_with_subifds(tmp_path: Path) -> None:
    whole = whole_levels(3)
    path = write_ome(tmp_path / "a.ome.tif", whole, "deflate")
    with open_slide(path) as slide:
        assert slide.backend == "tiff"
        assert slide.mpp_xy == pytest.approx((0.25, 0.5))
        assert len(slide.levels) == 3
        for index, level in enumerate(whole):
            size = slide.levels[index].size
            np.testing.assert_array_equal(slide.read((0, 0), (size.width, size.height), index), level)


def test_levels_of_philips_have_their_true_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    true = write_philips(path, picture(448, 640))
    with open_slide(path) as slide, openslide.OpenSlide(path) as handle:
        assert slide.properties["openslide.vendor"] == "philips"
        sizes = [(lv.size.width, lv.size.height) for lv in slide.levels]
        assert sizes == list(handle.level_dimensions)
        for index, level in enumerate(true):
            found = slide.read((0, 0), sizes[index], index)
            np.testing.assert_array_equal(found, level[: sizes[index][1], : sizes[index][0]])


def sixteen_bit(path: Path) -> None:
    pixels = picture(HEIGHT, WIDTH).astype(np.uint16) * 257
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64))


def transparent(path: Path) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 200, np.uint8)
    tifffile.imwrite(path, np.dstack([picture(HEIGHT, WIDTH), alpha]), photometric="rgb", tile=(64, 64))


def ycbcr(path: Path) -> None:
    write_pyramid(path, whole_levels(1), "raw")
    edit_tag(path, 0, "PhotometricInterpretation", 6)


@pytest.mark.parametrize("write", [sixteen_bit, transparent, ycbcr])
def test_irregular_files_are_left_to_openslide_with_the_reason(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    write(path)
    with open_slide(path) as slide:
        assert slide.backend == "openslide"
        assert slide.backend_reason.startswith("OpenSlide: ")
        assert len(slide.backend_reason) > len("OpenSlide: ")


def test_the_ndpi_is_openslides() -> None:
    path = next(shared_data("slides/hamamatsu-fluorescence").glob("*.ndpi"))
    with open_slide(path) as slide:
        assert (slide.backend, slide.backend_reason) == ("openslide", "OpenSlide: NDPI has no tiles")


def test_the_ki67_pair_shows_the_same_field_at_one_mpp() -> None:
    """One field of 500 um on two scanners, of 0.227 and 0.346 um/px."""
    at_half, one_wrong = [], []
    for path, size in zip(sorted(shared_data("slides/ometiff").glob("*.tif*")), (2202, 1445), strict=True):
        with open_slide(path) as slide:
            assert (slide.backend, slide.size) == ("tiff", (size, size))
            assert slide.mpp_xy is not None
            assert [size * mpp for mpp in slide.mpp_xy] == pytest.approx([500, 500], rel=0.0005)
            at_half.append(slide.read_at_mpp((0, 0), (1000, 1000), 0.5))
            one_wrong.append(slide.read_at_mpp((0, 0), (1000, 1000), 0.5 if one_wrong else 0.51))
    for corner in (np.s_[:300, :300], np.s_[:300, -300:], np.s_[-300:, :300], np.s_[-300:, -300:]):
        assert correlation(*(pixels[corner] for pixels in at_half)) > 0.8
    assert correlation(*at_half) > 0.9
    assert correlation(*one_wrong) < 0.7


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of the darkness of two pictures, smoothed by a micrometre or so."""
    dark = [gaussian_filter(pixels.mean(2), 1.5).ravel() for pixels in (one, other)]
    return float(np.corrcoef(*dark)[0, 1])
