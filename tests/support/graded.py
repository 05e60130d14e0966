"""Slides on which every kind of target can be seen: stained squares on pink tissue, more or fewer of two colours."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import tifffile

CELL, CELLS = 32, 8
"""Level-0 px of a square, and squares along a side."""
PINK, PURPLE, BROWN = (225, 150, 190), (110, 60, 140), (140, 90, 40)
COLUMNS = ("slide", "split", "purity", "grade", "purple", "brown", "months", "died", "stain")


def write_graded(folder: Path, train: int = 32, val: int = 12, test: int = 16, seed: int = 0) -> Path:
    """The slides and their manifest, with some cells left empty.

    purity: share of purple squares. grade: I to III, by thirds of it. purple, brown: 0 or 1, whether there is any.
    months, died: time with hazard exp(16 purity), censored for one in four. stain: pink, purple, brown or both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    lines = []
    for split, count in {"train": train, "val": val, "test": test}.items():
        for i in range(count):
            # In turns, so that every split has all there is.
            purity = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)[i % 6]
            brown = i // 2 % 2 == 0
            name = f"{split}_{i}.tif"
            write_slide(folder / name, round(purity * CELLS**2), 9 * brown, rng)
            time, censoring = rng.exponential(np.exp(-16 * purity)), rng.uniform() < 0.25
            if censoring:
                time *= rng.uniform()
            stain = ("pink", "purple", "brown", "both")[(purity > 0) + 2 * brown]
            grade = ("I", "II", "III")[i % 6 // 2]
            lines.append(
                [
                    name,
                    split,
                    purity,
                    grade,
                    int(purity > 0),
                    int(brown),
                    f"{1000 * time:.3f}",
                    int(not censoring),
                    stain,
                ]
            )
    for row in (2, 7, 20):  # some are not known
        lines[row][2] = ""
        lines[row + 1][3] = "NA"
        lines[row + 2][5] = ""
        lines[row + 3][6:8] = "", ""
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
    return manifest


def write_slide(path: Path, purple: int, brown: int, rng: np.random.Generator) -> None:
    """A tiled TIFF with as many squares of each colour, anywhere."""
    squares = np.tile(np.array(PINK), (CELLS**2, 1))
    places = rng.permutation(CELLS**2)
    squares[places[:purple]] = PURPLE
    squares[places[purple : purple + brown]] = BROWN
    pixels = squares.reshape(CELLS, CELLS, 3).repeat(CELL, 0).repeat(CELL, 1)
    pixels = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(path, pixels, tile=(CELL, CELL), photometric="rgb", compression="deflate")
