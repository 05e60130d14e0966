"""From drawn cells to pixels: only the tiles that are asked for, each read once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from jaxtyping import Int, UInt8

from wsi_ats.geometry import Grid, Pair
from wsi_ats.slides.base import Slide
from wsi_ats.slides.resample import read_boxes


class TileCache:
    """Tiles already read, up to `max_bytes` of pixels; the least recently used go first.

    Safe to share by threads; a copy sent to another process starts empty.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._tiles: OrderedDict[Hashable, UInt8[np.ndarray, "h w 3"]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.max_bytes,)

    def __len__(self) -> int:
        return len(self._tiles)

    def get(self, key: Hashable) -> UInt8[np.ndarray, "h w 3"] | None:
        """The tile kept under `key`, if it is still there."""
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
            return self._tiles.get(key)

    def put(self, key: Hashable, tile: UInt8[np.ndarray, "h w 3"]) -> None:
        """Keep a copy of a tile."""
        if tile.nbytes > self.max_bytes:
            return
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = tile.copy()
                self.bytes += tile.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._tiles.popitem(last=False)[1].nbytes


def read_tiles(
    slide: Slide,
    grid: Grid,
    cells: Int[np.ndarray, " N"],
    tile_px: int,
    downsample: Pair,
    cache: TileCache | None = None,
) -> UInt8[np.ndarray, "N tile_px tile_px 3"]:
    """Tiles centred on `cells` of the grid, (N, tile_px, tile_px, 3) uint8, in their order.

    downsample: level-0 px per tile pixel (x, y). A cell that occurs twice is read once, and one that is in
    the cache not at all. Raises SlideError, with the coordinates, where the slide cannot be read.
    """
    distinct, inverse = np.unique(cells, return_inverse=True)
    tiles = np.empty((len(distinct), tile_px, tile_px, 3), np.uint8)
    keys = [(slide.address, grid, tile_px, downsample, int(cell)) for cell in distinct]
    missing = []
    for i, key in enumerate(keys):
        tile = None if cache is None else cache.get(key)
        if tile is None:
            missing.append(i)
        else:
            tiles[i] = tile
    if missing:
        span = (tile_px * downsample[0], tile_px * downsample[1])
        corners = grid.tile_corners(distinct[missing], span)
        tiles[missing] = read_boxes(slide, corners, (tile_px, tile_px), downsample)
    if cache is not None:
        for i in missing:
            cache.put(keys[i], tiles[i])
    return tiles[inverse]
