"""Panels of a heatmap: each is the slide with one map over it, and the scale of the map's colours.

`attention_panel` shows where the model looked: attention as a multiple of its mean over the tissue ("12x" is looked at
twelve times as much as the average place), because the attention itself (a share of one) means nothing without the
number of cells. `contributions_panel` shows what decided: what each tile that was read adds to the answer. The two are
not the same: what is looked at most may speak against the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, UInt8
from matplotlib import colormaps
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize

from wsi_ats.heatmap import frame
from wsi_ats.heatmap.style import TISSUE_MAP, HeatmapStyle

if TYPE_CHECKING:
    from wsi_ats.heatmap.picture import Heatmap
    from wsi_ats.prediction import OfResults, Prediction
    from wsi_ats.tasks.answer import TaskSpec

FADE = 0.25
"""Share of the colours, from the lowest, over which they fade in: what is nearly uniform says nothing, and colour on it
would only hide the tissue."""
MIN_RANGE = 10.0
"""Least span of the colours of multiples, 1x to 10x, so that a flat attention looks flat."""
OUTLINE = (110, 110, 110)
"""Colour of the line around the tissue: a grey."""
OPACITY = 0.75, 0.95
"""Opacity of a contribution of 0, which is not that of a tile without one, and from `FADE` of the largest on."""
PALE = 0.45
"""Share of its contrast that the slide keeps, in grey, under contributions: red and blue would drown in the stain."""


@dataclass(frozen=True, eq=False)
class Panel:
    """A panel: its pixels, and what its colour bar needs."""

    heading: str
    label: str
    """What the colours count."""
    unit: str
    """Unit behind the numbers; empty where they are signed."""
    pixels: UInt8[np.ndarray, "h w 3"]
    norm: Normalize
    colours: Colormap
    outline: tuple[tuple[str, float], ...]
    """Colour and width of the lines around tiles, the lowest first."""


def attention_panel(heatmap: Heatmap) -> Panel:
    """Where the model looked: the slide with its attention in colour."""
    style, values, raster = heatmap.style, heatmap.values(), heatmap.raster()
    norm, colours = attention_norm(style, values), _attention_colours(style)
    pixels = _painted(heatmap.thumbnail, raster, norm, colours, style.alpha)
    pixels[frame.inner_edge(np.isfinite(raster))] = OUTLINE
    unit = "%" if style.scale == "percentile" else "×"
    label = _attention_label(style, norm, heatmap.prediction)
    on_any_ground = (("white", 2.2), ("black", 1.0))
    return Panel("Attention", label, unit, pixels, norm, colours, on_any_ground)


def contributions_panel(heatmap: Heatmap) -> Panel:
    """What decided: a pale slide with what each tile that was read adds to the output that the answer rests on."""
    prediction = heatmap.prediction
    spec = prediction.main.spec
    output = spec.outputs[prediction.top]
    values = _contributions(prediction)
    reach = heatmap.style.contribution_limit or contribution_reach(prediction)
    norm, colours = Normalize(-reach, reach), _contribution_colours()
    raster = np.clip(heatmap.tile_raster(values), -reach, reach)
    pixels = _painted(_pale(heatmap.thumbnail), raster, norm, colours, 1.0)
    pixels[frame.inner_edge(np.isfinite(heatmap.raster()))] = OUTLINE
    label = _added(spec, frame.elide(output, 28))
    return Panel(f"Adds to: {output}", label, "", pixels, norm, colours, (("black", 0.8),))


def attention_norm(style: HeatmapStyle, values: Float64[np.ndarray, " K"]) -> Normalize:
    """Scale of the colours of attention, given its values over the tissue."""
    if style.scale == "percentile":
        return Normalize(*(style.limits or (0.0, 100.0)))
    top = max(MIN_RANGE, float(values.max()))
    if style.scale == "log":
        return LogNorm(*(style.limits or (1.0, top)))
    return Normalize(*(style.limits or (0.0, top)))


def _attention_colours(style: HeatmapStyle) -> Colormap:
    """The map's colours; multiples fade in from the lowest."""
    # The upper part of viridis, from green to yellow: ordered in lightness, told apart by the colour-blind, and of hues
    # that no stain of H&E has. Its lower part, and that of most maps, is the violet of haematoxylin.
    low, name = (0.5, "viridis") if style.cmap == TISSUE_MAP else (0.0, style.cmap)
    colours = colormaps[name](np.linspace(low, 1, 256))
    if style.scale != "percentile":
        colours[:, 3] = np.minimum(1, np.linspace(0, 1, 256) / FADE)
    return ListedColormap(colours, name=style.cmap).with_extremes(under=(0, 0, 0, 0))


def _attention_label(style: HeatmapStyle, norm: Normalize, prediction: Prediction) -> str:
    if style.scale == "percentile":
        times = prediction.relative_attention
        return (
            "percentile of attention within this slide: its order alone "
            f"(here {times.min():.3g}× to {times.max():.3g}× its mean)"
        )
    tissue = "all slides of the patient" if prediction.patient_cells else "the tissue"
    label = f"attention relative to its mean over {tissue}"
    return f"{label} (log; up to {norm.vmin:g}×: not coloured)" if style.scale == "log" else label


def _contribution_colours() -> Colormap:
    """Red adds, blue takes away, which the colour-blind tell apart; pale where it is nearly nothing."""
    place = np.linspace(-1, 1, 257)  # an odd number: 0 has a colour of its own
    colours = colormaps["RdBu_r"](place / 2 + 0.5)
    low, high = OPACITY
    colours[:, 3] = low + (high - low) * np.minimum(1, abs(place) / FADE)
    return ListedColormap(colours, name="contributions")


def contribution_reach(prediction: OfResults) -> float:
    """Contribution of the full colours: the largest, but on a scale of log-odds or log risk at least what would, were
    it that of every tile read, add 1. So a model that has not decided looks pale. A number in a unit of its own has no
    such least."""
    values, spec = abs(_contributions(prediction)), prediction.main.spec
    least = 1 / max(len(values), 1) if spec.names or spec.entry.unit else 0.0
    return float(max(values.max(initial=0.0), least)) or 1.0


def _contributions(prediction: OfResults) -> Float64[np.ndarray, " N"]:
    """What each tile adds to the output that the answer rests on."""
    return prediction.contributions[:, prediction.top].astype(np.float64)


def _added(spec: TaskSpec, output: str) -> str:
    """What a contribution is added to, in words."""
    if len(spec.outputs) > 1:
        return f"what a tile adds to the logit of {output} (below 0: against it)"
    if spec.names:
        return f"what a tile adds to the score of {output} (above 0: a higher grade)"
    return f"what a tile adds to the {spec.entry.unit or 'value'} of {output}"


def _pale(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The slide in grey, nearer to white."""
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = (255 - PALE * (255 - luma)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _painted(
    ground: UInt8[np.ndarray, "h w 3"],
    raster: Float64[np.ndarray, "h w"],
    norm: Normalize,
    colours: Colormap,
    opacity: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """The ground with the colours of `raster` over it, but where that is nan or below the scale."""
    out = ground.copy()
    shown = raster >= (norm.vmin or 0.0)
    colour = colours(norm(raster[shown])).astype(np.float32)
    strength = colour[:, 3:] * np.float32(opacity)
    out[shown] = (out[shown] * (1 - strength) + colour[:, :3] * (255 * strength) + 0.5).astype(np.uint8)
    return out
