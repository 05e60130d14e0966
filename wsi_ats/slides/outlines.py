"""Irregular closed outlines, and finding room for them: the shapes of tissue, lesions and decoys."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

Outline = Float[np.ndarray, "points 2"]
"""Vertices (x, y) of a closed polygon; the last joins the first."""


def area(outline: Outline) -> float:
    """Area of a simple polygon (shoelace formula), in the outline's unit squared."""
    x, y = outline[:, 0], outline[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def irregular(
    rng: np.random.Generator,
    centre: tuple[float, float],
    target_area: float,
    roughness: float,
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
    outline: Outline, shape: tuple[int, int], step: tuple[float, float]
) -> Bool[np.ndarray, "rows cols"]:
    """True where the centre of a cell of `step` (x, y) lies inside; cell (0, 0) starts at the origin.

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
    step: float,
    target_area: float,
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
