"""Masks of a view: kept as bits, and freed of what is too small to be tissue, a hole or ink."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from scipy.ndimage import binary_dilation
from skimage.measure import label

from wsi_ats.geometry import Box
from wsi_ats.lowres.pen import LEAST_PX, MARGIN, MOST_IN_CELL


class Bits:
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


def tissue_and_ink(
    stained: Bool[np.ndarray, "h w"],
    ink: Bool[np.ndarray, "h w"],
    min_object: int,
    min_hole: int,
    least_ink: int = LEAST_PX,
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The masks of tissue and of ink, from those of what is stained and of what has a pen's colour.

    Spots of a pen's colour of fewer than least_ink px count as stained. Tissue ends at a margin around ink, is freed of
    objects of fewer than min_object px and then of holes of fewer than min_hole px.
    """
    large = without_small(ink, least_ink)
    if not large.any():
        return cleaned(stained | ink, min_object, min_hole), large
    near = binary_dilation(large, iterations=MARGIN)
    return cleaned((stained | ink) & ~near, min_object, min_hole) & ~near, large


def outside_ink(
    tissue: Bool[np.ndarray, "h w"], ink: Bool[np.ndarray, "h w"], stride: int
) -> Bool[np.ndarray, "h w"]:
    """The tissue in cells of stride x stride px of which ink covers no more than MOST_IN_CELL."""
    if not ink.any():
        return tissue
    rows, cols = ink.shape[0] // stride, ink.shape[1] // stride
    inked = ink.reshape(rows, stride, cols, stride).mean(axis=(1, 3)) > MOST_IN_CELL
    return np.asarray(tissue & ~inked.repeat(stride, axis=0).repeat(stride, axis=1), bool)


def cleaned(mask: Bool[np.ndarray, "h w"], min_object: int, min_hole: int) -> Bool[np.ndarray, "h w"]:
    """The mask without its objects of fewer than min_object px, then without its holes of fewer than min_hole."""
    return np.asarray(~without_small(~without_small(mask, min_object), min_hole), bool)


def without_small(mask: Bool[np.ndarray, "h w"], area: int) -> Bool[np.ndarray, "h w"]:
    """The mask without its connected parts (4 neighbours) of fewer than `area` pixels.

    Not skimage.morphology.remove_small_objects, whose argument for this changes its name between the releases
    that are supported here.
    """
    if area <= 1 or not mask.any():
        return mask
    parts = label(mask, connectivity=1)
    large = np.bincount(parts.ravel()) >= area
    large[0] = False
    return np.asarray(large[parts], bool)
