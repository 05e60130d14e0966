"""Metrics: what a model's answers are worth, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64

from wsi_ats.errors import ConfigError


@dataclass(frozen=True)
class Interval:
    """A metric value with its bootstrap interval.

    >>> print(Interval(0.9714, 0.9, 1.0))
    0.971 [0.900, 1.000]
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]) -> float:
    """Area under the ROC curve; of several classes, the mean one-against-rest. NaN where one is absent.

    >>> tumour, labels = np.array([0.1, 0.6, 0.4, 0.9]), np.array([0, 0, 1, 1])
    >>> auc(np.stack([1 - tumour, tumour], 1), labels)  # 3 of the 4 pairs are in order
    0.75
    """
    if len(np.unique(labels)) < probabilities.shape[1]:
        return float("nan")
    # Here: torchmetrics imports transformers where that is installed, seconds that a prediction has no use for.
    from torchmetrics.functional.classification import multiclass_auroc

    scores, truth = torch.from_numpy(probabilities), torch.from_numpy(labels)
    return float(multiclass_auroc(scores, truth, num_classes=probabilities.shape[1]))


def balanced_accuracy(probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]) -> float:
    """Mean over the classes present of the share of their slides answered right.

    >>> tumour, labels = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 0, 0, 1])
    >>> balanced_accuracy(np.stack([1 - tumour, tumour], 1), labels)  # 3 of 3 and 0 of 1
    0.5
    """
    right = probabilities.argmax(1) == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def bootstrap_auc(
    probabilities: Float[np.ndarray, "N C"],
    labels: Int64[np.ndarray, " N"],
    rng: np.random.Generator,
    rounds: int = 1000,
    level: float = 0.95,
) -> Interval:
    """AUC with the interval of `bootstrap`, each class resampled by itself. Raises `ConfigError` where one is absent.

    >>> tumour, labels = np.array([0.1, 0.6, 0.4, 0.9]), np.array([0, 0, 1, 1])
    >>> print(bootstrap_auc(np.stack([1 - tumour, tumour], 1), labels, np.random.default_rng(0), rounds=100))
    0.750 [0.000, 1.000]
    """
    if np.isnan(auc(probabilities, labels)):
        raise ConfigError(
            f"an AUC needs slides of every class; the labels present are {np.unique(labels).tolist()}"
        )
    return bootstrap(lambda chosen: auc(probabilities[chosen], labels[chosen]), labels, rng, rounds, level)


def bootstrap(
    figure: Callable[[Int64[np.ndarray, " N"]], float],
    groups: Int64[np.ndarray, " N"],
    rng: np.random.Generator,
    rounds: int = 1000,
    level: float = 0.95,
) -> Interval:
    """A figure of N slides, given by their indices, with the percentile interval of `rounds` resamples of the slides,
    each group resampled by itself. Resamples for which the figure is nan do not count.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    >>> right = np.array([1, 1, 1, 0, 1, 1, 0, 1])
    >>> share = bootstrap(lambda chosen: float(right[chosen].mean()), 0 * right, np.random.default_rng(0))
    >>> share.value, share.low < share.value < share.high
    (0.75, True)
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values = [
        figure(np.concatenate([rng.choice(group, len(group)) for group in members])) for _ in range(rounds)
    ]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(figure(np.arange(len(groups))), float(low), float(high))


def quadratic_kappa(answers: Int64[np.ndarray, " N"], truth: Int64[np.ndarray, " N"]) -> float:
    """Agreement of grades beyond chance, disagreement counted by its square: 1 is perfect, 0 is chance. NaN where
    all grades are the same.

    Source: J. Cohen, "Weighted Kappa", Psychological Bulletin 70, 1968.

    >>> truth = np.array([0, 1, 2, 3])
    >>> near, far = quadratic_kappa(np.array([1, 1, 2, 3]), truth), quadratic_kappa(np.array([3, 1, 2, 3]), truth)
    >>> round(near, 2), round(far, 2)
    (0.88, 0.1)
    """
    seen = np.mean((answers - truth) ** 2.0)
    by_chance = answers.var() + truth.var() + (answers.mean() - truth.mean()) ** 2
    return float(1 - seen / by_chance) if by_chance > 0 else float("nan")


def r2(answers: Float64[np.ndarray, " N"], truth: Float64[np.ndarray, " N"]) -> float:
    """Share of the variance that is explained: 1 is perfect, 0 is the mean. NaN where the truth does not vary.

    >>> truth = np.array([1.0, 2.0, 3.0])
    >>> r2(np.array([1.0, 2.0, 2.0]), truth), r2(np.array([2.0, 2.0, 2.0]), truth)
    (0.5, 0.0)
    """
    variance = truth.var() if len(truth) else 0.0
    return float(1 - np.mean((answers - truth) ** 2) / variance) if variance > 0 else float("nan")


def c_index(
    risk: Float64[np.ndarray, " N"], time: Float64[np.ndarray, " N"], event: Bool[np.ndarray, " N"]
) -> float:
    """Concordance: of the pairs of slides in which it is known whose event came first, the share in which that one has
    the higher risk, equal risks counting half: 1 is perfect, 1/2 is chance. NaN where there is no such pair.

    A slide whose observation ended when the other's event came counts as later; of two events at one time neither is
    first. Source: F. Harrell et al., "Evaluating the Yield of Medical Tests", JAMA 247, 1982.

    >>> years, died = np.array([1.0, 2.0, 3.0]), np.array([True, False, True])  # the second was last seen alive
    >>> c_index(np.array([0.9, 0.1, 0.5]), years, died), c_index(np.array([0.5, 0.1, 0.9]), years, died)
    (1.0, 0.5)
    """
    sooner = (time[:, None] < time) | ((time[:, None] == time) & ~event)
    comparable = event[:, None] & sooner
    if not comparable.any():
        return float("nan")
    right = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
    return float(right[comparable].mean())
