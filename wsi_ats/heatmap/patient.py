"""Pictures of the slides of a patient, in which a colour means the same on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wsi_ats.errors import ConfigError
from wsi_ats.heatmap.panels import attention_norm, contribution_reach
from wsi_ats.heatmap.picture import Heatmap
from wsi_ats.heatmap.style import HeatmapStyle
from wsi_ats.slides.base import Slide

if TYPE_CHECKING:
    from wsi_ats.prediction import PatientPrediction  # which imports this module to draw itself


def heatmaps_of(
    prediction: PatientPrediction, slides: Sequence[Slide] | None = None, style: HeatmapStyle | None = None
) -> list[Heatmap]:
    """A heatmap of each slide of the prediction, the colours of all on one scale: that of the slide that goes furthest.

    slides: the open slides, in the prediction's order; None: over white. Raises `ConfigError` where they are not these.
    """
    style = style or HeatmapStyle()
    handles = [None] * len(prediction.slides) if slides is None else list(slides)
    if len(handles) != len(prediction.slides):
        raise ConfigError(
            f"{len(handles)} slides are given, and the prediction is of {len(prediction.slides)}",
            remedy="give each of `prediction.slides`, in their order",
        )
    made = [Heatmap.of(of, slide, style) for of, slide in zip(prediction.slides, handles, strict=True)]
    norms = [attention_norm(style, heatmap.values()) for heatmap in made]
    low = min(norm.vmin for norm in norms if norm.vmin is not None)
    high = max(norm.vmax for norm in norms if norm.vmax is not None)
    reach = style.contribution_limit or contribution_reach(prediction)
    shared = replace(style, limits=(low, high), contribution_limit=reach)
    return [replace(heatmap, style=shared) for heatmap in made]
