"""Nuclei: a few dozen pre-rendered stamps a kind, scattered by whole arrays, never one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from skimage.filters import gaussian

# Share of a lattice cell by which a nucleus may lie off the cell's centre, to each side.
JITTER = 0.36


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of nucleus: its look (um; darkness as 8-bit amount of haematoxylin) and how close it packs."""

    name: str
    length: tuple[float, float]  # long axis, smallest to largest, um
    width: tuple[float, float]  # short axis as a share of the long one
    darkness: tuple[float, float]
    texture: float  # contrast of the chromatin, 0 smooth
    spacing: float  # of the lattice they are scattered on, um


# Sizes: a lymphocyte's nucleus is 6 to 7 um, a carcinoma's 12 to 16 um, a fibroblast's 10 to 15 um long and
# thin.
STROMAL = Kind("stromal", (9.0, 15.0), (0.22, 0.40), (70.0, 110.0), 0.15, 30.0)
SMALL = Kind("small", (5.8, 7.2), (0.85, 1.0), (112.0, 158.0), 0.12, 7.0)
LESIONAL = Kind("lesional", (12.0, 16.5), (0.66, 0.95), (80.0, 135.0), 0.34, 13.4)


def stamps(
    kind: Kind, mpp: float, rng: np.random.Generator, variants: int = 64
) -> UInt8[np.ndarray, "variants side side"]:
    """Pre-rendered nuclei as amounts of haematoxylin: turned ellipses with a rim and chromatin."""
    side = max(3, int(np.ceil(kind.length[1] * 1.15 / mpp)) + 2)
    grid = (np.arange(side) - (side - 1) / 2) * mpp
    y, x = np.meshgrid(grid, grid, indexing="ij")
    angle, long, thin, dark = (
        rng.uniform(*bounds, (variants, 1, 1))
        for bounds in ((0.0, np.pi), kind.length, kind.width, kind.darkness)
    )
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    bend = rng.uniform(-0.02, 0.02, (variants, 1, 1)) * along**2
    wobble = 1 + 0.07 * np.cos(
        rng.integers(2, 5, (variants, 1, 1)) * np.arctan2(across, along) + 6.3 * rng.random((variants, 1, 1))
    )
    across, short = across - bend, long * thin
    radius = np.maximum(np.hypot(2 * along / long, 2 * across / short), 1e-9)
    slope = np.hypot(4 * along / long**2, 4 * across / short**2) / radius  # of the radius, per um
    radius /= wobble
    edge = np.clip((1 - radius) / (slope * mpp * 1.3 + 1e-9) + 0.5, 0, 1)  # 1.3 px wide
    chromatin = gaussian(rng.normal(size=(variants, side, side)), (0, 0.9 / mpp, 0.9 / mpp))
    chromatin /= max(float(chromatin.std()), 1e-9)
    rim = np.exp(-(((radius - 0.86) / 0.14) ** 2))
    body = dark * (1 + kind.texture * (0.55 * chromatin + 0.9 * rim - 0.45))
    return np.asarray(np.clip(np.rint(edge * body), 0, 255).astype(np.uint8))


class Scatter:
    """Nuclei of one kind on a jittered lattice over the plane; any part can be asked for, in any order."""

    def __init__(self, kind: Kind, mpp: float, width: int, seed: tuple[int, ...]) -> None:
        self.kind = kind
        self.stamps = stamps(kind, mpp, np.random.default_rng((*seed, 0)))
        self.spacing = max(1.0, kind.spacing / mpp)
        self.side = self.stamps.shape[1]
        # Every other row is shifted by half a cell (hexagonal), as packed cells lie.
        self._columns = int(np.ceil(width / self.spacing)) + 2
        self._seed = seed
        # Stamps of one class never overlap: class members are `stride` cells apart in both directions.
        self.stride = int(np.ceil((self.side + 1) / self.spacing + 2 * JITTER))

    def row(
        self, row: int
    ) -> tuple[
        Float[np.ndarray, " n"], Float[np.ndarray, " n"], UInt8[np.ndarray, " n"], Int[np.ndarray, " n"]
    ]:
        """Lattice row `row`: centres x and y (level-0 px), a random byte for thinning, the stamp's number."""
        rng = np.random.default_rng((*self._seed, 1, row + (1 << 20)))
        noise = rng.integers(0, 256, (4, self._columns), dtype=np.uint8)
        jitter = (noise[:2].astype(np.float64) / 255 - 0.5) * (2 * JITTER * self.spacing)
        x = (np.arange(self._columns) - 0.5 + 0.5 * (row % 2)) * self.spacing + jitter[0]
        y = (row + 0.5) * self.spacing + jitter[1]
        return x, y, noise[2], (noise[3] % len(self.stamps)).astype(np.int64)

    def stamp(
        self,
        canvas: UInt8[np.ndarray, "rows cols"],
        top: int,
        density: Callable[[Float[np.ndarray, " n"], Float[np.ndarray, " n"]], UInt8[np.ndarray, " n"]],
        margin: int,
    ) -> None:
        """Draw every nucleus that touches `canvas`, whose pixel (margin, margin) is level-0 pixel (0, top).

        `density(x, y)` in [0, 255] is the share of lattice cells that hold a nucleus there. Where two overlap
        the darker pixel stays; that needs read-modify-write, exact because a class of stamps never overlaps
        itself.
        """
        rows, cols = canvas.shape
        reach = self.side / 2 + JITTER * self.spacing
        first = int(np.floor((top - margin - reach) / self.spacing)) - 1
        last = int(np.ceil((top - margin + rows + reach) / self.spacing)) + 1
        windows = np.lib.stride_tricks.sliding_window_view(canvas, (self.side, self.side), writeable=True)
        for phase in range(self.stride):
            members = [self.row(r) for r in range(first + phase, last + 1, self.stride)]
            for column in range(self.stride):
                x, y, thin, variant = (
                    np.concatenate([m[k][column :: self.stride] for m in members]) for k in range(4)
                )
                left = np.floor(x - self.side / 2 + 0.5).astype(np.int64) + margin
                upper = np.floor(y - self.side / 2 + 0.5).astype(np.int64) + margin - top
                keep = (left >= 0) & (left <= cols - self.side) & (upper >= 0) & (upper <= rows - self.side)
                keep &= thin < density(x, y)
                left, upper = left[keep], upper[keep]
                windows[upper, left] = np.maximum(windows[upper, left], self.stamps[variant[keep]])
