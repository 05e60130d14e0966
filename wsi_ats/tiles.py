"""Tiles: from drawn cells to pixels, only of those that are asked for, each read once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt8

from wsi_ats.geometry import Grid, Pair
from wsi_ats.slides.base import Slide
from wsi_ats.slides.resample import read_boxes


def read_tiles(
    slide: Slide,
    grid: Grid,
    cells: Int[np.ndarray, " N"],
    tile_px: int,
    downsample: Pair,
) -> UInt8[np.ndarray, "N tile_px tile_px 3"]:
    """Tiles centred on `cells` of the grid, (N, tile_px, tile_px, 3) uint8, in their order.

    downsample: level-0 px per tile pixel (x, y). A cell that occurs twice is read once. Raises SlideError,
    with the coordinates, where the slide cannot be read.
    """
    distinct, inverse = np.unique(cells, return_inverse=True)
    corners = grid.tile_corners(distinct, (tile_px * downsample[0], tile_px * downsample[1]))
    return read_boxes(slide, corners, (tile_px, tile_px), downsample)[inverse]
