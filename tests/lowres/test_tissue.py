from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import gaussian, threshold_otsu

from tests.support.helpers import shared_data
from wsi_ats.errors import NoTissueError
from wsi_ats.geometry import Grid
from wsi_ats.lowres.mask import masks_of
from wsi_ats.lowres.tissue import (
    BLACK,
    INK,
    STAINED,
    THRESHOLD_RANGE,
    Method,
    Tissue,
    _percentile,
    find_tissue,
    shares_of,
    stain_rule,
    tissue_cells,
    tissue_mask,
)
from wsi_ats.lowres.view import LazyView, View, read_view, resolve_downsample
from wsi_ats.slides import open_slide
from wsi_ats.synthetic.artefacts import PENS, in_light, with_pen

METHODS: list[Method] = ["saturation", "optical-density"]
both = pytest.mark.parametrize("method", METHODS)

GLASS = (243, 242, 244)
EOSIN = (225, 160, 195)
HAEMATOXYLIN = (120, 80, 155)


def paint(
    colour: tuple[int, int, int] | np.ndarray, shape: tuple[int, int] = (120, 160), noise: float = 1
) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(rng.normal(np.broadcast_to(colour, (*shape, 3)), noise), 0, 255).astype(np.uint8)


def blob(shape: tuple[int, int] = (120, 160), radius: int = 40) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - shape[0] / 2) ** 2 + (x - shape[1] / 2) ** 2 < radius**2


def on_glass(mask: np.ndarray, stain: tuple[int, int, int] = EOSIN) -> np.ndarray:
    pixels = paint(GLASS, mask.shape)
    pixels[mask] = paint(stain, mask.shape)[mask]
    return pixels


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@both
@pytest.mark.parametrize(
    "stain",
    [EOSIN, HAEMATOXYLIN, (236, 205, 222), (150, 110, 80)],
    ids=["eosin", "haematoxylin", "pale", "dab"],
)
def test_tissue_on_glass_is_found(method: Method, stain: tuple[int, int, int]) -> None:
    assert overlap(tissue_mask(on_glass(blob(), stain), method=method), blob()) > 0.98


@both
def test_pale_and_dark_tissue_are_both_kept(method: Method) -> None:
    pixels = on_glass(blob(radius=50), HAEMATOXYLIN)
    ring = blob(radius=50) & ~blob(radius=30)
    pixels[ring] = paint((236, 205, 222))[ring]
    assert overlap(tissue_mask(pixels, method=method), blob(radius=50)) > 0.98


@both
def test_a_slide_that_is_all_tissue_is_kept_whole(method: Method) -> None:
    share = gaussian(np.random.default_rng(1).normal(size=(120, 160, 1)), 4) > 0
    pixels = paint(np.where(share, EOSIN, HAEMATOXYLIN))
    assert tissue_mask(pixels, method=method).mean() > 0.99


@both
@pytest.mark.parametrize(
    "colour",
    [(255, 255, 255), GLASS, (222, 221, 223), (240, 238, 233)],
    ids=["white", "glass", "grey", "warm"],
)
def test_a_blank_slide_has_no_tissue(method: Method, colour: tuple[int, int, int]) -> None:
    assert not tissue_mask(paint(colour), method=method, min_object=4).any()


@both
@pytest.mark.parametrize("black", [(0, 0, 0), (8, 4, 10)])
def test_black_regions_are_no_tissue(method: Method, black: tuple[int, int, int]) -> None:
    pixels = on_glass(blob())
    pixels[:, :50] = paint(black)[:, :50]
    expected = blob()
    expected[:, :50] = False
    assert overlap(tissue_mask(pixels, method=method), expected) > 0.98


@both
@pytest.mark.parametrize("colour", [(0, 0, 255), (20, 200, 20), (230, 40, 10)], ids=["dapi", "fitc", "red"])
def test_fluorescence_has_no_tissue(method: Method, colour: tuple[int, int, int]) -> None:
    pixels = paint((2, 2, 3))
    pixels[blob()] = paint(colour)[blob()]
    pixels[-4:] = 255  # the view beyond the slide's edge
    assert not tissue_mask(pixels, method=method).any()


@both
def test_a_black_slide_has_no_tissue(method: Method) -> None:
    assert not tissue_mask(np.zeros((40, 40, 3), np.uint8), method=method).any()


def test_small_objects_and_holes_go_and_others_stay() -> None:
    mask = blob()
    mask[5:8, 5:8] = True  # 9 px
    mask[100:105, 5:10] = True  # 25 px
    mask[60:63, 80:83] = False
    mask[40:45, 80:85] = False
    pixels = on_glass(mask)
    assert np.array_equal(tissue_mask(pixels), mask)
    cleaned = tissue_mask(pixels, min_object=10, min_hole=10)
    assert not cleaned[5:8, 5:8].any()
    assert cleaned[60:63, 80:83].all()
    assert cleaned[100:105, 5:10].all()
    assert not cleaned[40:45, 80:85].any()
    limit = tissue_mask(pixels, min_object=25, min_hole=25)
    assert limit[100:105, 5:10].all()
    assert not limit[40:45, 80:85].any()


# ---- cells


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 5),
    st.sampled_from([0, 0.25, 0.5, 1]),
    st.integers(0, 999),
)
def test_cells_are_those_with_enough_tissue(
    rows: int, cols: int, stride: int, least: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((rows * stride, cols * stride)) < 0.4
    expected = []
    for row in range(rows):
        for col in range(cols):
            cell = mask[row * stride : (row + 1) * stride, col * stride : (col + 1) * stride]
            if cell.any() and cell.sum() >= least * stride**2:
                expected.append(row * cols + col)
    assert tissue_cells(mask, stride, least).tolist() == expected


def view_of(pixels: np.ndarray) -> View:
    return View(pixels, Grid(pixels.shape[0] // 4, pixels.shape[1] // 4, (40, 40)), 4, (10.0, 10.0))


def test_cells_of_a_view() -> None:
    view = view_of(on_glass(blob()))
    cells = find_tissue(view, name="a.svs").cells
    expected = blob().reshape(30, 4, 40, 4).mean(axis=(1, 3)).ravel() >= 0.25
    assert cells.dtype == np.int64
    assert len(set(cells.tolist()) ^ set(np.flatnonzero(expected).tolist())) <= 2


def test_no_tissue_is_an_error_that_names_the_slide_and_the_settings() -> None:
    with pytest.raises(
        NoTissueError, match=r"'a.svs'.*'optical-density'.*min_object=9.*min_hole=7.*0.3"
    ) as caught:
        find_tissue(
            view_of(paint(GLASS)),
            name="a.svs",
            method="optical-density",
            min_object=9,
            min_hole=7,
            min_fraction=0.3,
        )
    assert caught.value.remedy


# ---- blocks


@both
@settings(deadline=None, max_examples=12)
@given(
    block=st.sampled_from([8, 16, 40, 64]),
    stride=st.sampled_from([1, 3, 4, 8]),
    min_object=st.integers(0, 40),
    min_hole=st.integers(0, 40),
    density=st.floats(0.3, 0.7),
    seed=st.integers(0, 999),
)
def test_the_cells_of_a_view_in_blocks_are_those_of_the_view_at_once(
    method: Method, block: int, stride: int, min_object: int, min_hole: int, density: float, seed: int
) -> None:
    # Specks of all sizes, long and thin ones among them, of which many cross blocks.
    noise = gaussian(np.random.default_rng(seed).normal(size=(6 * 24, 5 * 24)), 1.2)
    pixels = paint(GLASS, noise.shape)
    stained = noise > np.quantile(noise, density)
    pixels[stained] = paint(EOSIN, noise.shape)[stained]
    rows, cols = pixels.shape[0] // stride, pixels.shape[1] // stride
    grid = Grid(rows, cols, (40, 40))
    view = View(pixels, grid, stride, (10.0, 10.0))
    expected = tissue_cells(
        tissue_mask(pixels, method=method, min_object=min_object, min_hole=min_hole), stride, 0.5
    )
    assert len(expected), "there is something to find"

    stained = stain_rule([pixels], method).mask(pixels)
    colours = [[int((pixels[stained, c] == level).sum()) for level in range(256)] for c in range(3)]

    def found(view: View | LazyView) -> Tissue:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("wsi_ats.lowres.tissue.BLOCK", block)
            return find_tissue(
                view,
                name="x",
                read=lambda box: pixels[box.y : box.y + box.height, box.x : box.x + box.width],
                method=method,
                min_object=min_object,
                min_hole=min_hole,
                min_fraction=0.5,
            )

    for tissue in (found(view), found(LazyView(grid, stride, (10.0, 10.0)))):
        assert np.array_equal(tissue.cells, expected)
        assert np.array_equal(tissue.colours, colours)


@both
@settings(deadline=None, max_examples=10)
@given(
    block=st.sampled_from([8, 40, 64]),
    stride=st.sampled_from([1, 3, 8]),
    pen=st.sampled_from(list(PENS)),
    lamp=st.sampled_from([1.0, 0.7]),
    seed=st.integers(0, 99),
)
def test_all_classes_of_a_view_in_blocks_are_those_of_the_view_at_once(
    method: Method, block: int, stride: int, pen: str, lamp: float, seed: int
) -> None:
    shape = (6 * 24, 7 * 24)
    rng = np.random.default_rng(seed)
    pixels = on_glass(blob(shape, 45))
    pixels[blob(shape, 45)] = (
        rng.normal(EOSIN, 25, (*shape, 3)).clip(0, 250).astype(np.uint8)[blob(shape, 45)]
    )
    ends = rng.uniform(10, 130, (2, 2))
    pixels = with_pen(pixels, PENS[pen], [(ends[0, 0], 8.0), (ends[1, 0], ends[1, 1])], 9.0, wave=2.0)
    pixels = in_light(pixels, lamp)
    pixels[100:, :30] = 0
    pixels[:20, -30:] = 255
    rule = stain_rule([pixels], method)
    classes = rule.classes(pixels)
    masks = masks_of(*(classes == kind for kind in (STAINED, INK, BLACK)), 30, 20)
    view = View(pixels, Grid(shape[0] // stride, shape[1] // stride, (40, 40)), stride, (10.0, 10.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_ats.lowres.tissue.BLOCK", block)
        found = find_tissue(view, name="x", method=method, min_object=30, min_hole=20, min_fraction=0.5)
    assert np.array_equal(found.cells, tissue_cells(masks.in_clean_cells(stride), stride, 0.5))
    assert found.light == rule.light
    assert found.shares.as_dict() == pytest.approx(shares_of(classes, masks).as_dict())
    assert sum(found.shares.as_dict().values()) == pytest.approx(1)
    assert found.shares.black >= 0.05
    assert found.shares.blank >= 0.01


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_otsu_s(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = on_glass(blob(), (236 - 12 * seed, 205 - 20 * seed, 222 - 15 * seed))
    values = pixels.astype(np.float32)
    saturation = (values.max(2) - values.min(2)) / values.max(2)
    monkeypatch.setitem(THRESHOLD_RANGE, "saturation", (0.0, 1.0))  # else its bounds decide
    assert np.array_equal(tissue_mask(pixels), saturation > threshold_otsu(saturation))


def test_percentiles_of_counts_are_those_of_the_values() -> None:
    values = np.random.default_rng(0).integers(0, 50, 37)
    for percent in (0, 10, 50, 90, 99, 100):
        counted = _percentile(np.bincount(values, minlength=60), percent)
        assert counted == pytest.approx(np.percentile(values, percent))


# ---- real slides


def real_view(relative: str, mpp: float) -> View:
    with open_slide(shared_data(relative)) as slide:
        return read_view(slide, resolve_downsample(slide, mpp=mpp, downsample=None, setting="view"), 4)


@both
def test_tissue_of_an_aperio_slide(method: Method) -> None:
    view = real_view("slides/aperio-cmu1-small/CMU-1-Small-Region.svs", 8)
    mask = tissue_mask(view.pixels, method=method, min_object=16, min_hole=16)
    assert 0.30 < mask.mean() < 0.40
    assert mask[120:180, 52:62].mean() > 0.99  # dermis
    assert not mask[:, :4].any()  # glass
    assert not mask[60:, 128:].any()


@both
@pytest.mark.parametrize("mpp", [2, 8, 16])
def test_fluorescence_on_a_real_slide_is_no_tissue(method: Method, mpp: float) -> None:
    with pytest.raises(NoTissueError, match="'dapi'"):
        find_tissue(real_view("slides/hamamatsu-fluorescence/dapi.ndpi", mpp), name="dapi", method=method)


@both
def test_a_stained_marrow_is_nearly_all_tissue_but_for_its_holes_and_artefacts(method: Method) -> None:
    view = real_view("slides/dicom/jpeg.dicom", 16.783)
    mask = tissue_mask(view.pixels, method=method, min_object=64, min_hole=256)
    assert mask[250:420, 560:760].mean() > 0.98
    assert not mask[465:505, 70:130].any()  # black
    assert not mask[200:260, 265:350].any()  # fat
