"""Frame of a heatmap, what stands around and on it: layout, title, colour bar, scale bar, outlines."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int64
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm
from matplotlib.offsetbox import AnchoredOffsetbox, TextArea, VPacker
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

if TYPE_CHECKING:
    from wsi_ats.prediction import Prediction
    from wsi_ats.tasks.answer import TaskResult

DPI = 100

_LEFT, _RIGHT, _TOP, _BOTTOM = 24, 176, 84, 64
_MIN_WIDTH, _MIN_HEIGHT = 640, 420
_BAR_GAP, _BAR_WIDTH = 28, 22
_TICKS = (1, 2, 3, 5, 10, 20, 30, 50)


@dataclass(frozen=True)
class Layout:
    """Layout of a figure: places, all of them whole px; rectangles are (left, bottom, width, height) in figure
    shares."""

    inches: tuple[float, float]
    slide: tuple[float, float, float, float]
    bar: tuple[float, float, float, float]
    text_columns: int
    """Number of characters that fit beside each other in the title."""
    bar_columns: int
    """Number of characters that fit along the colour bar."""

    @classmethod
    def around(cls, slide_width: int, slide_height: int, longest: int) -> Layout:
        """A layout with margins around a slide whose longest side takes `longest` px; wider for narrow slides."""
        step = max(slide_width, slide_height) / longest
        w, h = max(1, round(slide_width / step)), max(1, round(slide_height / step))
        width, height = max(w + _LEFT + _RIGHT, _MIN_WIDTH), max(h + _TOP + _BOTTOM, _MIN_HEIGHT)
        room = height - _TOP - _BOTTOM
        bar_height = max(h, min(room, 250))
        left, middle = _LEFT / width, (_BOTTOM + room / 2) / height
        return cls(
            inches=(width / DPI, height / DPI),
            slide=(left, (height - _TOP - h) / height, w / width, h / height),
            bar=(
                (_LEFT + w + _BAR_GAP) / width,
                middle - bar_height / height / 2,
                _BAR_WIDTH / width,
                bar_height / height,
            ),
            text_columns=(width - 2 * _LEFT) // 8,
            bar_columns=bar_height // 8,
        )


def title(ax: Axes, prediction: Prediction, columns: int) -> None:
    """Write the answer to the main task in bold, below it the slide and how much of it was read."""
    first = headline(prediction.main, columns)
    read = f"{len(prediction.cells):,} of {len(prediction.tissue):,} tissue tiles read"
    second = f"{elide(prediction.slide, columns - len(read) - 6)}   ·   {read}"
    lines = VPacker(
        children=[
            TextArea(first, textprops={"size": 14, "weight": "bold"}),
            TextArea(second, textprops={"size": 10, "color": "0.3"}),
        ],
        pad=0,
        sep=6,
    )
    box = AnchoredOffsetbox(
        loc="lower left", child=lines, pad=0, borderpad=0.8, frameon=False,
        bbox_to_anchor=(0, 1), bbox_transform=ax.transAxes,
    )  # fmt: skip
    box.set_clip_on(False)
    ax.add_artist(box)


def headline(answer: TaskResult, columns: int) -> str:
    """The answer with its standard error: a class or grade and its probability, the labels given, or a number."""
    spec, errors = answer.spec, map(float, answer.stderr)
    if spec.entry.says == "all that are likely":
        found = set(answer.text.split(";"))
        shares = zip(spec.names, map(float, answer.values), errors, strict=True)
        given = [f"{name} {probability(p, error)}" for name, p, error in shares if name in found]
        return elide(", ".join(given) or f"none of {', '.join(spec.names)}", columns)
    if spec.names:
        index = spec.names.index(answer.text)
        sure = probability(float(answer.values[index]), float(answer.stderr[index]))
        return f"{elide(answer.text, columns - 24)}: probability {sure}"
    value, error = float(answer.values[0]), float(answer.stderr[0])
    number = f"{value:.4g}" + (f" ± {error:.2g}" if error > 0 else "")
    return f"{elide(spec.name, columns - 32)}: {spec.entry.unit + ' ' * bool(spec.entry.unit)}{number}"


def probability(sure: float, error: float) -> str:
    """A probability with its standard error, to as many digits as that one deserves."""
    if not error > 0:  # unknown, or every tile was read
        return f"{sure:.2f}"
    digits = 2 if error >= 0.005 else 3
    return f"{sure:.{digits}f} ± {error:.{digits}f}" if error >= 0.0005 else f"{sure:.3f} ± <0.001"


def colour_bar(bar: Colorbar, colours: ScalarMappable, label: str, columns: int) -> None:
    """Give the colour bar ticks that can be read ("10×", not 10^1) and say what they count."""
    top = colours.get_clim()[1] or 1.0
    if isinstance(colours.norm, LogNorm):
        steps = [tick * 10**power for power in (0, 2, 4, 6) for tick in _TICKS]
        bar.locator = FixedLocator([step for step in steps if step <= top * 1.001])
        bar.minorlocator = NullLocator()
    unit = "%" if "percentile" in label else "×"
    bar.formatter = FuncFormatter(lambda value, _: f"{value:,.4g}{unit}")
    bar.update_ticks()
    bar.ax.tick_params(labelsize=11)
    bar.set_label(textwrap.fill(label, columns), size=11)


def scale_bar(ax: Axes, prediction: Prediction) -> None:
    """Draw a bar of a round length under the lower left corner; in px where the slide does not say its mpp."""
    length, label = bar_length(prediction.slide_size[0], prediction.mpp)
    figure = ax.figure
    down = ScaledTranslation(0, -20 / DPI, figure.dpi_scale_trans)
    place = blended_transform_factory(ax.transData, ax.transAxes) + down
    ax.plot([0, length], [0, 0], transform=place, color="black", lw=4, solid_capstyle="butt", clip_on=False)
    beside = place + ScaledTranslation(8 / DPI, 0, figure.dpi_scale_trans)
    ax.text(length, 0, label, transform=beside, va="center", ha="left", size=12)


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
    ax: Axes, corners: Int64[np.ndarray, "N 2"], size: tuple[float, float], least: float
) -> None:
    """Draw squares around the drawn tiles, black on white so that they show on any ground; never below `least`
    px."""
    centre = corners + np.asarray(size) / 2
    half = np.maximum(size, least) / 2
    ring = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * half
    paths = list(centre[:, None] + ring)
    for colour, width in (("white", 2.2), ("black", 1.0)):
        ax.add_collection(LineCollection(paths, colors=colour, linewidths=width), autolim=False)


def elide(text: str, most: int) -> str:
    """`text` with its middle left out where it is longer than `most` (at least 12) characters."""
    most = max(12, most)
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
