"""Two levels of attention: a coarse view whose cells are regions, and what lies inside the regions.

A region is `side` x `side` cells of the fine view. The coarse view has few pixels, however large the slide: of each
region it shows a square of `stride` px, the smaller the larger the slide, and the fine view is read for single regions
alone. So nothing but the number of regions grows with the slide, a few numbers each.

Which cells of a region hold tissue is told from the region's own pixels, by the threshold of the whole slide, which
is found on the coarse view: it does not depend on which other regions are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from wsi_ats.geometry import Box, Grid
from wsi_ats.lowres.light import Rgb
from wsi_ats.lowres.mask import Masks, masks_of
from wsi_ats.lowres.pen import LEAST_PX
from wsi_ats.lowres.shares import NOT_KNOWN, ViewShares, no_tissue, refuse_pen_everywhere
from wsi_ats.lowres.tissue import BLACK, INK, STAINED, WHITE, Method, StainRule, shares_of, stain_rule
from wsi_ats.lowres.view import LazyView, View


@dataclass(frozen=True, slots=True)
class TissueRule:
    """A rule of what counts as tissue, for any part of a slide at any scale."""

    stain: StainRule
    min_object: int
    """View px below which an object is dropped."""
    min_hole: int
    """View px below which a hole is filled."""
    min_fraction: float
    """Share of a cell that tissue must cover."""

    def mask(self, pixels: UInt8[np.ndarray, "h w 3"], zoom: float = 1.0) -> Bool[np.ndarray, "h w"]:
        """Mask (h, w) of the stained px, small objects and holes gone; pixels are `zoom` view px wide."""
        return self._masks(self.stain.classes(pixels), zoom).tissue

    def survey(
        self, pixels: UInt8[np.ndarray, "h w 3"], zoom: float
    ) -> tuple[Bool[np.ndarray, "h w"], ViewShares]:
        """The mask of a whole view, and the shares of its classes."""
        classes = self.stain.classes(pixels)
        masks = self._masks(classes, zoom)
        return masks.tissue, shares_of(classes, masks)

    def share_of_cells(
        self, pixels: UInt8[np.ndarray, "h w 3"], stride: int
    ) -> Float64[np.ndarray, "rows cols"]:
        """Share of tissue in each cell of stride x stride px; 0 where ink covers it."""
        tissue = self._masks(self.stain.classes(pixels)).in_clean_cells(stride)
        rows, cols = tissue.shape[0] // stride, tissue.shape[1] // stride
        return np.asarray(tissue.reshape(rows, stride, cols, stride).mean((1, 3)), np.float64)

    def _masks(self, classes: UInt8[np.ndarray, "h w"], zoom: float = 1.0) -> Masks:
        smallest = (round(area / zoom**2) for area in (self.min_object, self.min_hole, LEAST_PX))
        return masks_of(*(classes == kind for kind in (STAINED, INK, BLACK)), *smallest)


@dataclass(frozen=True, slots=True)
class RegionGrid:
    """The grid of regions: cells of a coarse view, each of side x side cells of a finer one."""

    frame: LazyView
    """The fine view, without its pixels."""
    side: int
    """Cells a side of a region."""
    cols: int
    """Number of regions in a row."""
    tissue: TissueRule
    area: Float64[np.ndarray, " K"]
    """Share of tissue in each tissue region, as the coarse view shows it."""
    shares: ViewShares = NOT_KNOWN
    """Shares of tissue, glass, pen, black and blank in the coarse view."""

    @property
    def nbytes(self) -> int:
        """Bytes of arrays that the grid of regions holds."""
        return self.area.nbytes + self.tissue.stain.stained.nbytes

    def cells(self, region: int) -> Box:
        """The cells of a region (flat index in the coarse grid), fewer at the far edges."""
        grid = self.frame.grid
        y, x = (self.side * place for place in divmod(region, self.cols))
        return Box(x, y, min(self.side, grid.cols - x), min(self.side, grid.rows - y))

    def tissue_of(self, region: int, pixels: UInt8[np.ndarray, "h w 3"]) -> Int64[np.ndarray, " n"]:
        """The cells (flat, ascending) of a region that hold tissue, from the region's pixels; never none.

        The coarse view has seen tissue there: where no cell is filled to min_fraction, the fullest one is taken, and
        if none holds any, all of them. So attention that a region gets is always that of some cells.
        """
        stride = self.frame.stride
        box = self.cells(region)
        filled = self.tissue.share_of_cells(pixels, stride).ravel()
        return self._flat(box, np.flatnonzero(filled >= min(self.tissue.min_fraction, filled.max())))

    def tissue_from_coarse(self, view: View, region: int) -> Int64[np.ndarray, " n"]:
        """The cells of a region that was not opened whose centres are tissue in the coarse `view`; never none."""
        box, stride = self.cells(region), view.stride
        row, col = divmod(region, self.cols)
        corner = Box(col * stride, row * stride, stride, stride)
        mask = self.tissue.mask(view.crop(corner), self.side * self.frame.stride / stride)
        y, x = (((np.arange(n) + 0.5) * stride / self.side).astype(int) for n in (box.height, box.width))
        shown = np.flatnonzero(mask[np.ix_(y, x)].ravel())
        return self._flat(box, shown if len(shown) else np.arange(box.width * box.height))

    def _flat(self, box: Box, within: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        row, col = np.divmod(within, box.width)
        return (row + box.y) * self.frame.grid.cols + col + box.x


def coarse_frame(fine: LazyView, side: int, shrink: int, px: int) -> LazyView:
    """The coarse view: `shrink` x `shrink` px of the fine one a px, more for slides on which it has over `px` a side.

    Its cells are the regions, side x side cells of the fine view each, exactly. side * stride / shrink is whole: the
    px of a region's side. They are halved, as long as they can be, until the view is small enough.
    """
    rows, cols = (math.ceil(n / side) for n in (fine.grid.rows, fine.grid.cols))
    stride = side * fine.stride // shrink
    while max(rows, cols) * stride > px and stride % 2 == 0:
        stride //= 2
    zoom = side * fine.stride / stride
    cell = (side * fine.grid.cell[0], side * fine.grid.cell[1])
    return LazyView(Grid(rows, cols, cell), stride, (zoom * fine.downsample[0], zoom * fine.downsample[1]))


def find_regions(
    view: View,
    fine: LazyView,
    side: int,
    *,
    name: str,
    background: Rgb = WHITE,
    method: Method = "saturation",
    min_object: int = 0,
    min_hole: int = 0,
    min_fraction: float = 0.25,
    pen: bool = True,
) -> tuple[Int64[np.ndarray, " K"], RegionGrid]:
    """The regions (flat, ascending) that hold tissue enough for a cell of the fine view, and what is inside them.

    name, background: of the slide. min_object and min_hole are in px of the fine view. Raises NoTissueError, naming the
    slide, what the coarse view shows and these settings, where there are none.
    """
    stain = stain_rule([view.pixels], method, background=background, pen=pen)
    rule = TissueRule(stain, min_object, min_hole, min_fraction)
    tissue, shares = rule.survey(view.pixels, side * fine.stride / view.stride)
    refuse_pen_everywhere(name, shares, stain.light)
    share = tissue.reshape(view.grid.rows, view.stride, view.grid.cols, view.stride).mean((1, 3)).ravel()
    regions = np.flatnonzero((share > 0) & (share >= min_fraction / side**2)).astype(np.int64)
    if not len(regions):
        settings = (
            f"min_object={min_object} px, min_hole={min_hole} px, min_fraction={min_fraction} of one cell"
        )
        raise no_tissue(name, shares, stain.is_lit, method, settings)
    return regions, RegionGrid(fine, side, view.grid.cols, rule, share[regions], shares)
