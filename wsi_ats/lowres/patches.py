"""Patches, the squares of a few view pixels whose evenness tells ink, glass and black from tissue.

Tissue has texture: of the patches of real H&E and immunohistochemistry that are stained throughout, fewer than one in a
hundred is flat at 4 to 32 um/px. Glass, marker ink and what was never scanned are flat nearly everywhere.

Patches begin at the corner of the pixels that are given. Blocks of a view whose corners are multiples of `SIDE` have
the patches of the view at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8

SIDE = 4
"""Side of a patch in view px; what is less at the far edges counts as one."""

FLAT = 24
"""Largest difference, in grey levels of any colour, between the pixels of a flat patch."""

BITS = 5
"""Bits of each of three colours by which patches are counted."""

COLOURS = 1 << 3 * BITS
"""Number of colours by which patches are counted."""


@dataclass(frozen=True, slots=True)
class Patches:
    """The patches of some pixels (h, w): p = ceil(h / SIDE) rows of q = ceil(w / SIDE)."""

    lowest: UInt8[np.ndarray, "p q 3"]
    """Lowest grey level in each patch, colour by colour."""
    highest: UInt8[np.ndarray, "p q 3"]
    """Highest grey level in each patch, colour by colour."""

    @classmethod
    def of(cls, pixels: UInt8[np.ndarray, "h w 3"]) -> Patches:
        """The patches of the pixels."""
        missing = ((0, -pixels.shape[0] % SIDE), (0, -pixels.shape[1] % SIDE), (0, 0))
        whole = np.pad(pixels, missing, mode="edge")
        return cls(_over_patches(np.minimum, whole), _over_patches(np.maximum, whole))

    @property
    def flat(self) -> Bool[np.ndarray, "p q"]:
        """Whether each patch is flat."""
        return self.is_even(FLAT)

    def is_even(self, limit: int) -> Bool[np.ndarray, "p q"]:
        """Whether the pixels of each patch differ by at most `limit` grey levels in any colour."""
        return np.asarray(((self.highest - self.lowest) <= limit).all(axis=2), bool)

    def differs_by(self, share: float) -> Bool[np.ndarray, "p q"]:
        """Whether the pixels of each patch differ by more than a share of its brightness, whatever that is."""
        light = self.highest.sum(axis=2, dtype=np.int32)
        return np.asarray(light - self.lowest.sum(axis=2, dtype=np.int32) > share * light, bool)


def spread(patches: Bool[np.ndarray, "p q"], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """True where a pixel of a view of `shape` (h, w) lies in one of `patches`."""
    height, width = shape
    return np.asarray(patches.repeat(SIDE, axis=0).repeat(SIDE, axis=1)[:height, :width], bool)


class PatchColours:
    """The patches of a view, counted by their lightest colour; those of nothing but background apart."""

    def __init__(self, background: tuple[int, int, int]) -> None:
        """background: the colour of what was not scanned."""
        self.flat = np.zeros(COLOURS, np.int64)
        """Flat patches."""
        self.rough = np.zeros(COLOURS, np.int64)
        """Other patches."""
        self.inside = np.zeros(COLOURS, np.int64)
        """All patches of both kinds that touch no background."""
        self.blank = 0
        """Patches of nothing but background."""
        self._background = np.asarray(background, np.uint8)
        self._sums = np.zeros((3, COLOURS), np.int64)

    def add(self, patches: Patches) -> None:
        """Count the patches of one block."""
        dark, light = patches.lowest, patches.highest
        touches = (light == self._background).all(axis=2)
        blank = touches & (dark == self._background).all(axis=2)
        flat = patches.flat & ~blank
        self.blank += int(np.count_nonzero(blank))
        colours = codes(light)
        self.rough += _counts(colours[~flat & ~blank])
        self.inside += _counts(colours[~touches])
        of_flat = colours[flat]
        self.flat += _counts(of_flat)
        twice = (light[flat].astype(np.int64) + dark[flat]).T
        for sums, values in zip(self._sums, twice, strict=True):
            sums += np.bincount(of_flat, weights=values, minlength=COLOURS).astype(np.int64)

    def mean(self, colours: Bool[np.ndarray, " colours"]) -> Float64[np.ndarray, " 3"]:
        """Mean colour of the flat patches that were counted under `colours`."""
        return np.asarray(self._sums[:, colours].sum(axis=1) / (2 * self.flat[colours].sum()), np.float64)


def palette(bits: int = BITS) -> Float64[np.ndarray, "colours 3"]:
    """The middle of each of the 2^(3 bits) colours that `codes` tells apart, in grey levels."""
    steps = (np.arange(1 << bits) + 0.5) * (256 >> bits) - 0.5
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)


def codes(pixels: UInt8[np.ndarray, "*any 3"], bits: int = BITS) -> Int32[np.ndarray, "*any"]:
    """Which colour of the `palette` each pixel is nearest to."""
    red, green, blue = (pixels[..., channel].astype(np.int32) >> (8 - bits) for channel in range(3))
    return np.asarray(((red << bits) | green) << bits | blue, np.int32)


def _counts(colours: Int32[np.ndarray, " n"]) -> Int64[np.ndarray, " colours"]:
    return np.bincount(colours, minlength=COLOURS).astype(np.int64)


def _over_patches(combine: np.ufunc, whole: np.ndarray) -> np.ndarray:
    # Slice by slice: many times faster than a reduction over two axes of four.
    rows = reduce(combine, [whole[i::SIDE] for i in range(SIDE)])
    return np.asarray(reduce(combine, [rows[:, i::SIDE] for i in range(SIDE)]))
