"""Section on evidence: how many of its tiles an answer needs, and how it fares without them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsi_ats.evaluate.evidence import FIGURES, SLIDES
from wsi_ats.report.blocks import Block, Grid, Image, Plot, Plots, Words
from wsi_ats.report.found import Found
from wsi_ats.report.plots import evidence as drawn
from wsi_ats.report.words import number
from wsi_ats.shown import counted

MOST_SLIDES = 40
"""Number of slides in the table; evidence.csv has all."""


def evidence(found: Found) -> Iterator[Block]:
    """Curves over the slides, and a row a slide."""
    figures, lines = found.json(FIGURES), found.table(SLIDES)
    if not figures.get("curve") or not lines:
        return
    sufficient, of = figures["sufficient"], counted(len(lines), "slide")
    yield Words(
        f"Every tissue tile of {of} was read: these figures are exact. A set of tiles answers alone, its attention "
        "made to sum to 1 again. Where attention finds what the answer rests on, a few of the most attended tiles give "
        "it, random ones do not, and without them it is lost."
    )
    if found.by == "patient":
        yield Words("Each slide was asked by itself here, as if it were all that there is of its patient.")
    said = {
        "kept": "Probability of each slide's answer from the most attended tiles alone",
        "removed": "Probability of each slide's answer without the most attended tiles",
    }
    plots = []
    for name, words in said.items():
        caption = f"{words}, mean over {of}; grey: as many random tiles, with the band of {figures['orders']} orders."
        plots.append(Plot(Image(drawn(figures["curve"], name), caption), caption))
    yield Plots(plots)
    needed = [float(line["minimal_tiles"]) for line in lines if line.get("minimal_tiles")]
    if needed:
        yield Words(
            f"{counted(len(needed), 'slide')} of {len(lines)} reach a probability of {sufficient} with some number of "
            f"the most attended tiles: half of them with {np.median(needed):.0f} or fewer, nine of ten with "
            f"{np.quantile(needed, 0.9):.0f} or fewer."
        )
    header = [
        "slide",
        "answer",
        "probability",
        "tiles",
        "needed",
        "random",
        "area",
        "random",
        "area without",
        "random",
    ]
    keys = ["prediction", "probability", "tissue_tiles", "minimal_tiles", "minimal_tiles_random"]
    areas = ["kept_area", "kept_area_random", "removed_area", "removed_area_random"]
    rows = [
        [line["slide"], *(line[key] or "–" for key in keys), *(_short(line[key]) for key in areas)]
        for line in lines[:MOST_SLIDES]
    ]
    more = f"; the first {MOST_SLIDES} of {len(lines)}" if len(lines) > MOST_SLIDES else ""
    yield Grid(
        f"Tiles needed for a probability of {sufficient}, and areas under the curves (evidence.csv){more}",
        header,
        rows,
    )


def _short(text: str) -> str:
    try:
        return number(float(text))
    except ValueError:
        return "–"
