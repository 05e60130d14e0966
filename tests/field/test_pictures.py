"""Pictures that say what decided and can be read, whatever the shape of the slide, the names, the style, the pixels."""

from __future__ import annotations

import colorsys
import io
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from skimage.filters import gaussian

from tests.heatmap.test_picture import everything, inside, picture, shown_texts, texts
from tests.test_prediction import answer_of, make_prediction
from wsi_ats.geometry import Grid
from wsi_ats.heatmap.frame import DPI
from wsi_ats.heatmap.panels import attention_panel, contributions_panel
from wsi_ats.heatmap.style import HeatmapStyle
from wsi_ats.prediction import Prediction
from wsi_ats.slides import open_slide
from wsi_ats.tasks.answer import TaskResult, TaskSpec

NAME = "adenocarcinoma, poorly differentiated, with signet ring cells and mucinous parts"
WORD = "Adenokarzinom" * 6
TWELVE = TaskSpec("label", "classes", tuple(f"{NAME} {i}" for i in range(12)))


def result(spec: TaskSpec, contributions: np.ndarray | None = None) -> TaskResult:
    """An answer of a task of any kind on four tiles, sure to 0.003."""
    classes = spec.kind == "classes"
    values = np.full(len(spec.values), 1 / max(1, len(spec.names)) if classes else 0.7)
    values[0] += 1e-9
    if contributions is None:
        contributions = np.random.default_rng(0).normal(size=(4, len(spec.outputs)))
    return TaskResult(spec, values, np.full(len(values), 0.003), contributions.astype(np.float32))


# ---- What decided


def said(*values: float) -> Prediction:
    """A prediction in which the tile that is looked at most, and three others, add `values` to the class."""
    prediction = make_prediction((800, 800), 100.0, hot=27, tissue=everything)
    order = np.argsort(prediction.cells != 27, kind="stable")
    contributions = np.zeros((4, 2), np.float32)
    contributions[order, 1] = values
    answer = replace(answer_of((0.07, 0.93), (0.02, 0.02)), contributions=contributions)
    return replace(prediction, results=(answer,))


def colour_at(pixels: np.ndarray, prediction: Prediction, cell: int) -> np.ndarray:
    """Colour in the middle of a cell."""
    height, width = pixels.shape[:2]
    x, y = prediction.grid.centres(np.array([cell]))[0] / prediction.slide_size * (width, height)
    return pixels[int(y), int(x)]


def test_the_tile_that_is_looked_at_most_may_speak_against_the_answer() -> None:
    prediction = said(-2.0, 1.0, 0.0, 2.0)
    heatmap = prediction.heatmap(style=HeatmapStyle(size=400))
    shown = inside(picture(heatmap), heatmap, panel=1)
    order = np.argsort(prediction.cells != 27, kind="stable")
    against, weakly_for, nothing, strongly_for = (
        colour_at(shown, prediction, int(cell)) for cell in prediction.cells[order]
    )
    assert against[2] > against[0] + 60, "blue"
    assert strongly_for[0] > strongly_for[2] + 60, "red"
    assert weakly_for[0] > weakly_for[2] + 40
    assert weakly_for.sum() > strongly_for.sum(), "paler"
    assert np.ptp(nothing) < 8
    assert (nothing < 255).all(), "nothing is told from no value"
    unread = np.setdiff1d(prediction.tissue, prediction.cells)
    assert all((colour_at(shown, prediction, int(cell)) == 255).all() for cell in unread), "has no value"
    looked_at = colour_at(inside(picture(heatmap), heatmap), prediction, 27)
    assert looked_at[0] > 150, "and yet the attention is at its highest, yellow"
    assert looked_at[2] < 120


def test_the_scale_of_contributions_is_centred_on_zero_and_names_the_class() -> None:
    heatmap = said(-0.5, 1.0, 0.0, 2.0).heatmap()
    panel = contributions_panel(heatmap)
    assert (panel.norm.vmin, panel.norm.vmax) == (-2.0, 2.0)
    assert np.allclose(panel.colours(0.5)[:3], 0.97, atol=0.02), "nothing is white"
    assert panel.heading == "Adds to: tumour"


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        (TaskSpec("stains", "labels", ("purple", "brown")), "the logit of purple (below 0: against it)"),
        (TaskSpec("isup", "ordinal", ("1", "2", "3")), "the score of isup (above 0: a higher grade)"),
        (TaskSpec("age", "regression"), "the value of age"),
        (TaskSpec("death", "survival"), "the log risk of death"),
    ],
)
def test_other_tasks_have_contributions_too(spec: TaskSpec, label: str) -> None:
    words = texts(make_prediction(answer=result(spec)).heatmap().figure())
    assert f"what a tile adds to {label}" in words
    assert f"Adds to: {spec.outputs[0]}" in words


@pytest.mark.parametrize(
    ("panels", "headings"),
    [
        ("both", ["Attention", "Adds to: tumour"]),
        ("attention", ["Attention"]),
        ("contributions", ["Adds to: tumour"]),
    ],
)
def test_one_panel_alone(panels: str, headings: list[str]) -> None:
    words = texts(make_prediction().heatmap(style=HeatmapStyle(panels=panels)).figure())
    assert [word for word in words if word in ("Attention", "Adds to: tumour")] == headings


# ---- What is undecided looks so


def chance() -> Prediction:
    """A model that knows nothing: attention within 5 % of uniform, contributions of a few thousandths."""
    rng = np.random.default_rng(0)
    prediction = make_prediction((2000, 2000), 50.0, tissue=everything, drawn=32)
    attention = rng.uniform(0.95, 1.05, len(prediction.tissue))
    answer = replace(
        answer_of((0.487, 0.513), (0.003, 0.003), 32),
        contributions=rng.normal(0, 0.003, (32, 2)).astype(np.float32),
    )
    attention = (attention / attention.sum()).astype(np.float32)
    return replace(prediction, attention=attention, results=(answer,))


def test_a_chance_model_looks_pale() -> None:
    heatmap = chance().heatmap(style=HeatmapStyle(drawn=False))
    for panel in (attention_panel(heatmap), contributions_panel(heatmap)):
        colour = np.ptp(panel.pixels.astype(int), axis=2)
        assert colour.max() < 100, "nothing stands out"
        assert colour.mean() < 4
    decided = said(-2.0, 1.0, 0.0, 2.0).heatmap(style=HeatmapStyle(drawn=False))
    for panel in (attention_panel(decided), contributions_panel(decided)):
        assert np.ptp(panel.pixels.astype(int), axis=2).max() > 100


def test_a_percentile_says_that_it_is_an_order_and_how_strong_it_is() -> None:
    words = texts(chance().heatmap(style=HeatmapStyle(scale="percentile")).figure())
    label = next(word for word in words if "percentile" in word)
    assert label.endswith("its order alone (here 0.949× to 1.05× its mean)")


def test_a_scale_can_be_shared() -> None:
    one, other = make_prediction((800, 800), 100.0, tissue=everything), chance()
    style = HeatmapStyle(limits=(1.0, 50.0), contribution_limit=3.0)
    norms = [attention_panel(p.heatmap(style=style)).norm for p in (one, other)]
    assert {(norm.vmin, norm.vmax) for norm in norms} == {(1.0, 50.0)}
    norms = [contributions_panel(p.heatmap(style=style)).norm for p in (one, other)]
    assert {(norm.vmin, norm.vmax) for norm in norms} == {(-3.0, 3.0)}
    assert picture(one.heatmap(style=style)).shape


def test_low_attention_has_no_colour_of_a_stain_and_the_order_is_one_of_lightness() -> None:
    colours = attention_panel(make_prediction().heatmap()).colours(np.linspace(0, 1, 64))
    hues = [360 * colorsys.rgb_to_hsv(*rgb)[0] for rgb in colours[:, :3]]
    assert 45 < min(hues) < max(hues) < 185, "from green to yellow: haematoxylin is at 250, eosin at 330"
    lightness = colours[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    assert (np.diff(colours[:, 3]) >= 0).all()
    assert colours[0, 3] == 0


# ---- Blur


def test_a_blur_is_the_convolution_of_the_map_within_the_tissue() -> None:
    prediction = make_prediction(
        (800, 600), 50.0, tissue=lambda grid: np.flatnonzero(np.arange(len(grid)) % 7)
    )
    heatmap = prediction.heatmap(style=HeatmapStyle(size=800, blur=1.0))
    raster = heatmap.raster()
    sharp = prediction.heatmap(style=HeatmapStyle(size=800)).raster()
    mask = np.isfinite(sharp)
    sigma = 50.0  # px a cell
    total, weight = (
        gaussian(a.astype(float), sigma, mode="constant", truncate=6) for a in (np.nan_to_num(sharp), mask)
    )
    assert (np.isfinite(raster) == mask).all()
    assert np.allclose(raster[mask], (total / weight)[mask], rtol=0.01, atol=1e-3)
    steps = np.abs(np.diff(raster, axis=1))
    assert np.nanmax(steps) < 0.03 * np.nanmax(raster), "no blocks are left"


@pytest.mark.parametrize("scale", ["log", "linear", "percentile"])
def test_a_flat_attention_stays_flat_to_the_border(scale: str) -> None:
    prediction = make_prediction((800, 600), 50.0)
    k = len(prediction.tissue)
    flat = replace(prediction, attention=np.full(k, 1 / k, np.float32))
    raster = flat.heatmap(style=HeatmapStyle(blur=2.0, scale=scale)).raster()
    if scale == "percentile":  # of numbers that differ in the last digit alone
        assert np.nanmin(raster) >= 0
    else:
        assert raster[np.isfinite(raster)] == pytest.approx(1.0, abs=1e-5)


# ---- Words that can be read


def boxes_of(figure: Figure) -> tuple[list[Text], np.ndarray]:
    words = shown_texts(figure)
    return words, np.array([text.get_window_extent().extents for text in words])


SHAPES = {
    "square": (4000, 4000), "narrow": (1000, 8000), "wide": (8000, 1000), "a hair": (400, 40_000),
    "a beam": (40_000, 400), "tiny": (30, 20), "one cell": (9, 9),
}  # fmt: skip
SPECS = {
    "twelve long classes": TWELVE,
    "a word without end": TaskSpec("label", "classes", (WORD, "b")),
    "labels": TaskSpec("stains", "labels", (f"{NAME} a", f"{NAME} b", "c$x$")),
    "a long number": TaskSpec("tumour_mutational_burden_per_megabase_of_exome", "regression"),
    "survival": TaskSpec("death", "survival"),
}


@pytest.mark.parametrize(
    ("shape", "spec"),
    [*((shape, "twelve long classes") for shape in SHAPES), *(("narrow", spec) for spec in [*SPECS][1:])],
)
def test_no_words_touch_or_leave_the_picture(shape: str, spec: str) -> None:
    width, height = SHAPES[shape]
    cell = max(3.0, max(width, height) / 60)
    whole = make_prediction((width, height), cell, tissue=everything, drawn=1)
    contributions = np.full((len(whole.cells), len(SPECS[spec].outputs)), -12_345.678)
    prediction = replace(
        whole,
        slide=f"TCGA-{'very-long-name-' * 30}$a$\n.svs",
        results=(result(SPECS[spec], contributions),),
        mpp=(0.25, 0.25),
        notes=("the slide's light is dim, and its scale was overridden: " * 20, "another"),
    )
    for style in (HeatmapStyle(), HeatmapStyle(panels="contributions", scale="percentile", size=300)):
        figure = prediction.heatmap(style=style).figure()
        words, boxes = boxes_of(figure)
        outside = (boxes[:, :2] < 0) | (boxes[:, 2:] > figure.bbox.size)
        assert [w.get_text() for w, out in zip(words, outside.any(axis=1), strict=True) if out] == []
        for i, one in enumerate(boxes):
            for j in range(i):
                other = boxes[j]
                apart = (one[:2] >= other[2:] - 1).any() or (other[:2] >= one[2:] - 1).any()
                assert apart, f"{words[i].get_text()!r} touches {words[j].get_text()!r}"


@pytest.mark.parametrize(
    ("notes", "line"),
    [
        ((), None),
        (("dim light",), "Note: dim light"),
        (("dim light", "a scale by hand", "pen"), "Note 1 of 3: dim light"),
    ],
)
def test_a_picture_carries_the_notes_of_its_prediction(notes: tuple[str, ...], line: str | None) -> None:
    heatmap = replace(make_prediction(), notes=notes).heatmap()
    for figure in (heatmap.figure(), heatmap.plot(Figure().add_subplot()).figure):
        assert [text for text in texts(figure) if text.startswith("Note")] == ([line] if line else [])


@pytest.mark.parametrize("size", [(8000, 800), (800, 8000), (4000, 4000), (4000, 1500), (1500, 4000)])
def test_colour_bars_are_in_proportion_to_the_slide(size: tuple[int, int]) -> None:
    layout = make_prediction(size, 100.0).heatmap().layout
    shares = np.array([(place.slide[2:], place.bar[2:]) for place in layout.places])
    (width, height), (_, bar) = (shares * np.multiply(layout.inches, DPI))[0]
    assert bar <= max(height, 96) + 1e-6, "no longer than the panel, or than its numbers need"
    assert bar <= max(3 * width, 220) + 1e-6
    assert layout.beside == (width < 2 * height)


def test_letters_that_the_font_lacks_are_no_warning() -> None:
    prediction = replace(make_prediction(), slide="腫瘍.svs")
    assert prediction.heatmap(style=HeatmapStyle(size=100)).encode()  # warnings are errors here


def luminance(colour: object) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: object, other: object) -> float:
    """Contrast ratio as the Web Content Accessibility Guidelines define it: from 4.5 on text is readable."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def seen(text: Text, ground: object) -> object:
    """Colour of a text with its opacity on a ground."""
    alpha = 1.0 if text.get_alpha() is None else text.get_alpha()
    return tuple(alpha * np.array(to_rgb(text.get_color())) + (1 - alpha) * np.array(to_rgb(ground)))


@pytest.mark.parametrize("dark", [False, True])
def test_all_words_can_be_read_in_both_styles(dark: bool) -> None:
    prediction = make_prediction(answer=answer_of((0.8, 0.2), (0.02, 0.02)))
    figure = prediction.heatmap(style=HeatmapStyle(dark=dark)).figure()
    ground = figure.get_facecolor()
    assert (luminance(ground) < 0.1) == dark
    for text in shown_texts(figure):
        assert contrast(seen(text, ground), ground) > 4.5, text.get_text()
    (bar,) = figure.axes[0].get_lines()
    assert contrast(bar.get_color(), ground) > 4.5


def test_in_matplotlibs_dark_style_a_plot_is_light_and_a_saved_picture_as_ever() -> None:
    heatmap = make_prediction(answer=answer_of((0.8, 0.2), (0.02, 0.02))).heatmap()
    saved = heatmap.encode()
    with plt.style.context("dark_background"):
        assert heatmap.encode() == saved
        ax = heatmap.plot()
        for text in shown_texts(ax.figure):
            assert contrast(seen(text, "black"), "black") > 4.5, text.get_text()
    plt.close(ax.figure)


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_words_of_a_plot_do_not_touch(style: str) -> None:
    prediction = make_prediction((800, 800), 100.0, answer=answer_of((0.8, 0.2), (0.02, 0.02)))
    with plt.style.context(style):
        figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
        for ax, panels in zip(axes, ("attention", "contributions"), strict=True):
            prediction.heatmap(style=HeatmapStyle(panels=panels)).plot(ax)
        words, boxes = boxes_of(figure)
    for i, one in enumerate(boxes):
        for j in range(i):
            apart = (one[:2] >= boxes[j][2:] - 1).any() or (boxes[j][:2] >= one[2:] - 1).any()
            assert apart, f"{words[i].get_text()!r} touches {words[j].get_text()!r}"
    plt.close(figure)


# ---- Pixels that are not square


@pytest.mark.parametrize("mpp", [(1.0, 0.5), (0.25, 0.5), (0.5, 0.5)])
def test_micrometres_are_square_and_the_scale_bar_is_right(mpp: tuple[float, float]) -> None:
    """A square of 400 um on a slide of 2000 x 1000 um must be drawn as a square."""
    width, height = round(2000 / mpp[0]), round(1000 / mpp[1])
    pixels = np.full((height, width, 3), 255, np.uint8)
    left, top, right, bottom = (round(um / mpp[i % 2]) for i, um in enumerate((400.0, 200.0, 800.0, 600.0)))
    pixels[top:bottom, left:right] = 0
    cell = (100.0 / mpp[0], 100.0 / mpp[1])
    base = make_prediction((width, height), cell[0], mpp=mpp)
    grid = Grid(10, 20, cell)
    prediction = replace(
        base, grid=grid, tissue=np.arange(200), attention=np.full(200, 1 / 200, np.float32),
        cells=np.array([0, 1, 2, 3]),
    )  # fmt: skip
    with open_slide(pixels, mpp=mpp[0], name="case_7.svs") as slide:
        heatmap = prediction.heatmap(slide, HeatmapStyle(size=800, alpha=0.0, drawn=False))
        shown = inside(picture(heatmap), heatmap)
    assert shown.shape[:2] == pytest.approx((400, 800), abs=1)
    y, x = np.nonzero(shown.sum(axis=2) < 60)
    assert (np.ptp(x) + 1, np.ptp(y) + 1) == pytest.approx((160, 160), abs=2)
    figure = heatmap.figure()
    (bar,) = (line for ax in figure.axes for line in ax.get_lines() if len(line.get_xdata()) == 2)
    ends = bar.get_transform().transform(np.column_stack([bar.get_xdata(), bar.get_ydata()]))
    label = next(text for text in texts(figure) if text.endswith("µm"))
    px_per_um = 800 / 2000
    assert np.ptp(ends[:, 0]) == pytest.approx(float(label.split()[0]) * px_per_um, rel=0.01)


def test_a_plot_has_square_micrometres_too() -> None:
    figure = Figure()
    ax = make_prediction(mpp=(1.0, 0.5)).heatmap().plot(figure.add_subplot())
    assert ax.get_aspect() == 0.5


# ---- As files


def test_equal_predictions_give_equal_bytes_in_every_style() -> None:
    for style in (HeatmapStyle(size=300), HeatmapStyle(size=300, dark=True, blur=1.0)):
        first, second = (make_prediction().heatmap(style=style).encode() for _ in range(2))
        assert first == second
        with Image.open(io.BytesIO(first)) as image:
            image.verify()


def test_all_tiles_read_need_no_outlines(tmp_path: Path) -> None:
    prediction = make_prediction((400, 400), 100.0, tissue=everything, drawn=16)
    words = texts(prediction.heatmap().figure())
    assert "tile that was read" not in words
    assert "not read" not in words
    assert "outline of the tissue; every tile in it was read" in words
    for suffix in ("pdf", "svg", "png"):
        prediction.heatmap(style=HeatmapStyle(size=64)).save(tmp_path / f"a.{suffix}")
        assert (tmp_path / f"a.{suffix}").stat().st_size > 1000
