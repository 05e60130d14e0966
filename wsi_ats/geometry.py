"""Geometry, where things are on a slide: levels, regions, the attention grid. Plain values, no I/O.

Every position is in level-0 pixels: origin top-left, x to the right, y down. Sizes of regions are in the
pixels of their level. A `downsample` is a pair (x, y) of level-0 pixels per pixel; the two axes differ a
little on real slides, because a level's width and height are rounded separately.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64, Num

from wsi_ats.errors import WsiAtsError

Pair = tuple[float | int, float | int]
"""A number each for x and y."""

ROUNDED = 2
"""Pixels by which a side of a level may be off from what its downsample makes of level 0: levels are halved again and
again, and rounded each time."""

MATCH = 0.01
"""Two downsamples within 1 % count as the same: a slide of 0.499 um/px is read as it is at 0.5 um/px."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels; both at least 1, else WsiAtsError.

    >>> Size(640, 0)
    Traceback (most recent call last):
    ...
    wsi_ats.errors.WsiAtsError: size 640 x 0 px is not positive in both directions
      Remedy: give a width and a height of at least 1 px
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise WsiAtsError(
                f"size {self.width} x {self.height} px is not positive in both directions",
                remedy="give a width and a height of at least 1 px",
            )


class Box(NamedTuple):
    """A rectangle in the pixels of one level: corner (x, y), width, height.

    >>> box, pixels = Box(x=8, y=2, width=4, height=3), np.zeros((10, 20, 3), np.uint8)
    >>> pixels[box.y : box.y + box.height, box.x : box.x + box.width].shape
    (3, 4, 3)
    """

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a pyramid: `size` in its own pixels, `downsample` (x, y) in level-0 px per level px.

    >>> level = Level(1, Size(250, 200), downsample=(4.0, 4.0))
    >>> level.pixel_at(401, 100)
    (100, 25)
    >>> level.location_of(np.array([[100, 25]])).tolist()
    [[400, 100]]
    """

    index: int
    size: Size
    downsample: Pair

    def pixel_at(self, x: int, y: int) -> tuple[int, int]:
        """The pixel of this level whose corner is nearest to the level-0 position (x, y); halves go up."""
        return math.floor(x / self.downsample[0] + 0.5), math.floor(y / self.downsample[1] + 0.5)

    def location_of(self, pixels: Int64[np.ndarray, "N 2"]) -> Int64[np.ndarray, "N 2"]:
        """Level-0 positions (x, y) of pixels of this level, rounded; `pixel_at` gives the pixels back."""
        return _rounded(pixels * np.asarray(self.downsample))


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The levels of a slide, finest first; level 0 has downsample 1.

    >>> pyramid = Pyramid.of_sizes([(1000, 800), (250, 200), (62, 50)])
    >>> [round(level.downsample[0], 2) for level in pyramid.levels]
    [1.0, 4.0, 16.13]
    >>> pyramid.nearest_finer((10.0, 10.0)).index  # resampling goes from finer to coarser, never back
    1
    """

    levels: tuple[Level, ...]

    @classmethod
    def of_sizes(cls, sizes: list[tuple[int, int]]) -> Pyramid:
        """A pyramid from (width, height) per level, with the true ratio of each axis as the downsample."""
        (width, height), *_ = sizes
        return cls(tuple(Level(i, Size(w, h), (width / w, height / h)) for i, (w, h) in enumerate(sizes)))

    @staticmethod
    def fitting(sizes: Sequence[tuple[int, int]], slack: float = 0.0) -> list[int]:
        """Which of these (width, height), the first of which is level 0, can be levels of it: positions in `sizes`.

        A level has the proportions of level 0, to `ROUNDED` px and `slack` of its sides, and is smaller than the one
        before it. Anything else is another image.

        >>> Pyramid.fitting([(5120, 5120), (1300, 1000), (1280, 1280), (1280, 1280), (319, 320)])
        [0, 2, 4]
        """
        found = [0]
        for index, (width, height) in enumerate(sizes[1:], start=1):
            finer = sizes[found[-1]]
            smaller = width <= finer[0] and height <= finer[1] and (width, height) != tuple(finer)
            if smaller and _have_one_downsample(sizes[0], (width, height), slack):
                found.append(index)
        return found

    @property
    def size(self) -> Size:
        """Size of level 0."""
        return self.levels[0].size

    def nearest_finer(self, downsample: Pair, tolerance: float = MATCH) -> Level:
        """The coarsest level that is at least as fine as `downsample` in both axes; level 0 if none is."""
        limit_x, limit_y = (d * (1 + tolerance) for d in downsample)
        fine = [lv for lv in self.levels if lv.downsample[0] <= limit_x and lv.downsample[1] <= limit_y]
        return max(fine, key=lambda level: level.downsample, default=self.levels[0])


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle to read: corner (x, y) in level-0 px, perhaps off the slide; `size` in px of `level`.

    >>> print(Region(-100, 40, Size(256, 256), level=1))
    level 1, x=-100, y=40 (level-0 px), 256 x 256 px
    """

    x: int
    y: int
    size: Size
    level: int

    def __str__(self) -> str:
        at = f"x={self.x}, y={self.y} (level-0 px)"
        return f"level {self.level}, {at}, {self.size.width} x {self.size.height} px"


@dataclass(frozen=True, slots=True)
class Grid:
    """The attention grid: `rows` x `cols` cells from the slide's origin, numbered row by row.

    `cell` is the size (width, height) of a cell in level-0 px, at least 1 and usually not a whole number. The
    corner of a cell is rounded to a pixel, so that cells tile the slide without gaps and every level-0 pixel
    belongs to exactly one cell. Raises WsiAtsError for a grid without cells or of cells below one pixel.

    >>> grid = Grid(rows=2, cols=3, cell=(100.0, 100.0))
    >>> len(grid), grid.corners(np.array([0, 5])).tolist()
    (6, [[0, 0], [200, 100]])
    """

    rows: int
    cols: int
    cell: Pair

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell", (float(self.cell[0]), float(self.cell[1])))
        if self.rows < 1 or self.cols < 1 or not all(1 <= side < math.inf for side in self.cell):
            raise WsiAtsError(f"{self}: a grid needs at least one cell, of at least one level-0 pixel")

    def __len__(self) -> int:
        return self.rows * self.cols

    @classmethod
    def covering(cls, size: Size, cell: Pair) -> Grid:
        """The smallest grid of cells of (width, height) `cell` that covers a slide of `size` level-0 px.

        >>> Grid.covering(Size(1000, 700), (256, 256))
        Grid(rows=3, cols=4, cell=(256.0, 256.0))
        """
        # Less a millionth of a cell: a width that is a whole number of cells stays so in floating point.
        rows, cols = (math.ceil(n / c - 1e-6) for n, c in ((size.height, cell[1]), (size.width, cell[0])))
        return cls(max(rows, 1), max(cols, 1), cell)

    def centres(self, cells: Int[np.ndarray, " K"]) -> Float64[np.ndarray, "K 2"]:
        """Centres (x, y) of cells, in level-0 px, not rounded.

        >>> Grid(rows=2, cols=3, cell=(256, 256)).centres(np.array([0, 4])).tolist()
        [[128.0, 128.0], [384.0, 384.0]]
        """
        return np.asarray((self._col_row(cells) + 0.5) * np.asarray(self.cell), np.float64)

    def corners(self, cells: Int[np.ndarray, " K"]) -> Int64[np.ndarray, "K 2"]:
        """Top-left pixels (x, y) of cells, in level-0 px.

        >>> Grid(rows=2, cols=3, cell=(100.6, 100.6)).corners(np.array([1, 2, 4])).tolist()
        [[101, 0], [201, 0], [101, 101]]
        """
        return self._corner(self._col_row(cells))

    def tile_corners(self, cells: Int[np.ndarray, " K"], tile: Pair) -> Int64[np.ndarray, "K 2"]:
        """Top-left pixels (x, y) of tiles centred on the cells; `tile` is (width, height) in level-0 px."""
        return _rounded(self.centres(cells) - np.asarray(tile) / 2)

    def cells_at(self, xy: Num[np.ndarray, "N 2"]) -> Int64[np.ndarray, " N"]:
        """The cells that hold the level-0 pixels (x, y): the exact inverse of `corners`.

        Raises WsiAtsError where a position lies outside the grid.

        >>> Grid(rows=2, cols=3, cell=(100.6, 100.6)).cells_at(np.array([[100, 0], [101, 0]])).tolist()
        [0, 1]
        """
        pixels = np.floor(xy).astype(np.int64)
        extent = self._corner(np.asarray([[self.cols, self.rows]]))[0]
        outside = ((pixels < 0) | (pixels >= extent)).any(axis=1)
        if outside.any():
            x, y = xy[np.argmax(outside)]
            raise WsiAtsError(f"position ({x}, {y}) lies outside the grid of {extent[0]} x {extent[1]} px")
        # corner(c) <= pixel holds up to c = (pixel + 1/2) / cell; then one step where floating point was off.
        guess = np.ceil((pixels + 0.5) / np.asarray(self.cell)).astype(np.int64) - 1
        guess -= self._corner(guess) > pixels
        guess += self._corner(guess + 1) <= pixels
        return np.asarray(guess[:, 1] * self.cols + guess[:, 0], np.int64)

    def hilbert_order(self, cells: Int[np.ndarray, " K"]) -> Int64[np.ndarray, " K"]:
        """The permutation that visits `cells` along a Hilbert curve: neighbours on it are so on the slide.

        Source: the classical xy -> d conversion (Warren, Hacker's Delight, chapter 16), vectorised.

        >>> cells = np.arange(4)  # of two rows of two: left, right, below left, below right
        >>> Grid(rows=2, cols=2, cell=(256, 256)).hilbert_order(cells).tolist()
        [0, 2, 3, 1]
        """
        x, y = self._col_row(cells).T.copy()
        distance = np.zeros(len(x), np.int64)
        step = 1 << max(self.rows - 1, self.cols - 1, 1).bit_length()
        while step := step // 2:
            right, lower = (x & step) > 0, (y & step) > 0
            distance += step * step * ((3 * right) ^ lower)
            # Turn the quadrant so that the curve enters and leaves it where its neighbours do.
            mirrored = right & ~lower
            x, y = np.where(mirrored, ~x, x), np.where(mirrored, ~y, y)
            x, y = np.where(lower, x, y), np.where(lower, y, x)
        return np.argsort(distance, kind="stable").astype(np.int64)

    def _col_row(self, cells: Int[np.ndarray, " K"]) -> Int64[np.ndarray, "K 2"]:
        if len(cells) and (cells.min() < 0 or cells.max() >= len(self)):
            raise WsiAtsError(f"cells {cells.min()} to {cells.max()} do not all lie in 0 to {len(self) - 1}")
        row, col = np.divmod(cells.astype(np.int64), self.cols)
        return np.stack([col, row], axis=1)

    def _corner(self, col_row: Int64[np.ndarray, "K 2"]) -> Int64[np.ndarray, "K 2"]:
        return _rounded(col_row * np.asarray(self.cell))


def is_shrunk(full: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether `size` (width, height) is that of an image of `full` px shrunk by a whole number of 2 or more.

    >>> is_shrunk((5120, 3001), (320, 188)), is_shrunk((5120, 3001), (3413, 2000))
    (True, False)
    """
    ratio = max(full) / max(max(size), 1)
    return any(
        by >= 2 and all(abs(whole / by - side) <= ROUNDED for whole, side in zip(full, size, strict=True))
        for by in {math.floor(ratio), math.ceil(ratio), round(ratio)}
    )


def _have_one_downsample(full: tuple[int, int], size: tuple[int, int], slack: float) -> bool:
    """Whether some downsample makes one size of the other, on both sides."""
    off = [ROUNDED + slack * side for side in size]
    least = max(whole / (side + o) for whole, side, o in zip(full, size, off, strict=True))
    most = min(whole / max(side - o, 1e-9) for whole, side, o in zip(full, size, off, strict=True))
    return least <= most


def _rounded(values: Float64[np.ndarray, " ..."]) -> Int64[np.ndarray, " ..."]:
    """To whole pixels, halves up: the same everywhere, so that neighbours meet."""
    return np.asarray(np.floor(values + 0.5), np.int64)
