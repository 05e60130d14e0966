"""Plots of the report: SVG that is the same for the same numbers, as URLs that hold their data.

An image cannot run anything, whatever a name of a class holds, and its ids meet no others on the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsi_ats.heatmap.frame import any_script, elide
from wsi_ats.shown import shown

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"
"""Colours that the colour-blind tell apart (Okabe and Ito)."""
STYLE: Any = {
    "svg.hashsalt": "wsi-ats", "svg.fonttype": "none", "text.parse_math": False, "font.size": 10.5,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "axes.unicode_minus": True,
}  # fmt: skip
SQUARE, WIDE = (4.2, 4.0), (4.6, 3.2)
"""Width and height in inches: on a phone, letters are still to be read."""
LONGEST = 26
"""Letters of a name on a plot."""
Points = Mapping[str, Any]
"""Plain values of evaluation.json: lists of numbers by name."""


def drawn(draw: Callable[[Axes], object], size: tuple[float, float] = SQUARE) -> str:
    """The URL of the plot that `draw` draws into axes."""
    buffer = io.BytesIO()
    with rc_context(STYLE), any_script():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def short(name: str) -> str:
    """A name that fits on a plot.

    >>> short("adenocarcinoma in situ, well differentiated")
    'adenocarcino…ifferentiated'
    """
    return elide(shown(name), LONGEST)


def roc(curve: Points, area: str) -> str:
    """ROC curve with its band."""

    def draw(ax: Axes) -> None:
        ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="chance")
        _band(ax, curve["band"], "fpr", step="post")
        ax.plot(curve["fpr"], curve["tpr"], color=BLUE, lw=2, label=area)
        _unit(ax, "1 - specificity (false positive rate)", "sensitivity", "lower right")

    return drawn(draw)


def precision_recall(curve: Points, prevalence: float, area: str) -> str:
    """Precision against recall with its band."""

    def draw(ax: Axes) -> None:
        ax.axhline(prevalence, color=GREY, lw=1, ls=":", label="chance")
        _band(ax, curve["band"], "recall", step="pre")
        ax.step(curve["recall"], curve["precision"], color=BLUE, lw=2, where="post", label=area)
        _unit(ax, "sensitivity (recall)", "positive predictive value (precision)", "lower left")

    return drawn(draw)


def reliability(after: Sequence[Points], before: Sequence[tuple[float, float]]) -> str:
    """Observed share against stated probability: calibrated with limits, and before calibration where that is known."""

    def draw(ax: Axes) -> None:
        ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="perfect")
        if before:
            ax.plot(
                *zip(*before, strict=True),
                color=ORANGE,
                lw=1.2,
                ls="--",
                marker="s",
                ms=4,
                label="before calibration",
            )
        x, y = [p["predicted"] for p in after], [p["observed"]["value"] for p in after]
        for point, left, height in zip(after, x, y, strict=True):
            low, high = point["observed"]["low"], point["observed"]["high"]
            if low is not None and high is not None and height is not None:
                ax.plot([left, left], [low, high], color=BLUE, lw=1.2)
        ax.plot(
            x,
            y,
            color=BLUE,
            lw=1.6,
            marker="o",
            ms=5,
            label="as stated" if before else "stated probabilities",
        )
        _unit(ax, "mean stated probability of the slides", "share of them of which it is true", "upper left")

    return drawn(draw)


def survival(points: Sequence[Points]) -> str:
    """Share that is free of the event at a time, observed with limits against what the risks say, a point a group."""

    def draw(ax: Axes) -> None:
        ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="perfect")
        known = [p for p in points if p["observed"]["value"] is not None]
        for point in known:
            low, high = point["observed"]["low"], point["observed"]["high"]
            if low is not None and high is not None:
                ax.plot([point["predicted"]] * 2, [low, high], color=BLUE, lw=1.2)
        x, y = [p["predicted"] for p in known], [p["observed"]["value"] for p in known]
        ax.plot(x, y, color=BLUE, lw=1.6, marker="o", ms=5, label="groups of risk")
        _unit(ax, "share free of the event, as risks say", "share that was (Kaplan-Meier)", "upper left")

    return drawn(draw)


def decision(points: Sequence[Points]) -> str:
    """Decision curve: net benefit at each probability from which one might act."""

    def draw(ax: Axes) -> None:
        at = [p["threshold"] for p in points]
        model, every = [p["model"] for p in points], [p["all"] for p in points]
        limits = [(t, m["low"], m["high"]) for t, m in zip(at, model, strict=True) if m["low"] is not None]
        if limits:
            places, low, high = zip(*limits, strict=True)
            ax.fill_between(places, low, high, color=BLUE, alpha=0.18, lw=0)
        ax.plot(at, every, color=ORANGE, lw=1.2, ls="--", label="act on all slides")
        ax.axhline(0, color=GREY, lw=1, ls=":", label="act on none")
        ax.plot(at, [m["value"] for m in model], color=BLUE, lw=2, label="act as the model says")
        highest = max([p for p in every if p is not None] + [0.05])
        ax.set(
            xlim=(0, 1),
            ylim=(-0.1, highest * 1.5),
            xlabel="probability from which one acts",
            ylabel="net benefit",
        )
        ax.legend(loc="upper right", fontsize=9)

    return drawn(draw)


def histogram(values: Mapping[str, Sequence[float]], threshold: float | None, of: str) -> str:
    """Stated probability of the slides, by what is true of them."""

    def draw(ax: Axes) -> None:
        bins = np.linspace(0, 1, 21).tolist()
        for (name, mine), colour, hatch in zip(values.items(), (GREY, ORANGE), ("", "//"), strict=False):
            ax.hist(
                mine,
                bins,
                alpha=0.6,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=f"{short(name)} ({len(mine)})",
            )
        if threshold is not None:
            ax.axvline(threshold, color="black", lw=1.2, ls="--", label=f"threshold {threshold:.3g}")
        ax.set(xlim=(0, 1), xlabel=f"stated probability of {short(of)}", ylabel="slides")
        ax.legend(fontsize=9)

    return drawn(draw, WIDE)


def by_member(
    rows: Sequence[tuple[str, float | None, float | None, float | None]], label: str, unit: bool
) -> str:
    """A figure of each site or fold, (name, value, low, high), the first row of all slides."""

    def draw(ax: Axes) -> None:
        for place, (_, value, low, high) in enumerate(rows):
            colour = "black" if place == 0 else BLUE
            if low is not None and high is not None:
                ax.plot([low, high], [place, place], color=colour, lw=1.6)
            if value is not None:
                ax.plot([value], [place], marker="D" if place == 0 else "o", ms=6, color=colour)
        if rows and rows[0][1] is not None:
            ax.axvline(rows[0][1], color=GREY, lw=1, ls=":")
        ax.set_yticks(range(len(rows)), [short(name) for name, *_ in rows])
        ax.invert_yaxis()
        ax.set_xlabel(label)
        if unit:
            ax.set_xlim(-0.02, 1.02)

    return drawn(draw, (4.6, 1.1 + 0.36 * len(rows)))


def training(epochs: Sequence[float], series: Mapping[str, Sequence[float]], chosen: float | None) -> str:
    """Figures of every epoch, and the epoch that was chosen."""

    def draw(ax: Axes) -> None:
        looks = ((GREY, "--"), (BLUE, "-"), (ORANGE, "-."), ("#009e73", ":"), ("#cc79a7", "-"))
        for (name, values), (colour, line) in zip(series.items(), looks, strict=False):
            ax.plot(epochs, values, color=colour, ls=line, lw=1.8, label=short(name))
        if chosen is not None:
            ax.axvline(chosen, color="black", lw=1, ls=":", label=f"chosen: epoch {chosen:g}")
        ax.set_xlabel("epoch")
        ax.legend(fontsize=9)

    return drawn(draw, WIDE)


def bars(values: Mapping[str, float], label: str) -> str:
    """A number by name as horizontal bars."""

    def draw(ax: Axes) -> None:
        held = ax.barh([short(name) for name in values], list(values.values()), color=BLUE)
        ax.bar_label(held, [f"{value:.3g}" for value in values.values()], padding=3, fontsize=9)
        ax.invert_yaxis()
        ax.margins(x=0.14)
        ax.set_xlabel(label)

    return drawn(draw, (4.6, 1.0 + 0.32 * len(values)))


def evidence(curve: Sequence[Points], name: str) -> str:
    """Probability of the answer along the number of tiles: the most attended ones, and random ones with their band."""

    def draw(ax: Axes) -> None:
        points = [point for point in curve if point[name] is not None]
        at = [point["tiles"] for point in points]
        low, high, mean = ([p[f"{name}_random{end}"] for p in points] for end in ("_low", "_high", ""))
        ax.fill_between(at, low, high, color=GREY, alpha=0.3, lw=0)
        ax.plot(at, mean, color=GREY, lw=1.4, ls="--", label="random tiles")
        ax.plot(
            at, [p[name] for p in points], color=BLUE, lw=2, marker="o", ms=4, label="most attended tiles"
        )
        ax.set(xscale="log", ylim=(-0.02, 1.02), ylabel="probability of the answer")
        ax.set_xlabel("tiles kept" if name == "kept" else "tiles removed")
        ticks = [tiles for tiles in at[:-1] if tiles * 1.5 < at[-1]] + at[-1:]
        ax.set_xticks(ticks, [str(tiles) for tiles in ticks], rotation=60 if len(ticks) > 8 else 0)
        ax.minorticks_off()
        ax.legend(fontsize=9)

    return drawn(draw)


def agreement(truth: Sequence[float], answer: Sequence[float], label: str) -> str:
    """Answers against the truth, for numbers."""

    def draw(ax: Axes) -> None:
        every = [*truth, *answer]
        ends = [min(every), max(every)]
        ax.plot(ends, ends, color=GREY, lw=1, ls=":", label="equal")
        ax.plot(truth, answer, ls="none", marker="o", ms=4, alpha=0.6, color=BLUE)
        ax.set(xlabel=f"true {short(label)}", ylabel=f"answer: {short(label)}")
        ax.legend(fontsize=9)

    return drawn(draw)


def _band(ax: Axes, band: Points, along: str, step: Any) -> None:
    if band["low"]:
        ax.fill_between(
            band[along], band["low"], band["high"], step=step, color=BLUE, alpha=0.18, lw=0, label="95 % band"
        )


def _unit(ax: Axes, x: str, y: str, place: Any) -> None:
    """Both axes from 0 to 1."""
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, aspect="equal")
    ax.legend(loc=place, fontsize=9)
