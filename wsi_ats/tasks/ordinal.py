"""`Ordinal`: a grade, one of several classes that have an order."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad, softplus

from wsi_ats.statistics.metrics import quadratic_kappa
from wsi_ats.tasks.answer import TaskSpec, median_grade
from wsi_ats.tasks.classes import Classes
from wsi_ats.tasks.settings import TaskSettings
from wsi_ats.tasks.task import Task


class Ordinal(Classes):
    """Task with one score and K - 1 ascending cuts: P(grade > k) = sigmoid(score - cut_k). Target: the grade's index.

    All grades share one direction in the space of summaries, so that a rare grade is learned from all slides, and
    what a tile adds to the score is what it adds to the grade.

    Source: P. McCullagh, "Regression Models for Ordinal Data", JRSS B 42, 1980 (the proportional-odds model).
    """

    metric = "kappa"

    def __init__(self, spec: TaskSpec, settings: TaskSettings | None = None) -> None:
        super().__init__(spec, settings)
        self.lowest = nn.Parameter(torch.zeros(1))
        self.steps = nn.Parameter(torch.ones(len(spec.names) - 2))
        """Softplus makes the distances between cuts of them."""

    def log_probabilities(self, outputs: Float[Tensor, "*b 1"]) -> Float[Tensor, "*b K"]:
        """Log-probability of each grade. With a > b, sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b -
        a)), whose logarithm is safe also where both are nearly 0 or 1."""
        gaps = softplus(self.steps.to(outputs.dtype))
        lowest = self.lowest.to(outputs.dtype)
        cuts = torch.cat([lowest, lowest + gaps.cumsum(0)])
        above, below = logsigmoid(outputs - cuts), logsigmoid(cuts - outputs)
        between = pad(torch.log(-torch.expm1(-gaps)), (1, 1))
        return pad(above, (1, 0)) + pad(below, (0, 1)) + between

    def losses(self, outputs: Float[Tensor, "B 1"], targets: Float[Tensor, "B 1"]) -> Float[Tensor, " B"]:
        """Minus the log-probability of each slide's grade, times its weight."""
        known, grade = ~targets[:, 0].isnan(), targets[:, 0].nan_to_num().long()
        chosen = self.log_probabilities(outputs).gather(1, grade[:, None])[:, 0]
        return known * self.weights[grade] * -chosen

    def misfit(self, outputs: Float[Tensor, "n 1"], targets: Float[Tensor, "n 1"]) -> Float[Tensor, ""]:
        """Minus the log-likelihood of the slides' grades."""
        known = ~targets[:, 0].isnan()
        return -self.log_probabilities(outputs[known]).gather(1, targets[known].long()).sum()

    def _values(self, outputs: Float[Tensor, "*b 1"]) -> Float[Tensor, "*b V"]:
        """Probability of each grade, and the expected grade."""
        probabilities = self.log_probabilities(outputs).exp()
        ranks = torch.tensor(self.ranks, dtype=outputs.dtype, device=outputs.device)
        return torch.cat([probabilities, (probabilities * ranks).sum(-1, keepdim=True)], -1)

    @property
    def ranks(self) -> list[float]:
        """Numbers that the expected grade counts in: the grades' own, else 1 for the lowest, 2, and so on."""
        try:
            return [float(name) for name in self.spec.names]
        except ValueError:
            return [float(rank) for rank in range(1, len(self.spec.names) + 1)]

    def fit(self, targets: Float64[np.ndarray, "n 1"]) -> None:
        """Begin with the cuts at which every slide has the (weighted) frequencies of the training slides."""
        super().fit(targets)
        grades = targets[~np.isnan(targets)].astype(np.int64)
        weighted = np.bincount(grades, minlength=len(self.spec.names)) * self.weights.numpy()
        up_to = (np.cumsum(weighted) / weighted.sum())[:-1]
        cuts = np.log(up_to / (1 - up_to))
        with torch.no_grad():
            self.lowest.copy_(torch.from_numpy(cuts[:1]))
            self.steps.copy_(torch.from_numpy(np.log(np.expm1(np.diff(cuts)))))

    def metric_value(self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n 1"]) -> float:
        """Quadratic-weighted kappa of the median grade."""
        known = ~np.isnan(targets[:, 0])
        return quadratic_kappa(self._graded(values)[known], targets[known, 0].astype(np.int64))

    interval = Task.interval  # of a kappa, not of an AUC
    decide = Task.decide  # the median grade is the answer

    def others(
        self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n 1"]
    ) -> dict[str, float]:
        """Share of slides with the right median grade, by name."""
        known = ~np.isnan(targets[:, 0])
        return {"accuracy": float((self._graded(values) == targets[:, 0])[known].mean())}

    def _graded(self, values: Float64[np.ndarray, "n V"]) -> Int64[np.ndarray, " n"]:
        return median_grade(values[:, : len(self.spec.names)])
