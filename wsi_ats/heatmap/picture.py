"""The prediction as a picture: where the model looked and what decided, each over the slide, with the answer, colour
bars, a scale bar and a legend.

Everything is placed in level-0 px by `Grid` (`cells_at`, `centres`, `tile_corners`), never by a scale factor of its
own; where pixels are not square, micrometres are.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from wsi_ats.arguments import in_short, of_kind, some_path
from wsi_ats.errors import ConfigError
from wsi_ats.geometry import Grid, Size
from wsi_ats.heatmap import frame
from wsi_ats.heatmap.panels import Panel, attention_panel, contributions_panel
from wsi_ats.heatmap.style import HeatmapStyle
from wsi_ats.lowres.view import read_view
from wsi_ats.output import write_file
from wsi_ats.shown import printable
from wsi_ats.slides.base import Slide

if TYPE_CHECKING:
    from wsi_ats.prediction import Prediction  # which imports this module to draw itself

__all__ = ["Heatmap", "HeatmapStyle"]

PANELS: Mapping[str, Callable[[Heatmap], Panel]] = {
    "attention": attention_panel,
    "contributions": contributions_panel,
}
"""What a picture can show, by name, in the order in which it is shown."""


@dataclass(frozen=True, eq=False)
class Heatmap:
    """A prediction laid over a picture of its slide. Shown as it is at the end of a notebook cell."""

    prediction: Prediction
    thumbnail: UInt8[np.ndarray, "h w 3"]
    downsample: tuple[float, float]
    """Downsample of the thumbnail: level-0 px per px (x, y); its px are as high as wide in micrometres."""
    style: HeatmapStyle = field(default_factory=HeatmapStyle)

    @classmethod
    def of(
        cls, prediction: Prediction, slide: Slide | None = None, style: HeatmapStyle | None = None
    ) -> Heatmap:
        """The heatmap over a thumbnail of `slide`, read from its nearest finer level, in blocks; over white if None.

        Raises `ConfigError` where `slide` is known to be another than that of the prediction.
        """
        style = style or HeatmapStyle()
        if slide is not None:
            _refuse_another(slide, prediction)
        step = _step(prediction, style.size)
        if slide is not None:
            view = read_view(slide, step, 1)  # its scale is a level's own where one is near
            return cls(prediction, view.pixels, view.downsample, style)
        shape = Grid.covering(Size(*prediction.slide_size), step)
        return cls(prediction, np.full((shape.rows, shape.cols, 3), 255, np.uint8), step, style)

    def values(self) -> Float64[np.ndarray, " K"]:
        """Values (K,) of the tissue cells that are coloured: multiples of the mean attention, or percentiles."""
        grid, tissue = self.prediction.grid, self.prediction.tissue
        x, y = np.arange(grid.cols) + 0.5, np.arange(grid.rows) + 0.5
        times = self._blurred(x, y).ravel()[tissue] if self.style.blur > 0 else self._times
        return self._scaled(times)

    def raster(self) -> Float64[np.ndarray, "h w"]:
        """The value under the centre of every thumbnail px; nan outside the tissue.

        Cells smaller than a px also show at the px of their own centre, the largest winning: none is lost.
        """
        return self._raster

    def tile_raster(self, values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, "h w"]:
        """Values of the tiles that were read, each on the px that it covers, at least `frame.MARK_PX` squared; nan
        elsewhere. Where tiles overlap, the value furthest from 0 shows."""
        out = np.full(self.thumbnail.shape[:2], np.nan)
        tile = np.asarray(self.prediction.tile_size) / self.downsample
        centres = self.prediction.grid.centres(self.prediction.cells) / self.downsample
        half = np.maximum(tile, frame.MARK_PX) / 2
        low, high = (np.maximum(np.rint(edge), 0).astype(int) for edge in (centres - half, centres + half))
        for i in np.argsort(abs(values), kind="stable"):
            (left, top), (right, bottom) = low[i], high[i]
            out[top:bottom, left:right] = values[i]
        return out

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw one panel into `ax`, or into a new pyplot figure, and return the axes: the attention, unless the style
        asks for the contributions. Its data coordinates are level-0 px."""
        if ax is not None:
            of_kind("ax", ax, Axes, "axes of matplotlib", "leave it away for new ones")
        else:
            # Here, so that only a caller who wants an interactive figure gets pyplot's state.
            import matplotlib.pyplot as plt

            ax = plt.subplots(figsize=(9, 8))[1]
        ink = frame.LIGHT if self.style.dark else rcParams["text.color"]
        panel = next(iter(self.panels().values()))
        # Axes of any size: thin lines must survive.
        self._show(ax, panel, interpolation="antialiased", aspect=self._aspect)
        bar = ax.figure.colorbar(ScalarMappable(panel.norm, panel.colours), ax=ax, fraction=0.04, pad=0.02)
        box = ax.get_window_extent()
        frame.colour_bar(bar, panel, ink, int(box.height * frame.DPI / ax.figure.dpi))
        frame.title(ax, self.prediction, ink, box.width * frame.DPI / ax.figure.dpi, panel.heading)
        frame.scale_bar(ax, self.prediction, ink)
        contributions = self.style.panels == "contributions"
        ax.legend(
            handles=self._legend(ink, contributions=contributions), bbox_to_anchor=(0, 0), loc="upper left",
            bbox_transform=frame.below(ax), **frame.legend_style(ink, 2),
        )  # fmt: skip
        return ax

    def panels(self) -> dict[str, Panel]:
        """The panels that the style asks for, by name."""
        asked = self.style.panels
        return {name: make(self) for name, make in PANELS.items() if asked in ("both", name)}

    @property
    def layout(self) -> frame.Layout:
        """Layout of the picture that `save` writes."""
        width, height = self.prediction.slide_size
        count = len(PANELS) if self.style.panels == "both" else 1
        notes = bool(self.prediction.notes)
        return frame.Layout.around(float(width), height * self._aspect, self.style.size, count, notes)

    def figure(self) -> Figure:
        """The picture that `save` writes, apart from pyplot's state and matplotlib's style."""
        layout = self.layout
        ink, paper = (frame.LIGHT, frame.DARK) if self.style.dark else (frame.DARK, "white")
        figure = Figure(figsize=layout.inches, dpi=frame.DPI, facecolor=paper)
        for panel, place in zip(self.panels().values(), layout.places, strict=True):
            ax = figure.add_axes(place.slide)
            self._show(ax, panel, interpolation="nearest", aspect="auto")  # px by px
            frame.heading(ax, panel.heading, ink, layout.pitch)
            bar = figure.colorbar(ScalarMappable(panel.norm, panel.colours), cax=figure.add_axes(place.bar))
            frame.colour_bar(bar, panel, ink, layout.bar_px, flat=layout.flat)
        frame.title(figure, self.prediction, ink, layout.text_px)
        frame.scale_bar(figure.axes[0 if layout.beside else -2], self.prediction, ink)
        contributions = self.style.panels != "attention"
        figure.legend(
            handles=self._legend(ink, contributions=contributions), loc="lower left",
            bbox_to_anchor=layout.legend, **frame.legend_style(ink, 4),
        )  # fmt: skip
        return figure

    def save(self, path: Path | str) -> None:
        """Write the picture; the suffix (.png, .pdf, .svg) names the format. Raises `ConfigError` for one that is not
        known, and where it cannot be written."""
        place = Path(some_path("path", path, "give the file to write, heatmap.png for example"))
        write_file(place, self.encode(place.suffix.lstrip(".").lower() or "png"))

    def encode(self, kind: str = "png") -> bytes:
        """The picture as a file's bytes; equal predictions give equal bytes (PNG)."""
        buffer, figure = io.BytesIO(), self.figure()
        kinds = figure.canvas.get_supported_filetypes()  # more than are named, as matplotlib is installed
        if not (isinstance(kind, str) and kind in kinds):
            raise ConfigError(
                f"kind of picture is {in_short(kind)}; it must be one of {', '.join(kinds)}", "take png"
            )
        with frame.any_script():
            if kind == "png":
                # Not by `savefig`, which writes opacity, too, and its version; and lightly compressed: a third of the
                # time for a quarter more bytes.
                canvas = FigureCanvasAgg(figure)
                canvas.draw()  # type: ignore[no-untyped-call]
                pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
                Image.fromarray(pixels).save(buffer, "png", dpi=(frame.DPI, frame.DPI), compress_level=3)
            else:
                figure.savefig(buffer, format=kind, dpi=frame.DPI, facecolor=figure.get_facecolor())
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.encode()

    def _show(self, ax: Axes, panel: Panel, interpolation: str, aspect: float | Literal["auto"]) -> None:
        """The panel's pixels and the tiles that were read."""
        height, width = panel.pixels.shape[:2]
        extent = (0.0, width * self.downsample[0], height * self.downsample[1], 0.0)
        ax.imshow(panel.pixels, extent=extent, interpolation=interpolation, aspect=aspect)
        if self._outlined:
            corners = self.prediction.grid.tile_corners(self.prediction.cells, self.prediction.tile_size)
            least = frame.MARK_PX * np.asarray(self.downsample)
            frame.tile_outlines(ax, corners, self.prediction.tile_size, least, panel.outline)
        ax.set_xlim(0, self.prediction.slide_size[0])
        ax.set_ylim(self.prediction.slide_size[1], 0)
        ax.set_axis_off()

    @property
    def _outlined(self) -> bool:
        """Whether tiles are outlined: where all were read there is nothing to tell apart."""
        return self.style.drawn and not self._every

    @property
    def _every(self) -> bool:
        """Whether every tissue tile was read."""
        return len(self.prediction.cells) == len(self.prediction.tissue)

    def _legend(self, ink: str, *, contributions: bool) -> list[Line2D]:
        return frame.legend_handles(
            ink, outlined=self._outlined, every=self._every, contributions=contributions
        )

    @property
    def _aspect(self) -> float:
        """Height of a level-0 px over its width."""
        x, y = self.prediction.mpp or (1.0, 1.0)
        return y / x

    @property
    def _times(self) -> Float64[np.ndarray, " K"]:
        return self.prediction.relative_attention.astype(np.float64)

    @cached_property
    def _raster(self) -> Float64[np.ndarray, "h w"]:
        tissue = self.prediction.tissue
        times = self._nearest(tissue, self._times)
        if self.style.blur > 0:
            x, y = self._px_centres()
            cell_x, cell_y = self.prediction.grid.cell
            times = np.where(np.isfinite(times), self._blurred(x / cell_x, y / cell_y), np.nan)
        return self._scaled(times)

    def _nearest(
        self, cells: Int64[np.ndarray, " n"], values: Float64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, "h w"]:
        """Value of the cell that the centre of every px lies in; nan where it is none of `cells`. Where cells are
        smaller than px, the px of a cell's centre shows the largest value of these, too."""
        grid = self.prediction.grid
        flat = np.full(len(grid), np.nan)
        flat[cells] = values
        x, y = self._px_centres()
        columns, rows = grid.cells_at(_along(x, 0)) % grid.cols, grid.cells_at(_along(y, 1)) // grid.cols
        out: np.ndarray = flat[rows[:, None] * grid.cols + columns[None, :]]
        if min(np.divide(grid.cell, self.downsample)) < 2:
            height, width = out.shape
            px = (grid.centres(cells) / self.downsample).astype(np.int64)
            place = (np.minimum(px[:, 1], height - 1), np.minimum(px[:, 0], width - 1))
            np.fmax.at(out, place, values)
        return out

    def _blurred(
        self, x: Float64[np.ndarray, " w"], y: Float64[np.ndarray, " h"]
    ) -> Float64[np.ndarray, "h w"]:
        """Multiples of the mean attention at columns `x` and rows `y` (in cells), blurred by a Gaussian.

        The map of the cells, which is constant in each, is convolved exactly; and so is the tissue, by which it is
        divided: background does not dilute the border of the tissue.
        """
        grid, tissue = self.prediction.grid, self.prediction.tissue
        sheet, mask = np.zeros((2, len(grid)))
        sheet[tissue], mask[tissue] = self._times, 1
        across, down = (_shares(p, n, self.style.blur) for p, n in ((x, grid.cols), (y, grid.rows)))
        total, weight = (down @ a.reshape(grid.rows, grid.cols) @ across.T for a in (sheet, mask))
        out: np.ndarray = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-300)
        return out

    def _scaled(self, times: Float64[np.ndarray, "*b"]) -> Float64[np.ndarray, "*b"]:
        """Multiples in the scale of the colours."""
        if self.style.scale != "percentile":
            return times
        if self.style.blur > 0:
            grid = self.prediction.grid
            x, y = np.arange(grid.cols) + 0.5, np.arange(grid.rows) + 0.5
            among = self._blurred(x, y).ravel()[self.prediction.tissue]
        else:
            among = self._times
        return _percentiles(times, among)

    def _px_centres(self) -> tuple[Float64[np.ndarray, " w"], Float64[np.ndarray, " h"]]:
        """Level-0 x of each column's centre and y of each row's; the last px may overhang the slide."""
        height, width = self.thumbnail.shape[:2]
        (step_x, step_y), (slide_w, slide_h) = self.downsample, self.prediction.slide_size
        x = np.minimum((np.arange(width) + 0.5) * step_x, slide_w - 1)
        y = np.minimum((np.arange(height) + 0.5) * step_y, slide_h - 1)
        return x, y


def _refuse_another(slide: Slide, prediction: Prediction) -> None:
    """Raise `ConfigError` where `slide` is of another size than the predicted one, or holds something else; where that
    cannot be compared, where it has another name, but for the suffix: it may have been converted."""
    remedy = "give the slide that the prediction was made of, or a copy of it"
    if tuple(slide.size) != tuple(prediction.slide_size):
        raise ConfigError(
            f"slide {slide.name} is {slide.size} px (width, height), but the prediction is of "
            f"{prediction.slide} with {prediction.slide_size} px",
            remedy=remedy,
        )
    mine, its = prediction.digest.partition(" "), slide.digest.partition(" ")
    if mine[0] == its[0] != "":
        if mine != its:
            raise ConfigError(
                f"slide {slide.name} is not the one that the prediction is of, {prediction.slide}: of the same size, "
                "it holds something else",
                remedy=remedy,
            )
    elif _stem(slide.name) != _stem(prediction.slide):
        raise ConfigError(
            f"slide {slide.name} has another name than the one that the prediction is of, {prediction.slide}, and "
            "what they hold cannot be compared",
            remedy=f"{remedy}; one that is the same under another name, with open_slide(..., name=...)",
        )


def _stem(name: str) -> str:
    """A slide's name as people see it, up to its first full stop."""
    return printable(name).partition(".")[0].casefold()


def _step(prediction: Prediction, size: int) -> tuple[float, float]:
    """Level-0 px (x, y) per px of a thumbnail of `size` px, whose px are square in micrometres; at least 1."""
    (width, height), (x, y) = prediction.slide_size, prediction.mpp or (1.0, 1.0)
    micrometres = max(width * x / size, height * y / size, x, y)
    return micrometres / x, micrometres / y


def _along(values: Float64[np.ndarray, " n"], axis: int) -> Float64[np.ndarray, "n 2"]:
    """Points on the slide's upper (axis 0) or left (axis 1) edge."""
    points = np.zeros((len(values), 2))
    points[:, axis] = values
    return points


def _shares(places: Float64[np.ndarray, " m"], cells: int, sigma: float) -> Float64[np.ndarray, "m n"]:
    """Share (m, n) of a Gaussian around each place that lies on each of n cells, in units of their side."""
    error_function = np.vectorize(math.erf, otypes=[np.float64])
    edges = (np.arange(cells + 1) - places[:, None]) / (math.sqrt(2) * sigma)
    return np.asarray(np.diff(error_function(edges), axis=1) / 2, np.float64)


def _percentiles(
    values: Float64[np.ndarray, "*b"], among: Float64[np.ndarray, " K"]
) -> Float64[np.ndarray, "*b"]:
    """Percentage of `among` that is less than each value, equals sharing the middle of their range; nan stays nan."""
    ordered = np.sort(among)
    below, upto = np.searchsorted(ordered, values), np.searchsorted(ordered, values, side="right")
    return np.where(np.isnan(values), np.nan, 100 * (below + upto) / (2 * len(among)))
