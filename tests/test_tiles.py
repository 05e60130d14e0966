from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import pyramids
from wsi_ats.geometry import Grid, Size
from wsi_ats.slides import Slide, open_slide
from wsi_ats.tiles import TileCache, read_tiles

moderate = settings(deadline=None, max_examples=60)


@moderate
@given(pyramids(), st.floats(3, 20), st.floats(3, 20), st.integers(0, 999))
def test_tiles_are_reads_centred_on_their_cells(
    arrays: list[np.ndarray], w: float, h: float, seed: int
) -> None:
    slide = open_slide(arrays)
    grid = Grid.covering(slide.pyramid.size, (w, h))
    cells = np.random.default_rng(seed).integers(0, len(grid), 12)
    tiles = read_tiles(slide, grid, cells, 8, (1.0, 1.0))
    assert tiles.shape == (12, 8, 8, 3)
    for tile, (x, y) in zip(tiles, grid.centres(cells), strict=True):
        corner = int(np.floor(x - 4 + 0.5)), int(np.floor(y - 4 + 0.5))
        assert np.array_equal(tile, slide.read(corner, (8, 8)))


def test_tiles_of_a_coarser_scale_span_more_of_the_slide() -> None:
    y, x = np.mgrid[:240, :240]
    slide = open_slide(np.stack([x, y, y], axis=2).astype(np.uint8))
    grid = Grid(5, 5, (48, 48))
    tile = read_tiles(slide, grid, np.asarray([12]), 16, (4.0, 3.0))[0].astype(float)
    # Cell 12 is centred on (120, 120): 16 px of 4 level-0 px start at 88, of 3 at 96.
    steps = np.arange(16) + 0.5
    assert np.abs(tile[8, :, 0] - (88 + 4 * steps - 0.5)).max() <= 1
    assert np.abs(tile[:, 8, 1] - (96 + 3 * steps - 0.5)).max() <= 1


@pytest.fixture
def slide() -> Slide:
    return open_slide(np.random.default_rng(0).integers(0, 255, (320, 320, 3), np.uint8))


GRID = Grid.covering(Size(320, 320), (32, 32))


def test_a_cell_drawn_twice_is_read_once(slide: Slide) -> None:
    cells = np.asarray([55, 23, 55, 55, 23])
    tiles = read_tiles(slide, GRID, cells, 32, (1.0, 1.0))
    assert slide.bytes_read == 2 * 3 * 32 * 32
    assert np.array_equal(tiles[0], tiles[2])
    assert np.array_equal(
        tiles, [read_tiles(slide, GRID, cells[i : i + 1], 32, (1.0, 1.0))[0] for i in range(5)]
    )


def test_no_cells(slide: Slide) -> None:
    assert read_tiles(slide, GRID, np.zeros(0, np.int64), 32, (1.0, 1.0)).shape == (0, 32, 32, 3)


def test_cached_tiles_are_not_read_again(slide: Slide) -> None:
    cache = TileCache(10**6)
    cells = np.asarray([3, 50, 7])
    first = read_tiles(slide, GRID, cells, 32, (1.0, 1.0), cache)
    read = slide.bytes_read
    first_again = read_tiles(slide, GRID, cells[::-1], 32, (1.0, 1.0), cache)
    assert slide.bytes_read == read
    assert np.array_equal(first_again, first[::-1])
    first[:] = 0  # the caller's array is not the cache's
    mixed = read_tiles(slide, GRID, np.asarray([50, 8]), 32, (1.0, 1.0), cache)
    assert slide.bytes_read == read + 3 * 32 * 32
    assert np.array_equal(mixed, read_tiles(slide, GRID, np.asarray([50, 8]), 32, (1.0, 1.0)))


def test_the_cache_tells_slides_grids_and_scales_apart(slide: Slide) -> None:
    cache = TileCache(10**7)
    other = open_slide(np.zeros((320, 320, 3), np.uint8))
    cells = np.asarray([44])
    for reader, grid, px, scale in [
        (slide, GRID, 32, 1.0),
        (other, GRID, 32, 1.0),
        (slide, Grid(10, 10, (30, 30)), 32, 1.0),
        (slide, GRID, 16, 1.0),
        (slide, GRID, 32, 2.0),
    ]:
        got = read_tiles(reader, grid, cells, px, (scale, scale), cache)
        assert np.array_equal(got, read_tiles(reader, grid, cells, px, (scale, scale)))


def test_the_cache_drops_the_least_recently_used() -> None:
    tile = np.zeros((10, 10, 3), np.uint8)
    cache = TileCache(3 * tile.nbytes)
    for key in "abc":
        cache.put(key, tile)
    assert cache.get("a") is not None
    cache.put("d", tile)
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]
    cache.put("a", tile)  # there already
    assert (len(cache), cache.bytes) == (3, 3 * tile.nbytes)
    cache.put("huge", np.zeros((100, 100, 3), np.uint8))  # larger than the cache: not worth all others
    assert len(cache) == 3


def test_the_cache_is_bounded_and_threads_share_it(slide: Slide) -> None:
    limit = 20 * 3 * 32 * 32
    cache = TileCache(limit)
    drawn = [np.random.default_rng(seed).integers(0, 100, 16) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda cells: read_tiles(slide, GRID, cells, 32, (1.0, 1.0), cache), drawn))
    assert all(
        np.array_equal(got, read_tiles(slide, GRID, cells, 32, (1.0, 1.0)))
        for got, cells in zip(read, drawn, strict=True)
    )
    assert 0 < cache.bytes <= limit
    assert cache.bytes == len(cache) * 3 * 32 * 32


def test_a_pickled_cache_is_empty() -> None:
    cache = TileCache(1000)
    cache.put("a", np.zeros((2, 2, 3), np.uint8))
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301
    assert (copy.max_bytes, len(copy)) == (1000, 0)
