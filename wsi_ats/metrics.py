"""What a classifier's answers are worth, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torchmetrics.functional.classification import multiclass_auroc

from wsi_ats.errors import ConfigError


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]) -> float:
    """Area under the ROC curve; of several classes, the mean one-against-rest. NaN where one is absent."""
    if len(np.unique(labels)) < probabilities.shape[1]:
        return float("nan")
    scores, truth = torch.from_numpy(probabilities), torch.from_numpy(labels)
    return float(multiclass_auroc(scores, truth, num_classes=probabilities.shape[1]))


def balanced_accuracy(probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]) -> float:
    """Mean over the classes present of the share of their slides answered right."""
    right = probabilities.argmax(1) == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def bootstrap_auc(
    probabilities: Float[np.ndarray, "N C"],
    labels: Int64[np.ndarray, " N"],
    rng: np.random.Generator,
    rounds: int = 1000,
    level: float = 0.95,
) -> Interval:
    """AUC with the percentile interval of `rounds` resamples of the slides, each class resampled by itself.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    value = auc(probabilities, labels)
    if np.isnan(value):
        raise ConfigError(
            f"an AUC needs slides of every class; the labels present are {np.unique(labels).tolist()}"
        )
    groups = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    values = []
    for _ in range(rounds):
        chosen = np.concatenate([rng.choice(group, len(group)) for group in groups])
        values.append(auc(probabilities[chosen], labels[chosen]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
