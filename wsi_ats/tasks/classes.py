"""`Classes`: exactly one of several classes a slide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from wsi_ats.errors import ConfigError
from wsi_ats.statistics.conformal import fit_conformal
from wsi_ats.statistics.interval import Interval
from wsi_ats.statistics.metrics import auc, auc_interval, balanced_accuracy
from wsi_ats.statistics.operating_point import OperatingPoint, choose_operating_point
from wsi_ats.tasks.answer import TaskSpec
from wsi_ats.tasks.settings import TaskSettings
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import one_of
from wsi_ats.tasks.weights import class_weights


class Classes(Task):
    """Task with one logit a class, softmax, cross-entropy. Target: the index of the class."""

    metric = "auc"
    weights: Tensor
    """Weight (C,) of each class in the loss."""

    def __init__(self, spec: TaskSpec, settings: TaskSettings | None = None) -> None:
        super().__init__(spec, settings)
        self.register_buffer("weights", torch.ones(len(spec.names)), persistent=False)

    @property
    def weighting(self) -> str:
        """Weight of each class."""
        if self.settings.class_weights == "none":
            return ""
        pairs = zip(self.spec.names, self.weights.tolist(), strict=True)
        return ", ".join(f"{name} {weight:.3f}" for name, weight in pairs)

    def losses(self, outputs: Float[Tensor, "B O"], targets: Float[Tensor, "B 1"]) -> Float[Tensor, " B"]:
        """Cross-entropy of each slide, times the weight of its class."""
        known, label = ~targets[:, 0].isnan(), targets[:, 0].nan_to_num().long()
        return known * self.weights[label] * cross_entropy(outputs, label, reduction="none")

    def _values(self, outputs: Float[Tensor, "*b O"]) -> Float[Tensor, "*b V"]:
        """Probability of each class; they sum to 1."""
        return outputs.softmax(-1)

    def misfit(self, outputs: Float[Tensor, "n O"], targets: Float[Tensor, "n 1"]) -> Float[Tensor, ""]:
        """Minus the log-likelihood of the slides' classes."""
        known = ~targets[:, 0].isnan()
        return cross_entropy(outputs[known], targets[known, 0].long(), reduction="sum")

    def read(self, cells: Sequence[str]) -> list[float]:
        """Index of the class; nan where the cell is empty."""
        return [one_of(cells[0], self.columns[0], self.spec.names)]

    def fit(self, targets: Float64[np.ndarray, "n 1"]) -> None:
        """Take the weights of the classes from the training slides."""
        labels = targets[~np.isnan(targets)].astype(np.int64)
        asked, names = self.settings.class_weights, self.spec.names
        self.weights.copy_(torch.from_numpy(class_weights(asked, names, labels, self.spec.name)))

    def decide(
        self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n 1"], on: str
    ) -> list[str]:
        """Take the operating point of two classes, and the prediction sets where there are slides enough."""
        known = ~np.isnan(targets[:, 0])
        probabilities, labels = values[known, : len(self.spec.names)], targets[known, 0].astype(np.int64)
        point = self._operating_point(probabilities, labels, on) if len(self.spec.names) == 2 else None
        self.spec = replace(self.spec, point=point, sets=None)
        try:
            sets = fit_conformal(probabilities, labels, self.spec.names, self.settings.set_error, on)
        except ConfigError as error:
            return [f"no prediction sets: {error.message}"]
        self.spec = replace(self.spec, sets=sets)
        return []

    def _operating_point(
        self, probabilities: Float64[np.ndarray, "n 2"], labels: Int64[np.ndarray, " n"], on: str
    ) -> OperatingPoint:
        how, names = self.settings, self.spec.names
        name = how.positive or names[-1]
        if name not in names:
            raise ConfigError(
                f"task {self.spec.name!r}: positive is {name!r}, which is none of its classes",
                remedy=f"name one of {', '.join(names)}",
            )
        positive = names.index(name)
        return choose_operating_point(
            probabilities[:, positive], labels == positive, name, on, how.threshold, how.wish
        )

    def lacks(self, targets: Float64[np.ndarray, "n 1"]) -> str:
        """Words for a class without a slide; empty where there is no such class."""
        absent = [name for i, name in enumerate(self.spec.names) if not (targets == i).any()]
        return f"slide of class {absent[0]!r}" if absent else ""

    def counts(self, targets: Float64[np.ndarray, "n 1"]) -> dict[str, str]:
        """Number of slides of each class."""
        counts = Counter(targets[:, 0].tolist())
        return {name: str(counts[i]) for i, name in enumerate(self.spec.names)}

    def strata(self, targets: Float64[np.ndarray, "n 1"]) -> list[str | None]:
        """Class of each slide."""
        names = self.spec.names
        return [None if np.isnan(t) else f"class {names[int(t)]!r}" for t in targets[:, 0]]

    def metric_value(self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n 1"]) -> float:
        """AUC; of several classes, the mean one-against-rest."""
        known = ~np.isnan(targets[:, 0])
        return auc(values[known], targets[known, 0].astype(np.int64))

    def interval(
        self,
        values: Float64[np.ndarray, "n V"],
        targets: Float64[np.ndarray, "n 1"],
        rng: np.random.Generator,
    ) -> Interval:
        """AUC with its interval (`auc_interval`)."""
        known = ~np.isnan(targets[:, 0])
        return auc_interval(values[known], targets[known, 0].astype(np.int64))

    def loss(self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n 1"]) -> float:
        """Mean -log of the probability of the true class."""
        known = ~np.isnan(targets[:, 0])
        chosen = values[known, targets[known, 0].astype(np.int64)]
        return float(-np.log(chosen.clip(1e-7)).mean())

    def others(
        self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n 1"]
    ) -> dict[str, float]:
        """Balanced accuracy of the answers, by name: at the operating point where there is one."""
        known = ~np.isnan(targets[:, 0])
        named = np.array([self.spec.names.index(self.spec.text(v)) for v in values[known]])
        return {"balanced_accuracy": balanced_accuracy(named, targets[known, 0].astype(np.int64))}
