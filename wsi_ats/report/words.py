"""Words of the report: numbers as people write them, and what each figure means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wsi_ats.shown import counted

MEANINGS = {
    "auroc": "share of the pairs of a slide with and a slide without it in which the one with it has the higher "
    "probability; 0.5 is chance",
    "auprc": "mean positive predictive value over the sensitivities; chance is the share of slides with it",
    "balanced_accuracy": "mean over the classes of the share that is called right",
    "accuracy": "share of the slides that is called right",
    "kappa": "agreement beyond chance (Cohen)",
    "kappa_quadratic": "agreement of grades beyond chance, far misses counting more (Cohen, quadratic)",
    "f1": "harmonic mean of sensitivity and positive predictive value",
    "f1_macro": "mean F1 over the classes",
    "sensitivity": "share of the slides with it that is called so",
    "specificity": "share of the slides without it that is called so",
    "ppv": "share of the slides called positive that is; depends on how common it is here",
    "npv": "share of the slides called negative that is; depends on how common it is here",
    "brier": "mean squared error of the probability; 0 is perfect",
    "brier_all": "squared error of the probabilities, summed over the classes",
    "ece": "mean distance of stated from observed shares, in bins; 0 is perfect",
    "ece_top": "the same for the most probable class",
    "calibration_in_the_large": "shift of the logits that would make the mean probability right; 0 is perfect, below 0 "
    "probabilities are too high",
    "calibration_slope": "1 is perfect; below 1 answers are too extreme",
    "auroc_macro": "mean AUROC",
    "auprc_macro": "mean AUPRC",
    "r2": "share of the variance that is explained",
    "mae": "mean distance from the truth",
    "mean_error": "mean of answer less truth; 0 is perfect",
    "c_index": "share of comparable pairs whose order is right (Harrell); 0.5 is chance",
}
"""What each figure of an evaluation means, by its name."""
NAMES = {"c_index": "C-index", "brier": "Brier score", "brier_all": "Brier score of all classes", "r2": "R²"}
"""Names of figures that are not just words."""
CAPITALS = {"auroc", "auprc", "f1", "ppv", "npv", "ece", "mae", "r2"}


def figure_name(name: str, of: str = "") -> str:
    """Name of a figure as people write it.

    >>> figure_name("calibration_slope"), figure_name("auroc", "G3")
    ('calibration slope', 'AUROC (G3)')
    """
    words = NAMES.get(name) or " ".join(w.upper() if w in CAPITALS else w for w in name.split("_"))
    return f"{words} ({of})" if of else words


def number(value: float | None, digits: int = 3) -> str:
    """A number, to so many places; a dash where there is none.

    >>> number(0.87654), number(None), number(-1.2, 1)
    ('0.877', '–', '−1.2')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def interval(figure: Mapping[str, Any]) -> str:
    """Limits of a figure, or the word on why there are none.

    >>> interval({"low": 0.8, "high": 0.9, "note": ""}), interval({"low": None, "high": None, "note": "6 patients"})
    ('0.800 to 0.900', '6 patients')
    """
    if figure["low"] is None or figure["high"] is None:
        return str(figure["note"]) or "–"
    note = f" ({figure['note']})" if figure["note"] else ""
    return f"{number(figure['low'])} to {number(figure['high'])}{note}"


def valued(figure: Mapping[str, Any]) -> str:
    """Value and interval in one cell."""
    limits = interval(figure)
    return f"{number(figure['value'])} ({limits})" if limits != "–" else number(figure["value"])


def units(part: Mapping[str, Any], by: str) -> str:
    """How many a part of an evaluation is of: slides and their patients or, by patient, these alone.

    >>> part = {"slides": 12, "patients": 6}
    >>> units(part, "slide"), units({**part, "slides": 6}, "patient")
    ('12 slides of 6 patients', '6 patients')
    """
    of_slides = f"{counted(part['slides'], 'slide')} of " if by == "slide" else ""
    return of_slides + counted(part["patients"], "patient")


def meaning(name: str, by: str = "slide") -> str:
    """What a figure means, of slides or of patients; nothing where that is not known.

    >>> meaning("accuracy", "patient")
    'share of the patients that is called right'
    """
    return MEANINGS.get(name, "").replace("slide", by)


def size(count: float) -> str:
    """A number of bytes.

    >>> size(950.0), size(12.4e6), size(3.2e9)
    ('950 B', '12.4 MB', '3.2 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"
