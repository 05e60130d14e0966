"""Artefacts that slides come with, put on pixels: strokes of a pen, light out of the ordinary, black padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, UInt8

Rgb = tuple[int, int, int]

PENS: dict[str, Rgb] = {
    "blue": (30, 40, 160),
    "green": (20, 140, 60),
    "red": (200, 30, 30),
    "black": (15, 15, 18),
    "orange": (240, 150, 20),
}
"""Colours of full markers."""


def with_pen(
    pixels: UInt8[np.ndarray, "h w 3"],
    colour: Rgb,
    points: Sequence[tuple[float | int, float | int]],
    width: float | int,
    *,
    opacity: float = 0.75,
    wave: float | int = 0.0,
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the pixels with a stroke of ink through `points` (x, y), all in px.

    wave: how far the stroke swings to both sides, 12 times over its length. opacity: share of the ink in a pixel's
    colour in the middle of the stroke; over its last tenth to the edge it falls to none.
    """
    out = pixels.copy()
    path = _path(np.asarray(points, np.float64), wave)
    reach = width / 2
    share = np.zeros(pixels.shape[:2], np.float32)
    for (x0, y0), (x1, y1) in pairwise(path):
        left, top = (max(int(min(a, b) - reach), 0) for a, b in ((x0, x1), (y0, y1)))
        right, bottom = (int(max(a, b) + reach) + 2 for a, b in ((x0, x1), (y0, y1)))
        y, x = np.mgrid[top : min(bottom, pixels.shape[0]), left : min(right, pixels.shape[1])]
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-9)
        along = np.clip(along, 0, 1)
        distance = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        ink = np.clip((reach - distance) / (0.1 * reach), 0, 1).astype(np.float32)
        part = share[top : top + ink.shape[0], left : left + ink.shape[1]]
        np.maximum(part, ink, out=part)
    inked = share > 0
    mixed = opacity * share[inked][:, None]
    out[inked] = np.rint((1 - mixed) * pixels[inked] + mixed * np.asarray(colour)).astype(np.uint8)
    return out


def in_light(
    pixels: UInt8[np.ndarray, "h w 3"],
    lamp: float | int = 1.0,
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels as a lamp of `lamp` of full light shows them, each colour times `tint`."""
    levels = np.rint(np.arange(256)[:, None] * lamp * np.asarray(tint)).clip(0, 255).astype(np.uint8)
    return np.stack([levels[pixels[..., channel], channel] for channel in range(3)], axis=-1)


def in_falling_light(
    pixels: UInt8[np.ndarray, "h w 3"], lowest: float | int, *, radial: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels in light that falls to `lowest` of full light, from left to right or from middle to corners."""
    y, x = (np.linspace(0, 1, side) for side in pixels.shape[:2])
    fallen = np.minimum(2 * ((x[None] - 0.5) ** 2 + (y[:, None] - 0.5) ** 2), 1) if radial else x[None]
    return np.asarray(np.rint(pixels * (1 - (1 - lowest) * fallen)[..., None]), np.uint8)


def with_black(pixels: UInt8[np.ndarray, "h w 3"], share: float | int) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels with black to their right and below, `share` of the whole."""
    zoom = (1 / (1 - share)) ** 0.5
    out = np.zeros((round(pixels.shape[0] * zoom), round(pixels.shape[1] * zoom), 3), np.uint8)
    out[: pixels.shape[0], : pixels.shape[1]] = pixels
    return out


def _path(points: Float64[np.ndarray, "n 2"], wave: float | int) -> Float64[np.ndarray, "m 2"]:
    """Points along a polyline, swung to both sides of it."""
    if not wave:
        return points
    lengths = np.hypot(*np.diff(points, axis=0).T)
    upto = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.linspace(0, upto[-1], 12 * 16 + 1)
    x, y = (np.interp(at, upto, points[:, axis]) for axis in (0, 1))
    piece = np.clip(np.searchsorted(upto, at, side="right") - 1, 0, len(lengths) - 1)
    along = np.diff(points, axis=0)[piece] / lengths[piece][:, None]
    swing = wave * np.sin(2 * np.pi * 12 * at / upto[-1])
    return np.stack([x - swing * along[:, 1], y + swing * along[:, 0]], axis=1)
