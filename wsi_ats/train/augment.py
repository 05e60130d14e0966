"""Random changes in training of what the networks see, so that they do not learn slides by heart.

What is drawn for a slide depends on (seed, epoch, slide) alone, so that a run that was interrupted, or that several
processes share, goes on as it would have. Stain, light and blur are drawn once a slide, as they are made: a change of
each tile apart would be averaged away in the slide's summary.

Stain: D. Tellez et al., "Whole-Slide Mitosis Detection in H&E Breast Histology Using PHH3 as a Reference to Train
Distilled Stain-Invariant Convolutional Networks", IEEE Trans. Med. Imaging 37, 2018, and "Quantifying the effects of
data augmentation and stain color normalization in convolutional neural networks for computational pathology", Med.
Image Anal. 58, 2019; with the stain vectors of A. Ruifrok, D. Johnston, Anal. Quant. Cytol. Histol. 23, 2001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from wsi_ats.config import AugmentSettings
from wsi_ats.sampling import generator_for
from wsi_ats.train.macenko import stain_vectors

FAINTEST = 1 / 255
"""Least light whose optical density is taken."""
REACH = 3.0
"""Standard deviations that a blur reaches."""
Name = tuple[int | str, ...]
"""What the draw for a slide depends on beside the seed: the epoch and its name."""


@dataclass(frozen=True)
class Augmentation:
    """Changes the tiles of a batch of slides, `counts` of each, as `how` says.

    >>> tiles = torch.rand(5, 3, 8, 8)
    >>> same = Augmentation(AugmentSettings(), [2, 3], 0, [(0, "a.svs"), (0, "b.svs")], turn=False)
    >>> bool((same(tiles) == tiles).all())
    True
    """

    how: AugmentSettings
    counts: Sequence[int]
    seed: int
    names: Sequence[Name]
    """One a slide."""
    turn: bool
    """Whether tiles are flipped and turned, too."""

    def __call__(self, tiles: Float[Tensor, "M 3 h h"]) -> Float[Tensor, "M 3 h h"]:
        """The tiles (M, 3, h, h), slide after slide, in [0, 1], changed."""
        if self.turn:
            which = [
                torch.randint(8, (n,), generator=generator_for(self.seed, "turn", *name))
                for n, name in zip(self.counts, self.names, strict=True)
            ]
            tiles = turned(tiles, torch.cat(which))
        # All are drawn whatever is wished for, so that one setting does not change what another draws.
        generators = (generator_for(self.seed, "augment", *name) for name in self.names)
        drawn = torch.stack([torch.rand(8, generator=generator) for generator in generators]).to(tiles)
        drawn = self._to_tiles(drawn)
        both = 2 * drawn - 1
        if self.how.stain:
            factors, offsets, vectors = 1 + self.how.stain * both[:, :3], self.how.stain * both[:, 3:6], None
            if self.how.stain_vectors == "own":
                vectors = self._own_vectors(tiles)
                factors[:, 2], offsets[:, 2] = 1, 0  # what is neither stain is no stain
            tiles = restained(tiles, factors, offsets, vectors)
        if self.how.light:
            tiles = relit(tiles, 1 + self.how.light * both[:, 6])
        if self.how.blur:
            tiles = blurred(tiles, self.how.blur * drawn[:, 7])
        return tiles

    def _to_tiles(self, of_slides: Float[Tensor, S * d]) -> Float[Tensor, M * d]:
        """What is of each slide, for each of its tiles."""
        return of_slides.repeat_interleave(torch.tensor(self.counts, device=of_slides.device), 0)

    def _own_vectors(self, tiles: Float[Tensor, "M 3 h w"]) -> Float[Tensor, "M 3 3"]:
        """Stain vectors of the slide of each tile, from all its tiles."""
        pixels = [
            density_of(mine).movedim(1, -1).reshape(-1, 3) for mine in torch.split(tiles, [*self.counts])
        ]
        return self._to_tiles(torch.stack([stain_vectors(mine, usual_vectors(tiles)) for mine in pixels]))


def places(
    how: AugmentSettings, counts: Sequence[int], seed: int, names: Sequence[Name]
) -> Float64[np.ndarray, "M 2"] | None:
    """Where the tiles of a batch of slides, `counts` of each, lie in their cells: (x, y) from the middle in shares of a
    cell, evenly within half of `how.place` each way; None where they are to stay."""
    if not how.place:
        return None
    drawn = [
        torch.rand(n, 2, generator=generator_for(seed, "place", *name), dtype=torch.float64)
        for n, name in zip(counts, names, strict=True)
    ]
    found: Float64[np.ndarray, "M 2"] = how.place * (torch.cat(drawn).numpy() - 0.5)
    return found


def restained(
    tiles: Float[Tensor, "M 3 h w"],
    factors: Float[Tensor, "M 3"],
    offsets: Float[Tensor, "M 3"],
    vectors: Float[Tensor, "M 3 3"] | None = None,
) -> Float[Tensor, "M 3 h w"]:
    """Tiles whose amounts of haematoxylin, eosin and the rest, in optical density, are multiplied and added to.

    vectors: the unit vectors of these three for each tile, in rows; None: the usual ones.
    """
    if vectors is None:
        vectors = usual_vectors(tiles).expand(len(tiles), 3, 3)
    amounts = torch.einsum("mchw,mcs->mshw", density_of(tiles), torch.linalg.inv(vectors))
    amounts = amounts * factors[:, :, None, None] + offsets[:, :, None, None]
    return (10 ** -torch.einsum("mshw,msc->mchw", amounts, vectors)).clamp(0, 1)


def density_of(tiles: Float[Tensor, "M 3 h w"]) -> Float[Tensor, "M 3 h w"]:
    """Optical density of each colour."""
    return -tiles.clamp(min=FAINTEST).log10()


def usual_vectors(like: Tensor) -> Float[Tensor, "3 3"]:
    """Stain vectors of haematoxylin, eosin and the rest (DAB) that Ruifrok and Johnston measured, in rows."""
    from skimage.color import rgb_from_hed

    return torch.tensor(rgb_from_hed).to(like)


def relit(tiles: Float[Tensor, "M 3 h w"], factors: Float[Tensor, " M"]) -> Float[Tensor, "M 3 h w"]:
    """Tiles in so many times the light; what is too bright is white."""
    return (tiles * factors[:, None, None, None]).clamp(0, 1)


def blurred(tiles: Float[Tensor, "M 3 h w"], sigmas: Float[Tensor, " M"]) -> Float[Tensor, "M 3 h w"]:
    """Tiles behind a Gaussian of their own standard deviation each, in px; mirrored at the edges."""
    reach = min(int(np.ceil(REACH * float(sigmas.max()))), min(tiles.shape[2:]) - 1)
    steps = torch.arange(-reach, reach + 1, device=tiles.device, dtype=tiles.dtype)
    kernels = torch.exp(-0.5 * (steps / sigmas.clamp(min=1e-3)[:, None]) ** 2)
    kernels = kernels * (steps.abs() <= (REACH * sigmas).ceil()[:, None])  # whatever others reach
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    many, (height, width) = len(kernels), tiles.shape[2:]
    out = tiles.reshape(1, many, height, width)
    out = F.conv2d(F.pad(out, (reach, reach, 0, 0), "reflect"), kernels[:, :, None], groups=many)
    out = F.conv2d(F.pad(out, (0, 0, reach, reach), "reflect"), kernels[..., None], groups=many)
    return out.reshape(tiles.shape)


def turned(tiles: Float[Tensor, "N 3 h h"], which: Int64[Tensor, " N"]) -> Float[Tensor, "N 3 h h"]:
    """Tiles (N, 3, h, h), each flipped and turned by one of the eight symmetries of the square: tissue has no up."""
    out = torch.empty_like(tiles)
    for symmetry in range(8):
        mine = (which == symmetry).nonzero()[:, 0].to(tiles.device)
        rotated = torch.rot90(tiles[mine], symmetry % 4, (2, 3))
        out[mine] = rotated.flip(3) if symmetry >= 4 else rotated
    return out


def bag_shift(
    vectors: Float[Tensor, "N D"], length: float, generator: torch.Generator
) -> Float[Tensor, "N D"]:
    """Tile vectors (N, D) of a slide, all moved by one random vector of about `length`, as stain and scanner do."""
    drawn = torch.randn(vectors.shape[1], generator=generator).to(vectors)
    return vectors + length * drawn.div(vectors.shape[1] ** 0.5)
