"""A slide of any size in a small file: the tile index points at a few hundred JPEG tiles, again and again.

The picture is one phantom of 4096 px repeated over the slide, consistently at every level, so that tissue grows with
the slide's area and every reader has as much to decode as on a real slide of that size.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from wsi_ats.synthetic.phantom import Phantom, write_phantom

PERIOD = 4096
TILE = 256
DOWNSAMPLES = (1, 4, 16, 64)
SHORT, LONG, RATIONAL, LONG8 = 3, 4, 5, 16
LETTERS = {SHORT: "H", LONG: "I", RATIONAL: "I", LONG8: "Q"}


def write_huge(
    path: Path, size: int, mpp: float = 0.25, seed: int = 0, downsamples: tuple[int, ...] = DOWNSAMPLES
) -> Path:
    """Write a square BigTIFF pyramid of `size` px a side that OpenSlide opens as generic-tiff."""
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        tiles = []
        for picture in period(mpp, seed, downsamples):
            rows = []
            for y in range(0, len(picture), TILE):
                encoded = [jpeg(picture[y : y + TILE, x : x + TILE]) for x in range(0, len(picture), TILE)]
                rows.append([(file.tell(), file.write(data)) for data in encoded])
            tiles.append(np.asarray(rows, np.uint64))
        next_at = 8
        for downsample, table in zip(downsamples, tiles, strict=True):
            next_at = directory(file, next_at, -(-size // downsample), downsample, mpp, table)
    return path


def period(mpp: float, seed: int, downsamples: tuple[int, ...]) -> list[np.ndarray]:
    """One period of the picture at every level; where it is smaller than a tile, repeated to fill one."""
    with tempfile.TemporaryDirectory() as folder:
        phantom = Path(folder) / "phantom.tif"
        write_phantom(phantom, Phantom(size=PERIOD, mpp=mpp, seed=seed))
        level = np.asarray(tifffile.imread(phantom, key=0))
    pictures = []
    for downsample in downsamples:
        side = PERIOD // downsample
        mean = level.reshape(side, downsample, side, downsample, 3).mean((1, 3))
        repeats = max(1, TILE // side)
        pictures.append(np.tile(np.rint(mean).astype(np.uint8), (repeats, repeats, 1)))
    return pictures


def jpeg(pixels: np.ndarray) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(pixels), 80, colorspace="RGB", outcolorspace="YCbCr", subsampling="420"
        )
    )


def directory(file, next_at: int, side: int, downsample: int, mpp: float, table: np.ndarray) -> int:
    """Write one level and link it at `next_at`; returns where the link to the next one goes."""
    across = np.arange(-(-side // TILE))
    rows, cols = np.meshgrid(across % table.shape[0], across % table.shape[1], indexing="ij")
    offsets, counts = np.moveaxis(table[rows, cols].reshape(-1, 2), 1, 0)
    per_cm = (round(1e8 / (mpp * downsample)), 10_000)
    entries = [
        (254, LONG, [int(downsample > 1)]),
        (256, LONG, [side]),
        (257, LONG, [side]),
        (258, SHORT, [8, 8, 8]),
        (259, SHORT, [7]),  # JPEG
        (262, SHORT, [6]),  # YCbCr
        (277, SHORT, [3]),
        (282, RATIONAL, per_cm),
        (283, RATIONAL, per_cm),
        (284, SHORT, [1]),
        (296, SHORT, [3]),  # per centimetre
        (322, LONG, [TILE]),
        (323, LONG, [TILE]),
        (324, LONG8, offsets.astype("<u8")),
        (325, LONG, counts.astype("<u4")),
        (530, SHORT, [2, 2]),
    ]
    packed = []
    for tag, kind, values in entries:
        data = (
            values.tobytes()
            if isinstance(values, np.ndarray)
            else struct.pack(f"<{len(values)}{LETTERS[kind]}", *values)
        )
        if len(data) > 8:
            file.seek(0, 2)
            at = file.tell()
            file.write(data)
            data = struct.pack("<Q", at)
        count = len(values) // 2 if kind == RATIONAL else len(values)
        packed.append(struct.pack("<HHQ", tag, kind, count) + data.ljust(8, b"\0"))
    file.seek(0, 2)
    file.write(b"\0" * (file.tell() % 2))
    start = file.tell()
    file.write(struct.pack("<Q", len(packed)) + b"".join(packed) + struct.pack("<Q", 0))
    link = file.tell() - 8
    file.seek(next_at)
    file.write(struct.pack("<Q", start))
    file.seek(0, 2)
    return link
