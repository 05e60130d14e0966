"""Attention sampling for whole-slide images: classify a slide by reading a few dozen tiles of it.

Reading slides needs no torch: `load_model` and the modules of the method are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from wsi_ats.errors import ConfigError, MissingMppError, ModelError, NoTissueError, SlideError, WsiAtsError
from wsi_ats.slides import open_slide

if TYPE_CHECKING:
    from wsi_ats import estimator, sampling
    from wsi_ats.model import AttentionSampler
    from wsi_ats.model_folder import load_model
    from wsi_ats.prediction import PatientPrediction, Prediction

__version__ = version("wsi-ats")

__all__ = [
    "AttentionSampler",
    "ConfigError",
    "MissingMppError",
    "ModelError",
    "NoTissueError",
    "PatientPrediction",
    "Prediction",
    "SlideError",
    "WsiAtsError",
    "__version__",
    "estimator",
    "load_model",
    "open_slide",
    "sampling",
]

_LAZY = {
    "AttentionSampler": "wsi_ats.model",
    "PatientPrediction": "wsi_ats.prediction",
    "Prediction": "wsi_ats.prediction",
    "load_model": "wsi_ats.model_folder",
}


def __getattr__(name: str) -> Any:
    if name in ("estimator", "sampling"):
        return import_module(f"wsi_ats.{name}")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'wsi_ats' has no attribute {name!r}")
