"""Frame of a heatmap, what stands around and on it: layout, title, colour bars, scale bar, legend, outlines."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory

from wsi_ats.shown import shown
from wsi_ats.tasks.answer import COVERS, UNKNOWN, limits

if TYPE_CHECKING:
    from wsi_ats.heatmap.panels import Panel
    from wsi_ats.prediction import Prediction
    from wsi_ats.tasks.answer import TaskResult

DPI = 100
DARK, LIGHT = "#15171a", "#f2f2f2"
"""Colours of the words on a light ground, and on a dark one, whose colour is the other's."""

EXACT = "no ±: every tissue tile was read"
"""What is said where there is no standard error because nothing was drawn."""
ZERO, UNREAD = "#f7f7f7", "#cfcfcf"
"""Colours in the legend of a tile that adds nothing, and of tissue that was not read."""

MARK_PX = 9
"""Least side in px of a tile that is marked: there are a few dozen of them on a slide of any size."""

_EDGE, _TOP, _HEADING = 24, 100, 32
_BAR_GAP, _BAR_WIDTH, _BAR_TEXT = 18, 18, 126
_BELOW, _BETWEEN = 84, 28
_MIN_WIDTH, _MIN_PITCH, _MIN_BAR = 640, 320, 220
_FLAT_BAR, _FLAT_TEXT, _FLAT_LETTERS = 96, 300, 26
"""Least length of a bar with its words in lines beside it, px for them and its numbers, and letters a line."""
_LONGEST_BAR = 3
"""Length of a bar at most, in widths of the slide, where that is more than `_MIN_BAR`."""
_TICKS = ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))
"""Ticks a decade of a logarithmic colour bar, from the most to the fewest."""
_TICK_PX = 17
"""Least distance in px of two ticks."""
_LINES = (0, 27, 48, 66, 84)
"""Distance in px of the title's lines, and of what follows them, from its top."""
_LESS = 1e-7
"""Px that the place of a slide is less than whole: by the last digit of a float more, matplotlib before 3.11 stretches
an image over a px more, and its right or lower half is shown a px aside."""
_WIDE = 2.0
"""Width over height from which on the panels stand below each other."""


@dataclass(frozen=True)
class Place:
    """Place of a panel: rectangles (left, bottom, width, height) in figure shares."""

    slide: tuple[float, float, float, float]
    bar: tuple[float, float, float, float]


@dataclass(frozen=True)
class Layout:
    """Layout of a figure: panels beside each other, or below each other where the slide is wide. All of it is whole
    px."""

    inches: tuple[float, float]
    places: tuple[Place, ...]
    beside: bool
    pitch: float
    """Width in px that a panel has, its colour bar included."""
    text_px: float
    """Width in px of the title."""
    bar_px: int
    """Length in px of a colour bar: the slide's height, but neither too short for its numbers nor out of proportion."""
    flat: bool
    """Whether the words of a colour bar are written as lines of a text, for want of length to write them along it."""
    legend: tuple[float, float]
    """Lower left corner of the legend, in figure shares."""

    @classmethod
    def around(
        cls, slide_width: float, slide_height: float, longest: int, panels: int, notes: bool = False
    ) -> Layout:
        """A layout of panels in which the longest side of a slide of these proportions takes `longest` px; with `notes`
        the title has a line more."""
        step = max(slide_width, slide_height) / longest
        w, h = max(1, round(slide_width / step)), max(1, round(slide_height / step))
        beside = w < _WIDE * h
        bar = min(max(h, _MIN_BAR if beside else _FLAT_BAR), max(_LONGEST_BAR * w, _MIN_BAR))
        flat = bar < _MIN_BAR
        pitch = max(w + _BAR_GAP + _BAR_WIDTH + (_FLAT_TEXT if flat else _BAR_TEXT), _MIN_PITCH)
        row = _HEADING + max(h, bar)
        above = _TOP + (_LINES[4] - _LINES[3]) * notes
        right, down = (panels, 1) if beside else (1, panels)
        width = max(right * pitch + (right - 1) * _BETWEEN + 2 * _EDGE, _MIN_WIDTH)
        height = above + down * row + (down - 1) * _BETWEEN + _BELOW
        places = []
        for i in range(panels):
            left = _EDGE + (i * (pitch + _BETWEEN) if beside else 0)
            top = above + _HEADING + (0 if beside else i * (row + _BETWEEN))
            places.append(
                Place(
                    (left / width, (height - top - h) / height, (w - _LESS) / width, (h - _LESS) / height),
                    (
                        (left + w + _BAR_GAP) / width,
                        (height - top - bar) / height,
                        _BAR_WIDTH / width,
                        bar / height,
                    ),
                )
            )
        return cls(
            inches=(width / DPI, height / DPI),
            places=tuple(places),
            beside=beside,
            pitch=float(pitch),
            text_px=float(width - 2 * _EDGE),
            bar_px=bar,
            flat=flat,
            legend=((_EDGE - 4) / width, 6 / height),
        )


def title(on: Axes | Figure, prediction: Prediction, ink: str, px: float, more: str = "") -> None:
    """Write the answer to the main task in bold, below it the slide, how much of it was read, what the standard error
    covers and what is noted of the slide, each in at most `px` px; at the top of a figure, or above axes."""
    answer = headline(prediction.main, px)
    read = f"{len(prediction.cells):,} of {len(prediction.tissue):,} tissue tiles read"
    rest = "   ·   ".join(["", read, *_part(prediction), *([more] if more else [])])
    name = fitted(shown(prediction.slide), px - text_width(rest, 10), 10)
    lines = [(answer, _text(ink, 14, weight="bold")), (name + rest, _text(ink, 10, alpha=0.8))]
    small = (certainty(prediction.main, answer, px), note(prediction.notes))
    lines += [(fitted(words, px, 9), _text(ink, 9, alpha=0.65)) for words in small if words]
    figure = on if isinstance(on, Figure) else on.figure
    if isinstance(on, Figure):
        corner, right, up = on.transFigure, _EDGE, -16
    else:
        corner, right, up = on.transAxes, 0, 8 + _LINES[len(lines)]
    for down, (words, style) in zip(_LINES, lines, strict=False):
        place = corner + ScaledTranslation(right / DPI, (up - down) / DPI, figure.dpi_scale_trans)
        on.text(0, 1, words, transform=place, va="top", **style)


def _part(prediction: Prediction) -> list[str]:
    """That the answer is about a patient, where it is, and how much of the attention this slide has."""
    if not prediction.patient_cells:
        return []
    return [f"the answer is the patient's, this slide has {prediction.attention.sum():.0%} of the attention"]


def certainty(answer: TaskResult, headline: str, px: float) -> str:
    """What the headline's standard error covers, or why it has none, in at most `px` px where that can be."""
    if "±" not in headline and np.isnan(answer.stderr).any():
        return UNKNOWN
    exact = not answer.stderr.any()
    if "±" not in headline and not exact:  # none of the labels
        return ""
    words, it = (EXACT, "that") if exact else (COVERS, "it")
    long = f"{words}; {it} does not say whether the model is right"
    return long if text_width(long, 9) <= px else words


def note(notes: Sequence[str]) -> str:
    """The first of the notes, and how many there are; the result has all."""
    if not notes:
        return ""
    return shown(f"Note: {notes[0]}" if len(notes) == 1 else f"Note 1 of {len(notes)}: {notes[0]}")


def _text(ink: str, size: int, **more: Any) -> dict[str, Any]:
    """Properties of a text that is shown as it is, "$" included."""
    return {"size": size, "color": ink, "parse_math": False, **more}


def heading(ax: Axes, text: str, ink: str, px: float) -> None:
    """Write what a panel shows above it."""
    up = ScaledTranslation(0, 8 / DPI, ax.figure.dpi_scale_trans)
    ax.text(0, 1, fitted(text, px, 12), transform=ax.transAxes + up, va="bottom", **_text(ink, 12))


def headline(answer: TaskResult, px: float) -> str:
    """The answer with its standard error: a class or grade and its probability, the labels given, or a number; in bold
    at most `px` px long."""
    spec = answer.spec
    if spec.entry.says == "all that are likely":
        found = set(answer.text.split(";"))
        given = [f"{name} {probability(answer, i)}" for i, name in enumerate(spec.names) if name in found]
        return _bold(", ".join(map(shown, given)) or shown(f"none of {', '.join(spec.names)}"), "", px)
    if spec.names:
        sure = probability(answer, spec.names.index(answer.text))
        return _bold(shown(answer.text), f": probability {sure}", px)
    value, error = float(answer.values[0]), float(answer.stderr[0])
    number = f"{value:.4g}" + (f" ± {error:.2g}" if error > 0 else "") + limits(answer.interval(0), ".4g")
    return _bold(shown(spec.name), f": {spec.entry.unit + ' ' * bool(spec.entry.unit)}{number}", px)


def _bold(name: str, rest: str, px: float) -> str:
    return fitted(name, px - text_width(rest, 14, "bold"), 14, "bold") + rest


def probability(answer: TaskResult, index: int) -> str:
    """A probability with its standard error and its interval, to as many digits as the error deserves."""
    sure, error = float(answer.values[index]), float(answer.stderr[index])
    if not error > 0:  # unknown, or every tile was read
        return f"{sure:.2f}"
    digits = 2 if error >= 0.005 else 3
    shown_error = f"{error:.{digits}f}" if error >= 0.0005 else "<0.001"
    return f"{sure:.{digits}f} ± {shown_error}{limits(answer.interval(index), f'.{digits}f')}"


def colour_bar(bar: Colorbar, panel: Panel, ink: str, px: int, *, flat: bool = False) -> None:
    """Give a colour bar of `px` px ticks that can be read ("10×", not 10^1) and say what they count, along the bar or,
    `flat`, in lines beside it."""
    low, high = bar.norm.vmin or 0.0, bar.norm.vmax or 1.0
    if isinstance(bar.norm, LogNorm):
        ticks = log_ticks(low, high, px)
    else:
        ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    bar.locator, bar.minorlocator = FixedLocator(ticks), NullLocator()
    style = ",.4g" if panel.unit else "+.3g"
    bar.formatter = FuncFormatter(
        lambda value, _: f"{value:{style}}{panel.unit}" if value else f"0{panel.unit}"
    )
    bar.update_ticks()
    bar.ax.set_facecolor("white")  # what is transparent shows as on glass
    bar.outline.set_edgecolor(ink)
    bar.ax.tick_params(labelsize=10, colors=ink)
    letters = _FLAT_LETTERS if flat else px // 8
    upright: dict[str, Any] = {"rotation": 0, "ha": "left", "va": "center"} if flat else {}
    bar.set_label(textwrap.fill(shown(panel.label), letters), **_text(ink, 10), **upright)


def log_ticks(low: float, high: float, px: int) -> list[float]:
    """Ticks between two numbers on a logarithmic bar of `px` px: as many as do not touch, else both ends."""
    decades = np.log10(high / low)
    for steps in _TICKS:
        ticks = [step * 10.0**power for power in range(-12, 12) for step in steps]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        gaps = np.diff(np.log10(ticks)) / decades * px
        if len(ticks) > 1 and gaps.min() >= _TICK_PX:
            return ticks
    return [low, high]


def scale_bar(ax: Axes, prediction: Prediction, ink: str) -> None:
    """Draw a bar of a round length under the lower left corner; in px where the slide does not say its mpp."""
    length, label = bar_length(prediction.slide_size[0], prediction.mpp)
    figure = ax.figure
    down = ScaledTranslation(0, -20 / DPI, figure.dpi_scale_trans)
    place = blended_transform_factory(ax.transData, ax.transAxes) + down
    ax.plot([0, length], [0, 0], transform=place, color=ink, lw=4, solid_capstyle="butt", clip_on=False)
    beside = place + ScaledTranslation(8 / DPI, 0, figure.dpi_scale_trans)
    ax.text(length, 0, label, transform=beside, va="center", ha="left", size=12, color=ink)


def legend_handles(ink: str, *, outlined: bool, every: bool, contributions: bool) -> list[Line2D]:
    """What outlines and greys are: of tiles that were read where these are `outlined`, of the tissue, and with
    `contributions` of tiles without one; `every`: all tissue tiles were read."""
    handles = [_square(ink, "none", "tile that was read")] * outlined
    words = "outline of the tissue" + "; every tile in it was read" * every
    handles += [Line2D([], [], color="0.5", linewidth=1.2, label=words)]
    if contributions:
        handles += [_square("0.5", ZERO, "adds about 0")]
        handles += [_square(UNREAD, UNREAD, "not read")] * (not every)
    return handles


def _square(edge: str, face: str, label: str) -> Line2D:
    square = Line2D([], [], linestyle="none", marker="s", markersize=9, markerfacecolor=face)
    square.set(label=label, markeredgecolor=edge, markeredgewidth=1.2)
    return square


def legend_style(ink: str, columns: int) -> dict[str, Any]:
    """Look of a legend: in rows, without a frame."""
    return {
        "ncols": columns, "frameon": False, "fontsize": 10, "labelcolor": ink,
        "borderaxespad": 0, "borderpad": 0.4, "handlelength": 1.6, "columnspacing": 1.0,
    }  # fmt: skip


def below(ax: Axes) -> Transform:
    """Axes' coordinates, moved down below the scale bar."""
    return ax.transAxes + ScaledTranslation(0, -34 / DPI, ax.figure.dpi_scale_trans)


def bar_length(slide_width: int, mpp: tuple[float, float] | None) -> tuple[float, str]:
    """Length in level-0 px and label of a round scale bar of at most a quarter of the slide's width."""
    if mpp is None:
        px = round_length(slide_width / 4)
        return px, f"{px:,.0f} px (no mpp)"
    micrometres = round_length(slide_width * mpp[0] / 4)
    label = f"{micrometres / 1000:g} mm" if micrometres >= 1000 else f"{micrometres:g} µm"
    return micrometres / mpp[0], label


def round_length(most: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50, ... (and 0.5, 0.2, ...) that is not above `most`."""
    power = np.floor(np.log10(most))
    candidates = [step * 10.0**p for p in (power, power - 1) for step in (5, 2, 1)]
    return float(next(c for c in candidates if c <= most * (1 + 1e-9)))


def inner_edge(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels of a mask that touch, by a side, one outside it or the picture's border."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & ~inside)


def tile_outlines(
    ax: Axes,
    corners: Int64[np.ndarray, "N 2"],
    size: tuple[float, float],
    least: Float64[np.ndarray, " 2"],
    lines: tuple[tuple[str, float], ...],
) -> None:
    """Draw squares around the drawn tiles in lines of these colours and widths, one on the other; never below `least`
    level-0 px (x, y)."""
    centre = corners + np.asarray(size) / 2
    half = np.maximum(size, least) / 2
    ring = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * half
    paths = list(centre[:, None] + ring)
    for colour, width in lines:
        ax.add_collection(LineCollection(paths, colors=colour, linewidths=width), autolim=False)


def elide(text: str, most: int) -> str:
    """`text` with its middle left out where it is longer than `most` (at least 12) characters."""
    most = max(12, most)
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def fitted(text: str, px: float, size: int, weight: str = "normal") -> str:
    """`text` with its middle left out where it is longer than `px` px."""
    while (width := text_width(text, size, weight)) > px and len(text) > 12:
        text = elide(text, min(len(text) - 1, int(len(text) * px / width)))
    return text


def text_width(text: str, size: int, weight: str = "normal") -> float:
    """Width in px of a line of text."""
    font = FontProperties(size=size, weight=weight)
    with any_script():
        return float(_renderer().get_text_width_height_descent(text, font, False)[0])


@contextmanager
def any_script() -> Iterator[None]:
    """Letters that the font lacks become boxes without a warning each: slides are named in every script."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@cache
def _renderer() -> Any:
    """What text is measured with."""
    return FigureCanvasAgg(Figure(figsize=(1, 1), dpi=DPI)).get_renderer()  # type: ignore[no-untyped-call]
