"""The attention of a prediction as a picture: over the slide, with a colour bar, the class and a scale bar.

Colours are attention as a multiple of its mean over the tissue ("12x" is looked at twelve times as much as
the average place), because the attention itself (a share of one) means nothing without knowing the number of
cells. The default scale is logarithmic: attention spans orders of magnitude, and on a linear scale all but
the hottest cell look alike.

Everything is placed in level-0 px by `Grid` (`cells_at`, `centres`, `tile_corners`), never by a scale factor
of its own."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float64, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from skimage.filters import gaussian

from wsi_ats.errors import ConfigError
from wsi_ats.geometry import Grid, Size
from wsi_ats.heatmap import frame
from wsi_ats.lowres.view import read_view
from wsi_ats.slides.base import Slide

if TYPE_CHECKING:
    from wsi_ats.prediction import Prediction  # which imports this module to draw itself

Scale = Literal["log", "linear", "percentile"]

LABELS: dict[Scale, str] = {
    "log": "attention relative to its mean over the tissue (log scale; 1× and less: not coloured)",
    "linear": "attention relative to its mean over the tissue",
    "percentile": "percentile of attention among the slide's tissue cells",
}
"""Labels of the colour bar by scale."""

FADE = 0.25
"""Share of the colours, from the lowest, over which they fade in."""
OUTLINE = (110, 110, 110)
"""Colour of the line around the tissue: a grey."""
MIN_RANGE = 10.0
"""Least span of the colours of multiples, 1x to 10x, so that a flat attention looks flat."""


@dataclass(frozen=True)
class HeatmapStyle:
    """Style of a heatmap: how it looks."""

    size: int = 1200
    """Longest side of the slide in the picture, px."""
    scale: Scale = "log"
    """Scale of the colours. log and linear: multiples of the mean; percentile: rank among the tissue cells, as CLAM
    draws it (the upper half of the tissue is then always warm, whatever the attention)."""
    cmap: str = "turbo"
    """Name of any colour map of matplotlib."""
    alpha: float = 0.55
    """Opacity of the colours over the tissue, 0 to 1."""
    blur: float = 0.0
    """Standard deviation, in cells, of a Gaussian blur over the tissue; 0 shows the cells as they are."""
    drawn: bool = True
    """Whether the tiles that were read are outlined."""

    def __post_init__(self) -> None:
        rules = (
            ("size", self.size, 64 <= self.size <= 20_000, "from 64 to 20000"),
            ("scale", self.scale, self.scale in LABELS, f"one of {', '.join(LABELS)}"),
            ("alpha", self.alpha, 0 <= self.alpha <= 1, "from 0 to 1"),
            ("blur", self.blur, self.blur >= 0, "0 or more"),
            ("cmap", self.cmap, self.cmap in colormaps, "a colour map of matplotlib"),
        )
        for name, value, holds, rule in rules:
            if not holds:
                raise ConfigError(f"heatmap setting {name} is {value!r}; it must be {rule}")


@dataclass(frozen=True, eq=False)
class Heatmap:
    """A prediction laid over a picture of its slide. Shown as it is at the end of a notebook cell."""

    prediction: Prediction
    thumbnail: UInt8[np.ndarray, "h w 3"]
    downsample: tuple[float, float]
    """Downsample of the thumbnail: level-0 px per px (x, y)."""
    style: HeatmapStyle = HeatmapStyle()

    @classmethod
    def of(
        cls, prediction: Prediction, slide: Slide | None = None, style: HeatmapStyle | None = None
    ) -> Heatmap:
        """The heatmap over a thumbnail of `slide`, read from its nearest finer level, in blocks; over white if None.

        Raises `ConfigError` where `slide` is not of the size that the prediction is of.
        """
        style = style or HeatmapStyle()
        if slide is not None and tuple(slide.size) != tuple(prediction.slide_size):
            raise ConfigError(
                f"slide {slide.name} is {slide.size} px (width, height), but the prediction is of "
                f"{prediction.slide} with {prediction.slide_size} px",
                remedy="give the slide that the prediction was made of",
            )
        step = max(1.0, max(prediction.slide_size) / style.size)
        if slide is not None:
            view = read_view(slide, (step, step), 1)  # its scale is a level's own where one is near
            return cls(prediction, view.pixels, view.downsample, style)
        shape = Grid.covering(Size(*prediction.slide_size), (step, step))
        return cls(prediction, np.full((shape.rows, shape.cols, 3), 255, np.uint8), (step, step), style)

    def values(self) -> Float64[np.ndarray, " K"]:
        """Values (K,) of the tissue cells that are coloured: multiples of the mean attention, or percentiles."""
        values = self.prediction.relative_attention.astype(np.float64)
        if self.style.blur > 0:
            values = _blurred(values, self.prediction, self.style.blur)
        if self.style.scale == "percentile":
            return _percentiles(values)
        return values

    def raster(self) -> Float64[np.ndarray, "h w"]:
        """The value under the centre of every thumbnail px; nan outside the tissue.

        Cells smaller than a px also show at the px of their own centre, the largest winning: none is lost.
        """
        grid, tissue, values = self.prediction.grid, self.prediction.tissue, self.values()
        flat = np.full(grid.rows * grid.cols, np.nan)
        flat[tissue] = values
        x, y = self._px_centres()
        column_cells = grid.cells_at(_along(x, 0)) % grid.cols
        row_cells = grid.cells_at(_along(y, 1)) // grid.cols
        out: np.ndarray = flat[row_cells[:, None] * grid.cols + column_cells[None, :]]
        if min(grid.cell) < 2 * max(self.downsample):
            height, width = out.shape
            px = (grid.centres(tissue) / self.downsample).astype(np.int64)
            place = (np.minimum(px[:, 1], height - 1), np.minimum(px[:, 0], width - 1))
            np.fmax.at(out, place, values)
        return out

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw into `ax`, or into a new pyplot figure, and return the axes. Its data coordinates are level-0
        px."""
        if ax is None:
            # Here, so that only a caller who wants an interactive figure gets pyplot's state.
            import matplotlib.pyplot as plt

            ax = plt.subplots(figsize=(9, 8))[1]
        colours = self._paint(ax, "antialiased")  # axes of any size: thin lines must survive
        frame.colour_bar(
            ax.figure.colorbar(colours, ax=ax, fraction=0.04, pad=0.02), colours, self._label, columns=50
        )
        frame.title(ax, self.prediction, columns=70)
        frame.scale_bar(ax, self.prediction)
        return ax

    def figure(self) -> Figure:
        """The picture that `save` writes, apart from pyplot's state."""
        width, height = self.prediction.slide_size
        layout = frame.Layout.around(width, height, self.style.size)
        figure = Figure(figsize=layout.inches, dpi=frame.DPI, facecolor="white")
        ax = figure.add_axes(layout.slide)
        colours = self._paint(ax, "nearest")  # px by px
        bar = figure.colorbar(colours, cax=figure.add_axes(layout.bar))
        frame.colour_bar(bar, colours, self._label, layout.bar_columns)
        frame.title(ax, self.prediction, layout.text_columns)
        frame.scale_bar(ax, self.prediction)
        return figure

    def save(self, path: Path | str) -> None:
        """Write the picture; the suffix (.png, .pdf, .svg) names the format."""
        Path(path).write_bytes(self.encode(Path(path).suffix.lstrip(".") or "png"))

    def encode(self, kind: str = "png") -> bytes:
        """The picture as a file's bytes; equal predictions give equal bytes (PNG)."""
        buffer = io.BytesIO()
        # Without matplotlib's version in it, and lightly compressed: a third of the time for a quarter more
        # bytes.
        options: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}}
        self.figure().savefig(buffer, format=kind, dpi=frame.DPI, **(options if kind == "png" else {}))
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.encode()

    def blend(self) -> UInt8[np.ndarray, "h w 3"]:
        """The thumbnail with the colours and the outline of the tissue over it."""
        raster = self.raster()
        out = self.thumbnail.copy()
        shown = np.isfinite(raster)
        colour = self._cmap()(self._norm()(raster[shown])).astype(np.float32)
        strength = colour[:, 3:] * np.float32(self.style.alpha)
        out[shown] = (out[shown] * (1 - strength) + colour[:, :3] * (255 * strength) + 0.5).astype(np.uint8)
        out[frame.inner_edge(shown)] = OUTLINE
        return out

    def _paint(self, ax: Axes, interpolation: str) -> ScalarMappable:
        """Slide, colours and drawn tiles; what the colour bar needs is returned."""
        picture = self.blend()
        height, width = picture.shape[:2]
        extent = (0.0, width * self.downsample[0], height * self.downsample[1], 0.0)
        ax.imshow(picture, extent=extent, interpolation=interpolation)
        if self.style.drawn and len(self.prediction.cells) < len(self.prediction.tissue):
            corners = self.prediction.grid.tile_corners(self.prediction.cells, self.prediction.tile_size)
            frame.tile_outlines(ax, corners, self.prediction.tile_size, least=6 * max(self.downsample))
        ax.set_xlim(0, self.prediction.slide_size[0])
        ax.set_ylim(self.prediction.slide_size[1], 0)
        ax.set_axis_off()
        return ScalarMappable(self._norm(), self._cmap())

    def _norm(self) -> Normalize:
        if self.style.scale == "percentile":
            return Normalize(0, 100)
        top = max(MIN_RANGE, float(self.values().max()))
        return LogNorm(1, top) if self.style.scale == "log" else Normalize(0, top)

    def _cmap(self) -> Colormap:
        """The colours; multiples fade in from the lowest, which says nothing and would only darken the
        tissue."""
        colours = colormaps[self.style.cmap](np.linspace(0, 1, 256))
        if self.style.scale != "percentile":
            colours[:, 3] = np.minimum(1, np.linspace(0, 1, 256) / FADE)
        return ListedColormap(colours, name=self.style.cmap).with_extremes(under=(0, 0, 0, 0))

    @property
    def _label(self) -> str:
        return LABELS[self.style.scale]

    def _px_centres(self) -> tuple[Float64[np.ndarray, " w"], Float64[np.ndarray, " h"]]:
        """Level-0 x of each column's centre and y of each row's; the last px may overhang the slide."""
        height, width = self.thumbnail.shape[:2]
        (step_x, step_y), (slide_w, slide_h) = self.downsample, self.prediction.slide_size
        x = np.minimum((np.arange(width) + 0.5) * step_x, slide_w - 1)
        y = np.minimum((np.arange(height) + 0.5) * step_y, slide_h - 1)
        return x, y


def _along(values: Float64[np.ndarray, " n"], axis: int) -> Float64[np.ndarray, "n 2"]:
    """Points on the slide's upper (axis 0) or left (axis 1) edge."""
    points = np.zeros((len(values), 2))
    points[:, axis] = values
    return points


def _blurred(
    values: Float64[np.ndarray, " K"], prediction: Prediction, sigma: float
) -> Float64[np.ndarray, " K"]:
    """Gaussian blur among tissue cells only: background does not dilute the edge of the tissue."""
    grid: Grid = prediction.grid
    sheet, mask = np.zeros((2, grid.rows * grid.cols))
    sheet[prediction.tissue] = values
    mask[prediction.tissue] = 1
    shape = (grid.rows, grid.cols)
    total, weight = (gaussian(a.reshape(shape), sigma, mode="constant").ravel() for a in (sheet, mask))
    return np.asarray(total[prediction.tissue] / weight[prediction.tissue], np.float64)


def _percentiles(values: Float64[np.ndarray, " K"]) -> Float64[np.ndarray, " K"]:
    """Percentage of cells with less attention, equals sharing the middle of their range."""
    ordered = np.sort(values)
    below, upto = np.searchsorted(ordered, values), np.searchsorted(ordered, values, side="right")
    return 100 * (below + upto) / (2 * len(values))
