"""Tissue: a mask on the low-resolution view, and the cells of the grid that it fills.

Everything that decides is counted in whole numbers, so that a view that comes in blocks gets the mask of the view
at once. The first walk over the blocks finds the threshold, the second the mask, which is kept as bits (5 MB for a
slide of 200,000 px at 0.25 um/px and a view of 8 um/px). Small objects and holes are then judged block by block
with as many px around as they may cover: what reaches further is not small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from skimage.filters import threshold_otsu
from skimage.measure import label

from wsi_ats.errors import NoTissueError
from wsi_ats.geometry import Box
from wsi_ats.lowres.view import LazyView, Read, View, boxes
from wsi_ats.prefetch import prefetch

Method = Literal["saturation", "optical-density"]

THRESHOLD_RANGE: dict[Method, tuple[float, float]] = {
    "saturation": (0.05, 0.1),
    "optical-density": (0.025, 0.04),
}
"""Bounds of Otsu's threshold, which always finds two classes. Within them it separates tissue from glass; on a blank
slide it would separate noise from noise (below), on one that is mostly tissue dark from pale tissue (above)."""

DARK = 25
"""Luma below which a pixel holds too little light to judge a stain by: black padding, scanner artefacts."""

GLASS = 60.0
"""Grey level that all three colours reach in the brightest tenth of a bright-field slide, where light comes
through glass or pale tissue. Fluorescence glows in one colour on black."""

WHITE = 250
"""Luma from which a pixel is white: a view has it beyond the slide's edge, so it does not tell of the slide."""

LUMA = (299, 587, 114)
"""Thousandths of red, green and blue in the luma."""

DENSITY_STEPS = 30_000
"""Steps per unit of optical density, mean of RGB, in which it is counted."""

BLOCK = 512
"""Side in view px of the blocks in which the mask is made."""


def tissue_mask(
    pixels: UInt8[np.ndarray, "h w 3"],
    *,
    method: Method = "saturation",
    min_object: int = 0,
    min_hole: int = 0,
) -> Bool[np.ndarray, "h w"]:
    """True where a bright-field view shows stained tissue.

    A threshold (Otsu, within THRESHOLD_RANGE) on saturation, (max - min) / max of RGB, or on optical density,
    log10(light through glass / light through the pixel), mean of RGB. Objects smaller than min_object view px
    go, then holes smaller than min_hole. A view that lets no light through (fluorescence, black) has no tissue.

    >>> pixels = np.full((40, 60, 3), 240, np.uint8)  # glass
    >>> pixels[10:30, 20:50] = pixels[2, 2] = 170, 90, 160  # stained tissue, and a speck
    >>> int(tissue_mask(pixels).sum()), int(tissue_mask(pixels, min_object=4).sum())
    (601, 600)
    """
    return cleaned(stain_rule([pixels], method).mask(pixels), min_object, min_hole)


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


def find_tissue(
    view: View | LazyView,
    *,
    name: str,
    read: Read | None = None,
    method: Method = "saturation",
    min_object: int = 0,
    min_hole: int = 0,
    min_fraction: float | int = 0.25,
) -> Tissue:
    """The tissue of a view: `tissue_cells` of `tissue_mask`, block by block, and the colours of the stained pixels.

    name: of the slide. read: gives the pixels of a box of a LazyView. Raises NoTissueError, naming the slide and
    these settings, where no cell holds tissue.
    """
    if read is None:
        if isinstance(view, LazyView):
            raise TypeError("find_tissue needs `read` for a view that is not in memory")
        read = view.crop
    mask = mask_of(view, read, method=method, min_object=min_object, min_hole=min_hole)
    cells, share = _cells_of(mask, view, min_fraction)
    if not len(cells):
        raise NoTissueError(
            f"slide {name!r}: no tissue; {share:.2%} of the view is in the mask (method={method!r}, "
            f"min_object={min_object} px, min_hole={min_hole} px) and no cell is filled to "
            f"min_fraction={min_fraction}",
            "look at the slide: a bright-field stain is needed; else lower min_object or min_fraction",
        )
    return Tissue(cells, mask.colours)


@dataclass(frozen=True, slots=True)
class StainRule:
    """A rule of which pixels are stained, one for all blocks of a view."""

    method: Method
    stained: Bool[np.ndarray, " codes"]
    """Whether each code of a colour is that of a stained pixel."""

    def mask(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """True where a pixel is stained and light enough to judge."""
        return np.asarray(self.stained[_codes(pixels, self.method)] & (_luma(pixels) >= 1000 * DARK), bool)


def stain_rule(blocks: Iterable[UInt8[np.ndarray, "h w 3"]], method: Method = "saturation") -> StainRule:
    """The threshold of a view that comes in blocks; which blocks does not matter."""
    counts = _Counts(method)
    for pixels in blocks:
        counts.add(pixels)
    if not counts.through.any() or _percentile(counts.through, 90) < GLASS:
        return StainRule(method, np.zeros(len(counts.codes), bool))
    stain = _stain_of_codes(method, counts)
    met = counts.codes > 0
    low, high = THRESHOLD_RANGE[method]
    return StainRule(method, stain > np.clip(_otsu(stain[met], counts.codes[met]), low, high))


@dataclass
class _Counts:
    """Pixels of a view, counted by what decides the threshold."""

    method: Method
    through: Int64[np.ndarray, " 256"] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Pixels that are not white, by their darkest colour."""
    luma: Int64[np.ndarray, " 2501"] = field(default_factory=lambda: np.zeros(10 * WHITE + 1, np.int64))
    """Pixels that are not white, by tenths of luma."""
    codes: Int64[np.ndarray, " codes"] = field(init=False)
    """Pixels that are not dark, by the code of their colour."""

    def __post_init__(self) -> None:
        self.codes = np.zeros(1 << 16 if self.method == "saturation" else 3 * int(_DENSITY[0]) + 1, np.int64)

    def add(self, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        """Count the pixels of one block."""
        luma = _luma(pixels)
        inside = luma < 1000 * WHITE
        self.through += np.bincount(_over_channels(np.minimum, pixels)[inside], minlength=256)
        self.luma += np.bincount(luma[inside] // 100, minlength=len(self.luma))
        codes = _codes(pixels, self.method)[luma >= 1000 * DARK]
        self.codes += np.bincount(codes, minlength=len(self.codes))


# Density of one of three colours in steps, against light of 255.
_DENSITY = np.rint(DENSITY_STEPS / 3 * np.log10(255 / np.maximum(np.arange(256), 1))).astype(np.int32)


def _codes(pixels: UInt8[np.ndarray, "h w 3"], method: Method) -> Int32[np.ndarray, "h w"]:
    """A number for every colour from which its stain follows."""
    if method == "saturation":
        highest, lowest = _over_channels(np.maximum, pixels), _over_channels(np.minimum, pixels)
        return np.asarray(highest.astype(np.int32) << 8 | lowest, np.int32)
    return np.asarray(sum(_DENSITY[pixels[..., channel]] for channel in range(3)), np.int32)


def _stain_of_codes(method: Method, counts: _Counts) -> Float32[np.ndarray, " codes"]:
    """The stain of every code: saturation or optical density."""
    codes = np.arange(len(counts.codes), dtype=np.int32)
    if method == "saturation":
        highest, lowest = codes >> 8, codes & 255
        return np.asarray((highest - lowest) / np.maximum(highest, 1), np.float32)
    # The brightest hundredth of the slide is glass, as bright as the lamp was set; on a slide that is all
    # tissue it would be tissue, so glass is taken to be no darker than 220.
    glass = max(220.0, _percentile(counts.luma, 99) / 10)
    return np.asarray(codes / DENSITY_STEPS + np.log10(glass / 255), np.float32)


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


class _Bits:
    """A mask of the whole view, eight pixels a byte."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._bytes = np.zeros((shape[0], -(-shape[1] // 8)), np.uint8)

    def write(self, box: Box, mask: Bool[np.ndarray, "h w"]) -> None:
        """Set a box whose left edge is a multiple of 8 px, and its right edge too unless it is the view's."""
        packed = np.packbits(mask, axis=1)
        self._bytes[box.y : box.y + box.height, box.x // 8 : box.x // 8 + packed.shape[1]] = packed

    def read(self, box: Box) -> Bool[np.ndarray, "h w"]:
        """Any box."""
        first = box.x // 8
        packed = self._bytes[box.y : box.y + box.height, first : -(-(box.x + box.width) // 8)]
        return np.unpackbits(packed, axis=1)[:, box.x - 8 * first :][:, : box.width].view(bool)


class TissueMask:
    """The mask of a view, read box by box: `tissue_mask` of all of its pixels, whatever boxes are read."""

    def __init__(
        self, stained: _Bits, colours: Int64[np.ndarray, "3 256"], min_object: int, min_hole: int
    ) -> None:
        """stained: the mask with small objects and holes still in it; colours: of its pixels, counted."""
        self.colours = colours
        self._stained, self._least = stained, (min_object, min_hole)
        self._halo = min_object + min_hole
        # Blocks no smaller than their halo, else most of the work would be done on halos.
        self.side = max(BLOCK, self._halo)
        """Side in view px of a box that is read at no more cost than necessary."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the mask in view px."""
        return self._stained.shape

    def read(self, box: Box) -> Bool[np.ndarray, "h w"]:
        """True where a pixel of a box, in view px, is tissue."""
        height, width = self.shape
        left, top = max(box.x - self._halo, 0), max(box.y - self._halo, 0)
        right, bottom = (
            min(box.x + box.width + self._halo, width),
            min(box.y + box.height + self._halo, height),
        )
        around = cleaned(self._stained.read(Box(left, top, right - left, bottom - top)), *self._least)
        return around[box.y - top :, box.x - left :][: box.height, : box.width]


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
    method: Method = "saturation",
    min_object: int = 0,
    min_hole: int = 0,
) -> TissueMask:
    """The tissue of a view, from two walks over its blocks; `read` gives the pixels of a box."""
    rule = stain_rule((pixels for _, pixels in prefetch(read, boxes(view.shape, BLOCK))), method)
    stained, colours = _Bits(view.shape), np.zeros((3, 256), np.int64)
    if rule.stained.any():
        for box, pixels in prefetch(read, boxes(view.shape, BLOCK)):
            mask = rule.mask(pixels)
            stained.write(box, mask)
            colours += count_colours(pixels, mask)
    return TissueMask(stained, colours, min_object, min_hole)


def _cells_of(
    mask: TissueMask, view: View | LazyView, min_fraction: float | int
) -> tuple[Int64[np.ndarray, " K"], float]:
    """The cells, ascending, that the mask fills, and the share of the view that is in it."""
    found, inside = [], 0
    side = -(-mask.side // view.stride) * view.stride
    for box in boxes(mask.shape, side):
        own = mask.read(box)
        inside += int(np.count_nonzero(own))
        row, col = np.divmod(tissue_cells(own, view.stride, min_fraction), box.width // view.stride)
        found.append((row + box.y // view.stride) * view.grid.cols + col + box.x // view.stride)
    return np.sort(np.concatenate(found)), inside / math.prod(mask.shape)


def _luma(pixels: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    """Thousandths of luma."""
    luma = pixels[..., 0] * np.int32(LUMA[0])
    for channel in (1, 2):
        luma += pixels[..., channel] * np.int32(LUMA[channel])
    return np.asarray(luma, np.int32)


def cleaned(mask: Bool[np.ndarray, "h w"], min_object: int, min_hole: int) -> Bool[np.ndarray, "h w"]:
    """The mask without its objects of fewer than min_object px, then without its holes of fewer than min_hole."""
    return np.asarray(~_without_small(~_without_small(mask, min_object), min_hole), bool)


def _over_channels(
    smallest_or_largest: np.ufunc, pixels: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w"]:
    # Many times faster than pixels.min(axis=2): numpy is slow along an axis of three.
    red, green, blue = np.moveaxis(pixels, 2, 0)
    return np.asarray(smallest_or_largest(smallest_or_largest(red, green), blue), np.uint8)


def _without_small(mask: Bool[np.ndarray, "h w"], area: int) -> Bool[np.ndarray, "h w"]:
    """The mask without its connected parts (4 neighbours) of fewer than `area` pixels.

    Not skimage.morphology.remove_small_objects, whose argument for this changes its name between the releases
    that are supported here.
    """
    if area <= 1:
        return mask
    parts = label(mask, connectivity=1)
    large = np.bincount(parts.ravel()) >= area
    large[0] = False
    return np.asarray(large[parts], bool)
