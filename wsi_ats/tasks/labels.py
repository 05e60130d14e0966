"""`Labels`: any number of labels a slide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from wsi_ats.statistics.interval import Interval, mean_interval
from wsi_ats.statistics.metrics import auc, auc_interval
from wsi_ats.tasks.answer import TaskSpec
from wsi_ats.tasks.settings import TaskSettings
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import yes_or_no
from wsi_ats.tasks.weights import class_weights, weights_named


class Labels(Task):
    """Task with one logit a label, each with a sigmoid and a binary cross-entropy of its own. Target: 0 or 1 a label,
    nan where it is not known."""

    metric = "auc"
    weights: Tensor
    """Weights (2, L) of absence and of presence in the loss."""

    def __init__(self, spec: TaskSpec, settings: TaskSettings | None = None) -> None:
        super().__init__(spec, settings)
        self.register_buffer("weights", torch.ones(2, self.outputs), persistent=False)

    @property
    def weighting(self) -> str:
        """Weights of each label's presence and absence."""
        if self.settings.class_weights == "none":
            return ""
        sides = zip(self.spec.names, *self.weights.flip(0).tolist(), strict=True)
        return ", ".join(f"{name} {there:.3f} (without {absent:.3f})" for name, there, absent in sides)

    def losses(self, outputs: Float[Tensor, "B L"], targets: Float[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """Mean over the labels of the binary cross-entropy; those that are not known count as 0."""
        known, truth = ~targets.isnan(), targets.nan_to_num()
        losses = binary_cross_entropy_with_logits(outputs, truth.to(outputs.dtype), reduction="none")
        weight = torch.where(truth > 0, self.weights[1], self.weights[0])
        return (known * weight * losses).mean(1)

    def _values(self, outputs: Float[Tensor, "*b L"]) -> Float[Tensor, "*b L"]:
        """Probability of each label."""
        return outputs.sigmoid()

    def misfit(self, outputs: Float[Tensor, "n L"], targets: Float[Tensor, "n L"]) -> Float[Tensor, ""]:
        """Minus the log-likelihood of the labels that are known."""
        known = ~targets.isnan()
        truth = targets[known].to(outputs.dtype)
        return binary_cross_entropy_with_logits(outputs[known], truth, reduction="sum")

    def read(self, cells: Sequence[str]) -> list[float]:
        """Target of 0 or 1 a label; nan where its cell is empty."""
        return [yes_or_no(text, column) for text, column in zip(cells, self.columns, strict=True)]

    def fit(self, targets: Float64[np.ndarray, "n L"]) -> None:
        """Take the weights of presence and absence from the training slides."""
        asked, task, names = self.settings.class_weights, self.spec.name, self.spec.names
        presence = [1.0] * len(names) if isinstance(asked, str) else weights_named(asked, names, task)
        for position, column in enumerate(targets.T):
            pair = asked if isinstance(asked, str) else {"0": 1.0, "1": presence[position]}
            present = column[~np.isnan(column)].astype(np.int64)
            self.weights[:, position] = torch.from_numpy(class_weights(pair, ("0", "1"), present, task))

    def lacks(self, targets: Float64[np.ndarray, "n L"]) -> str:
        """Words for a label that is on none or on all of the slides; empty where there is no such label."""
        for name, column in zip(self.spec.names, targets.T, strict=True):
            for side, how in ((1, "with"), (0, "without")):
                if not (column == side).any():
                    return f"slide {how} label {name!r}"
        return ""

    def counts(self, targets: Float64[np.ndarray, "n L"]) -> dict[str, str]:
        """Number of slides with each label."""
        names = self.spec.names
        return {name: str(int((column == 1).sum())) for name, column in zip(names, targets.T, strict=True)}

    def strata(self, targets: Float64[np.ndarray, "n L"]) -> list[str | None]:
        """Rarest of the labels that each slide has: each label should be on both sides of a split."""
        frequency = np.nansum(targets, 0)
        having = np.where(targets == 1, frequency, np.inf)
        rarest = having.argmin(1)
        return [
            f"label {self.spec.names[i]!r}" if np.isfinite(having[row, i]) else None
            for row, i in enumerate(rarest)
        ]

    def metric_value(self, values: Float64[np.ndarray, "n L"], targets: Float64[np.ndarray, "n L"]) -> float:
        """AUC, mean over the labels that some slides have and some have not."""
        areas = [auc(p, truth) for p, truth in _told(values, targets)]
        return float(np.mean(areas)) if areas else float("nan")

    def interval(
        self,
        values: Float64[np.ndarray, "n L"],
        targets: Float64[np.ndarray, "n L"],
        rng: np.random.Generator,
    ) -> Interval:
        """Mean AUC with its interval (`mean_interval`)."""
        parts = [auc_interval(p, truth) for p, truth in _told(values, targets)]
        return mean_interval(parts) if parts else Interval.none(float("nan"), "no label tells slides apart")

    def loss(self, values: Float64[np.ndarray, "n L"], targets: Float64[np.ndarray, "n L"]) -> float:
        """Binary cross-entropy, mean over what is known."""
        likely = np.where(targets == 1, values, 1 - values).clip(1e-7)
        return float(-np.log(likely[~np.isnan(targets)]).mean())


def _told(
    values: Float64[np.ndarray, "n L"], targets: Float64[np.ndarray, "n L"]
) -> Iterator[tuple[Float64[np.ndarray, "m 2"], Int64[np.ndarray, " m"]]]:
    """Probabilities (m, 2) of absence and presence, and the truth, of the m slides of which it is known; of each label
    that some have and some have not."""
    for p, truth in zip(values.T, targets.T, strict=True):
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) == 2:
            yield np.stack([1 - p, p], 1)[known], truth[known].astype(np.int64)
