"""Write a tiled JPEG pyramid, streamed: rows go in once, every level comes out, memory stays at a few bands.

The file is a plain TIFF (BigTIFF when it could pass 4 GB) that OpenSlide opens as `generic-tiff`: one page a
level, level 0 first, `NewSubfileType = 1` on the reduced ones, the resolution in the TIFF tags.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import UInt8
from PIL import Image

from wsi_ats.errors import ConfigError

# Encoded tiles of the reduced levels (1/15 of the data) wait in memory up to this size, then in a temporary
# file.
SPOOL_BYTES = 64 << 20
# Offsets of a classic TIFF have 32 bits; JPEG does not make raw pixels larger, the rest is for tags and
# headers.
CLASSIC_TIFF_BYTES = (1 << 32) - (1 << 26)


def write_pyramid(
    path: Path | str,
    bands: Iterable[UInt8[np.ndarray, "_ width 3"]],
    size: tuple[int, int],
    mpp: float | int | tuple[float | int, float | int],
    *,
    tile: int = 256,
    quality: int = 80,
    downsamples: tuple[int, ...] = (1, 4, 16),
    description: str | None = None,
) -> None:
    """Write `bands`, stacked from top to bottom, as a tiled JPEG pyramid.

    `bands` yields full-width strips of any height, (h, width, 3) uint8 RGB; a multiple of `tile` rows copies
    least. `size` is (width, height) of level 0 in px, `mpp` micrometres per px, or (x, y). Level l has
    ceil(size / downsamples[l]) px and each of its pixels is the mean of the pixels below it (level 0's border
    is repeated where the last one overhangs). `description` is level 0's image description. Nothing is left at
    `path` unless the whole file was written.

    Raises ConfigError where the bands do not add up to `size` or the settings contradict each other.
    """
    path = Path(path)
    ratios = _ratios(downsamples, tile)
    mpp_xy = (float(mpp), float(mpp)) if isinstance(mpp, (int, float)) else mpp
    if min(size) < 1 or min(mpp_xy) <= 0:
        raise ConfigError(
            f"{path.name}: size {size} px and mpp {mpp_xy} must be positive",
            remedy="give a size and an mpp above 0",
        )
    width, height = size
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    levels: list[_Level] = []
    for factor, ratio in zip(reversed(downsamples), reversed((*ratios, 1)), strict=True):
        shape = (-(-width // factor), -(-height // factor))
        levels.insert(0, _Level(shape, tile, quality, ratio, levels[0] if levels else None))
    try:
        with tifffile.TiffWriter(temporary, bigtiff=3 * width * height > CLASSIC_TIFF_BYTES) as tiff:
            for level, factor in zip(levels, downsamples, strict=True):
                tiles = _feed(level, bands, size, path.name) if factor == 1 else level.spooled()
                # The writer takes the tiles it needs and would close a generator then; what `_feed` does
                # after its last tile, handing the last rows to the coarser levels, must still run.
                _write_level(
                    tiff, map(bytes, tiles), level, tile, factor, mpp_xy, description if factor == 1 else None
                )
                if next(tiles, None) is not None:
                    raise AssertionError(f"{path.name}: more tiles than level {factor} has room for")
        temporary.replace(path)
    finally:
        for level in levels:
            level.close()
        temporary.unlink(missing_ok=True)


def _ratios(downsamples: tuple[int, ...], tile: int) -> tuple[int, ...]:
    """Ratios between neighbouring levels; whole and dividing the tile, so that bands reduce exactly."""
    if tile < 16 or tile % 16:
        raise ConfigError(
            f"tile = {tile} px: the TIFF standard asks for a multiple of 16", remedy="256 is usual"
        )
    if not downsamples or downsamples[0] != 1:
        raise ConfigError(
            f"downsamples = {downsamples}: the first must be 1",
            remedy="begin with 1, for the slide as it is: 1, 4, 16",
        )
    pairs = list(pairwise(downsamples))
    for finer, coarser in pairs:
        if coarser <= finer or coarser % finer or tile % (coarser // finer):
            raise ConfigError(
                f"downsamples = {downsamples}: {coarser} must be a multiple of {finer} "
                f"by a factor that divides the tile of {tile} px",
                remedy="powers of 2 fit: 1, 4, 16",
            )
    return tuple(coarser // finer for finer, coarser in pairs)


class _Level:
    """Collects the rows of one level, encodes them a row of tiles at a time and hands them on, reduced."""

    def __init__(
        self, size: tuple[int, int], tile: int, quality: int, ratio: int, coarser: _Level | None
    ) -> None:
        self.width, self.height = size
        self._tile, self._quality, self._ratio, self._coarser = tile, quality, ratio, coarser
        self._rows = np.empty((tile, self.width, 3), np.uint8)
        self._filled = 0
        self.rows_seen = 0
        self._plain = np.full((tile, tile, 3), 255, np.uint8)
        self._plain_encoded = self._jpeg(self._plain)
        # Closed by `close`.
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
        self._lengths: list[int] = []

    def push(self, rows: UInt8[np.ndarray, "h width 3"]) -> Iterator[bytes]:
        """Take rows; yield the encoded tiles of every row of tiles that they complete."""
        self.rows_seen += len(rows)
        while len(rows):
            if self._filled == 0 and len(rows) >= self._tile:
                yield from self._emit(rows[: self._tile])
                rows = rows[self._tile :]
                continue
            taken = min(self._tile - self._filled, len(rows))
            self._rows[self._filled : self._filled + taken] = rows[:taken]
            self._filled += taken
            rows = rows[taken:]
            if self._filled == self._tile:
                self._filled = 0
                yield from self._emit(self._rows)

    def finish(self) -> Iterator[bytes]:
        """Yield the last, incomplete row of tiles, and let the coarser levels finish."""
        if self._filled:
            yield from self._emit(self._rows[: self._filled])
            self._filled = 0
        if self._coarser is not None:
            self._coarser.store(self._coarser.finish())

    def store(self, tiles: Iterator[bytes]) -> None:
        """Keep encoded tiles until the file reaches this level."""
        for encoded in tiles:
            self._spool.write(encoded)
            self._lengths.append(len(encoded))

    def spooled(self) -> Iterator[bytes]:
        """The encoded tiles that were stored, in order."""
        self._spool.seek(0)
        for length in self._lengths:
            yield self._spool.read(length)

    def close(self) -> None:
        """Drop the stored tiles."""
        self._spool.close()

    def _emit(self, rows: UInt8[np.ndarray, "h width 3"]) -> Iterator[bytes]:
        if self._coarser is not None:
            self._coarser.store(self._coarser.push(_reduce(rows, self._ratio)))
        for left in range(0, self.width, self._tile):
            yield self._encode(rows[:, left : left + self._tile])

    def _encode(self, pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
        """One JPEG tile, padded with its border; tiles of one colour (the empty glass) are encoded once."""
        height, width = pixels.shape[:2]
        if bool((pixels[::32, ::32] == pixels[0, 0]).all()):  # worth a closer look
            if not np.array_equal(self._plain[0, 0], pixels[0, 0]):
                self._plain = np.tile(pixels[0, 0], (self._tile, self._tile, 1))
                self._plain_encoded = self._jpeg(self._plain)
            if np.array_equal(pixels, self._plain[:height, :width]):
                return self._plain_encoded
        if (height, width) != (self._tile, self._tile):
            pad = ((0, self._tile - height), (0, self._tile - width), (0, 0))
            pixels = np.pad(pixels, pad, mode="edge")
        return self._jpeg(np.ascontiguousarray(pixels))

    def _jpeg(self, pixels: UInt8[np.ndarray, "tile tile 3"]) -> bytes:
        return bytes(
            imagecodecs.jpeg8_encode(
                pixels, self._quality, colorspace="RGB", outcolorspace="YCbCr", subsampling="420"
            )
        )


def _reduce(rows: UInt8[np.ndarray, "h w 3"], ratio: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Mean over ratio x ratio px; an incomplete last row or column is the mean of what there is."""
    return np.asarray(Image.fromarray(rows).reduce(ratio))


def _feed(
    level: _Level, bands: Iterable[UInt8[np.ndarray, "_ width 3"]], size: tuple[int, int], name: str
) -> Iterator[bytes]:
    """Encoded tiles of level 0; the levels above are filled on the way."""
    width, height = size
    for band in bands:
        if band.ndim != 3 or band.shape[1:] != (width, 3) or band.dtype != np.uint8:
            raise ConfigError(
                f"{name}: a band is {band.dtype} of shape {band.shape}; it must be uint8 (rows, {width}, 3)",
                remedy="give bands of that type and shape",
            )
        if level.rows_seen + len(band) > height:
            raise ConfigError(
                f"{name}: the bands have more rows ({level.rows_seen + len(band)}) than the slide ({height})",
                remedy="give bands that make up the slide's height",
            )
        yield from level.push(band)
    if level.rows_seen != height:
        raise ConfigError(
            f"{name}: the bands have {level.rows_seen} rows, the slide {height}",
            remedy="give bands that make up the slide's height",
        )
    yield from level.finish()


def _write_level(
    tiff: tifffile.TiffWriter,
    tiles: Iterator[bytes],
    level: _Level,
    tile: int,
    factor: int,
    mpp: tuple[float, float],
    description: str | None,
) -> None:
    tiff.write(
        tiles,
        shape=(level.height, level.width, 3),
        dtype=np.uint8,
        tile=(tile, tile),
        photometric="ycbcr",
        compression="jpeg",
        subsampling=(2, 2),
        subfiletype=0 if factor == 1 else 1,
        resolution=(1e4 / (mpp[0] * factor), 1e4 / (mpp[1] * factor)),
        resolutionunit="CENTIMETER",
        metadata=None,
        description=description,
        software=False,
    )
