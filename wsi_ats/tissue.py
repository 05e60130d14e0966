"""Where the tissue is: a mask on the low-resolution view, and the cells of the grid that it fills."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from skimage.filters import threshold_otsu
from skimage.measure import label

from wsi_ats.errors import NoTissueError
from wsi_ats.view import View

Method = Literal["saturation", "optical-density"]

THRESHOLD_RANGE: dict[Method, tuple[float, float]] = {
    "saturation": (0.05, 0.1),
    "optical-density": (0.025, 0.04),
}
"""Otsu always finds two classes. Within these bounds it separates tissue from glass; on a blank slide it would
separate noise from noise (below), on one that is mostly tissue dark from pale tissue (above)."""

DARK = 25.0
"""Luma below which a pixel holds too little light to judge a stain by: black padding, scanner artefacts."""

GLASS = 60.0
"""Grey level that all three colours reach in the brightest tenth of a bright-field slide, where light comes
through glass or pale tissue. Fluorescence glows in one colour on black."""

LUMA = np.asarray([0.299, 0.587, 0.114], np.float32)


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
    """
    luma = pixels @ LUMA
    # White is left out of what tells of the slide: a view has it beyond the slide's edge.
    inside = luma < 250
    through = _over_channels(np.minimum, pixels)[inside]
    if not len(through) or np.percentile(through, 90) < GLASS:
        return np.zeros(luma.shape, bool)
    lit = luma >= DARK
    stain = _saturation(pixels) if method == "saturation" else _optical_density(pixels, luma[inside])
    low, high = THRESHOLD_RANGE[method]
    mask = _without_small(lit & (stain > np.clip(threshold_otsu(stain[lit]), low, high)), min_object)
    return np.asarray(~_without_small(~mask, min_hole), bool)


def tissue_cells(
    mask: Bool[np.ndarray, "h w"], stride: int, min_fraction: float | int = 0.25
) -> Int64[np.ndarray, " K"]:
    """Flat indices, ascending, of the stride x stride cells with at least `min_fraction` of tissue."""
    rows, cols = mask.shape[0] // stride, mask.shape[1] // stride
    fraction = mask.reshape(rows, stride, cols, stride).mean(axis=(1, 3))
    return np.flatnonzero((fraction >= min_fraction) & (fraction > 0)).astype(np.int64)


def find_tissue(
    view: View,
    *,
    name: str,
    method: Method = "saturation",
    min_object: int = 0,
    min_hole: int = 0,
    min_fraction: float | int = 0.25,
) -> Int64[np.ndarray, " K"]:
    """The grid cells of a view that hold tissue, ascending.

    name: of the slide. Raises NoTissueError, naming the slide and these settings, where there are none.
    """
    mask = tissue_mask(view.pixels, method=method, min_object=min_object, min_hole=min_hole)
    cells = tissue_cells(mask, view.stride, min_fraction)
    if not len(cells):
        raise NoTissueError(
            f"slide {name!r}: no tissue; {mask.mean():.2%} of the view is in the mask (method={method!r}, "
            f"min_object={min_object} px, min_hole={min_hole} px) and no cell is filled to "
            f"min_fraction={min_fraction}",
            "look at the slide: a bright-field stain is needed; else lower min_object or min_fraction",
        )
    return cells


def _saturation(pixels: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    highest, lowest = _over_channels(np.maximum, pixels), _over_channels(np.minimum, pixels)
    return np.asarray((highest - lowest) / np.maximum(highest, 1, dtype=np.float32), np.float32)


def _optical_density(
    pixels: UInt8[np.ndarray, "h w 3"], luma: Float32[np.ndarray, " n"]
) -> Float32[np.ndarray, "h w"]:
    # The brightest hundredth of the slide is glass, as bright as the lamp was set; on a slide that is all
    # tissue it would be tissue, so glass is taken to be no darker than 220.
    glass = max(220.0, float(np.percentile(luma, 99)))
    density = np.log10(glass / np.maximum(np.arange(256), 1)).astype(np.float32) / 3
    return np.asarray(sum(density[pixels[..., channel]] for channel in range(3)), np.float32)


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
