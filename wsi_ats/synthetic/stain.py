"""Haematoxylin and eosin as light sees them: Beer-Lambert, and how it differs from slide to slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

# Optical density of R, G, B for one unit of each stain: the reference H&E basis of Macenko et al., "A method
# for normalizing histology slides for quantitative analysis", ISBI 2009, as their published code has it.
HAEMATOXYLIN = (0.5626, 0.7201, 0.4062)
EOSIN = (0.2159, 0.8012, 0.5581)
# An amount of 255 in the 8-bit amount maps means this many units of stain.
UNITS_AT_255 = 2.0


@dataclass(frozen=True, slots=True)
class Stain:
    """The stain of one slide: how it was stained and scanned.

    `vectors` (2, 3): optical density of R, G, B for one unit of haematoxylin and of eosin; `strengths`:
    factors on the amounts of the two; `white`: R, G, B of the empty glass, in [0, 255].
    """

    vectors: tuple[tuple[float, float, float], tuple[float, float, float]] = (HAEMATOXYLIN, EOSIN)
    strengths: tuple[float, float] = (1.0, 1.0)
    white: tuple[float, float, float] = (243.0, 242.0, 244.0)

    @staticmethod
    def jittered(rng: np.random.Generator, amount: float | int = 1.0) -> Stain:
        """A stain as another laboratory would have made it; `amount` 0 is the reference, 1 a usual spread."""
        base = np.array([HAEMATOXYLIN, EOSIN])
        vectors = np.clip(base + amount * rng.normal(0.0, 0.035, (2, 3)), 0.02, None)
        vectors *= np.linalg.norm(base, axis=1, keepdims=True) / np.linalg.norm(
            vectors, axis=1, keepdims=True
        )
        strengths = np.exp(amount * rng.uniform(-0.3, 0.3, 2))
        white = np.clip(241.0 + amount * (rng.uniform(-6, 6) + rng.normal(0.0, 1.5, 3)), 200.0, 252.0)
        haematoxylin, eosin = vectors.tolist()
        return Stain(
            (tuple(haematoxylin), tuple(eosin)),
            (float(strengths[0]), float(strengths[1])),
            (float(white[0]), float(white[1]), float(white[2])),
        )

    def background(self) -> UInt8[np.ndarray, " 3"]:
        """R, G, B of the empty glass."""
        return np.asarray(np.rint(np.array(self.white)).astype(np.uint8))

    def table(self) -> UInt8[np.ndarray, "65536 3"]:
        """Table of RGB for every pair of 8-bit amounts; the row is 256 * haematoxylin + eosin.

        Beer-Lambert: I = white * exp(-ln(10) * density), the density being the amounts times the vectors.
        """
        units = np.arange(256) / 255.0 * UNITS_AT_255
        haematoxylin, eosin = (
            np.power(10.0, -strength * units[:, None] * np.array(vector))
            for strength, vector in zip(self.strengths, self.vectors, strict=True)
        )
        light = np.array(self.white) * haematoxylin[:, None, :] * eosin[None, :, :]
        return np.asarray(np.rint(light).astype(np.uint8).reshape(65536, 3))

    def recolour(self, pixels: UInt8[np.ndarray, "rows cols 3"]) -> UInt8[np.ndarray, "rows cols 3"]:
        """Real H&E pixels as this stain and scanner would show them; white glass becomes `white`.

        Optical densities (against 255) are split into the reference stains and what is left, across both; the
        two amounts are scaled by `strengths` and put together again with `vectors`: one 3 x 3 matrix on the
        densities.
        """
        amounts = np.linalg.inv(_basis((HAEMATOXYLIN, EOSIN)))
        matrix = amounts @ np.diag([*self.strengths, 1.0]) @ _basis(self.vectors)
        density = _DENSITIES[pixels] @ matrix.astype(np.float32)
        # A table in steps of 1/1024 (up to 4) is much faster than a power a pixel.
        index = np.clip(density * 1024 + 0.5, 0, 4095).astype(np.int16)
        fading = np.power(10.0, -np.arange(4096) / 1024)
        recoloured = np.empty(pixels.shape, np.uint8)
        for channel, white in enumerate(self.white):
            shades = np.rint(white * fading).astype(np.uint8)
            np.take(shades, index[..., channel], out=recoloured[..., channel], mode="clip")
        return recoloured


_DENSITIES = -np.log10(np.maximum(np.arange(256), 1) / 255.0).astype(np.float32)
"""Optical density of every 8-bit level; black counts as 1."""


def _basis(
    vectors: tuple[tuple[float, float, float], tuple[float, float, float]],
) -> Float[np.ndarray, "3 3"]:
    """The two stains and the direction across both, as unit rows."""
    rows = np.array([*vectors, np.cross(*np.array(vectors))])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
