"""Tones: the colours of a slide in a dozen numbers, by which one of another stain, scanner or lamp is told.

All are of the low-resolution view, so that no more need be read.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from wsi_ats.lowres.tissue import Tissue

NAMES = (
    *(f"{what} of {colour}" for what in ("mean", "spread", "skew") for colour in ("red", "green", "blue")),
    *(f"density of the glass in {colour}" for colour in ("red", "green", "blue")),
    "share of tissue",
)
"""What each number is: mean, standard deviation and skewness of the optical density of stained pixels, colour by
colour; optical density of the glass; and the logit of the share of the view that is tissue."""

UNITS = np.array([0.02] * 3 + [0.02] * 3 + [0.3] * 3 + [0.02] * 3 + [0.7])
"""Difference in each that means nothing, even where all training slides agree to less: .02 is 5 % of light."""

_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255)


def tones_of(tissue: Tissue) -> Float64[np.ndarray, " 13"]:
    """Tones (13,) of a slide in the order of `NAMES`, in `UNITS`.

    Glass that is not seen is taken as white, as for the tissue mask.
    """
    weight = tissue.colours / np.maximum(tissue.colours.sum(1, keepdims=True), 1)
    mean = (weight * _DENSITY).sum(1)
    centred = _DENSITY - mean[:, None]
    spread = np.sqrt((weight * centred**2).sum(1))
    skew = (weight * centred**3).sum(1) / np.maximum(spread, 1e-3) ** 3
    glass = -np.log10(np.maximum(np.asarray(tissue.light.glass or (255, 255, 255)), 1) / 255)
    share = float(np.clip(tissue.shares.tissue, 1e-3, 1 - 1e-3))
    values = np.concatenate([mean, spread, skew, glass, [np.log(share / (1 - share))]])
    return np.asarray(values / UNITS, np.float64)
