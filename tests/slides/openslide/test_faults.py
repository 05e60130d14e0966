"""Damaged tiles that are put up with, and what else a scanner may leave out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.support.strategies import noise, write_tiff
from wsi_ats.errors import SlideError
from wsi_ats.slides.base import OpenOptions, Slide
from wsi_ats.slides.openslide.slide import OpenSlideAddress, bounds_of

SIZE = (700, 520)
WHOLE = noise(SIZE[1], SIZE[0])
TILES = 11
"""Tiles in a row."""


def damage(path: Path, tiles: list[tuple[int, int]], page: int = 0, across: int = TILES) -> None:
    """Overwrite tiles (column, row) of a level with garbage; `across`: tiles in a row."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        level = file.pages[page]
        for col, row in tiles:
            start, count = (
                list(places)[row * across + col] for places in (level.dataoffsets, level.databytecounts)
            )
            content[start : start + count] = b"\xa5" * count
    path.write_bytes(content)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """700 x 520 px in tiles of 64 px, two of which are garbage: (2, 1) and (9, 8), the last row."""
    path = write_tiff(tmp_path / "damaged.tif", [WHOLE])
    damage(path, [(2, 1), (9, 8)])
    return path


def expected() -> np.ndarray:
    pixels = WHOLE.copy()
    pixels[64:128, 128:192] = pixels[512:, 576:640] = 255
    return pixels


def opened(path: Path, tolerate: int) -> Slide:
    return OpenSlideAddress(str(path), path.name, OpenOptions(tolerate_bad_tiles=tolerate)).open()


def test_bad_tiles_are_background_and_are_counted_once(damaged: Path) -> None:
    with opened(damaged, 2) as slide:
        assert slide.bad_tiles == ()
        assert np.array_equal(slide.read((0, 0), (128, 520)), WHOLE[:, :128])
        assert slide.bad_tiles == ()
        for _ in range(2):
            assert np.array_equal(slide.read((150, 90), (64, 64)), expected()[90:154, 150:214])
            assert slide.bad_tiles == ((0, 2, 1),)
        assert np.array_equal(slide.read((0, 0), SIZE), expected())
        assert slide.bad_tiles == ((0, 2, 1), (0, 9, 8))


def test_one_bad_tile_too_many_is_an_error_with_its_place(damaged: Path) -> None:
    with opened(damaged, 1) as slide:
        assert np.array_equal(slide.read((0, 0), (700, 500)), expected()[:500])
        with pytest.raises(
            SlideError, match=r"'damaged.tif': level 0, tile column 9, row 8 .* 1 such"
        ) as caught:
            slide.read((0, 0), SIZE)
        assert "--tolerate-bad-tiles" in caught.value.remedy
        assert np.array_equal(slide.read((0, 0), (700, 500)), expected()[:500]), "the slide goes on"
        assert slide.bad_tiles == ((0, 2, 1),)


def test_none_is_tolerated_by_default(damaged: Path) -> None:
    with (
        OpenSlideAddress(str(damaged), "damaged.tif").open() as slide,
        pytest.raises(SlideError, match="x=130"),
    ):
        slide.read((130, 70), (20, 20))


def test_background_of_the_slide_fills_bad_tiles(damaged: Path) -> None:
    with opened(damaged, 2) as slide:
        slide.background = (1, 2, 3)
        assert (slide.read((128, 64), (64, 64)) == (1, 2, 3)).all()


def test_blocks_where_the_tiles_are_not_known(damaged: Path) -> None:
    """Formats with overlapping tiles do not say how they are tiled: blocks of 256 px are given up."""
    with opened(damaged, 2) as slide:
        slide.properties = {}
        pixels = slide.read((0, 0), SIZE)
        assert slide.bad_tiles == ((0, 0, 0), (0, 2, 2))
    blank = WHOLE.copy()
    blank[:256, :256] = blank[512:, 512:] = 255
    assert np.array_equal(pixels, blank)


def test_threads_count_a_bad_tile_once_and_lose_no_good_one(damaged: Path) -> None:
    xy = np.random.default_rng(0).integers([0, 0], [640, 460], (150, 2))
    xy[:5] = (600, 460)
    with opened(damaged, 2) as slide, ThreadPoolExecutor(4) as pool:
        slide.threads = 1
        read = list(pool.map(lambda corner: slide.read(tuple(corner), (60, 60)), xy))
        assert slide.bad_tiles == ((0, 2, 1), (0, 9, 8))
    assert all(
        np.array_equal(r, expected()[y : y + 60, x : x + 60]) for r, (x, y) in zip(read, xy, strict=True)
    )


def test_a_bad_tile_of_a_level_that_is_no_whole_downsample_takes_no_neighbour_with_it(tmp_path: Path) -> None:
    """OpenSlide blends there, so that a read of a tile begins in the one before."""
    small = noise(130, 197, 2)
    path = write_tiff(tmp_path / "odd.tif", [np.zeros((520, 790, 3), np.uint8), small])
    damage(path, [(1, 0)], page=1, across=4)
    with opened(path, 1) as slide:
        pixels = slide.read((0, 0), (197, 130), 1)
        assert slide.bad_tiles == ((1, 1, 0),)
    assert (pixels[:64, 64:128] == 255).all()
    assert np.array_equal(pixels[:, :64], small[:, :64])
    off = np.abs(pixels.astype(int) - small)
    # Blended by less than a level-0 px, a quarter of one here, in x or y or both; a last row or column stands twice.
    assert 0 < off[:63, 128:191].max() < 255 * (1 - 0.75**2)
    assert 0 < off[64:127, 64:127].max() < 255 * (1 - 0.75**2)


@pytest.mark.parametrize(
    ("texts", "bounds"),
    [
        (("1024", "0", "60000", "40000"), (1024, 0, 60000, 40000)),
        (("", "0", "60000", "40000"), None),
        (("1024", "-5", "60000", "40000"), None),
    ],
)
def test_bounds(texts: tuple[str, ...], bounds: tuple[int, int, int, int] | None) -> None:
    names = ("x", "y", "width", "height")
    properties = {f"openslide.bounds-{name}": text for name, text in zip(names, texts, strict=True) if text}
    assert bounds_of(properties) == bounds


def test_a_slide_without_bounds_says_nothing(damaged: Path) -> None:
    with opened(damaged, 0) as slide:
        assert slide.bounds is None
