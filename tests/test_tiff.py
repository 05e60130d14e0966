"""The fast path for tiled TIFFs against OpenSlide, pixel by pixel, and against arrays where OpenSlide refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import shared_data
from tests.tiffs import drop_tiles, edit_tag, picture, write_aperio, write_ome, write_philips, write_pyramid
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.slides.openslide import opaque

WIDTH, HEIGHT = 331, 277
KINDS = (
    "jpeg-420", "jpeg-420+tables", "jpeg-444", "jpeg-422+tables", "jpeg-rgb", "jpeg-rgb+tables",
    "raw", "lzw", "lzw+predictor", "deflate", "deflate+predictor",
)  # fmt: skip


def levels(count: int = 2) -> list[np.ndarray]:
    whole = picture(HEIGHT, WIDTH)
    return [np.ascontiguousarray(whole[:: 2**i, :: 2**i]) for i in range(count)]


def theirs(handle: openslide.OpenSlide, box: tuple[int, int, int, int], level: int = 0) -> np.ndarray:
    """OpenSlide's pixels of a box in px of a level whose downsample is a whole number."""
    x, y, width, height = box
    scale = round(handle.level_downsamples[level])
    return opaque(handle.read_region((x * scale, y * scale), level, (width, height)), (255, 255, 255))


def assert_same_pixels(slide: Slide, handle: openslide.OpenSlide, regions: int, seed: int = 0) -> None:
    """Random regions of level 0, some of them over the border; a shift by one pixel must show."""
    rng = np.random.default_rng(seed)
    width, height = slide.size
    size = min(90, width), min(70, height)
    xy = np.stack([rng.integers(-20, side - 40, regions) for side in (width, height)], 1)
    found = slide.read_many(xy, size)
    for (x, y), pixels in zip(xy.tolist(), found, strict=True):
        np.testing.assert_array_equal(pixels, theirs(handle, (x, y, *size)))
    middle = width // 3, height // 3
    here = slide.read(middle, size)
    for dx, dy in ((1, 0), (0, 1)):
        assert not np.array_equal(here, theirs(handle, (middle[0] + dx, middle[1] + dy, *size)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tile", [(64, 64), (128, 96)])
def test_every_layout_has_openslides_pixels(kind: str, tile: tuple[int, int], tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", levels(), kind, tile)
    with open_slide(path) as slide, openslide.OpenSlide(path) as handle:
        assert slide.backend == "tiff"
        assert [(lv.size.width, lv.size.height) for lv in slide.levels] == list(handle.level_dimensions)
        assert_same_pixels(slide, handle, 24)


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"byteorder": "<"}])
@pytest.mark.parametrize("side", [240, 256, 512])
def test_file_variants_have_openslides_pixels(options: dict[str, Any], side: int, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", levels(), "jpeg-420+tables", (side, side), options)
    with open_slide(path) as slide, openslide.OpenSlide(path) as handle:
        assert slide.backend == "tiff"
        assert_same_pixels(slide, handle, 24)


def test_a_big_endian_file_has_the_pixels_that_were_written(tmp_path: Path) -> None:
    whole = levels()
    path = write_pyramid(tmp_path / "a.tif", whole, "deflate", options={"byteorder": ">"})
    with open_slide(path, mpp=0.5) as slide:
        for index, level in enumerate(whole):
            size = slide.levels[index].size
            np.testing.assert_array_equal(slide.read((0, 0), (size.width, size.height), index), level)


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_aperio(tmp_path_factory.mktemp("svs") / "a.svs", levels(3))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_any_region_of_an_svs_is_openslides(svs: Path, data: st.DataObject) -> None:
    with open_slide(svs) as slide, openslide.OpenSlide(svs) as handle:
        size = data.draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
        x, y = data.draw(st.tuples(st.integers(-100, WIDTH + 50), st.integers(-100, HEIGHT + 50)))
        np.testing.assert_array_equal(slide.read((x, y), size), theirs(handle, (x, y, *size)))


def test_an_svs_says_what_openslide_says(svs: Path) -> None:
    with open_slide(svs) as slide, openslide.OpenSlide(svs) as handle:
        assert (slide.backend, slide.backend_reason) == ("tiff", "tiled JPEG TIFF, Aperio")
        assert dict(slide.properties) == dict(handle.properties)
        assert slide.mpp == pytest.approx(0.499)
        assert set(slide.associated_images) == {"thumbnail", "label", "macro"} == {*handle.associated_images}
        for name, image in slide.associated_images.items():
            np.testing.assert_array_equal(image, np.asarray(handle.associated_images[name].convert("RGB")))


def test_coarse_levels_are_the_pixels_that_openslide_has_on_their_grid(tmp_path: Path) -> None:
    whole = picture(256, 384)
    path = write_pyramid(tmp_path / "a.tif", [whole, whole[::2, ::2], whole[::4, ::4]], "jpeg-420")
    with open_slide(path) as slide, openslide.OpenSlide(path) as handle:
        for level, (width, height) in enumerate(handle.level_dimensions):
            found = slide.read((0, 0), (width, height), level)
            np.testing.assert_array_equal(found, theirs(handle, (0, 0, width, height), level))
            part = slide.read((4 * 20, 4 * 12), (31, 17), level)
            at = (4 * 20) >> level, (4 * 12) >> level
            np.testing.assert_array_equal(part, found[at[1] : at[1] + 17, at[0] : at[0] + 31])


def test_missing_tiles_are_background(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", levels(1), "jpeg-420")
    drop_tiles(path, 0, [0, 7, 8])
    with open_slide(path) as slide, openslide.OpenSlide(path) as handle:
        assert slide.backend == "tiff"
        assert_same_pixels(slide, handle, 24)
        assert (slide.read((0, 0), (64, 64)) == 255).all()


def test_an_ome_tiff_with_subifds(tmp_path: Path) -> None:
    whole = levels(3)
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


def striped(path: Path) -> None:
    import tifffile

    tifffile.imwrite(path, picture(HEIGHT, WIDTH), photometric="rgb")


def sixteen_bit(path: Path) -> None:
    import tifffile

    tifffile.imwrite(path, picture(HEIGHT, WIDTH).astype(np.uint16), photometric="rgb", tile=(64, 64))


def other_photometric(path: Path) -> None:
    write_pyramid(path, levels(1), "raw")
    edit_tag(path, 0, "PhotometricInterpretation", 5)


@pytest.mark.parametrize("write", [striped, sixteen_bit, other_photometric])
def test_irregular_files_are_left_to_openslide_with_the_reason(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    write(path)
    try:
        openslide.OpenSlide(path).close()
    except openslide.OpenSlideError:
        with pytest.raises(Exception, match=r"a\.tif.*"):
            open_slide(path)
        return
    with open_slide(path) as slide:
        assert slide.backend == "openslide"
        assert slide.backend_reason.startswith("OpenSlide: ")
        assert len(slide.backend_reason) > len("OpenSlide: ")


def test_the_real_svs_has_openslides_pixels() -> None:
    path = next(shared_data("slides/aperio-cmu1-small").glob("*.svs"))
    with open_slide(path) as slide, openslide.OpenSlide(path) as handle:
        assert slide.backend == "tiff"
        assert_same_pixels(slide, handle, 300)


def test_the_ndpi_is_openslides() -> None:
    path = next(shared_data("slides/hamamatsu-fluorescence").glob("*.ndpi"))
    with open_slide(path) as slide:
        assert (slide.backend, slide.backend_reason) == ("openslide", "OpenSlide: NDPI has no tiles")


def test_the_ki67_pair_spans_the_same_field() -> None:
    sizes = {}
    for path in sorted(shared_data("slides/ometiff").glob("*.tif*")):
        with open_slide(path) as slide:
            assert slide.backend == "tiff"
            assert slide.mpp_xy is not None
            sizes[path.name] = slide.size
            span = [side * mpp for side, mpp in zip(slide.size, slide.mpp_xy, strict=True)]
            assert span == pytest.approx([500, 500], rel=0.002)
            pixels = slide.read_at_mpp((0, 0), (1000, 1000), 0.5)
            # The last column and row are of the field still: both scans end within a pixel of 500 um.
            assert pixels[:, -2:].std() > 1
            assert pixels[-2:].std() > 1
    assert sorted(sizes.values()) == [(1445, 1445), (2202, 2202)]
