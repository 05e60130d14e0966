"""The hot spot must lie where the attention does, measured in the picture itself."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from tests.test_prediction import answer_of, make_prediction
from wsi_ats.errors import ConfigError
from wsi_ats.geometry import Grid
from wsi_ats.heatmap.frame import (
    DPI,
    Layout,
    bar_length,
    elide,
    fitted,
    inner_edge,
    log_ticks,
    probability,
    round_length,
    text_width,
)
from wsi_ats.heatmap.picture import Heatmap
from wsi_ats.heatmap.style import HeatmapStyle, Scale
from wsi_ats.slides import open_slide
from wsi_ats.tasks.answer import COVERS, UNKNOWN, TaskResult, TaskSpec

GREEN = (0, 255, 0)
BARE = HeatmapStyle(size=600, panels="attention", alpha=1.0, drawn=False)
LABEL = "attention relative to its mean over the tissue (log; up to 1×: not coloured)"


def picture(heatmap: Heatmap) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(heatmap.encode())).convert("RGB")).astype(int)


def inside(pixels: np.ndarray, heatmap: Heatmap, panel: int = 0) -> np.ndarray:
    """The part of a picture that shows the slide."""
    height, width = pixels.shape[:2]
    left, bottom, w, h = heatmap.layout.places[panel].slide
    x, y = round(left * width), round((1 - bottom - h) * height)
    return pixels[y : y + round(h * height), x : x + round(w * width)]


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 (exclusive) of the pixels of a mask."""
    y, x = np.nonzero(mask)
    return float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)


def everything(grid: Grid) -> np.ndarray:
    return np.arange(len(grid))


@pytest.mark.parametrize(
    ("size", "cell", "where"),
    [
        ((1000, 700), 100.0, (7, 2)),
        ((700, 1000), 64.0, (3, 12)),
        ((300, 200), 33.3, (8, 5)),
        ((2500, 400), 51.2, (40, 1)),
        ((613, 1777), 77.7, (7, 22)),
        ((4000, 3001), 128.4, (0, 0)),
    ],
)
def test_the_hot_cell_lies_on_its_place_in_the_saved_picture(
    size: tuple[int, int], cell: float, where: tuple[int, int]
) -> None:
    """A slide with a green square where the hot cell is: seen without colours, it lies where the colour then
    is."""
    col, row = where
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    left, top, right, bottom = (int(edge * cell + 0.5) for edge in (col, row, col + 1, row + 1))
    pixels[top:bottom, left:right] = GREEN
    grid = make_prediction(size, cell).grid
    prediction = make_prediction(size, cell, hot=row * grid.cols + col, tissue=everything)
    with open_slide(pixels, mpp=0.5, name="case_7.svs") as slide:
        plain, coloured = (
            inside(picture(heatmap), heatmap)
            for heatmap in (Heatmap.of(prediction, slide, replace(BARE, alpha=a)) for a in (0.0, 1.0))
        )
    marked = box_of((plain[..., 1] > 240) & (plain[..., 0] < 128) & (plain[..., 2] < 128))
    # The colours end in yellow.
    hot = box_of((coloured[..., 0] > 200) & (coloured[..., 1] > 180) & (coloured[..., 2] < 90))
    assert np.abs(np.subtract(marked, hot)).max() <= 1, f"marked {marked}, hot {hot}"


def test_the_map_stays_in_place_where_the_thumbnail_is_a_level_of_nearly_the_scale_asked_for() -> None:
    """A level of 496 px where 500 are asked for is taken as it is: its true scale must then place the map."""
    pixels = np.full((2000, 2000, 3), 255, np.uint8)
    pixels[1700:1800, 1800:1900] = GREEN
    level = np.asarray(Image.fromarray(pixels).resize((496, 496), Image.Resampling.BOX))
    prediction = make_prediction((2000, 2000), 100.0, hot=17 * 20 + 18, tissue=everything)
    with open_slide([pixels, level], mpp=0.5, name="case_7.svs") as slide:
        heatmap = Heatmap.of(prediction, slide, replace(BARE, size=500))
    assert np.array_equal(heatmap.thumbnail, level)
    marked = box_of(heatmap.thumbnail[..., 0] < 128)
    hot = box_of(heatmap.raster() > 1)
    assert np.abs(np.subtract(marked, hot)).max() <= 1, f"marked {marked}, hot {hot}"


def test_raster_agrees_with_the_grid_everywhere() -> None:
    prediction = make_prediction((1000, 700), 61.7)
    heatmap = Heatmap.of(prediction, None, HeatmapStyle(size=250))
    values = dict(zip(prediction.tissue.tolist(), prediction.relative_attention.tolist(), strict=True))
    raster = heatmap.raster()
    assert raster.shape == (175, 250)
    for y, x in np.random.default_rng(0).integers(0, (175, 250), (300, 2)):
        cell = int(prediction.grid.cells_at(np.array([[4 * x + 2.0, 4 * y + 2.0]]))[0])
        assert raster[y, x] == pytest.approx(values.get(cell, np.nan), nan_ok=True)


def test_no_cell_is_lost_when_cells_are_smaller_than_pixels() -> None:
    prediction = make_prediction((4096, 4096), 8.0, hot=77_777, tissue=everything)
    raster = Heatmap.of(prediction, None, HeatmapStyle(size=100)).raster()
    assert np.nanmax(raster) == pytest.approx(prediction.relative_attention.max())
    y, x = np.unravel_index(np.nanargmax(raster), raster.shape)
    row, col = divmod(77_777, 512)
    assert (x, y) == ((col + 0.5) * 8 // 40.96, (row + 0.5) * 8 // 40.96)


def test_below_the_mean_and_outside_the_tissue_the_slide_shows() -> None:
    prediction = make_prediction((800, 800), 100.0)
    pixels = np.random.default_rng(0).integers(0, 255, (800, 800, 3), np.uint8)
    with open_slide(pixels, mpp=0.5, name="case_7.svs") as slide:
        heatmap = Heatmap.of(prediction, slide, replace(BARE, size=800))
    cell = inside(picture(heatmap), heatmap).reshape(8, 100, 8, 100, 3).swapaxes(1, 2)[:, :, 2:98, 2:98]
    truth = pixels.reshape(8, 100, 8, 100, 3).swapaxes(1, 2)[:, :, 2:98, 2:98]
    same = (cell == truth).all(axis=(2, 3, 4)).ravel()
    hot = prediction.tissue[np.argmax(prediction.attention)]
    assert [index for index in range(64) if not same[index]] == [hot]


@pytest.mark.parametrize("panels", [1, 2])
def test_the_place_of_a_slide_is_no_wider_than_its_pixels(panels: int) -> None:
    """A place is a share of the figure; by the last digit of a float more, an image is stretched over a px more."""
    for size in range(600, 900, 7):
        layout = Layout.around(float(size), float(size), size, panels)
        figure = Figure(figsize=layout.inches, dpi=DPI)
        boxes = [figure.add_axes(place.slide).bbox.size for place in layout.places]
        assert {math.ceil(side) for box in boxes for side in box} == {size}


@pytest.mark.parametrize("scale", get_args(Scale))
def test_values_by_scale(scale: str) -> None:
    prediction = make_prediction()
    values = Heatmap.of(prediction, style=HeatmapStyle(scale=scale)).values()
    if scale == "percentile":
        k = len(prediction.tissue)
        assert values.max() == pytest.approx(100 * (k - 0.5) / k)
        assert values.min() == pytest.approx(100 * (k - 1) / k / 2), "equals share the middle"
    else:
        assert values == pytest.approx(prediction.relative_attention.astype(float))


def test_blur_keeps_a_flat_attention_flat_and_spreads_a_peak() -> None:
    prediction = make_prediction(tissue=everything)
    k = len(prediction.tissue)
    flat = replace(prediction, attention=np.full(k, 1 / k, np.float32))
    style = HeatmapStyle(blur=1.5)
    assert Heatmap.of(flat, style=style).values() == pytest.approx(np.ones(k))
    sharp, soft = (Heatmap.of(prediction, style=s).values() for s in (HeatmapStyle(), style))
    assert soft.max() < sharp.max() / 3
    assert soft.argmax() == sharp.argmax()


def test_drawn_tiles_are_outlined_where_they_are() -> None:
    prediction = make_prediction((800, 800), 100.0, drawn=3)
    heatmaps = [Heatmap.of(prediction, None, replace(BARE, size=800, drawn=drawn)) for drawn in (False, True)]
    without, with_tiles = (inside(picture(heatmap), heatmap) for heatmap in heatmaps)
    differs = (without != with_tiles).any(axis=2)
    expected = np.zeros((800, 800), bool)
    for x, y in prediction.grid.tile_corners(prediction.cells, prediction.tile_size):
        expected[max(y - 3, 0) : y + 83, max(x - 3, 0) : x + 83] = True
        expected[y + 3 : y + 77, x + 3 : x + 77] = False
    assert differs.any()
    assert not (differs & ~expected).any()


def test_bytes_are_reproducible_and_pyplot_is_left_alone(tmp_path) -> None:
    heatmap = make_prediction().heatmap()
    heatmap.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == heatmap.encode() == heatmap._repr_png_()
    heatmap.save(tmp_path / "a.pdf")
    heatmap.save(tmp_path / "b.PNG")
    assert (tmp_path / "b.PNG").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes()[:4] == b"%PDF"
    assert plt.get_fignums() == []


def shown_texts(figure: Figure) -> list[Text]:
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def texts(figure: Figure) -> list[str]:
    """All words on a figure that are shown, lines joined."""
    return [text.get_text().replace("\n", " ") for text in shown_texts(figure)]


def test_words_on_the_picture() -> None:
    words = texts(make_prediction((10_000, 7000)).heatmap().figure())
    assert "tumour: probability 0.93" in words, "an unknown standard error is no number"
    assert any("case_7.svs" in text and "4 of 3,500 tissue tiles read" in text for text in words)
    assert LABEL in words
    assert [text for text in words if "±" in text] == [UNKNOWN]
    legend = {"tile that was read", "outline of the tissue", "adds about 0", "not read"}
    assert {"Attention", "Adds to: tumour", *legend} <= set(words)
    assert "what a tile adds to the logit of tumour (below 0: against it)" in words
    assert "1 mm" in words
    assert "1×" in words
    assert "10×" in words
    sure = make_prediction(answer=answer_of((0.8, 0.2)))
    said = texts(sure.heatmap().figure())
    assert "normal: probability 0.80 ± 0.02" in said
    assert f"{COVERS}; it does not say whether the model is right" in said
    assert "200 px (no mpp)" in texts(make_prediction(mpp=None).heatmap().figure())


def test_plot_into_given_axes_and_into_new_ones() -> None:
    figure = Figure()
    ax = figure.add_subplot()
    assert make_prediction().heatmap().plot(ax) is ax
    assert LABEL in texts(figure)
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 1000), (700, 0))
    new = make_prediction().heatmap().plot()
    assert plt.get_fignums() == [new.figure.number]
    plt.close(new.figure)


def test_the_slide_must_be_the_one_predicted() -> None:
    with (
        open_slide(np.zeros((10, 20, 3), np.uint8), name="other") as slide,
        pytest.raises(ConfigError, match=r"other is \(20, 10\) px.*case_7\.svs with \(1000, 700\)"),
    ):
        make_prediction().heatmap(slide)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 1}, {"scale": "cubic"}, {"alpha": 2.0}, {"blur": -1.0}, {"cmap": "tartan"},
        {"panels": "all"}, {"limits": (2.0, 1.0)}, {"limits": (0.0, 9.0)}, {"contribution_limit": 0.0},
    ],
)  # fmt: skip
def test_style_is_checked(wrong: dict[str, object]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises((ConfigError, TypeError), match=name):
        HeatmapStyle(**wrong)
    assert value is not None


@pytest.mark.parametrize(
    ("most", "length"), [(1, 1), (1.99, 1), (2, 2), (499, 200), (500, 500), (0.3, 0.2), (12_345, 10_000)]
)
def test_round_length(most: float, length: float) -> None:
    assert round_length(float(most)) == pytest.approx(length)


def test_scale_bar_length() -> None:
    assert bar_length(100_000, (0.25, 0.25)) == (20_000, "5 mm")
    assert bar_length(2220, (0.499, 0.5)) == (pytest.approx(200 / 0.499), "200 µm")
    assert bar_length(2220, None) == (500, "500 px (no mpp)")


def test_inner_edge() -> None:
    mask = np.zeros((6, 7), bool)
    mask[1:5, 2:6] = True
    expected = mask.copy()
    expected[2:4, 3:5] = False
    assert (inner_edge(mask) == expected).all()
    assert inner_edge(np.ones((3, 3), bool)).sum() == 8


def test_text_is_fitted_by_its_true_width() -> None:
    for text in ("W" * 200, "i" * 200, "腫瘍" * 60, "$" * 99):
        short = fitted(text, 300.0, 14, "bold")
        assert text_width(short, 14, "bold") <= 300
        assert text_width(short, 14, "bold") > 200, "no more is left out than must be"
    assert fitted("short", 300.0, 14) == "short"


@pytest.mark.parametrize(
    ("low", "high"), [(1, 10), (1, 3), (1, 391), (1, 1e6), (0.5, 700), (1, 1.05), (2.5, 4)]
)
@pytest.mark.parametrize("px", [220, 900])
def test_ticks_do_not_touch(low: float, high: float, px: int) -> None:
    ticks = log_ticks(float(low), float(high), px)
    assert len(ticks) >= 2
    assert low * 0.99 <= min(ticks) < max(ticks) <= high * 1.01
    assert (np.diff(np.log(ticks)) / np.log(high / low) * px).min() > 16


def test_elide() -> None:
    assert elide("short.svs", 20) == "short.svs"
    assert elide("abcdefghijklmnopqrstuvwxyz", 13) == "abcdef…uvwxyz"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (0.0214, "0.93 ± 0.02"),
        (0.0021, "0.930 ± 0.002"),
        (1e-5, "0.930 ± <0.001"),
        (0.0, "0.93"),
        (np.nan, "0.93"),
    ],
)
def test_probability_in_words(error: float, text: str) -> None:
    parts = np.array([0.07, 0.93]), np.array([error, error]), np.zeros((1, 2), np.float32)
    answer = TaskResult(TaskSpec("label", "classes", ("a", "b")), *parts)
    assert probability(answer, 1) == text
    ends = {"low": np.array([0.05, 0.9004]), "high": np.array([0.0996, 0.9512])}
    limits = {"0.93 ± 0.02": " [0.90, 0.95]"}.get(text, " [0.900, 0.951]" if "±" in text else "")
    assert probability(replace(answer, **ends), 1) == text + limits
