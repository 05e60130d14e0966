"""`survey`, a quick look at a slide: the shares of its classes and its light, from a few coarse pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from wsi_ats.config import TissueSettings, ViewSettings
from wsi_ats.errors import SlideError
from wsi_ats.lowres.light import Light
from wsi_ats.lowres.regions import TissueRule
from wsi_ats.lowres.same_picture import blank_places, check_levels
from wsi_ats.lowres.shares import ViewShares, notes_of
from wsi_ats.lowres.tissue import stain_rule
from wsi_ats.lowres.view import LazyView, View, frame_view
from wsi_ats.slides.base import Slide

MOST_PX = 1000
"""Most pixels a side of what a survey looks at."""

MOST_PLACES = 1000
"""Number of px of tissue up to which all are places that levels are compared at, as far as it takes."""

MOST_READ = 4096
"""Most pixels a side of the level that they are made of: it is read whole, in a second or two."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a quick look at a slide shows."""

    shares: ViewShares
    light: Light
    levels: tuple[str, ...] = ()
    """Clauses on levels that show something else than level 0."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Clauses on what may shift an answer: other levels, pen, black, the light."""
        return (*self.levels, *notes_of(self.shares, self.light))


def survey(slide: Slide) -> Survey | None:
    """The shares of a slide as the default settings have them, at 8 um/px or coarser; None where its levels are too
    large for a quick look.

    Raises SlideError where the slide cannot be read.
    """
    frame = survey_frame(slide)
    level = slide.pyramid.nearest_finer(frame.downsample)
    if max(level.size.width, level.size.height) > MOST_READ:
        return None
    settings = TissueSettings()
    view = frame.load(slide)
    rule = stain_rule([view.pixels], settings.method, background=slide.background, pen=settings.pen)
    tissue = TissueRule(rule, settings.min_object, settings.min_hole, settings.min_fraction)
    mask, shares = tissue.survey(view.pixels, _zoom(slide, frame))
    return Survey(shares, rule.light, _levels(slide, view, np.flatnonzero(mask)))


def _levels(slide: Slide, view: View, tissue: Int64[np.ndarray, " K"]) -> tuple[str, ...]:
    """Clauses on levels that show something else than level 0; also on one for which a model would refuse the slide."""
    some = tissue[:: max(1, len(tissue) // MOST_PLACES)]
    try:
        every = [level.downsample for level in slide.levels]
        return check_levels(slide, every, view.grid.centres(some), blank_places(view))
    except SlideError as error:
        return (f"no model reads this slide: {error.message}",)


def survey_frame(slide: Slide) -> LazyView:
    """The view that a survey looks at: 8 um/px where the slide says its scale, coarser so that it stays small."""
    coarse = max(1.0, max(slide.size) / MOST_PX)
    wanted = _view_downsample(slide)
    return frame_view(slide, (max(wanted[0], coarse), max(wanted[1], coarse)), stride=1)


def _zoom(slide: Slide, frame: LazyView) -> float:
    """View px, of which sizes of objects and holes are, a pixel of the survey; 1 where the scale is not known."""
    if slide.mpp_xy is None:
        return 1.0
    wanted = _view_downsample(slide)
    return math.sqrt(frame.downsample[0] * frame.downsample[1] / (wanted[0] * wanted[1]))


def _view_downsample(slide: Slide) -> tuple[float, float]:
    mpp = ViewSettings().mpp
    if slide.mpp_xy is None or mpp is None:
        return 1.0, 1.0
    return max(1.0, mpp / slide.mpp_xy[0]), max(1.0, mpp / slide.mpp_xy[1])
