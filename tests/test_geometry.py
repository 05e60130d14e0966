from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.strategies import grids, sizes
from wsi_ats.errors import WsiAtsError
from wsi_ats.geometry import Grid, Level, Pyramid, Region, Size

moderate = settings(deadline=None, max_examples=100)


@moderate
@given(grids(longest=8), st.integers(0, 2**32 - 1))
def test_every_pixel_belongs_to_the_one_cell_whose_rectangle_holds_it(grid: Grid, seed: int) -> None:
    col_edges = [math.floor(c * grid.cell[0] + 0.5) for c in range(grid.cols + 1)]
    row_edges = [math.floor(r * grid.cell[1] + 0.5) for r in range(grid.rows + 1)]
    rng = np.random.default_rng(seed)
    xy = rng.integers(0, [col_edges[-1], row_edges[-1]], (50, 2))
    for (x, y), cell in zip(xy, grid.cells_at(xy), strict=True):
        row, col = divmod(int(cell), grid.cols)
        assert col_edges[col] <= x < col_edges[col + 1]
        assert row_edges[row] <= y < row_edges[row + 1]


@moderate
@given(grids())
def test_cell_to_pixels_and_back(grid: Grid) -> None:
    cells = np.arange(len(grid))
    assert np.array_equal(grid.cells_at(grid.corners(cells)), cells)
    # The last pixel of a cell is the one before the corner of its lower right neighbour.
    wider = Grid(grid.rows + 1, grid.cols + 1, grid.cell)
    row, col = np.divmod(cells, grid.cols)
    last = wider.corners((row + 1) * wider.cols + col + 1) - 1
    assert np.array_equal(grid.cells_at(last), cells)


@moderate
@given(grids())
def test_centres_lie_in_their_cells_and_half_a_cell_from_the_unrounded_corner(grid: Grid) -> None:
    cells = np.arange(len(grid))
    centres = grid.centres(cells)
    row, col = np.divmod(cells, grid.cols)
    corner = np.stack([col * grid.cell[0], row * grid.cell[1]], axis=1)
    np.testing.assert_allclose(centres - corner, np.broadcast_to(np.asarray(grid.cell) / 2, centres.shape))
    roomy = np.asarray(grid.cell) >= 2  # a narrower cell may be a single pixel beside its centre
    if roomy.all():
        assert np.array_equal(grid.cells_at(centres), cells)


@moderate
@given(sizes(5000), st.floats(1, 300), st.floats(1, 300))
def test_covering_holds_every_pixel_and_no_more_cells_than_needed(size: Size, w: float, h: float) -> None:
    grid = Grid.covering(size, (w, h))
    corners = np.asarray(
        [[0, 0], [size.width - 1, 0], [0, size.height - 1], [size.width - 1, size.height - 1]]
    )
    grid.cells_at(corners)  # raises outside
    assert (grid.cols - 1) * w < size.width
    assert (grid.rows - 1) * h < size.height


def test_covering_adds_no_sliver_where_cells_fit_exactly() -> None:
    for n in range(1, 101):
        assert Grid.covering(Size(100, 100), (100 / n, 100.0)) == Grid(1, n, (100 / n, 100.0))


@moderate
@given(grids(), st.floats(1, 600), st.floats(1, 600))
def test_tiles_are_centred_on_their_cells(grid: Grid, w: float, h: float) -> None:
    cells = np.arange(len(grid))
    middle = grid.tile_corners(cells, (w, h)) + np.asarray([w, h]) / 2
    assert np.abs(middle - grid.centres(cells)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("xy", [(-1, 0), (0, -1), (100, 0), (0, 60)])
def test_positions_outside_the_grid_are_refused(xy: tuple[int, int]) -> None:
    grid = Grid(3, 5, (20, 20))
    with pytest.raises(WsiAtsError, match="100 x 60"):
        grid.cells_at(np.asarray([[0, 0], xy]))


@pytest.mark.parametrize("cell", [-1, 15])
def test_cells_outside_the_grid_are_refused(cell: int) -> None:
    with pytest.raises(WsiAtsError, match="0 to 14"):
        Grid(3, 5, (20, 20)).corners(np.asarray([0, cell]))


@pytest.mark.parametrize(
    ("rows", "cols", "cell"), [(0, 1, (9, 9)), (1, 0, (9, 9)), (1, 1, (0.5, 9)), (1, 1, (9, math.nan))]
)
def test_impossible_grids_are_refused(rows: int, cols: int, cell: tuple[float, float]) -> None:
    with pytest.raises(WsiAtsError):
        Grid(rows, cols, cell)


def test_no_cells() -> None:
    grid, none = Grid(3, 5, (20, 20)), np.zeros(0, np.int64)
    assert grid.corners(none).shape == grid.centres(none).shape == (0, 2)
    assert grid.hilbert_order(none).shape == (0,)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
def test_the_hilbert_curve_goes_from_neighbour_to_neighbour(order: int) -> None:
    side = 2**order
    grid = Grid(side, side, (8, 8))
    path = grid.hilbert_order(np.arange(side * side))
    assert sorted(path) == list(range(side * side))
    row, col = np.divmod(path, side)
    assert np.array_equal(np.abs(np.diff(row)) + np.abs(np.diff(col)), np.ones(side * side - 1))


@moderate
@given(grids(), st.data())
def test_the_hilbert_order_of_some_cells_is_that_of_all_restricted_to_them(
    grid: Grid, data: st.DataObject
) -> None:
    everything = np.arange(len(grid))
    whole = everything[grid.hilbert_order(everything)]
    some = np.asarray(data.draw(st.lists(st.integers(0, len(grid) - 1), min_size=1, unique=True)))
    visited = some[grid.hilbert_order(some)]
    assert visited.tolist() == [cell for cell in whole.tolist() if cell in set(some.tolist())]


def test_level_downsamples_are_true_ratios_of_each_axis() -> None:
    pyramid = Pyramid.of_sizes([(1001, 999), (250, 249)])
    assert pyramid.levels[1].downsample == (1001 / 250, 999 / 249)
    assert pyramid.size == Size(1001, 999)


@moderate
@given(st.integers(1, 100_000), st.integers(1, 100_000), st.integers(1, 70))
def test_level_pixels_to_level_0_and_back(width: int, height: int, factor: int) -> None:
    small = (max(1, width // factor), max(1, height // factor))
    level = Pyramid.of_sizes([(width, height), small]).levels[1]
    pixels = np.asarray([[0, 0], [small[0] - 1, small[1] - 1], [small[0] // 3, small[1] // 2], [-7, 12345]])
    back = [level.pixel_at(int(x), int(y)) for x, y in level.location_of(pixels)]
    assert np.array_equal(back, pixels)


@pytest.mark.parametrize(
    ("downsample", "index"),
    [(0.5, 0), (1, 0), (3.9, 0), (3.97, 1), (4, 1), (4.1, 1), (15.8, 1), (15.9, 2), (16, 2), (1000, 2)],
)
def test_nearest_finer_level(downsample: float, index: int) -> None:
    pyramid = Pyramid.of_sizes([(1600, 1600), (400, 400), (100, 100)])
    assert pyramid.nearest_finer((float(downsample), float(downsample))).index == index


def test_nearest_finer_level_is_fine_enough_in_both_axes() -> None:
    pyramid = Pyramid.of_sizes([(1600, 1600), (400, 400)])
    assert pyramid.nearest_finer((4.0, 2.0)).index == 0
    assert pyramid.nearest_finer((4.0, 2.0), tolerance=1.0).index == 1


def test_sizes_are_positive_whole_numbers() -> None:
    assert Size(3, 4) == Size(int(np.int64(3)), 4)
    with pytest.raises(WsiAtsError, match="0 x 4"):
        Size(0, 4)


def test_a_region_reads_well_in_messages() -> None:
    assert str(Region(-5, 7, Size(256, 128), 2)) == "level 2, x=-5, y=7 (level-0 px), 256 x 128 px"


def test_values_are_frozen() -> None:
    level = Level(0, Size(1, 1), (1.0, 1.0))
    with pytest.raises(AttributeError):
        level.index = 1  # type: ignore[misc]
