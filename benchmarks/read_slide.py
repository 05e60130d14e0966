"""The slide and the regions that readers are timed on, and the least time that reading them can take."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from wsi_ats.slides.tiled import Buffers
from wsi_ats.synthetic.phantom import Phantom, write_phantom

REGION = 256
"""Side of a region in px."""
APERIO = (
    "Aperio Image Library v12.0.15\r\n{size}x{size} [0,0 {size}x{size}] (256x256) JPEG/RGB Q=80"
    "|AppMag = 20|MPP = 0.5"
)


def make_slide(folder: Path, size: int) -> Path:
    """A phantom of `size` px as an Aperio slide: JPEG quality 80, 256 px tiles, levels 1, 4, 16, 64."""
    path = folder / f"phantom_{size}.svs"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        settings = Phantom(size=size, seed=7)
        write_phantom(path, settings, (1, 4, 16, 64), APERIO.format(size=size))
    return path


def scattered(size: int, count: int = 64, seed: int = 0) -> np.ndarray:
    """(count, 2) corners of regions in level-0 px, off the tiles' grid, within the middle where tissue is."""
    rng = np.random.default_rng(seed)
    return rng.integers(size // 4, 3 * size // 4 - REGION, (count, 2))


@dataclass(frozen=True)
class Tiles:
    """Where the tiles of one level lie in the file."""

    path: Path
    offsets: np.ndarray
    counts: np.ndarray
    tables: bytes | None
    cols: int
    size: tuple[int, int]

    @classmethod
    def of(cls, path: Path, level: int) -> Tiles:
        with tifffile.TiffFile(path) as tiff:
            page = [page for page in tiff.pages if page.is_tiled][level]
            cols = -(-page.imagewidth // page.tilewidth)
            arrays = (np.array(page.dataoffsets), np.array(page.databytecounts))
            return cls(path, *arrays, page.jpegtables, cols, (page.imagewidth, page.imagelength))

    def under(self, corners: np.ndarray, side: int) -> np.ndarray:
        """The distinct tiles of 256 px that regions of `side` px at `corners` (level px) touch."""
        met = set()
        for x, y in corners.tolist():
            for row in range(y // 256, (y + side - 1) // 256 + 1):
                met |= {row * self.cols + c for c in range(x // 256, (x + side - 1) // 256 + 1)}
        return np.array(sorted(met))

    def decode_all(self, tiles: np.ndarray, threads: int) -> Callable[[], None]:
        """The lower bound: read and decode exactly these tiles, into one buffer a thread, and copy nothing."""
        fd = os.open(self.path, os.O_RDONLY)
        ordered = tiles[np.argsort(self.offsets[tiles])]

        def work(part: np.ndarray) -> None:
            buffer = Buffers().take((256, 256, 3))  # at the best place: numpy's own are now here, now there
            for offset, count in zip(self.offsets[part].tolist(), self.counts[part].tolist(), strict=True):
                data = os.pread(fd, count, offset)
                imagecodecs.jpeg8_decode(
                    data, tables=self.tables, colorspace="YCBCR", outcolorspace="RGB", out=buffer
                )

        def run() -> None:
            if threads == 1:
                work(ordered)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(work, np.array_split(ordered, threads)))

        return run
