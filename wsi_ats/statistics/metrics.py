"""Metrics: what a model's answers are worth, with intervals for how few slides they rest on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from wsi_ats.errors import ConfigError
from wsi_ats.statistics.interval import Interval, area_interval, mean_interval


def auc(probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]) -> float:
    """Area under the ROC curve; of several classes, the mean one-against-rest. NaN where one is absent.

    >>> tumour, labels = np.array([0.1, 0.6, 0.4, 0.9]), np.array([0, 0, 1, 1])
    >>> auc(np.stack([1 - tumour, tumour], 1), labels)  # 3 of the 4 pairs are in order
    0.75
    """
    return float(areas(probabilities, labels).mean())


def areas(
    probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]
) -> Float64[np.ndarray, " C"]:
    """Area under the ROC curve of each class against the rest. NaN where a class is absent."""
    classes = probabilities.shape[1]
    if len(np.unique(labels)) < classes:
        return np.full(classes, np.nan)
    # Here: scikit-learn takes a while to import, and a prediction has no use for it.
    from sklearn.metrics import roc_auc_score

    return np.array([roc_auc_score(labels == c, probabilities[:, c]) for c in range(classes)])


def balanced_accuracy(named: Int64[np.ndarray, " N"], labels: Int64[np.ndarray, " N"]) -> float:
    """Mean over the classes present of the share of their slides that are named right.

    >>> balanced_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]))  # 3 of 3 and 0 of 1
    0.5
    """
    right = named == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def auc_interval(probabilities: Float[np.ndarray, "N C"], labels: Int64[np.ndarray, " N"]) -> Interval:
    """AUC with the interval of `area_limits`; of several classes, the mean one-against-rest with that of
    `mean_interval`. Raises `ConfigError` where a class is absent.

    >>> tumour, labels = np.arange(40) / 40, np.arange(40) // 20
    >>> print(auc_interval(np.stack([1 - tumour, tumour], 1), labels))  # all 400 pairs are in order
    1.000 [0.899, 1.000]
    >>> print(auc_interval(np.stack([1 - tumour, tumour], 1)[18:22], labels[18:22]))
    1.000 (2 and 2 slides: too few for an interval)
    """
    each = areas(probabilities, labels)
    if np.isnan(each).any():
        raise ConfigError(
            f"an AUC needs slides of every class; the labels present are {np.unique(labels).tolist()}",
            remedy="add slides of the classes that are missing",
        )
    counts = np.bincount(labels, minlength=len(each))
    return mean_interval(
        [area_interval(float(a), int(n), len(labels) - int(n)) for a, n in zip(each, counts, strict=True)]
    )


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
