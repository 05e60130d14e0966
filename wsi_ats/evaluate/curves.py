"""Points of the curves of an alternative: ROC, precision and recall, reliability, decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from wsi_ats.evaluate.run import How
from wsi_ats.statistics.calibration_figures import reliability_figures
from wsi_ats.statistics.clusters import Patients, sample_figures
from wsi_ats.statistics.curve_bands import Curve, band_of, precision_heights, roc_heights
from wsi_ats.statistics.decision_curve import THRESHOLDS, net_benefit, net_benefit_of_all
from wsi_ats.statistics.evaluation import Alternative


def curves_of(part: Alternative, patients: Patients, how: How) -> dict[str, Any]:
    """All curves as plain values; without ROC, precision and recall where the slides are of one kind.

    patients: those of all slides, known or not.
    """
    held, index = np.unique(patients.index[part.known], return_inverse=True)
    mine = Patients(index.astype(np.int64), patients.stratum[held])
    told = len(np.unique(part.happened)) == 2
    return {
        "of": part.of,
        "roc": {**_roc(part), "band": _band(roc_heights, "fpr", part, mine, how)} if told else None,
        "precision_recall": {
            **_precision_recall(part),
            "band": _band(precision_heights, "recall", part, mine, how),
        }
        if told
        else None,
        "reliability": _reliability(part, mine, how),
        "decision": _decision(part, mine, how),
    }


def _roc(part: Alternative) -> dict[str, list[float]]:
    from sklearn.metrics import roc_curve

    fpr, tpr, threshold = roc_curve(part.happened, part.probability)
    return {"fpr": fpr.tolist(), "tpr": tpr.tolist(), "threshold": threshold.tolist()}


def _precision_recall(part: Alternative) -> dict[str, list[float]]:
    from sklearn.metrics import precision_recall_curve

    curve = precision_recall_curve(part.happened, part.probability, drop_intermediate=True)
    return dict(zip(("precision", "recall", "threshold"), (points.tolist() for points in curve), strict=True))


def _band(
    heights: Callable[[Float64[np.ndarray, " m"], Bool[np.ndarray, " m"]], Curve],
    along: str,
    part: Alternative,
    patients: Patients,
    how: How,
) -> dict[str, Any]:
    """The band as plain values: its places by the name of what they are along, its limits, why there is none."""
    groups = {f"slides of {part.yes}": part.happened, f"slides of {part.no}": ~part.happened}
    curve = heights(part.probability, part.happened)
    band = band_of(curve, groups, patients, rounds=how.resamples, seed=how.seed)
    return {along: band.at.tolist(), "low": band.low.tolist(), "high": band.high.tolist(), "note": band.note}


def _reliability(part: Alternative, patients: Patients, how: How) -> list[dict[str, Any]]:
    bins = reliability_figures(part.probability, part.happened)
    # Points of a curve: percentiles, since the correction of each by itself would make the band ragged.
    found = sample_figures(
        [f for _, _, f in bins], patients, rounds=how.resamples, seed=how.seed, method="percentile"
    )
    return [
        {"predicted": mean, "slides": slides, "observed": asdict(sampled.interval)}
        for (mean, slides, _), sampled in zip(bins, found, strict=True)
    ]


def _decision(part: Alternative, patients: Patients, how: How) -> list[dict[str, Any]]:
    figures = [net_benefit(part.probability, part.happened, t) for t in THRESHOLDS]
    found = sample_figures(figures, patients, rounds=how.resamples, seed=how.seed, method="percentile")
    return [
        {
            "threshold": threshold,
            "model": asdict(sampled.interval),
            "all": net_benefit_of_all(part.happened, threshold),
            "none": 0.0,
        }
        for threshold, sampled in zip(THRESHOLDS, found, strict=True)
    ]
