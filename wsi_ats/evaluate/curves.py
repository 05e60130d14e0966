"""Points of the curves of an alternative: ROC, precision and recall, reliability, decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from wsi_ats.evaluate.run import How
from wsi_ats.statistics.calibration_figures import reliability_figures
from wsi_ats.statistics.clusters import Patients, sample_figures
from wsi_ats.statistics.curve_bands import Curve, band_of, precision_heights, roc_heights
from wsi_ats.statistics.decision_curve import THRESHOLDS, net_benefit, net_benefit_of_all
from wsi_ats.statistics.evaluation import Alternative, Answered
from wsi_ats.statistics.survival import risk_groups


def curves_of(part: Alternative, patients: Patients, sites: Sequence[str], how: How) -> dict[str, Any]:
    """All curves as plain values; without ROC, precision and recall where the slides are of one kind.

    patients, sites: those of all slides, known or not; a site that is not known is empty.
    """
    mine = patients.among(part.known)
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
        "sites": _roc_by_site(part, np.array(sites)[part.known], mine, how),
        "reliability": _reliability(part, mine, how),
        "decision": _decision(part, mine, how),
    }


def _roc_by_site(
    part: Alternative, sites: Shaped[np.ndarray, " m"], patients: Patients, how: How
) -> list[dict[str, Any]]:
    """ROC curve of each site with slides of both kinds, with its band; none where fewer than two sites have them."""
    found = []
    for site in sorted({*sites.tolist()} - {""}):
        inside = sites == site
        if len(np.unique(part.happened[inside])) < 2:
            continue
        mine = replace(
            part,
            known=np.ones(int(inside.sum()), bool),
            probability=part.probability[inside],
            happened=part.happened[inside],
            called=part.called[inside],
        )
        band = _band(roc_heights, "fpr", mine, patients.among(inside), how)
        found.append({"site": site, "slides": int(inside.sum()), **_roc(mine), "band": band})
    return found if len(found) > 1 else []


def survival_groups(answered: Answered, patients: Patients, how: How) -> list[dict[str, Any]] | None:
    """Groups of risk at several times: the share that should be free of the event, and that is; None of other kinds."""
    if answered.kind != "survival":
        return None
    groups = list(risk_groups(answered.values[:, 0], answered.targets[:, 0], answered.targets[:, 1] == 1))
    found = sample_figures(
        [g.observed for g in groups], patients, rounds=how.resamples, seed=how.seed, method="percentile"
    )
    return [
        {
            "time": g.time,
            "group": g.group,
            "slides": g.slides,
            "predicted": g.predicted,
            "observed": asdict(sampled.interval),
        }
        for g, sampled in zip(groups, found, strict=True)
    ]


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
