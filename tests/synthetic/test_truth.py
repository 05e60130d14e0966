"""Outlines: rasterised and measured against slow, obvious answers; written and read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.geometry import Grid, Size
from wsi_ats.synthetic.outlines import area, around_cells, grow_patch, irregular, place, rasterise
from wsi_ats.synthetic.truth import SlideTruth, fraction_in_cells, lesion_fraction_in_cells, mask

SQUARE = np.array([[20.0, 30.0], [60.0, 30.0], [60.0, 90.0], [20.0, 90.0]])


def inside(outline: np.ndarray, x: float, y: float) -> bool:
    """Even-odd rule, one point and one edge at a time."""
    odd = False
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if (y1 <= y) != (y2 <= y) and x1 + (y - y1) / (y2 - y1) * (x2 - x1) <= x:
            odd = not odd
    return odd


@given(seed=st.integers(0, 10_000), step_x=st.floats(0.7, 9), step_y=st.floats(0.7, 9))
@settings(deadline=None, max_examples=25)
def test_rasterise_asks_for_each_cells_centre(seed: int, step_x: float, step_y: float) -> None:
    rng = np.random.default_rng(seed)
    outline = irregular(rng, tuple(rng.uniform(-10, 90, 2)), 900.0, 0.3, points=17)
    cells = rasterise(outline, (20, 25), (step_x, step_y))
    for row in range(20):
        for col in range(25):
            assert cells[row, col] == inside(outline, (col + 0.5) * step_x, (row + 0.5) * step_y)


@given(seed=st.integers(0, 10_000), target=st.floats(10, 1e8), roughness=st.floats(0, 0.4))
@settings(deadline=None, max_examples=30)
def test_irregular_outlines_have_the_area_asked_for(seed: int, target: float, roughness: float) -> None:
    outline = irregular(np.random.default_rng(seed), (3.0, -7.0), target, roughness)
    assert area(outline) == pytest.approx(target, rel=1e-9)


def test_area_of_a_known_polygon() -> None:
    assert area(SQUARE) == 40 * 60
    assert area(SQUARE[::-1]) == 40 * 60


def test_placed_outlines_lie_in_the_free_cells() -> None:
    rng = np.random.default_rng(0)
    free = np.zeros((60, 80), bool)
    free[10:50, 20:70] = True
    outline = place(rng, free, 8.0, 100 * 100)
    assert outline is not None
    assert not (rasterise(outline, free.shape, (8.0, 8.0)) & ~free).any()
    assert place(rng, free, 8.0, 500 * 500) is None
    assert place(rng, np.zeros((5, 5), bool), 8.0, 1.0) is None


@given(seed=st.integers(0, 10_000), count=st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_patches_are_connected_and_their_outline_gives_them_back(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    free = rng.random((12, 14)) < 0.85
    try:
        patch = grow_patch(rng, free, count)
    except ConfigError:  # scattered free cells may have no room for it; never so where all are free
        patch = grow_patch(rng, np.ones_like(free), count)
        free[:] = True
    assert patch.sum() == count
    assert not (patch & ~free).any()
    outline = around_cells(patch)
    assert area(outline) == pytest.approx(count)
    assert (rasterise(outline, patch.shape, (1.0, 1.0)) == patch).all()


def test_an_outline_stays_one_ring_where_cells_touch_at_a_corner() -> None:
    patch = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)  # the hole is open to the outside at its corner
    outline = around_cells(patch)
    assert area(outline) == 7
    assert (rasterise(outline, patch.shape, (1.0, 1.0)) == patch).all()


def test_a_patch_that_does_not_fit_is_an_error_with_its_size() -> None:
    free = np.zeros((4, 4), bool)
    free[0, 0] = free[2, 2] = free[3, 3] = True
    with pytest.raises(ConfigError, match="2 cells among 3"):
        grow_patch(np.random.default_rng(0), free, 2)
    with pytest.raises(ConfigError, match="4 cells among 3"):
        grow_patch(np.random.default_rng(0), free, 4)


def test_fractions_of_a_rectangle_are_exact() -> None:
    grid = Grid(rows=4, cols=3, cell=(40.0, 32.0))
    shares = fraction_in_cells((SQUARE,), grid).reshape(4, 3)
    across = [0.5, 0.5, 0.0]  # x 20 to 60 in cells of 40
    down = [2 / 32, 1.0, 26 / 32, 0.0]  # y 30 to 90 in cells of 32
    assert np.abs(shares - np.outer(down, across)).max() < 1 / 16
    assert shares[1].tolist() == across


@given(seed=st.integers(0, 10_000), cell=st.floats(11.0, 90.0))
@settings(deadline=None, max_examples=25)
def test_fractions_add_up_to_the_area(seed: int, cell: float) -> None:
    rng = np.random.default_rng(seed)
    outlines = tuple(irregular(rng, (x, 150.0), 9000.0, 0.2) for x in (110.0, 310.0))
    grid = Grid.covering(Size(500, 400), (cell, cell * 1.3))
    shares = fraction_in_cells(outlines, grid)
    assert shares.shape == (grid.rows * grid.cols,)
    assert 0 <= shares.min() <= shares.max() <= 1
    assert shares.sum() * cell * cell * 1.3 == pytest.approx(sum(area(o) for o in outlines), rel=0.03)


def test_overlapping_outlines_count_once() -> None:
    grid = Grid(rows=1, cols=1, cell=(100.0, 100.0))
    assert fraction_in_cells((SQUARE, SQUARE), grid) == fraction_in_cells((SQUARE,), grid)
    assert mask((SQUARE, SQUARE), (100, 100), (1.0, 1.0)).sum() == 2400


def example() -> SlideTruth:
    rng = np.random.default_rng(1)
    lesion, decoy = (irregular(rng, c, 5000.0, 0.2) for c in ((150.0, 200.0), (400.0, 500.0)))
    return SlideTruth((800, 600), 0.5, 0.25, (lesion,), (decoy, SQUARE))


def test_saved_truth_comes_back(tmp_path: Path) -> None:
    truth = example()
    truth.save(tmp_path / "slide.geojson")
    back = SlideTruth.load(tmp_path / "slide.geojson")
    assert (back.size, back.mpp, back.tissue_fraction) == (truth.size, truth.mpp, truth.tissue_fraction)
    for ours, theirs in ((truth.lesions, back.lesions), (truth.decoys, back.decoys)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert (a == b).all()
    assert back.lesion_share == pytest.approx(5000 / (0.25 * 800 * 600))
    grid = Grid.covering(Size(800, 600), (50.0, 50.0))
    assert (lesion_fraction_in_cells(back, grid) == fraction_in_cells(truth.lesions, grid)).all()


def test_the_file_is_what_qupath_reads(tmp_path: Path) -> None:
    """Closed rings, classification with a colour, objectType inside properties, unique ids, no nulls."""
    example().save(tmp_path / "slide.geojson")
    data = json.loads((tmp_path / "slide.geojson").read_text())
    assert data["type"] == "FeatureCollection"
    assert len({feature["id"] for feature in data["features"]}) == 3
    for feature in data["features"]:
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        assert feature["properties"]["objectType"] == "annotation"
        assert len(feature["properties"]["classification"]["color"]) == 3
    assert "null" not in (tmp_path / "slide.geojson").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["slide.geojson"]


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        '{"features": []}',
        '{"slide": {"size": [1], "mpp": 1, "tissue_fraction": 0}, "features": []}',
        '{"slide": {"size": [1, 1], "mpp": 1, "tissue_fraction": 0}, "features": [{"geometry": {}}]}',
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.geojson").write_text(content)
    with pytest.raises(SlideError, match=r"other\.geojson"):
        SlideTruth.load(tmp_path / "other.geojson")


def test_a_slide_without_tissue_or_lesion_has_no_share() -> None:
    assert SlideTruth((100, 100), 0.5, 0.0).lesion_share == 0.0
    assert SlideTruth((100, 100), 0.5, 0.4).lesion_share == 0.0
