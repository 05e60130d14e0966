"""Tiles: from drawn cells to pixels, only of those that are asked for, each read once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int, UInt8

from wsi_ats.geometry import Grid, Pair
from wsi_ats.slides.base import Slide
from wsi_ats.slides.resample import read_boxes


def read_tiles(
    slide: Slide,
    grid: Grid,
    cells: Int[np.ndarray, " N"],
    tile_px: int,
    downsample: Pair,
    moved: Float64[np.ndarray, "N 2"] | None = None,
) -> UInt8[np.ndarray, "N tile_px tile_px 3"]:
    """Tiles centred on `cells` of the grid, (N, tile_px, tile_px, 3) uint8, in their order.

    downsample: level-0 px per tile pixel (x, y). A cell that occurs twice is read once. Raises SlideError,
    with the coordinates, where the slide cannot be read. moved: how far each tile's centre lies from its cell's, (x, y)
    as shares of a cell; every tile is then read for itself.
    """
    tile = (tile_px * downsample[0], tile_px * downsample[1])
    if moved is not None:
        corners = np.floor(grid.centres(cells) + moved * grid.cell - np.asarray(tile) / 2 + 0.5).astype(
            np.int64
        )
        return read_boxes(slide, corners, (tile_px, tile_px), downsample)
    distinct, inverse = np.unique(cells, return_inverse=True)
    corners = grid.tile_corners(distinct, tile)
    return read_boxes(slide, corners, (tile_px, tile_px), downsample)[inverse]
