"""Whether the levels of a slide show the same picture: a file may hold another one, or none, where a level should be.

Where two levels both have texture they must agree in it, place by place; one that is even where the other is not agrees
in nothing. Compared are a few small patches, and more and larger ones only where those leave a doubt: what is refused
has failed at a fifth of the places.

Places where tissue is seen are found on the coarse level, so that there are none where it is blank by mistake. Cells of
the view that are all of one colour, as glass hardly is, are therefore looked at on the finer level, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64, Num, UInt8
from PIL import Image
from scipy.ndimage import binary_erosion

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Level
from wsi_ats.lowres.agreement import Agreement, Pairs, agreement_of, is_hidden
from wsi_ats.lowres.view import LazyView, View
from wsi_ats.slides.base import Slide

FEW, MANY = 5, 28
"""Patches that are compared at first, and where they leave a doubt."""
BLANKS, MORE_BLANKS = 12, 28
"""Blank places that are looked at on the finer level, and so many more where one of them is not blank there."""
LEAST_BLANK = 1 / 100
"""Share of a view's cells that have, with those around them, one and the same colour, from which some are looked at.
Measured on real glass at 4 um/px and coarser: none."""
SIDE, MOST_PX = 16, 512
"""Most px of a patch's side: in the level, and in the finer one that it is compared with; there twice it in doubt."""
LEAST_SIDE = 6
"""Least side of a patch in px of the level; what has no room for it is not compared."""
LEAST_TEXTURED = 3
"""Number of textured patches below which nothing is concluded."""
DOUBTFUL, CONTRADICTED = 0.6, 0.4
"""Correlation below which more patches are compared, of all or of one, and below which levels show different pictures.
Measured: above .95 for levels as scanners and vips make them, above .7 for pixels picked from 16 x 16, below .2 for
slides that are mirrored or turned."""
MOST_TOLD, MOST_APART = 1 / 8, 1 / 5
"""Shares of the places that show something else, from which it is told and from which the slide is refused. Measured in
levels of one picture: none as scanners and vips make them, up to .07 for pixels picked and compressed at quality 30."""
MOST_HIDDEN = 1 / 10
"""Share of the tissue that is hidden where a level is blank from which the slide is refused."""

REMEDY = (
    "look at the levels in a viewer; make them anew from the right one, for example with `vips tiffsave "
    "IN[level=0] OUT.tif --tile --pyramid`, or copy the file again from its source"
)

Whole = Int64[np.ndarray, " 2"]
Places = Float64[np.ndarray, "_ 2"]
Patch = UInt8[np.ndarray, "h w 3"]
NOWHERE = np.empty((0, 2))


def check_levels(
    slide: Slide,
    downsamples: Iterable[tuple[float | int, float | int]],
    places: Places,
    blanks: Places = NOWHERE,
) -> tuple[str, ...]:
    """Clauses on what levels that are read at `downsamples` have otherwise than level 0: a part, or the colours.

    places: centres (x, y) in level-0 px of the cells where there is something to see, tissue; some that are spread over
    the slide are looked at, too, and they alone where none are given. blanks: those of cells where nothing is, not even
    glass (`blank_places`). Each level is compared with the next finer one of them, and the finest with level 0. Patches
    that cannot be read are passed over. Raises SlideError where levels show another picture than level 0, or none, in a
    fifth of the places or where a tenth of the tissue is, or their colours in another order.
    """
    indices = {slide.pyramid.nearest_finer(downsample).index for downsample in downsamples}
    notes: list[str] = []
    for finer, level in pairwise(slide.levels[index] for index in sorted(indices | {0})):
        notes += _compared(slide, finer, level, places)
        notes += _blanks_compared(slide, finer, level, blanks, len(places))
    return tuple(notes)


def blank_places(view: View | LazyView) -> Places:
    """Centres (x, y) in level-0 px of the view's cells that have one and the same colour, as have those around them,
    where they are many.

    None of a view that is not in memory.
    """
    if isinstance(view, LazyView):
        return NOWHERE
    rows, cols, stride = view.grid.rows, view.grid.cols, view.stride
    step = max(1, stride // 4)
    cells = view.pixels.reshape(rows, stride, cols, stride, 3)[:, step // 2 :: step, :, step // 2 :: step]
    first = cells[:, :1, :, :1]
    even = (cells == first).all((1, 3, 4))
    colours = first.reshape(rows, cols, 3).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    found, counts = np.unique(colours[even], return_counts=True)
    if not len(found):
        return NOWHERE
    commonest = even & (colours == found[counts.argmax()])
    inside = np.flatnonzero(binary_erosion(commonest, np.ones((3, 3)), border_value=1))
    return view.grid.centres(inside) if len(inside) >= LEAST_BLANK * len(view.grid) else NOWHERE


def _compared(slide: Slide, finer: Level, level: Level, places: Places) -> list[str]:
    if len(places):
        found = _places_in(slide, finer, level, _chosen(slide, places, FEW))[1]
        if not _is_doubtful(agreement_of(found)):
            return []
    corners, found = _places_in(slide, finer, level, _chosen(slide, places, MANY), in_doubt=True)
    agreement = agreement_of(found)
    if len(agreement) < LEAST_TEXTURED:
        return []
    return _judged(agreement, f"slide {slide.name!r}: ", level, finer, corners[agreement.which])


def _judged(
    agreement: Agreement, whose: str, level: Level, finer: Level, corners: Int64[np.ndarray, "n 2"]
) -> list[str]:
    """Notes on a level by its agreement at places with texture; raises SlideError where it is an error of the file."""
    what = f"level {level.index} ({level.size.width} x {level.size.height} px)"
    other, of = f"level {finer.index}", f"of {len(agreement)} places with texture"
    if agreement.mean < CONTRADICTED:
        raise SlideError(
            f"{whose}{what} shows another picture than {other}: at {len(agreement)} places with texture their "
            f"correlation is {agreement.mean:.2f}, and levels of one picture have over {DOUBTFUL:g}",
            REMEDY,
        )
    if agreement.order != "RGB":
        raise SlideError(
            f"{whose}{what} has its colours in another order than {other}: {agreement.order} for RGB, at "
            f"{len(agreement)} places with texture",
            REMEDY,
        )
    apart, recoloured = agreement.apart, agreement.recoloured
    notes = []
    if apart.sum() >= max(LEAST_TEXTURED, MOST_TOLD * len(apart)):
        x, y = corners[apart][0]
        clause = f"in a part another picture than {other}, or none: at {apart.sum()} {of}, as at ({x}, {y})"
        if apart.sum() >= MOST_APART * len(apart):
            raise SlideError(f"{whose}{what} shows {clause}", REMEDY)
        notes.append(f"{what} shows {clause}")
    if recoloured.sum() >= max(LEAST_TEXTURED, MOST_APART * len(apart)):
        own, its = (_rgb(colour) for colour in agreement.colours[recoloured].mean(axis=0))
        notes.append(
            f"{what} has other colours than {other} at {recoloured.sum()} {of}: RGB {own}, and {its} there; what "
            "is drawn from it may be wrong"
        )
    return notes


def _blanks_compared(slide: Slide, finer: Level, level: Level, blanks: Places, tissue: int) -> list[str]:
    """Notes on a level that is blank where a finer one is not, `tissue` being the number of cells with tissue; raises
    SlideError where much is hidden by it."""
    if not len(blanks):
        return []
    order = (
        np.arange(1, BLANKS + MORE_BLANKS + 1) * 0.6180339887498949 % 1
    )  # the golden ratio: evenly, in any number
    chosen = blanks[(order * len(blanks)).astype(int)]
    corners, found = _places_in(slide, finer, level, chosen[:BLANKS])
    if not is_hidden(found).any():
        return []
    corners, found = _places_in(slide, finer, level, chosen)
    hidden = is_hidden(found)
    share = hidden.mean() * len(blanks)
    share /= share + tissue
    x, y = corners[hidden][0]
    clause = (
        f"level {level.index} ({level.size.width} x {level.size.height} px) is blank where level {finer.index} is "
        f"not: at {hidden.sum()} of {len(hidden)} blank places, as at ({x}, {y}), so that about {share:.0%} of the "
        "tissue is not seen"
    )
    if hidden.sum() >= LEAST_TEXTURED and share >= MOST_HIDDEN:
        raise SlideError(f"slide {slide.name!r}: {clause}", REMEDY)
    return [clause] if hidden.sum() > 1 else []


def _rgb(colour: Float64[np.ndarray, " 3"]) -> str:
    return "({}, {}, {})".format(*np.rint(colour).astype(int))


def _is_doubtful(agreement: Agreement) -> bool:
    return (
        not len(agreement)
        or agreement.mean < DOUBTFUL
        or float(agreement.correlations.min()) < CONTRADICTED
        or bool(agreement.recoloured.any())
        or agreement.order != "RGB"
    )


def _chosen(slide: Slide, places: Places, patches: int) -> Float64[np.ndarray, "n 2"]:
    """Three quarters of so many centres from `places`, evenly in their order, the others spread over the slide."""
    own = min(patches - patches // 4, len(places))
    taken = places[((np.arange(own) + 0.5) * len(places) / max(own, 1)).astype(int)]
    # Multiples of the plastic number's powers, modulo 1: no two near each other, however many (M. Roberts, 2018).
    steps = np.arange(1, patches - own + 1)[:, None] * np.asarray([0.7548776662466927, 0.5698402909980532])
    return np.concatenate([taken.reshape(-1, 2), (0.5 + steps) % 1 * np.asarray(slide.size)])


def _places_in(
    slide: Slide, finer: Level, level: Level, centres: Places, *, in_doubt: bool = False
) -> tuple[Int64[np.ndarray, "n 2"], Pairs]:
    """Corners in level-0 px, and the pixels of a level and of a finer one at its scale there, around the centres.

    In doubt patches are as large as they may be, else they are inside one tile of the finer level.
    """
    zoom = np.asarray(level.downsample) / finer.downsample
    size = np.asarray((level.size.width, level.size.height))
    tile = np.asarray(slide.tile_size(finer.index)) / zoom
    most = 2 * MOST_PX if in_doubt else MOST_PX
    sides = np.minimum(np.minimum(SIDE, most // zoom), size)
    # A px less, where patches are then inside one tile of the finer level, the dearest of what is read here.
    trimmed = (sides > tile - 1) & (tile >= SIDE / 2) & (not in_doubt)
    sides = np.where(trimmed, tile - 1, sides).astype(np.int64)
    if sides.min() < LEAST_SIDE:
        return np.empty((0, 2), np.int64), np.empty((0, 2, SIDE, SIDE, 3), np.uint8)
    centres = centres / np.asarray(level.downsample)
    corners = centres - sides / 2
    if not in_doubt:
        first = np.floor(centres / tile) * tile
        corners = np.clip(corners, first, np.maximum(first, first + tile - sides - 1))
    corners = np.clip(np.ceil(corners).astype(np.int64), 0, size - sides)
    corners = level.location_of(np.unique(corners, axis=0))
    found = {}
    for at, patch in _patches(slide, level, corners, sides):
        corner = corners[at]
        try:
            pair = patch, _shrunk(slide, finer, corner, sides, zoom)
        except SlideError:
            continue
        if not (_is_damaged(slide, level, corner, sides) or _is_damaged(slide, finer, corner, sides * zoom)):
            found[at] = np.stack(pair)
    pairs = np.empty((len(found), 2, sides[1], sides[0], 3), np.uint8)
    for target, patches in zip(pairs, found.values(), strict=True):
        target[:] = patches
    return corners[list(found)], pairs


def _patches(
    slide: Slide, level: Level, corners: Int64[np.ndarray, "n 2"], size: Whole
) -> Iterator[tuple[int, Patch]]:
    """The patches of a level that can be read, with their numbers: where the model needs others, reading says so."""
    try:
        # At once: they often share tiles of a coarse level.
        yield from enumerate(slide.read_many(corners, (size[0], size[1]), level.index))
        return
    except SlideError:
        pass
    for at, corner in enumerate(corners):
        with suppress(SlideError):
            yield at, slide.read((corner[0], corner[1]), (size[0], size[1]), level.index)


def _is_damaged(slide: Slide, level: Level, corner: Whole, size: Num[np.ndarray, " 2"]) -> bool:
    """Whether a tile that could not be read is under a patch: it is background there."""
    first, tile = np.asarray(level.pixel_at(*corner.tolist())), np.asarray(slide.tile_size(level.index))
    bad = np.asarray([place for number, *place in slide.bad_tiles if number == level.index]).reshape(-1, 2)
    return bool(((bad * tile < first + size) & ((bad + 1) * tile > first)).all(axis=1).any())


def _shrunk(slide: Slide, level: Level, corner: Whole, size: Whole, zoom: Float64[np.ndarray, " 2"]) -> Patch:
    """A patch of `size` (width, height) px whose px are `zoom` px of the level wide and high."""
    width, height = np.rint(size * zoom).astype(np.int64)
    patch = slide.read((corner[0], corner[1]), (width, height), level.index)
    return np.asarray(Image.fromarray(patch).resize((size[0], size[1]), Image.Resampling.BOX))
