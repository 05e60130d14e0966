"""`Prediction`, what the model says of one slide: plain numpy, so that it can be stored and drawn without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Int64

from wsi_ats.arguments import of_kind
from wsi_ats.errors import WsiAtsError
from wsi_ats.geometry import Grid
from wsi_ats.shown import counted
from wsi_ats.statistics.novelty import Description, Unlike
from wsi_ats.tasks.answer import COVERS, UNKNOWN, TaskResult, limits, plus_minus

if TYPE_CHECKING:
    from wsi_ats.heatmap.picture import Heatmap
    from wsi_ats.heatmap.style import HeatmapStyle
    from wsi_ats.slides.base import Slide


class OfResults:
    """What is read from results, of which the first is that of the main task."""

    results: tuple[TaskResult, ...]

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
        """Probability of each class, label or grade; they sum to 1, but for labels. Raises `WsiAtsError` where the
        answer is a number."""
        return self.main.probabilities

    @property
    def values(self) -> Float64[np.ndarray, " V"]:
        """Values (V,) of the main answer: probabilities, then numbers, as `main.spec.values` names them."""
        return self.main.values

    @property
    def stderr(self) -> Float64[np.ndarray, " V"]:
        """Standard error of each value from the drawing of tiles alone; 0 where every tile was read, nan where
        unknown."""
        return self.main.stderr

    @property
    def low(self) -> Float64[np.ndarray, " V"] | None:
        """Lower end of the 95 % interval of each value, for the answer that all tiles give (`TaskResult.low`)."""
        return self.main.low

    @property
    def high(self) -> Float64[np.ndarray, " V"] | None:
        """Upper end of the 95 % interval of each value, likewise."""
        return self.main.high

    @property
    def contributions(self) -> Float32[np.ndarray, "N O"]:
        """Contribution (N, O) of each drawn tile to each output of the head: of classes, to their logits."""
        return self.main.contributions

    @property
    def label(self) -> str:
        """The answer in a word: of classes, the most probable one."""
        return self.main.text

    @property
    def top(self) -> int:
        """Index of the most probable class or label, the first of equals; 0 where there is one output."""
        return self.main.top


@dataclass(frozen=True, eq=False)
class Prediction(OfResults):
    """Answers about a slide, the attention that proposed its tiles and the tiles that were read.

    `classes`, `probabilities`, `stderr`, `label` and `contributions` are of the main task, the first.

    Cells are flat indices (row * cols + col) into `grid`.

    >>> from wsi_ats import open_slide
    >>> from wsi_ats.build import build_model
    >>> from wsi_ats.config import load_config
    >>> pixels = np.full((512, 768, 3), 240, np.uint8)
    >>> pixels[128:384, 128:640] = 170, 90, 160  # stained tissue on glass
    >>> scale = ("view.downsample=8", "tile.downsample=1", "tile.px=64", "attention.stride=8")
    >>> model = build_model(load_config(overrides=scale), ["normal", "tumour"])  # knows nothing yet
    >>> prediction = model.predict(open_slide(pixels, name="made"), tiles=8)
    >>> prediction.probabilities.tolist(), len(prediction.tissue), prediction.tiles_read <= 8
    ([0.5, 0.5], 32, True)
    >>> model.predict(open_slide(pixels, name="made"), sampler="all")
    Prediction('made': normal 0.500 ± 0.000 (± and 95 % interval: from the drawing of tiles alone); 32 of 32 tiles read)
    """

    slide: str
    """File name of the slide."""
    results: tuple[TaskResult, ...]
    """Answers, one a task, the main task first."""
    grid: Grid
    """Grid of all cells of the slide."""
    slide_size: tuple[int, int]
    """Size (width, height) of the slide in level-0 px."""
    mpp: tuple[float, float] | None
    """Micrometres per level-0 px (x, y); None where the slide does not say."""
    tissue: Int64[np.ndarray, " K"]
    """Flat indices of the K tissue cells in `grid`, ascending."""
    attention: Float32[np.ndarray, " K"]
    """Attention of the tissue cells; sums to 1, or over all slides of the patient to 1."""
    cells: Int64[np.ndarray, " N"]
    """Flat indices of the N cells whose tiles were read, each once."""
    weights: Float64[np.ndarray, " N"]
    """Importance weight of each drawn cell: the inverse of its chance of being drawn."""
    tile_px: int
    """Side of a tile in its own px."""
    tile_downsample: tuple[float, float]
    """Downsample of the tiles: level-0 px per tile px (x, y)."""
    tiles_read: int
    """Number of tiles that were read, each counted once, however often it was drawn."""
    rounds: int
    """Number of rounds that the drawn tiles were dealt out to, for the error of their answer."""
    bytes_read: int
    """Decoded pixel bytes read from the slide, view included."""
    seconds: Mapping[str, float]
    """Seconds by stage, "total" among them."""
    notes: tuple[str, ...] = ()
    """Clauses on what the user should know before believing the answer; often none."""
    view_shares: Mapping[str, float] = field(default_factory=dict)
    """Shares of tissue, glass, pen, black and blank in the view, which sum to 1; none where they are not known."""

    digest: str = ""
    """What the slide holds (`Slide.digest`), by which another one is told from a copy; empty where it is not known."""

    description: Description | None = None
    """What the slide is compared with the training slides by; None where it was not described, as when read back."""
    unlike: Unlike | None = None
    """How unlike the training slides the slide is; None where the model does not know what these were like."""
    patient_cells: int = 0
    """Number of tissue cells of all slides, where the answer is about a patient and the attention is shared among
    them; 0: the answer is about this slide."""

    def __post_init__(self) -> None:
        if not np.isin(self.cells, self.tissue).all():
            strangers = self.cells[~np.isin(self.cells, self.tissue)]
            raise WsiAtsError(
                f"prediction of {self.slide}: drawn cells {strangers[:5]} are not tissue cells",
                "take predictions from a model, whose cells are",
            )

    def __repr__(self) -> str:
        read = f"{self.tiles_read} of {len(self.tissue)} tiles read"
        return f"Prediction({self.slide!r}: {_in_short(self.main)}; {read})"

    def about(self, task: str) -> Prediction:
        """This prediction with `task` as its main one. Raises `WsiAtsError` where the model has no such task."""
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
        """Attention of the tissue cells as multiples of the mean, of a patient that of all slides: 1 everywhere means
        no preference."""
        return self.attention * np.float32(self.patient_cells or len(self.tissue))

    def drawn(self) -> Int64[np.ndarray, " N"]:
        """Positions (N,) in `tissue` and `attention` of the drawn cells."""
        return np.searchsorted(self.tissue, self.cells).astype(np.int64)

    def heatmap(self, slide: Slide | None = None, style: HeatmapStyle | None = None) -> Heatmap:
        """The attention, and what each tile added to the answer, as a picture over `slide`; over white where no slide
        is given. Raises `ConfigError` where `slide` is known to be another than that of the prediction, or is not
        open."""
        # Here: matplotlib takes a while to import, and a prediction rarely needs it.
        from wsi_ats.heatmap.picture import Heatmap
        from wsi_ats.heatmap.style import HeatmapStyle
        from wsi_ats.slides.base import Slide

        if slide is not None:
            of_kind("slide", slide, Slide, "an open slide", "open it with wsi_ats.open_slide(...)")
        if style is not None:
            of_kind("style", style, HeatmapStyle, "a HeatmapStyle", "make one: HeatmapStyle(dark=True)")
        return Heatmap.of(self, slide, style)


@dataclass(frozen=True, eq=False)
class PatientPrediction(OfResults):
    """Answers about a patient, from tiles drawn from all slides at once.

    >>> from wsi_ats import open_slide
    >>> from wsi_ats.build import build_model
    >>> from wsi_ats.config import load_config
    >>> pixels = np.full((512, 768, 3), 240, np.uint8)
    >>> pixels[128:384, 128:640] = 170, 90, 160  # stained tissue on glass
    >>> scale = ("view.downsample=8", "tile.downsample=1", "tile.px=64", "attention.stride=8")
    >>> model = build_model(load_config(overrides=scale), ["normal", "tumour"])  # knows nothing yet
    >>> slides = [open_slide(pixels[:, :side], name=f"block {side}") for side in (512, 768)]
    >>> prediction = model.predict(slides, sampler="all")
    >>> prediction  # doctest: +NORMALIZE_WHITESPACE
    PatientPrediction(2 slides: normal 0.500 ± 0.000 (± and 95 % interval: from the drawing of tiles alone);
    56 of 56 tiles read)
    >>> [round(float(slide.attention.sum()), 3) for slide in prediction.slides]  # of both together 1
    [0.429, 0.571]
    """

    slides: tuple[Prediction, ...]
    """The slides in the order in which they were given: of each its cells, its part of the patient's attention, the
    tiles that were drawn there and what these contribute. Values and standard errors are the patient's."""
    rounds: int
    """Number of rounds that the drawn tiles were dealt out to, for the error of their answer."""
    bytes_read: int
    """Decoded pixel bytes read from all slides, views included."""
    seconds: Mapping[str, float]
    """Seconds by stage, "total" among them."""
    notes: tuple[str, ...] = ()
    """Clauses on what the user should know before believing the answer; those of a slide name it."""
    description: Description | None = None
    """What the patient is compared with the training patients by; None where it was not described."""
    unlike: Unlike | None = None
    """How unlike the training patients this one is; None where the model does not know what these were like."""
    given: tuple[int, ...] = ()
    """Position of each of the slides among those that were given, of which copies were left out."""

    def __repr__(self) -> str:
        tissue = sum(len(slide.tissue) for slide in self.slides)
        read = f"{self.tiles_read} of {tissue} tiles read"
        return f"PatientPrediction({counted(len(self.slides), 'slide')}: {_in_short(self.main)}; {read})"

    @cached_property
    def results(self) -> tuple[TaskResult, ...]:  # type: ignore[override]
        """Answers, one a task, the main task first; contributions are of the tiles of one slide after the other."""
        return tuple(
            replace(parts[0], contributions=np.concatenate([part.contributions for part in parts]))
            for parts in zip(*(slide.results for slide in self.slides), strict=True)
        )

    @property
    def tiles_read(self) -> int:
        """Number of tiles that were read in all slides, each counted once."""
        return sum(slide.tiles_read for slide in self.slides)

    def heatmaps(
        self, slides: Sequence[Slide] | None = None, style: HeatmapStyle | None = None
    ) -> list[Heatmap]:
        """A picture of each of `self.slides`, with one scale of colours for all; over white where no slides are given.

        slides: open, in the order of `self.slides`. Raises `ConfigError` where one is known to be another.
        """
        # Here: matplotlib takes a while to import, and a prediction rarely needs it.
        from wsi_ats.heatmap.patient import heatmaps_of

        return heatmaps_of(self, slides, style)


def _in_short(result: TaskResult) -> str:
    """The answer in a word, with the probability of what it names or, a number, by its task; and its error."""
    names = result.spec.names
    if not names:
        return result.describe()
    if result.text not in names:  # of labels, none or several
        return result.text or "no label"
    index = names.index(result.text)
    value, error = float(result.values[index]), float(result.stderr[index])
    sure = f"{value:.3f}{plus_minus(error, 3)}{limits(result.interval(index))}"
    return f"{result.text} {sure} ({UNKNOWN if math.isnan(error) else COVERS})"
