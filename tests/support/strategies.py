"""Hypothesis strategies for slides and grids, and small slides on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from hypothesis import strategies as st

from wsi_ats.geometry import Grid, Size


@st.composite
def grids(draw: st.DrawFn, longest: int = 40) -> Grid:
    """Grids with cells from 1 to 200 level-0 px, mostly not whole numbers."""
    side = st.floats(1, 200) | st.integers(1, 200).map(float) | st.integers(3, 600).map(lambda n: n / 3)
    count = st.integers(1, longest)
    return Grid(draw(count), draw(count), (draw(side), draw(side)))


def sizes(longest: int) -> st.SearchStrategy[Size]:
    side = st.integers(1, longest)
    return st.builds(Size, side, side)


@st.composite
def pyramids(draw: st.DrawFn, longest: int = 60) -> list[np.ndarray]:
    """One to three levels of noise; downsamples are whole or not and differ between axes."""
    width, height = draw(st.integers(4, longest)), draw(st.integers(4, longest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = [(height, width)]
    for _ in range(draw(st.integers(0, 2))):
        factor = draw(st.sampled_from([2, 3, 4]))
        shapes.append((max(1, shapes[-1][0] // factor), max(1, shapes[-1][1] // factor)))
    return [rng.integers(0, 255, (*shape, 3), np.uint8) for shape in shapes]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def write_tiff(path: Path, levels: list[np.ndarray], mpp: float | None = None, unit: int = 3) -> Path:
    """A lossless tiled pyramid that OpenSlide opens as generic-tiff; unit 3: per centimetre, 2: per inch."""
    per_unit = None if mpp is None else {2: 25400, 3: 10000}[unit] / mpp
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate(levels):
            tiff.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(index > 0),
                resolution=None if per_unit is None else (per_unit, per_unit),
                resolutionunit=None if per_unit is None else unit,
            )
    return path
