"""Stain vectors of a slide itself: the directions of its haematoxylin and its eosin in optical density.

Light that passed two stains has optical densities in the cone between their vectors. The plane of that cone is that of
the two main directions of all stained pixels, and the vectors are its ends in there, but for the outermost percent of
pixels.

Source: M. Macenko et al., "A Method for Normalizing Histology Slides for Quantitative Analysis", ISBI 2009.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

STAINED = 0.15
"""Least optical density of a stained pixel, the mean of its colours: paler ones are glass and noise."""
LEAST_PIXELS = 1000
"""Number of stained pixels from which stain vectors are told."""
MOST_PIXELS = 200_000
"""Number of pixels, evenly taken, that are looked at: more change nothing."""
OUTERMOST = 0.01
"""Share of pixels at each end of the cone that is noise."""
LEAST_ANGLE = 0.1
"""Angle (rad) between two vectors below which there is but one stain: those of haematoxylin and eosin are .5 apart."""


def stain_vectors(density: Float[Tensor, "n 3"], usual: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """Unit vectors of haematoxylin, eosin and what is neither, in rows, from optical densities of n pixels of a slide.

    usual: those that are taken where too few pixels are stained, or by one stain alone.
    """
    density = density[:: -(-len(density) // MOST_PIXELS)]
    stained = density[density.mean(1) > STAINED].double()
    if len(stained) < LEAST_PIXELS:
        return usual
    plane = torch.linalg.eigh(stained.T @ stained)[1][:, [2, 1]]
    plane = plane * torch.where(
        plane[:, :1].sum() < 0, -1.0, 1.0
    )  # the first is the mean direction: positive
    along, across = (stained @ plane).unbind(1)
    ends = torch.atan2(across, along).quantile(torch.tensor([OUTERMOST, 1 - OUTERMOST]).to(stained))
    one, other = (plane @ torch.stack([ends.cos(), ends.sin()])).T.clamp(min=0)
    if ends[1] - ends[0] < LEAST_ANGLE:
        return usual
    # Of the two, haematoxylin, which is blue, takes away more red.
    one, other = (v / v.norm() for v in ((one, other) if one[0] > other[0] else (other, one)))
    neither = torch.linalg.cross(one, other)
    return torch.stack([one, other, neither / neither.norm()]).to(density)
