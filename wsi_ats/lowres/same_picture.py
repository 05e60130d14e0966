"""Whether the levels of a slide show the same picture: a file may hold another one, or none, where a level should be.

Where two levels both have texture they must agree in it, patch by patch; one that is even where the other is not agrees
in nothing. Compared are a few small patches, and many more only where those leave a doubt: what is refused has failed
at all of them. Smoothing and a shift of a level px let pass what writers of levels differ in: sharpening, compression,
pixels picked instead of averaged, grids that begin half a pixel beside each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise, product

import numpy as np
from jaxtyping import Float64, Int64, Num
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Level
from wsi_ats.lowres.light import luma
from wsi_ats.slides.base import Slide

FEW, MANY = 4, 28
"""Patches that are compared at first, and where they leave a doubt."""
SIDE, MOST_PX = 16, 512
"""Most px of a patch's side: in the level, and in the finer one that it is compared with."""
LEAST_SIDE = 6
"""Least side of a patch in px of the level; what has no room for it is not compared."""
SMOOTH = 3
"""Side in level px of the squares that patches are smoothed over."""
TEXTURE = 5.0
"""Standard deviation of luma from which a smoothed patch has texture."""
LEAST_TEXTURED = 3
"""Number of textured patches below which nothing is concluded."""
DOUBTFUL, CONTRADICTED = 0.6, 0.4
"""Correlation below which more patches are compared, and below which levels show different pictures. Measured: above
.95 for levels as scanners and vips make them, above .7 for pixels picked from 16 x 16, below .2 for slides that are
mirrored or turned."""

Whole = Int64[np.ndarray, " 2"]
Patch = Float64[np.ndarray, "h w"]


def check_levels(
    slide: Slide, downsamples: Iterable[tuple[float | int, float | int]], places: Float64[np.ndarray, "N 2"]
) -> None:
    """Raises SlideError where the levels that are read at `downsamples` do not show the same picture as level 0.

    places: centres (x, y) in level-0 px where there is something to see, tissue; some that are spread over the slide
    are looked at, too, and they alone where none are given. Each level is compared with the next finer one of them, and
    the finest with level 0. Patches that cannot be read are passed over.
    """
    indices = {slide.pyramid.nearest_finer(downsample).index for downsample in downsamples}
    for finer, coarser in pairwise(sorted(indices | {0})):
        _check(slide, slide.levels[finer], slide.levels[coarser], places)


def _check(slide: Slide, finer: Level, level: Level, places: Float64[np.ndarray, "N 2"]) -> None:
    found: list[tuple[Patch, Patch]] = []
    for patches in (FEW, MANY) if len(places) else (MANY,):
        found += _pairs(slide, finer, level, _chosen(slide, places, patches))
        agreement, textured = agreement_of(found)
        if textured and agreement >= DOUBTFUL:
            return
    if textured >= LEAST_TEXTURED and agreement < CONTRADICTED:
        width, height = level.size.width, level.size.height
        raise SlideError(
            f"slide {slide.name!r}: level {level.index} ({width} x {height} px) shows another picture than level "
            f"{finer.index}: at {textured} places with texture their correlation is {agreement:.2f}, and levels of one "
            f"picture have over {DOUBTFUL:g}",
            "look at the levels in a viewer; make them anew from the right one, for example with `vips tiffsave "
            "IN[level=0] OUT.tif --tile --pyramid`, or copy the file again from its source",
        )


def agreement_of(pairs: Iterable[tuple[Patch, Patch]]) -> tuple[float, int]:
    """How well pairs of patches agree in their texture, as their mean correlation at the best common shift, and how
    many have texture."""
    found = []
    for pair in pairs:
        one, other = (sliding_window_view(patch, (SMOOTH, SMOOTH)).mean((2, 3)) for patch in pair)
        if max(one.std(), other.std()) >= TEXTURE:
            height, width = (side - 2 for side in one.shape)
            moved = (other[y : y + height, x : x + width] for y, x in product(range(3), range(3)))
            found.append([_correlation(one[1:-1, 1:-1], part) for part in moved])
    return (float(np.mean(found, axis=0).max()) if found else 0.0), len(found)


def _correlation(one: Patch, other: Patch) -> float:
    """Pearson's; 0 where either is even."""
    both = np.cov(one.ravel(), other.ravel())
    return float(both[0, 1] / math.sqrt(max(both[0, 0] * both[1, 1], 1e-6)))


def _chosen(slide: Slide, places: Float64[np.ndarray, "N 2"], patches: int) -> Float64[np.ndarray, "n 2"]:
    """Three quarters of so many centres from `places`, evenly in their order, the others spread over the slide."""
    own = min(3 * patches // 4, len(places))
    taken = places[((np.arange(own) + 0.5) * len(places) / max(own, 1)).astype(int)]
    # Multiples of the plastic number's powers, modulo 1: no two near each other, however many (M. Roberts, 2018).
    steps = np.arange(1, patches - own + 1)[:, None] * np.asarray([0.7548776662466927, 0.5698402909980532])
    return np.concatenate([taken.reshape(-1, 2), (0.5 + steps) % 1 * np.asarray(slide.size)])


def _pairs(
    slide: Slide, finer: Level, level: Level, centres: Float64[np.ndarray, "n 2"]
) -> Iterator[tuple[Patch, Patch]]:
    """Luma of a level, and of a finer one at its scale, around each centre."""
    zoom = np.asarray(level.downsample) / finer.downsample
    size, tile = (
        np.asarray((level.size.width, level.size.height)),
        np.asarray(slide.tile_size(finer.index)) / zoom,
    )
    sides = np.minimum(np.minimum(SIDE, MOST_PX // zoom), size)
    # A px less, where patches are then inside one tile of the finer level, the dearest of what is read here.
    sides = np.where((sides > tile - 1) & (tile >= SIDE / 2), tile - 1, sides).astype(np.int64)
    if sides.min() < LEAST_SIDE:
        return
    centres = centres / np.asarray(level.downsample)
    first = np.floor(centres / tile) * tile
    corners = np.clip(centres - sides / 2, first, np.maximum(first, first + tile - sides - 1))
    corners = np.clip(np.ceil(corners).astype(np.int64), 0, size - sides)
    for corner in level.location_of(np.unique(corners, axis=0)):
        try:
            pair = _patch(slide, level, corner, sides), _shrunk(slide, finer, corner, sides, zoom)
        except SlideError:
            continue  # where the model needs it, reading will say so
        if not (_is_damaged(slide, level, corner, sides) or _is_damaged(slide, finer, corner, sides * zoom)):
            yield pair


def _is_damaged(slide: Slide, level: Level, corner: Whole, size: Num[np.ndarray, " 2"]) -> bool:
    """Whether a tile that could not be read is under a patch: it is background there."""
    first, tile = np.asarray(level.pixel_at(*corner.tolist())), np.asarray(slide.tile_size(level.index))
    bad = np.asarray([place for number, *place in slide.bad_tiles if number == level.index]).reshape(-1, 2)
    return bool(((bad * tile < first + size) & ((bad + 1) * tile > first)).all(axis=1).any())


def _patch(slide: Slide, level: Level, corner: Whole, size: Whole) -> Patch:
    return luma(slide.read((corner[0], corner[1]), (size[0], size[1]), level.index).astype(np.float64))


def _shrunk(slide: Slide, level: Level, corner: Whole, size: Whole, zoom: Float64[np.ndarray, " 2"]) -> Patch:
    """A patch of `size` (width, height) px whose px are `zoom` px of the level wide and high."""
    patch = _patch(slide, level, corner, np.rint(size * zoom).astype(np.int64))
    return np.asarray(Image.fromarray(patch).resize((size[0], size[1]), Image.Resampling.BOX), np.float64)
