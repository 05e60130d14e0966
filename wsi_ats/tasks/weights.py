"""Weights of classes in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from wsi_ats.errors import ConfigError

ClassWeights = Literal["none", "balanced"] | Mapping[str, float]


def class_weights(
    asked: ClassWeights, names: Sequence[str], labels: Int64[np.ndarray, " n"], task: str
) -> Float64[np.ndarray, " C"]:
    """Weight of each class, scaled so that the weights of the training slides have mean 1: the size of the loss, and
    with it the meaning of a learning rate, stays.

    labels: the training slides' indices into `names`, each of which occurs. balanced is n / (C n_c).
    """
    counts = np.bincount(labels, minlength=len(names)).astype(np.float64)
    if asked == "none":
        raw = np.ones(len(names))
    elif asked == "balanced":
        raw = 1 / counts
    else:
        raw = np.array(weights_named(asked, names, task))
    return np.asarray(raw * counts.sum() / (raw @ counts), np.float64)


def weights_named(table: Mapping[str, float], names: Sequence[str], task: str) -> list[float]:
    """The weights of `names` in a table of the settings. Raises `ConfigError` where it names others or not all."""
    if set(table) != set(names):
        raise ConfigError(
            f"tasks.{task}.class_weights = {dict(table)}: it must give a weight to each of {', '.join(names)}",
            remedy='name them all, or use "balanced" or "none"',
        )
    return [float(table[name]) for name in names]
