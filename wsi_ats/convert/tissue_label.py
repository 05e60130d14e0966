"""The tissue of a slide as a label over it, for `wsi-ats convert --tissue`: what training and prediction draw from."""

from __future__ import annotations

from functools import partial

from wsi_ats.config import TissueSettings, ViewSettings
from wsi_ats.convert.extras import Label
from wsi_ats.errors import MissingMppError
from wsi_ats.lowres.tissue import mask_of
from wsi_ats.lowres.view import LazyView, frame_view, resolve_downsample
from wsi_ats.slides.base import Slide

NAME = "tissue"


def tissue_label(slide: Slide, settings: TissueSettings | None = None, mpp: float | None = None) -> Label:
    """The tissue mask of a slide, found on a view of `mpp` um/px; settings and mpp: those of `Config` by default.

    Tissue in cells is not asked for, as by `find_tissue`: a slide without any has an empty label.
    Raises MissingMppError where the slide does not say its scale, SlideError where it cannot be read.
    """
    settings = settings or TissueSettings()
    view = tissue_view(slide, mpp)
    mask = mask_of(
        view,
        partial(view.read, slide),
        background=slide.background,
        method=settings.method,
        min_object=settings.min_object,
        min_hole=settings.min_hole,
        pen=settings.pen,
    )
    return Label(mask, view.downsample)


def tissue_view(slide: Slide, mpp: float | None = None) -> LazyView:
    """The frame of the view that tissue is found on, `mpp` um/px. Raises MissingMppError."""
    if slide.mpp_xy is None:
        raise MissingMppError(
            f"slide {slide.name!r} does not say its micrometres per pixel, and tissue is found at a physical scale"
            f"{slide.mpp_doubts}",
            "give --mpp, or leave --tissue away",
        )
    wanted = ViewSettings().mpp if mpp is None else mpp
    return frame_view(slide, resolve_downsample(slide, mpp=wanted, downsample=None, setting="view"), stride=1)
