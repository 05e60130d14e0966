"""Masks of a view: kept as bits, and freed of what is too small to be tissue, a hole or ink."""

from __future__ import annotations

from typing import NamedTuple

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


class Masks(NamedTuple):
    """What the pixels of a view are, once spots are put right."""

    tissue: Bool[np.ndarray, "h w"]
    ink: Bool[np.ndarray, "h w"]
    near_ink: Bool[np.ndarray, "h w"]
    """Ink and the margin around it, which is no tissue."""

    def inside(self, box: Box) -> Masks:
        """The part of the masks in a box."""
        part = np.s_[box.y : box.y + box.height, box.x : box.x + box.width]
        return Masks(self.tissue[part], self.ink[part], self.near_ink[part])

    def in_clean_cells(self, stride: int) -> Bool[np.ndarray, "h w"]:
        """The tissue in cells of stride x stride px of which no more than MOST_IN_CELL is near ink."""
        if not self.near_ink.any():
            return self.tissue
        rows, cols = self.tissue.shape[0] // stride, self.tissue.shape[1] // stride
        inked = self.near_ink.reshape(rows, stride, cols, stride).mean(axis=(1, 3)) > MOST_IN_CELL
        return np.asarray(self.tissue & ~inked.repeat(stride, axis=0).repeat(stride, axis=1), bool)


def masks_of(
    stained: Bool[np.ndarray, "h w"],
    ink: Bool[np.ndarray, "h w"],
    black: Bool[np.ndarray, "h w"],
    min_object: int,
    min_hole: int,
    least_ink: int = LEAST_PX,
) -> Masks:
    """The masks of tissue and of ink, from those of what is stained, of what has a pen's colour and of what is black.

    Spots of a pen's colour, with the black in them, of fewer than least_ink px count as stained. Tissue ends at a
    margin around ink, is freed of objects of fewer than min_object px and then of holes of fewer than min_hole px.
    """
    large = without_small(ink | black, least_ink) & ink if ink.any() else ink
    if not large.any():
        return Masks(cleaned(stained | ink, min_object, min_hole), large, large)
    near = np.asarray(binary_dilation(large, iterations=MARGIN), bool)
    return Masks(cleaned((stained | ink) & ~near, min_object, min_hole) & ~near, large, near)


def cleaned(mask: Bool[np.ndarray, "h w"], min_object: int, min_hole: int) -> Bool[np.ndarray, "h w"]:
    """The mask without its objects of fewer than min_object px, then without its holes of fewer than min_hole."""
    return np.asarray(~without_small(~without_small(mask, min_object), min_hole), bool)


def without_small(mask: Bool[np.ndarray, "h w"], area: int) -> Bool[np.ndarray, "h w"]:
    """The mask without its connected parts (4 neighbours) of fewer than `area` pixels.

    Not skimage.morphology.remove_small_objects, whose argument for this changes its name between the releases
    that are supported here.
    """
    if area <= 1:
        return mask
    if np.count_nonzero(mask) < area:
        return np.zeros_like(mask)
    parts = label(mask, connectivity=1)
    large = np.bincount(parts.ravel()) >= area
    large[0] = False
    return np.asarray(large[parts], bool)
