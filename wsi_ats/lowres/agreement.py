"""How well pairs of patches agree, place by place: in texture and in colours.

Smoothing and a shift of a px let pass what writers of levels differ in: sharpening, compression, pixels picked instead
of averaged, grids that begin half a pixel beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from numpy.lib.stride_tricks import sliding_window_view

from wsi_ats.lowres.light import luma

SMOOTH = 3
"""Side in px of the squares that patches are smoothed over."""
TEXTURE, EVEN = 5.0, 1.0
"""Standard deviation of luma from which a smoothed patch has texture, and below which it has none at all."""
APART = 0.5
"""Correlation by which a place that shows something else is below those that agree (their upper quartile)."""
OTHER_COLOURS = 24.0
"""Grey levels, in any of red, green and blue, by which the mean of a place has another colour. Measured at a fifth of
the places: 9 where levels are compressed or picked, 15 where they are averaged in linear light or sharpened."""
SWAPPED, LEAST_SWAPPED = 2.0, 6.0
"""Factor by which the colours agree better in another order from which that is their order, and the grey levels
(root mean square) from which they do not agree in their own."""

Pairs = UInt8[np.ndarray, "n 2 h w 3"]
Smooth = Float64[np.ndarray, "n h w 3"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of n pairs of patches that have texture, at the shift that suits all of them best."""

    which: Bool[np.ndarray, " N"]
    """Which of all N pairs have texture, in one of their patches or both."""
    correlations: Float64[np.ndarray, " n"]
    """Pearson's, of luma; 0 where one of the two is even."""
    colours: Float64[np.ndarray, "n 2 3"]
    """Mean RGB of each patch of a pair."""
    order: str
    """Order of the colours in the first patches of the pairs, "RGB" where nothing else is known."""

    def __len__(self) -> int:
        return len(self.correlations)

    @property
    def mean(self) -> float:
        """Mean correlation; 0 without texture."""
        return float(self.correlations.mean()) if len(self) else 0.0

    @property
    def apart(self) -> Bool[np.ndarray, " n"]:
        """Whether a place shows something else, unlike the others."""
        if not len(self):
            return np.zeros(0, bool)
        return np.asarray(self.correlations < np.quantile(self.correlations, 0.75) - APART, bool)

    @property
    def recoloured(self) -> Bool[np.ndarray, " n"]:
        """Whether a place that shows the same has other colours."""
        differences = np.abs(self.colours[:, 0] - self.colours[:, 1]).max(axis=1)
        return np.asarray((differences > OTHER_COLOURS) & ~self.apart, bool)


def agreement_of(pairs: Pairs) -> Agreement:
    """The agreement of pairs of patches (RGB)."""
    smooth = sliding_window_view(pairs, (SMOOTH, SMOOTH), (2, 3)).mean((-1, -2))
    which = np.asarray(_texture(smooth[:, :, 1:-1, 1:-1]).max(axis=1, initial=0) >= TEXTURE, bool)
    one, other = smooth[which, 0, 1:-1, 1:-1], smooth[which, 1]
    height, width = one.shape[1:3]
    shifted = [other[:, y : y + height, x : x + width] for y, x in product(range(3), range(3))]
    found = np.stack([_correlations(luma(one), luma(part)) for part in shifted])
    best = int(found.sum(axis=1).argmax())
    same = found[best] > APART
    return Agreement(
        which,
        found[best],
        np.stack([one.mean((1, 2)), shifted[best].mean((1, 2))], axis=1),
        _order(one[same], shifted[best][same]),
    )


def is_hidden(pairs: Pairs) -> Bool[np.ndarray, " n"]:
    """Whether the first patch of a pair is even where the second has texture."""
    texture = _texture(sliding_window_view(pairs, (SMOOTH, SMOOTH), (2, 3)).mean((-1, -2)))
    return np.asarray((texture[:, 0] < EVEN) & (texture[:, 1] >= TEXTURE), bool)


def _texture(smooth: Float64[np.ndarray, "n two h w 3"]) -> Float64[np.ndarray, "n two"]:
    return np.asarray(luma(smooth).std((2, 3)))


def _correlations(
    one: Float64[np.ndarray, "n h w"], other: Float64[np.ndarray, "n h w"]
) -> Float64[np.ndarray, " n"]:
    one, other = (patch - patch.mean((1, 2), keepdims=True) for patch in (one, other))
    powers = (one * one).sum((1, 2)) * (other * other).sum((1, 2))
    return np.asarray((one * other).sum((1, 2)) / np.sqrt(np.maximum(powers, 1e-6)))


def _order(one: Smooth, other: Smooth) -> str:
    """The order of the colours in `one` if it is clearly another one than in `other`."""
    if not one.size:
        return "RGB"

    def off(order: tuple[int, ...]) -> float:
        return float(np.sqrt(((one[..., list(order)] - other) ** 2).mean()))

    own, best = off((0, 1, 2)), min(permutations(range(3)), key=off)
    is_other = own >= LEAST_SWAPPED and SWAPPED * off(best) <= own
    return "".join("RGB"[best.index(channel)] for channel in range(3)) if is_other else "RGB"
