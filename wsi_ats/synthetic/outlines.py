"""Irregular closed outlines, and finding room for them: the shapes of tissue, lesions and decoys."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from skimage.measure import label

from wsi_ats.errors import ConfigError

Outline = Float[np.ndarray, "_ 2"]
"""Vertices (x, y) of a closed polygon; the last joins the first."""


def area(outline: Outline) -> float:
    """Area of a simple polygon (shoelace formula), in the outline's unit squared."""
    x, y = outline[:, 0], outline[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def irregular(
    rng: np.random.Generator,
    centre: tuple[float, float],
    target_area: float | int,
    roughness: float | int,
    points: int = 96,
) -> Outline:
    """A star-shaped outline r(t) = r0 (1 + sum_k c_k cos(k t + phase_k)) around `centre`.

    Its area is exactly `target_area`; `roughness` is the standard deviation of the radius over its mean;
    amplitudes fall as k^-1.4.
    """
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    order = np.arange(2, 10)[:, None]
    waves = np.cos(order * angles + rng.uniform(0, 2 * np.pi, (len(order), 1))) / order**1.4
    radius = (rng.normal(size=(len(order), 1)) * waves).sum(0)
    radius = np.clip(1 + roughness * radius / max(float(radius.std()), 1e-9), 0.35, None)
    unit = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]
    return np.asarray(unit * np.sqrt(target_area / area(unit)) + np.array(centre))


def rasterise(
    outline: Outline, shape: tuple[int, int], step: tuple[float, float] | tuple[int, int]
) -> Bool[np.ndarray, "rows cols"]:
    """Mask (rows, cols), True where the centre of a cell of `step` (x, y) lies inside; cell (0, 0) is at the origin.

    Even-odd rule, by scan lines: every edge flips all cells to the right of where it crosses the line through
    a row's centres.
    """
    rows, cols = shape
    x, y = outline[:, 0] / step[0] - 0.5, outline[:, 1] / step[1] - 0.5  # in cells, centres at whole numbers
    first, last = int(np.clip(np.ceil(y.min()), 0, rows)), int(np.clip(np.floor(y.max()) + 1, 0, rows))
    lines = np.arange(first, last)[:, None]
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    line, edge = np.nonzero((y <= lines) != (y2 <= lines))
    at = x[edge] + (line + first - y[edge]) / (y2[edge] - y[edge]) * (x2[edge] - x[edge])
    flips = np.zeros((last - first, cols + 1), np.uint8)
    np.add.at(flips, (line, np.clip(np.ceil(at), 0, cols).astype(np.int64)), 1)
    inside = np.zeros(shape, bool)
    inside[first:last] = (np.cumsum(flips[:, :cols], axis=1, dtype=np.int64) & 1).astype(bool)
    return inside


def place(
    rng: np.random.Generator,
    free: Bool[np.ndarray, "rows cols"],
    step: float | int,
    target_area: float | int,
    tries: int = 300,
) -> Outline | None:
    """An irregular outline of `target_area` inside `free` (cells of `step` px); None where none fits.

    Shapes grow rounder as tries are used up, since a round one fits where a ragged one does not.
    """
    rows, cols = np.nonzero(free)
    if len(rows) == 0:
        return None
    for attempt in range(tries):
        pick = int(rng.integers(len(rows)))
        centre = ((float(cols[pick]) + 0.5) * step, (float(rows[pick]) + 0.5) * step)
        outline = irregular(rng, centre, target_area, 0.17 * (1 - attempt / tries))
        cells = np.floor(outline / step).astype(np.int64)
        if (cells < 0).any() or (cells >= (free.shape[1], free.shape[0])).any():
            continue
        if free[cells[:, 1], cells[:, 0]].all() and free[rasterise(outline, free.shape, (step, step))].all():
            return outline
    return None


def grow_patch(
    rng: np.random.Generator, free: Bool[np.ndarray, "rows cols"], count: int
) -> Bool[np.ndarray, "rows cols"]:
    """A compact patch of `count` cells of `free`, connected by their sides and without holes.

    Grown a cell at a time: of the cells beside it, one with most neighbours inside, ties and near-ties by
    chance. Raises ConfigError where `free` has no such patch.
    """
    for _ in range(100):
        patch = np.zeros(free.shape, bool)
        candidates = np.flatnonzero(free)
        if len(candidates) < count:
            break
        patch.flat[int(rng.choice(candidates))] = True
        while patch.sum() < count:
            around = np.pad(patch, 1).astype(np.int64)
            neighbours = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
            score = np.where(free & ~patch & (neighbours > 0), neighbours + 1.5 * rng.random(free.shape), 0.0)
            if not score.any():
                break
            patch.flat[int(score.argmax())] = True
        if patch.sum() == count and not _has_hole(patch):
            return patch
    raise ConfigError(
        f"no room for a patch of {count} cells among {int(free.sum())} free ones",
        remedy="a larger slide, fewer patches, or a smaller fraction",
    )


def _has_hole(patch: Bool[np.ndarray, "rows cols"]) -> bool:
    """Whether some cell outside is cut off from the border (cells that touch at a corner are connected)."""
    return bool(label(~np.pad(patch, 1), connectivity=2).max() > 1)


def around_cells(patch: Bool[np.ndarray, "rows cols"]) -> Outline:
    """The outline (x, y) of a patch as `grow_patch` makes it, in cells; cell (row, col) spans [col, col + 1).

    Walks the patch's border edges with the patch on the right. Where two cells touch at a corner only, two
    edges leave that corner: the walk stays with its cell.
    """
    padded = np.pad(patch, 1)
    edges: dict[tuple[int, int], list[tuple[tuple[int, int], tuple[int, int]]]] = {}
    for row, col in np.argwhere(patch).tolist():
        corners = [(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1)]
        beyond = [(row, col + 1), (row + 1, col + 2), (row + 2, col + 1), (row + 1, col)]
        for side in range(4):
            if not padded[beyond[side]]:
                edges.setdefault(corners[side], []).append((corners[(side + 1) % 4], (row, col)))
    start = min(edges)
    at, cell = edges[start].pop()
    outline = [start]
    while at != start:
        outline.append(at)
        leaving = edges[at]
        following = next((edge for edge in leaving if edge[1] == cell), leaving[0])
        leaving.remove(following)
        at, cell = following
    return np.array(outline, np.float64)
