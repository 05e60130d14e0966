"""Tissue: a mask on the low-resolution view, and the cells of the grid that it fills.

A view shows tissue, glass, pen (`lowres/pen.py`), black (where nothing was scanned) and blank (of the background's very
colour: transparent, or beyond the slide). Stain is judged against the colour of the glass (`lowres/light.py`).

Everything that decides is counted in whole numbers, so that a view that comes in blocks gets the mask of the view
at once. The first walk over the blocks finds the rule (one more in light far from ordinary), the second the mask, which
is kept as bits (20 MB for a slide of 200,000 px at 0.25 um/px and a view of 8 um/px). Small objects and holes are then
judged block by block with as many px around as they may cover: what reaches further is not small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from skimage.filters import threshold_otsu

from wsi_ats.geometry import Box
from wsi_ats.lowres.light import (
    DARK,
    LIT,
    LUMA,
    WHITE_LIGHT,
    WHITE_LUMA,
    Light,
    Rgb,
    find_cast,
    find_even,
    find_lamp,
    find_light,
    is_lit,
    with_shade,
)
from wsi_ats.lowres.mask import Bits, Masks, masks_of
from wsi_ats.lowres.patches import SIDE, PatchColours, Patches, spread
from wsi_ats.lowres.pen import LEAST_PX, MARGIN, NO_PEN, PenRule, find_pen
from wsi_ats.lowres.shares import NOT_KNOWN, ViewShares, no_tissue, notes_of, refuse_pen_everywhere
from wsi_ats.lowres.view import LazyView, Read, View, boxes
from wsi_ats.prefetch import prefetch

Method = Literal["saturation", "optical-density"]

THRESHOLD_RANGE: dict[Method, tuple[float, float]] = {
    "saturation": (0.05, 0.1),
    "optical-density": (0.025, 0.04),
}
"""Bounds of Otsu's threshold, which always finds two classes. Within them it separates tissue from glass; on a blank
slide it would separate noise from noise (below), on one that is mostly tissue dark from pale tissue (above)."""

WHITE: Rgb = (255, 255, 255)
"""Colour of what was not scanned, where a slide does not say another."""

DENSITY_STEPS = 30_000
"""Steps per unit of optical density, mean of RGB, in which it is counted."""

PALE_DENSITY = 0.04
"""Optical density, of the middle of the lightest and the darkest colour, from which a pixel counts as a pale stain."""

PALE_TINT = 0.02
"""Saturation beyond that of the glass from which a pixel is stained on a slide with a pale stain."""

HARDLY = 0.015
"""Saturation below the threshold of what is hardly too pale for tissue, as long as it is that of no glass."""

LEAST_PALE = 0.06
"""Least share of the view that is textured and that dense, and has too little saturation, for a pale stain."""

BLOCK = 512
"""Side in view px of the blocks in which the mask is made."""


def tissue_mask(
    pixels: UInt8[np.ndarray, "h w 3"],
    *,
    method: Method = "saturation",
    min_object: int = 0,
    min_hole: int = 0,
    pen: bool = True,
) -> Bool[np.ndarray, "h w"]:
    """True where a bright-field view shows stained tissue.

    A threshold (Otsu, within THRESHOLD_RANGE) on saturation, (max - min) / max of RGB, or on optical density,
    log10(light through glass / light through the pixel), mean of RGB, both relative to the colour of the glass. Pen
    goes, objects smaller than min_object view px, then holes smaller than min_hole. A view that lets no light through
    (fluorescence, black) has no tissue.

    >>> pixels = np.full((40, 60, 3), 240, np.uint8)  # glass
    >>> pixels[10:30, 20:50] = pixels[2, 2] = 170, 90, 160  # stained tissue, and a speck
    >>> int(tissue_mask(pixels).sum()), int(tissue_mask(pixels, min_object=4).sum())
    (601, 600)
    """
    seen = stain_rule([pixels], method, pen=pen).classes(pixels)
    return masks_of(seen == STAINED, seen == INK, seen == BLACK, min_object, min_hole).tissue


def tissue_cells(
    mask: Bool[np.ndarray, "h w"], stride: int, min_fraction: float | int = 0.25
) -> Int64[np.ndarray, " K"]:
    """Flat indices, ascending, of the cells of stride x stride view px with at least `min_fraction` of tissue.

    >>> mask = np.zeros((8, 12), bool)
    >>> mask[:4, 3:9] = True  # one px of the first column of cells, all of the second, one of the third
    >>> tissue_cells(mask, stride=4).tolist(), tissue_cells(mask, stride=4, min_fraction=0.5).tolist()
    ([0, 1, 2], [1])
    """
    rows, cols = mask.shape[0] // stride, mask.shape[1] // stride
    fraction = mask.reshape(rows, stride, cols, stride).mean(axis=(1, 3))
    return np.flatnonzero((fraction >= min_fraction) & (fraction > 0)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Tissue:
    """The tissue that a view shows."""

    cells: Int64[np.ndarray, " K"]
    """Flat indices of the K grid cells that hold tissue, ascending."""
    colours: Int64[np.ndarray, "3 256"]
    """Number of stained pixels by grey level, for red, green and blue."""
    shares: ViewShares = NOT_KNOWN
    """Shares of tissue, glass, pen, black and blank in the view."""
    light: Light = WHITE_LIGHT
    """The light of the slide."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Clauses on what may shift the answer: pen, black, the light."""
        return notes_of(self.shares, self.light)


def find_tissue(
    view: View | LazyView,
    *,
    name: str,
    read: Read | None = None,
    background: Rgb = WHITE,
    method: Method = "saturation",
    min_object: int = 0,
    min_hole: int = 0,
    min_fraction: float | int = 0.25,
    pen: bool = True,
) -> Tissue:
    """The tissue of a view: `tissue_cells` of `tissue_mask`, block by block, and the colours of the stained pixels.

    Cells that pen covers are none. name: of the slide; background: its colour where nothing was scanned. read: gives
    the pixels of a box of a LazyView. Raises NoTissueError, naming the slide, what the view shows and these settings,
    where no cell holds tissue.
    """
    if read is None:
        if isinstance(view, LazyView):
            raise TypeError("find_tissue needs `read` for a view that is not in memory")
        read = view.crop
    mask = mask_of(
        view, read, background=background, method=method, min_object=min_object, min_hole=min_hole, pen=pen
    )
    cells, shares = _cells_of(mask, view, min_fraction)
    refuse_pen_everywhere(name, shares, mask.rule.light)
    if not len(cells):
        settings = (
            f"min_object={min_object} px, min_hole={min_hole} px, min_fraction={min_fraction} of a cell"
        )
        raise no_tissue(name, shares, mask.rule.is_lit, method, settings)
    return Tissue(cells, mask.colours, shares, mask.rule.light)


GLASS_OR_LITTLE, STAINED, INK, BLACK, BLANK = range(5)
"""Classes of single pixels: glass and all else, stained, of a pen's colour, black, of the background's colour."""


@dataclass(frozen=True, slots=True)
class StainRule:
    """A rule of what single pixels are, one for all blocks of a view."""

    method: Method
    stained: Bool[np.ndarray, " codes"]
    """Whether each code of a colour is that of a stained pixel."""
    light: Light = WHITE_LIGHT
    """The light in which stain is judged."""
    pen: PenRule = NO_PEN
    """Which pixels are ink."""
    background: Rgb = WHITE
    """Colour of what was not scanned."""

    @property
    def is_lit(self) -> bool:
        """Whether any light comes through the slide: where none does, nothing is stained."""
        return bool(self.stained.any())

    def mask(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """True where a pixel is stained and not ink."""
        return np.asarray(self.classes(pixels) == STAINED, bool)

    def classes(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
        """The class of every pixel."""
        even = self.light.even(pixels)
        dark = _luma(even) < 1000 * DARK
        # GLASS_OR_LITTLE and STAINED
        classes = (self.stained[_codes(even, self.method)] & ~dark).astype(np.uint8)
        classes[_is(pixels, self.background)] = BLANK
        if self.pen.is_needed:
            classes[self.pen.mask(even)] = INK
        classes[dark] = BLACK
        return np.asarray(classes, np.uint8)


def stain_rule(
    blocks: Iterable[UInt8[np.ndarray, "h w 3"]],
    method: Method = "saturation",
    *,
    background: Rgb = WHITE,
    pen: bool = True,
) -> StainRule:
    """The rule of a view that comes in blocks; which does not matter, but that they have the patches of the view.

    Blocks are walked over again in light that is far from ordinary. pen: whether ink is looked for.
    """
    patches, counts = _count(blocks, method, WHITE_LIGHT, background)
    light = shown = _light_of(patches, blocks, method, background)
    if not light.is_ordinary:
        patches, counts = _count(blocks, method, light, background)
        shown = find_light(patches)
    if light.brightest < LIT or not is_lit(patches):
        return StainRule(method, np.zeros(len(counts.codes), bool), light, background=background)
    stain = _stain_of_codes(method, counts, shown)
    met = counts.codes > 0
    low, high = THRESHOLD_RANGE[method]
    threshold: float = np.clip(_otsu(stain[met], counts.codes[met]), low, high)
    stained = stain > threshold
    shown = with_shade(shown, patches)
    light = replace(light, dimmest=shown.dimmest, shaded=shown.shaded)
    if method == "saturation":
        pale = _pale(counts, stain, stained, shown)
        light = replace(light, paler=0.0 if pale.any() else _paler(counts, stain, threshold, shown))
        stained |= pale
    light = replace(light, faint=float(counts.textured[~stained].sum() / counts.codes.sum()))
    inks = find_pen(patches, shown) if pen else NO_PEN
    rule = StainRule(method, stained, replace(light, marks=inks.marks), inks, background)
    return rule if light.glass is not None else replace(rule, light=_with_doubts(rule, patches))


def _with_doubts(rule: StainRule, patches: PatchColours) -> Light:
    """The light of a view without glass, with the colour of even parts as large as glass that the rule takes for tissue
    or for pen."""
    even = find_even(patches)
    kind = None if even is None else rule.classes(np.full((SIDE, SIDE, 3), even, np.uint8))[0, 0]
    return replace(rule.light, doubtful=even if kind == STAINED else None, inky=even if kind == INK else None)


def _light_of(
    patches: PatchColours, blocks: Iterable[UInt8[np.ndarray, "h w 3"]], method: Method, background: Rgb
) -> Light:
    """The light of a view from its patches; where it is dim, from those that it would have in better light."""
    lamp = find_lamp(patches)
    lit = patches if lamp.is_ordinary else _count(blocks, method, lamp, background)[0]
    for find in (find_light, find_cast):
        for seen, undone in ((lit, lamp.undone), (patches, WHITE_LIGHT.undone)):
            glass = find(seen).glass
            if glass is not None:
                return Light(undone(glass), lamp.brightest)
    return Light(None, lamp.brightest)


def _count(
    blocks: Iterable[UInt8[np.ndarray, "h w 3"]], method: Method, light: Light, background: Rgb
) -> tuple[PatchColours, _Counts]:
    """What decides the rule, counted in all blocks, as they would be in ordinary light."""
    blank = light.even(np.asarray(background, np.uint8))
    patches, counts = PatchColours((int(blank[0]), int(blank[1]), int(blank[2]))), _Counts(method)
    for pixels in blocks:
        even = light.even(pixels)
        squares = Patches.of(even)
        patches.add(squares)
        counts.add(even, ~spread(squares.flat, even.shape[:2]))
    return patches, counts


@dataclass
class _Counts:
    """Pixels of a view, counted by what decides the threshold."""

    method: Method
    luma: Int64[np.ndarray, " 2501"] = field(default_factory=lambda: np.zeros(10 * WHITE_LUMA + 1, np.int64))
    """Pixels that are neither white nor dark, by tenths of luma."""
    codes: Int64[np.ndarray, " codes"] = field(init=False)
    """Pixels that are not dark, by the code of their colour."""
    textured: Int64[np.ndarray, " codes"] = field(init=False)
    """Those of them in patches that are not flat."""

    def __post_init__(self) -> None:
        self.codes = np.zeros(1 << 16 if self.method == "saturation" else 3 * int(_DENSITY[0]) + 1, np.int64)
        self.textured = np.zeros_like(self.codes)

    def add(self, pixels: UInt8[np.ndarray, "h w 3"], rough: Bool[np.ndarray, "h w"]) -> None:
        """Count the pixels of one block; rough: those in patches that are not flat."""
        luma = _luma(pixels)
        light = luma >= 1000 * DARK
        inside = light & (luma < 1000 * WHITE_LUMA)
        self.luma += np.bincount(luma[inside] // 100, minlength=len(self.luma))
        codes = _codes(pixels, self.method)
        self.codes += np.bincount(codes[light], minlength=len(self.codes))
        self.textured += np.bincount(codes[light & rough], minlength=len(self.codes))


# Density of one of three colours in steps, against light of 255.
_DENSITY = np.rint(DENSITY_STEPS / 3 * np.log10(255 / np.maximum(np.arange(256), 1))).astype(np.int32)


def _codes(pixels: UInt8[np.ndarray, "h w 3"], method: Method) -> Int32[np.ndarray, "h w"]:
    """A number for every colour from which its stain follows."""
    if method == "saturation":
        highest, lowest = _over_channels(np.maximum, pixels), _over_channels(np.minimum, pixels)
        return np.asarray(highest.astype(np.int32) << 8 | lowest, np.int32)
    return np.asarray(sum(_DENSITY[pixels[..., channel]] for channel in range(3)), np.int32)


def _stain_of_codes(method: Method, counts: _Counts, light: Light) -> Float32[np.ndarray, " codes"]:
    """The stain of every code: saturation or optical density."""
    codes = np.arange(len(counts.codes), dtype=np.int32)
    if method == "saturation":
        highest, lowest = codes >> 8, codes & 255
        return np.asarray((highest - lowest) / np.maximum(highest, 1), np.float32)
    # The brightest hundredth of the slide is glass, as bright as the lamp was set: hardly brighter than most of it.
    # On a slide that is all tissue it would be tissue, so glass that is not seen is taken to be no darker than 220.
    brightest = _percentile(counts.luma, 99) / 10
    known = light.glass is not None
    glass = min(max(brightest, light.luma), light.luma + 5) if known else max(220.0, brightest)
    return np.asarray(codes / DENSITY_STEPS + np.log10(glass / 255), np.float32)


def _pale(
    counts: _Counts,
    saturation: Float32[np.ndarray, " codes"],
    stained: Bool[np.ndarray, " codes"],
    light: Light,
) -> Bool[np.ndarray, " codes"]:
    """Codes of a pale stain, which absorbs light and has little saturation: none where the view has little of it.

    As on immunohistochemistry with a light counterstain. Dust and the edges of a coverslip are less than that; what is
    even is glass or ink, and light that is uneven looks so, too.
    """
    if light.glass is None or light.is_uneven:
        return np.zeros_like(stained)
    codes = np.arange(len(counts.codes))
    middle = np.maximum((codes >> 8) + (codes & 255), 1) / 2
    dense = ~stained & (np.log10(light.luma / middle) > PALE_DENSITY)
    # A pixel of a coarse view that is half glass and half black has the saturation of the glass.
    coloured = saturation > light.saturation + PALE_TINT / 4
    if counts.textured[dense & coloured].sum() < LEAST_PALE * counts.codes.sum():
        return np.zeros_like(stained)
    return np.asarray(
        dense | (saturation > max(THRESHOLD_RANGE[counts.method][0], light.saturation + PALE_TINT)), bool
    )


def _paler(
    counts: _Counts,
    saturation: Float32[np.ndarray, " codes"],
    threshold: float,
    light: Light,
) -> float:
    """How much is hardly too pale for tissue, as a share of what is not; 0 in uneven light, which takes colour away.

    A threshold that parts tissue from glass has few pixels beside it; one that parts pale tissue from paler has many.
    """
    if light.is_uneven:
        return 0.0
    stained = saturation > threshold
    hardly = saturation > max(threshold - HARDLY, light.saturation + HARDLY)
    return float(counts.codes[hardly & ~stained].sum() / max(counts.codes[stained].sum(), 1))


def _percentile(counts: Int64[np.ndarray, " n"], percent: float | int) -> float:
    """np.percentile of the values 0, 1, ... that were counted."""
    upto = np.cumsum(counts)
    rank = percent / 100 * (int(upto[-1]) - 1)
    low, high = (int(np.searchsorted(upto, int(r), side="right")) for r in (rank, math.ceil(rank)))
    return low + (high - low) * (rank - int(rank))


def _otsu(values: Float32[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]) -> float:
    """Otsu's threshold of values that were met so many times."""
    if values.min() == values.max():
        return float(values[0])
    heights, edges = np.histogram(values, bins=256, weights=counts)
    return float(threshold_otsu(hist=(heights, (edges[:-1] + edges[1:]) / 2)))


class TissueMask:
    """The mask of a view, read box by box: `tissue_mask` of all of its pixels, whatever boxes are read."""

    def __init__(self, shape: tuple[int, int], rule: StainRule, min_object: int, min_hole: int) -> None:
        """shape: height and width of the view in px; rule: that of what its pixels are."""
        self.shape = shape
        self.rule = rule
        self.colours = np.zeros((3, 256), np.int64)
        """Number of stained pixels by grey level, for red, green and blue."""
        self._planes = {kind: Bits(shape) for kind in (STAINED, INK, BLACK, BLANK)}
        self._least = (min_object, min_hole)
        self._halo = min_object + min_hole + (LEAST_PX + MARGIN if rule.pen.is_needed else 0)
        # Blocks no smaller than their halo, else most of the work would be done on halos.
        self.side = max(BLOCK, self._halo)
        """Side in view px of a box that is read at no more cost than necessary."""

    def write(self, box: Box, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        """Judge the pixels of a box; together the boxes cover the view, each once."""
        classes = self.rule.classes(pixels)
        for kind, plane in self._planes.items():
            plane.write(box, classes == kind)
        self.colours += count_colours(pixels, classes == STAINED)

    def read(self, box: Box) -> Bool[np.ndarray, "h w"]:
        """True where a pixel of a box, in view px, is tissue."""
        return self.masks(box).tissue

    def masks(self, box: Box) -> Masks:
        """The masks of tissue and of ink in a box, in view px."""
        height, width = self.shape
        left, top = max(box.x - self._halo, 0), max(box.y - self._halo, 0)
        right, bottom = (
            min(box.x + box.width + self._halo, width),
            min(box.y + box.height + self._halo, height),
        )
        around = Box(left, top, right - left, bottom - top)
        stained, ink, black = (self._planes[kind].read(around) for kind in (STAINED, INK, BLACK))
        own = Box(box.x - left, box.y - top, box.width, box.height)
        return masks_of(stained, ink, black, *self._least).inside(own)

    def outside(self, kind: int, box: Box, taken: Bool[np.ndarray, "h w"]) -> int:
        """Number of pixels of class `kind` in a box that are not `taken`."""
        return int(np.count_nonzero(self._planes[kind].read(box) & ~taken))


def count_colours(
    pixels: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> Int64[np.ndarray, "3 256"]:
    """Pixels of the mask by grey level, for red, green and blue."""
    chosen = pixels[mask]
    return np.stack([np.bincount(chosen[:, channel], minlength=256) for channel in range(3)]).astype(np.int64)


def mask_of(
    view: View | LazyView,
    read: Read,
    *,
    background: Rgb = WHITE,
    method: Method = "saturation",
    min_object: int = 0,
    min_hole: int = 0,
    pen: bool = True,
) -> TissueMask:
    """The tissue of a view, from two walks over its blocks; `read` gives the pixels of a box."""
    blocks = _Blocks(view.shape, read)
    rule = stain_rule(blocks, method, background=background, pen=pen)
    mask = TissueMask(view.shape, rule, min_object, min_hole)
    for box, pixels in blocks.walk():
        mask.write(box, pixels)
    return mask


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Blocks of a view that is read as often as they are walked over."""

    shape: tuple[int, int]
    read: Read

    def walk(self) -> Iterator[tuple[Box, UInt8[np.ndarray, "h w 3"]]]:
        return prefetch(self.read, boxes(self.shape, BLOCK))

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        return (pixels for _, pixels in self.walk())


def _cells_of(
    mask: TissueMask, view: View | LazyView, min_fraction: float | int
) -> tuple[Int64[np.ndarray, " K"], ViewShares]:
    """The cells, ascending, that the mask fills, and the shares of the view."""
    found = []
    inside = ink = black = blank = 0
    side = -(-mask.side // view.stride) * view.stride
    for box in boxes(mask.shape, side):
        masks = mask.masks(box)
        taken = masks.tissue | masks.ink
        inside += int(np.count_nonzero(masks.tissue))
        ink += int(np.count_nonzero(masks.ink))
        black += mask.outside(BLACK, box, taken)
        blank += mask.outside(BLANK, box, taken)
        own = masks.in_clean_cells(view.stride)
        row, col = np.divmod(tissue_cells(own, view.stride, min_fraction), box.width // view.stride)
        found.append((row + box.y // view.stride) * view.grid.cols + col + box.x // view.stride)
    return np.sort(np.concatenate(found)), _shares(
        *(px / math.prod(mask.shape) for px in (inside, ink, black, blank))
    )


def shares_of(classes: UInt8[np.ndarray, "h w"], masks: Masks) -> ViewShares:
    """The shares of a view in memory, from the classes of its pixels and its masks of tissue and of ink."""
    rest = classes[~(masks.tissue | masks.ink)]
    counts = (masks.tissue.sum(), masks.ink.sum(), (rest == BLACK).sum(), (rest == BLANK).sum())
    return _shares(*(int(count) / classes.size for count in counts))


def _shares(tissue: float | int, pen: float | int, black: float | int, blank: float | int) -> ViewShares:
    return ViewShares(tissue, 1 - tissue - pen - black - blank, pen, black, blank)


def _is(pixels: UInt8[np.ndarray, "h w 3"], colour: Rgb) -> Bool[np.ndarray, "h w"]:
    red, green, blue = np.moveaxis(pixels, 2, 0)
    return np.asarray((red == colour[0]) & (green == colour[1]) & (blue == colour[2]), bool)


def _luma(pixels: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    """Thousandths of luma."""
    luma = pixels[..., 0] * np.int32(LUMA[0])
    for channel in (1, 2):
        luma += pixels[..., channel] * np.int32(LUMA[channel])
    return np.asarray(luma, np.int32)


def _over_channels(
    smallest_or_largest: np.ufunc, pixels: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w"]:
    # Many times faster than pixels.min(axis=2): numpy is slow along an axis of three.
    red, green, blue = np.moveaxis(pixels, 2, 0)
    return np.asarray(smallest_or_largest(smallest_or_largest(red, green), blue), np.uint8)
