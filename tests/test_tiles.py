from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.strategies import pyramids
from wsi_ats.geometry import Grid, Size
from wsi_ats.slides import Slide, open_slide
from wsi_ats.tiles import read_tiles

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
