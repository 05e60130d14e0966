"""Truth of a synthetic slide: outlines of the lesions and decoys in it, as GeoJSON and on any grid of cells."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Grid
from wsi_ats.synthetic.outlines import Outline, area, rasterise

# Samples per cell and direction when an area inside an outline is measured.
SUBSAMPLES = 16
COLOURS = {"lesion": (200, 30, 30), "decoy": (30, 120, 200)}


@dataclass(frozen=True, slots=True, eq=False)
class SlideTruth:
    """The truth of a synthetic slide. Outlines are (points, 2) float64 (x, y) in level-0 px, closed implicitly.

    `size` is (width, height) in level-0 px, `mpp` micrometres per level-0 px, `tissue_fraction` the share of
    the slide's area that is tissue. Lesions do not overlap each other.
    """

    size: tuple[int, int]
    mpp: float | int
    tissue_fraction: float | int
    lesions: tuple[Outline, ...] = ()
    decoys: tuple[Outline, ...] = ()

    @property
    def lesion_share(self) -> float:
        """Area of the lesions over the area of the tissue."""
        tissue = self.tissue_fraction * self.size[0] * self.size[1]
        return sum(area(outline) for outline in self.lesions) / tissue if tissue else 0.0

    def save(self, path: Path | str) -> None:
        """Write the truth as GeoJSON: annotations for QuPath, and the slide's own figures in the member `slide`."""
        features = [
            _feature(kind, number, outline)
            for kind, outlines in (("lesion", self.lesions), ("decoy", self.decoys))
            for number, outline in enumerate(outlines)
        ]
        slide = {"size": list(self.size), "mpp": self.mpp, "tissue_fraction": self.tissue_fraction}
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        temporary.write_text(json.dumps({"type": "FeatureCollection", "slide": slide, "features": features}))
        temporary.replace(path)

    @staticmethod
    def load(path: Path | str) -> SlideTruth:
        """Read the truth that `save` wrote. Raises SlideError where a member is missing or of the wrong kind."""
        path = Path(path)
        try:
            data = json.loads(path.read_text())
            slide = data["slide"]
            outlines: dict[str, list[Outline]] = {"lesion": [], "decoy": []}
            for feature in data["features"]:
                ring = np.array(feature["geometry"]["coordinates"][0], np.float64).reshape(-1, 2)
                outlines[feature["properties"]["classification"]["name"]].append(ring[:-1])
            width, height = slide["size"]
            return SlideTruth(
                (int(width), int(height)),
                float(slide["mpp"]),
                float(slide["tissue_fraction"]),
                tuple(outlines["lesion"]),
                tuple(outlines["decoy"]),
            )
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise SlideError(
                f"{path.name}: not the truth of a synthetic slide ({type(error).__name__}: {error})",
                remedy="write it with SlideTruth.save, or make the slide again",
            ) from error


def _feature(kind: str, number: int, outline: Outline) -> dict[str, Any]:
    ring = [[float(x), float(y)] for x, y in (*outline, outline[0])]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind} {number} {ring}")),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": kind, "color": list(COLOURS[kind])},
        },
    }


def mask(
    outlines: tuple[Outline, ...], shape: tuple[int, int], step: tuple[float, float] | tuple[int, int]
) -> Bool[np.ndarray, "rows cols"]:
    """Mask (rows, cols), True where the centre of a cell of `step` (x, y) level-0 px lies in any of the outlines."""
    inside = np.zeros(shape, bool)
    for outline in outlines:
        inside |= rasterise(outline, shape, step)
    return inside


def fraction_in_cells(outlines: tuple[Outline, ...], grid: Grid) -> Float[np.ndarray, " cells"]:
    """Share of each cell's area inside any of the outlines, (rows * cols,) float64 in [0, 1], row by row.

    Measured on 16 x 16 points a cell. A cell that overhangs the slide counts with its full area.
    """
    shares = np.zeros((grid.rows, grid.cols))
    step = (grid.cell[0] / SUBSAMPLES, grid.cell[1] / SUBSAMPLES)
    for row in range(grid.rows):  # a row of cells at a time: memory does not grow with the square of the grid
        shift = np.array([0.0, row * grid.cell[1]])
        touching = [o for o in outlines if _spans(o, row * grid.cell[1], (row + 1) * grid.cell[1])]
        if touching:
            strip = mask(tuple(o - shift for o in touching), (SUBSAMPLES, grid.cols * SUBSAMPLES), step)
            shares[row] = strip.reshape(SUBSAMPLES, grid.cols, SUBSAMPLES).mean((0, 2))
    return shares.ravel()


def lesion_fraction_in_cells(truth: SlideTruth, grid: Grid) -> Float[np.ndarray, " cells"]:
    """Share of each cell's area inside a lesion, (rows * cols,) float64; see `fraction_in_cells`."""
    return fraction_in_cells(truth.lesions, grid)


def _spans(outline: Outline, top: float, bottom: float) -> bool:
    return bool(outline[:, 1].min() < bottom and outline[:, 1].max() >= top)
