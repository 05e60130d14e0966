"""What the model says of one slide: plain numpy, so that it can be stored and drawn without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Int64

from wsi_ats.errors import WsiAtsError
from wsi_ats.geometry import Grid

if TYPE_CHECKING:
    from wsi_ats.heatmap import Heatmap, HeatmapStyle
    from wsi_ats.slides.base import Slide


@dataclass(frozen=True, eq=False)
class Prediction:
    """Class probabilities of a slide, the attention that proposed its tiles and the tiles that were read.

    Cells are flat indices (row * cols + col) into `grid`.
    """

    slide: str
    """File name of the slide."""
    classes: tuple[str, ...]
    probabilities: Float64[np.ndarray, " C"]
    """Sum to 1."""
    stderr: Float64[np.ndarray, " C"]
    """Standard error of each probability from the drawing of tiles alone; 0 where every tile was read, nan
    where unknown."""
    grid: Grid
    slide_size: tuple[int, int]
    """Level-0 px (width, height)."""
    mpp: tuple[float, float] | None
    """Micrometres per level-0 px (x, y); None where the slide does not say."""
    tissue: Int64[np.ndarray, " K"]
    """Tissue cells, ascending."""
    attention: Float32[np.ndarray, " K"]
    """Attention of the tissue cells; sums to 1."""
    cells: Int64[np.ndarray, " N"]
    """Cells whose tiles were read, each once."""
    weights: Float64[np.ndarray, " N"]
    """Importance weight of each drawn cell: the inverse of its chance of being drawn."""
    contributions: Float32[np.ndarray, "N C"]
    """What each drawn tile adds to each class's logit."""
    tile_px: int
    """Side of a tile in its own px."""
    tile_downsample: tuple[float, float]
    """Level-0 px per tile px (x, y)."""
    tiles_read: int
    bytes_read: int
    """Decoded pixel bytes read from the slide, view included."""
    seconds: Mapping[str, float]
    """Stage -> seconds, "total" among them."""

    def __post_init__(self) -> None:
        if not np.isin(self.cells, self.tissue).all():
            strangers = self.cells[~np.isin(self.cells, self.tissue)]
            raise WsiAtsError(f"prediction of {self.slide}: drawn cells {strangers[:5]} are not tissue cells")

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[self.top]

    @property
    def top(self) -> int:
        """Index of the most probable class; the first of equals."""
        return int(np.argmax(self.probabilities))

    @property
    def tile_size(self) -> tuple[float, float]:
        """Level-0 px (width, height) that a tile covers."""
        return self.tile_px * self.tile_downsample[0], self.tile_px * self.tile_downsample[1]

    @property
    def relative_attention(self) -> Float32[np.ndarray, " K"]:
        """Attention of the tissue cells as multiples of their mean: 1 everywhere means no preference."""
        return self.attention * np.float32(len(self.tissue))

    def drawn(self) -> Int64[np.ndarray, " N"]:
        """Positions in `tissue` of the drawn cells."""
        return np.searchsorted(self.tissue, self.cells).astype(np.int64)

    def measured(self, bytes_read: int, seconds: Mapping[str, float]) -> Prediction:
        """The same prediction with what its reading cost."""
        return replace(self, bytes_read=bytes_read, seconds=dict(seconds))

    def heatmap(self, slide: Slide | None = None, style: HeatmapStyle | None = None) -> Heatmap:
        """The attention as a picture over `slide`; over white where no slide is given."""
        # Here: matplotlib takes a while to import, and a prediction rarely needs it.
        from wsi_ats.heatmap import Heatmap

        return Heatmap.of(self, slide, style)
