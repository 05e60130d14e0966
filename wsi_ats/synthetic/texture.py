"""Periodic textures: collagen fibres and clouds. Two whose periods differ do not repeat to the eye."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8


def _filtered(
    rng: np.random.Generator, period: int, response: Float[np.ndarray, "y half"]
) -> Float[np.ndarray, "y x"]:
    """White noise filtered in the Fourier domain (hence periodic), mean 0 and standard deviation 1."""
    spectrum = np.fft.rfft2(rng.standard_normal((period, period), dtype=np.float32)) * response.astype(
        np.float32
    )
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (period, period))
    return np.asarray(noise / noise.std())


def _frequencies(period: int) -> tuple[Float[np.ndarray, "y 1"], Float[np.ndarray, "1 x"]]:
    """Cycles per pixel of `rfft2`'s output."""
    return np.fft.fftfreq(period)[:, None], np.fft.rfftfreq(period)[None, :]


@lru_cache(maxsize=16)
def clouds(period: int, scale: float, seed: int) -> UInt8[np.ndarray, "period period"]:
    """Smooth blotches about `scale` px wide, uint8, mean 128, standard deviation 40; read-only."""
    fy, fx = _frequencies(period)
    noise = _filtered(
        np.random.default_rng(seed), period, np.exp(-2 * (np.pi * scale / 3) ** 2 * (fy**2 + fx**2))
    )
    return _frozen(128 + 40 * noise)


@lru_cache(maxsize=16)
def fibres(period: int, thickness: float, seed: int) -> UInt8[np.ndarray, "period period"]:
    """Wavy bundles of fibres about `thickness` px thick, uint8, mean 128, standard deviation 40; read-only.

    Noise stretched along one direction, then bent by a smooth displacement of up to a few thicknesses.
    """
    rng = np.random.default_rng(seed)
    fy, fx = _frequencies(period)
    stretched = np.exp(-2 * (np.pi * thickness / 2.5) ** 2 * (fy**2 + (9 * fx) ** 2)) - np.exp(
        -2 * (np.pi * thickness * 2.5) ** 2 * (fy**2 + fx**2)
    )
    bundle = _filtered(rng, period, np.clip(stretched, 0, None))
    grain = _filtered(rng, period, np.exp(-2 * (np.pi * thickness / 4) ** 2 * (fy**2 + fx**2)))
    smooth = np.exp(-2 * (np.pi * thickness * 20) ** 2 * (fy**2 + fx**2))
    bend = [_filtered(rng, period, smooth) for _ in range(2)]
    index = np.arange(period)
    y = np.rint(index[:, None] + 10 * thickness * bend[0]).astype(np.int64) % period
    x = np.rint(index[None, :] + 10 * thickness * bend[1]).astype(np.int64) % period
    return _frozen(128 + 34 * bundle[y, x] + 20 * grain)


def window(
    texture: UInt8[np.ndarray, "period period"], top: int, left: int, shape: tuple[int, int]
) -> UInt8[np.ndarray, "rows cols"]:
    """The part of the endless texture whose first pixel is (top, left), (rows, cols) = shape, as a copy."""
    part = np.empty(shape, np.uint8)
    for to_rows, from_rows in _pieces(top, shape[0], len(texture)):
        for to_cols, from_cols in _pieces(left, shape[1], len(texture)):
            part[to_rows, to_cols] = texture[from_rows, from_cols]
    return part


def _pieces(start: int, length: int, period: int) -> Iterator[tuple[slice, slice]]:
    """Where `length` px from `start` on come from, cut at every multiple of the period: (to, from)."""
    done = 0
    while done < length:
        begin = (start + done) % period
        count = min(period - begin, length - done)
        yield slice(done, done + count), slice(begin, begin + count)
        done += count


def _frozen(values: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x"]:
    texture: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    texture.flags.writeable = False
    return texture
