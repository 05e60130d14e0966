"""attention.h5: where the tissue cells are and what the model makes of them, laid out as TRIDENT does coordinates.

    /coords         int64 (K, 2)    top-left corner (x, y) of each tissue cell's tile, level-0 px; a tile is centred on
                                    its cell and may begin a little outside the slide
    /attention      float32 (K,)    sums to 1
    /drawn          bool (K,)       the tile was read
    /weight         float64 (K,)    importance weight; 0 where not drawn
    /contribution   float32 (K,)    what the tile adds to the logit of the predicted class, or to the one output of
                                    another main task (attribute `class`); 0 where not drawn
    /cell           int64 (K,)      flat index (row * cols + col) into the attention grid
    /contributions  float32 (N, O)  what the drawn tiles add to every output of every task (attribute `classes`)

Attributes of `/coords` are those that TRIDENT writes and its readers look for there: name, patch_size (px),
patch_size_level0, level0_width, level0_height, target_magnification, level0_magnification, overlap (px of the patch
that the next one covers too; negative where there are gaps), savetodir (".", the folder that the file lies in). They
stand on the file, too, with grid_rows, grid_cols, cell_width, cell_height (level-0 px).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from wsi_ats.errors import WsiAtsError
from wsi_ats.geometry import Grid
from wsi_ats.prediction import Prediction
from wsi_ats.shown import printable
from wsi_ats.tasks.answer import outputs_of

MPP_AT_1X = 10.0
"""Micrometres per pixel at magnification 1: 20x is 0.5, 40x is 0.25, as the field counts."""


@dataclass(frozen=True, eq=False)
class CellTable:
    """The arrays of an attention.h5."""

    grid: Grid
    tissue: Int64[np.ndarray, " K"]
    attention: Float32[np.ndarray, " K"]
    drawn: Bool[np.ndarray, " K"]
    weight: Float64[np.ndarray, " K"]
    contributions: Float32[np.ndarray, "N O"]


def encode_attention(prediction: Prediction) -> bytes:
    """Content of an attention.h5 with the cells of `prediction`.

    Made in memory: where HDF5 itself meets a full disk, it may end the process when it cleans up.
    """
    tissue, positions = prediction.tissue, prediction.drawn()
    order = np.argsort(positions)
    drawn = np.zeros(len(tissue), bool)
    drawn[positions] = True
    weight = np.zeros(len(tissue))
    weight[positions] = prediction.weights
    contribution = np.zeros(len(tissue), np.float32)
    contribution[positions] = prediction.contributions[:, prediction.top]
    with h5py.File(uuid4().hex, "w", driver="core", backing_store=False) as file:
        patches = _patch_attributes(prediction)
        file.attrs.update({**patches, **_grid_attributes(prediction.grid)})
        coords = prediction.grid.tile_corners(tissue, prediction.tile_size)
        for name, values in (
            ("coords", coords),
            ("attention", prediction.attention),
            ("drawn", drawn),
            ("weight", weight),
            ("contribution", contribution),
            ("cell", tissue),
        ):
            file.create_dataset(name, data=values, compression="gzip", compression_opts=1, shuffle=True)
        file["coords"].attrs.update(patches)
        file["contribution"].attrs["class"] = prediction.main.spec.outputs[prediction.top]
        every = np.concatenate([answer.contributions for answer in prediction.results], axis=1)
        file.create_dataset("contributions", data=every[order])
        file["contributions"].attrs["classes"] = outputs_of([a.spec for a in prediction.results])
        file.flush()
        return bytes(file.id.get_file_image())


def read_attention(path: Path) -> CellTable:
    """The arrays that `encode_attention` wrote. Raises `WsiAtsError` naming the file where it is not such a
    file."""
    try:
        with h5py.File(path, "r") as file:
            attrs = file.attrs
            grid = Grid(
                int(attrs["grid_rows"]),
                int(attrs["grid_cols"]),
                (float(attrs["cell_width"]), float(attrs["cell_height"])),
            )
            return CellTable(
                grid,
                file["cell"][:],
                file["attention"][:],
                file["drawn"][:],
                file["weight"][:],
                file["contributions"][:],
            )
    except (OSError, KeyError) as error:
        raise WsiAtsError(
            f"{path} is not an attention file of this version: {error}", remedy="predict the slide again"
        ) from error


def _patch_attributes(prediction: Prediction) -> Mapping[str, Any]:
    """Attributes of `coords` by TRIDENT's names."""
    width, height = prediction.slide_size
    magnification, target = _magnifications(prediction)
    return {
        "name": printable(Path(prediction.slide).stem),  # HDF5 has UTF-8 alone
        "patch_size": prediction.tile_px,
        "patch_size_level0": round(prediction.tile_size[0]),
        "level0_width": width,
        "level0_height": height,
        "target_magnification": target,
        "level0_magnification": magnification,
        "overlap": round(prediction.tile_px - prediction.grid.cell[0] / prediction.tile_downsample[0]),
        "savetodir": ".",
    }


def _grid_attributes(grid: Grid) -> Mapping[str, Any]:
    return {
        "grid_rows": grid.rows,
        "grid_cols": grid.cols,
        "cell_width": grid.cell[0],
        "cell_height": grid.cell[1],
    }


def _magnifications(prediction: Prediction) -> tuple[float, float]:
    """Magnification of level 0, and of the tiles; nan where the mpp is unknown.

    TRIDENT cuts patches of patch_size * level0_magnification / target_magnification level-0 px. Where nominal
    magnifications would make that another size than the tiles', the tiles' follows from the first and their downsample.
    """
    if prediction.mpp is None:
        return float("nan"), float("nan")
    downsample, mpp = prediction.tile_downsample[0], prediction.mpp[0]
    magnification, target = _magnification(mpp), _magnification(mpp * downsample)
    same = round(prediction.tile_px * magnification / target) == round(prediction.tile_size[0])
    return magnification, target if same else magnification / downsample


def _magnification(mpp: float) -> float:
    """Nominal magnification, whole where it is within 5 % of a whole number."""
    exact = MPP_AT_1X / mpp
    whole = round(exact)
    return float(whole) if whole and abs(exact - whole) <= 0.05 * whole else exact
