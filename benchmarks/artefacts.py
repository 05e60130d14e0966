"""Do pens, tints, dim lamps, curves of grey levels and black padding turn the answer, and does a note say so?

    python benchmarks/artefacts.py --demo DEMO

DEMO is the folder of `wsi-ats demo`. The first five normal and the first five tumour test slides are read at 1 um/px
and predicted as they are and with one artefact each, from the same seed; a flip is another class than that of the
slide as it is. Results go to benchmarks/results/artefacts.{json,md}.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import wsi_ats
from wsi_ats.prediction import Prediction
from wsi_ats.synthetic.artefacts import PENS, in_light, with_black, with_pen

MPP = 1.0
TILES = 64
RESULTS = Path(__file__).parent / "results"
Change = Callable[[np.ndarray], np.ndarray]

TINTS = {"warm": (1.0, 0.5, 0.0), "cool": (0.0, 0.5, 1.0), "green": (0.0, 1.0, 0.0)}
"""How much of the cast each colour is spared."""
LAMPS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
GAMMAS = (0.5, 1.5, 2.2, 4.0, 8.0)
WAVE_UM, WIDTH_UM = 40, 180
ON_GLASS = [(0.05, 0.06), (0.95, 0.06)]
ACROSS = [(0.08, 0.75), (0.92, 0.3)]
INSIDE = [(0.4, 0.5), (0.6, 0.5)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, required=True, help="folder of `wsi-ats demo`")
    parser.add_argument("--slides", type=int, default=5, help="slides of each class")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    model = wsi_ats.load_model(arguments.demo / "run" / "model")
    rows = []
    for path in chosen(arguments.demo / "slides", arguments.slides):
        with wsi_ats.open_slide(path) as slide:
            pixels = slide.read_at_mpp((0, 0), (slide.size[0] // 2, slide.size[1] // 2), MPP)
        plain = predict(model, pixels, path.name)
        for kind, case, change in artefacts():
            row = {
                "slide": path.name,
                "kind": kind,
                "case": case,
                "plain": plain.label,
                "plain_p": float(plain.probabilities[1]),
                "plain_cells": len(plain.tissue),
            }
            rows.append(row | answer(model, change(pixels), path.name))
        print(path.name, plain.label, sum(is_flip(r) for r in rows if r["slide"] == path.name))
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "artefacts.json").write_text(json.dumps(rows, indent=0) + "\n")
    (arguments.out / "artefacts.md").write_text(report(rows))


def chosen(folder: Path, number: int) -> list[Path]:
    """The first test slides of each class."""
    rows = list(csv.DictReader((folder / "manifest.csv").open()))
    of = {
        label: [folder / r["slide"] for r in rows if (r["split"], r["label"]) == ("test", label)]
        for label in ("normal", "tumour")
    }
    return [path for paths in of.values() for path in paths[:number]]


def predict(model: wsi_ats.Model, pixels: np.ndarray, name: str) -> Prediction:
    with wsi_ats.open_slide(pixels, mpp=MPP, name=name) as slide:
        return model.predict(slide, tiles=TILES)


def answer(model: wsi_ats.Model, pixels: np.ndarray, name: str) -> dict[str, Any]:
    """What a prediction says; its label is None where the slide is refused."""
    try:
        prediction = predict(model, pixels, name)
    except wsi_ats.SlideError as error:
        return {"label": None, "p": None, "cells": 0, "pen": None, "notes": [error.message]}
    return {
        "label": prediction.label,
        "p": float(prediction.probabilities[1]),
        "cells": len(prediction.tissue),
        "pen": prediction.view_shares["pen"],
        "notes": list(prediction.notes),
    }


def is_flip(row: dict[str, Any]) -> bool:
    """Whether the answer is another one than without the artefact."""
    return row["label"] not in (None, row["plain"])


def artefacts() -> Iterator[tuple[str, str, Change]]:
    """Kind, case and what makes it of pixels."""
    for colour in PENS:
        for place, ends in (("on glass", ON_GLASS), ("across tissue", ACROSS), ("on tissue alone", INSIDE)):
            for shape, wave in (("straight", 0.0), ("wavy", WAVE_UM / MPP)):
                for opacity in (0.6, 0.9):
                    yield f"{colour} pen {place}", f"{shape}, {opacity:g}", pen(colour, ends, wave, opacity)
    for name, spared in TINTS.items():
        for cast in (0.04, 0.08, 0.12):
            yield f"{name} tint", f"{cast:.0%}", light(1.0, spared, cast)
    for lamp in LAMPS:
        yield f"lamp {lamp:.0%}", "no tint", light(lamp, (1, 1, 1), 0.0)
        yield f"lamp {lamp:.0%}", "warm 8%", light(lamp, TINTS["warm"], 0.08)
    for exponent in GAMMAS:
        yield f"gamma {exponent:g}", "no tint", lambda pixels, exponent=exponent: with_gamma(pixels, exponent)
    for share in (0.0, 0.3, 0.6, 0.9, 0.95):
        yield "black padding", f"{share:.0%}", lambda pixels, share=share: with_black(pixels, share)


def pen(colour: str, ends: Sequence[tuple[float, float]], wave: float, opacity: float) -> Change:
    def change(pixels: np.ndarray) -> np.ndarray:
        points = [(x * pixels.shape[1], y * pixels.shape[0]) for x, y in ends]
        return with_pen(pixels, PENS[colour], points, WIDTH_UM / MPP, opacity=opacity, wave=wave)

    return change


def light(lamp: float, spared: Sequence[float], cast: float) -> Change:
    red, green, blue = (1 - cast * (1 - s) for s in spared)
    return lambda pixels: in_light(pixels, lamp, (red, green, blue))


def with_gamma(pixels: np.ndarray, exponent: float) -> np.ndarray:
    """The pixels as a scanner with another curve of grey levels has them."""
    levels = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return levels[pixels]


def report(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Artefacts: does the answer turn, and is it said?",
        "",
        "`python benchmarks/artefacts.py --demo demo`: ten test slides of the demo (five normal, five tumour) with one",
        f"artefact each, {TILES} tiles. Flips: another class than the slide has without the artefact. Noted: answers",
        "with a note. Refused: an error instead of an answer. Pen: largest share of the view that is taken for pen.",
        "Cells: tissue cells, as a multiple of those without the artefact, least and most.",
        "",
        "| artefact | slides | refused | flips | of them without a note | noted | largest change of p(tumour) | pen "
        "| cells |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        every = [row for row in rows if row["kind"] == kind]
        own = [row for row in every if row["label"] is not None]
        lines.append(f"| {kind} | {len(every)} | {len(every) - len(own)} | {_cells_of(own)} |")
    return "\n".join(lines) + "\n"


def _cells_of(own: list[dict[str, Any]]) -> str:
    """The rest of a line of the table, from those slides that have an answer."""
    if not own:
        return "0 | 0 | 0 | - | - | -"
    flips = [row for row in own if is_flip(row)]
    cells = [row["cells"] / row["plain_cells"] for row in own]
    return (
        f"{len(flips)} | {sum(not row['notes'] for row in flips)} | {sum(bool(row['notes']) for row in own)} "
        f"| {max(abs(r['p'] - r['plain_p']) for r in own):.3f} | {max(r['pen'] for r in own):.1%} "
        f"| {min(cells):.2f} to {max(cells):.2f}"
    )


if __name__ == "__main__":
    main()
