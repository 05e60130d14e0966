"""What the model says of one slide: plain numpy, so that it can be stored and drawn without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Int64

from wsi_ats.errors import WsiAtsError
from wsi_ats.geometry import Grid
from wsi_ats.tasks.answer import TaskResult

if TYPE_CHECKING:
    from wsi_ats.heatmap.picture import Heatmap, HeatmapStyle
    from wsi_ats.slides.base import Slide


@dataclass(frozen=True, eq=False)
class Prediction:
    """Answers about a slide, the attention that proposed its tiles and the tiles that were read.

    `classes`, `probabilities`, `stderr`, `label` and `contributions` are of the main task, the first.

    Cells are flat indices (row * cols + col) into `grid`.
    """

    slide: str
    """File name of the slide."""
    results: tuple[TaskResult, ...]
    """One a task."""
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
    tile_px: int
    """Side of a tile in its own px."""
    tile_downsample: tuple[float, float]
    """Level-0 px per tile px (x, y)."""
    tiles_read: int
    """Each tile counted once, however often it was drawn."""
    rounds: int
    """Independent draws that were made."""
    bytes_read: int
    """Decoded pixel bytes read from the slide, view included."""
    seconds: Mapping[str, float]
    """Stage -> seconds, "total" among them."""

    def __post_init__(self) -> None:
        if not np.isin(self.cells, self.tissue).all():
            strangers = self.cells[~np.isin(self.cells, self.tissue)]
            raise WsiAtsError(f"prediction of {self.slide}: drawn cells {strangers[:5]} are not tissue cells")

    @property
    def main(self) -> TaskResult:
        """The answer to the main task."""
        return self.results[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes, labels or grades; empty where the answer is a number."""
        return self.main.spec.names

    @property
    def probabilities(self) -> Float64[np.ndarray, " C"]:
        """One a class; they sum to 1 (those of labels do not). Raises `WsiAtsError` where the answer is a number."""
        return self.main.probabilities

    @property
    def values(self) -> Float64[np.ndarray, " V"]:
        """Every value of the answer: probabilities, then numbers, as `main.spec.values` names them."""
        return self.main.values

    @property
    def stderr(self) -> Float64[np.ndarray, " V"]:
        """Standard error of each value from the drawing of tiles alone; 0 where every tile was read, nan where
        unknown."""
        return self.main.stderr

    @property
    def contributions(self) -> Float32[np.ndarray, "N O"]:
        """What each drawn tile adds to each output of the head: of classes, to their logits."""
        return self.main.contributions

    @property
    def label(self) -> str:
        """The answer in a word: of classes, the most probable one."""
        return self.main.text

    @property
    def top(self) -> int:
        """Index of the most probable class or label, the first of equals; 0 where there is one output."""
        return self.main.top

    def about(self, task: str) -> Prediction:
        """The same prediction with `task` as its main one. Raises `WsiAtsError` where the model has no such task."""
        first = [result for result in self.results if result.spec.name == task]
        if not first:
            names = ", ".join(result.spec.name for result in self.results)
            raise WsiAtsError(f"the model has no task {task!r}", remedy=f"name one of its tasks: {names}")
        rest = [result for result in self.results if result.spec.name != task]
        return replace(self, results=(*first, *rest))

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
        from wsi_ats.heatmap.picture import Heatmap

        return Heatmap.of(self, slide, style)
