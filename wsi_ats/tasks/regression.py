"""`Regression`: a number a slide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from wsi_ats.statistics.metrics import r2
from wsi_ats.tasks.answer import TaskSpec
from wsi_ats.tasks.settings import TaskSettings
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import number


class Regression(Task):
    """Task with one output and squared error. Target: the number, in whatever unit.

    The head learns the number standardised by the mean and deviation of the training slides, so that learning rates
    mean the same in every unit; users read it in its own.
    """

    metric = "r2"

    def __init__(
        self,
        spec: TaskSpec,
        settings: TaskSettings | None = None,
        mean: float = 0.0,
        deviation: float = 1.0,
    ) -> None:
        super().__init__(spec, settings)
        self.mean = mean
        self.deviation = deviation

    @property
    def unit(self) -> float:
        """Standard deviation of the training slides' numbers."""
        return self.deviation

    @property
    def learned(self) -> dict[str, float]:
        """Mean and standard deviation of the training slides' numbers, which a model's settings keep."""
        return {"mean": self.mean, "deviation": self.deviation}

    def losses(self, outputs: Float[Tensor, "B 1"], targets: Float[Tensor, "B 1"]) -> Float[Tensor, " B"]:
        """Squared error, in standard deviations of the training slides."""
        known = ~targets[:, 0].isnan()
        truth = (targets[:, 0].nan_to_num() - self.mean) / self.deviation
        return known * (outputs[:, 0] - truth.to(outputs.dtype)) ** 2

    def _values(self, outputs: Float[Tensor, "*b 1"]) -> Float[Tensor, "*b 1"]:
        """The predicted number in its own unit."""
        return self.mean + self.deviation * outputs

    def misfit(self, outputs: Float[Tensor, "n 1"], targets: Float[Tensor, "n 1"]) -> Float[Tensor, ""]:
        """Minus the log-likelihood of the slides' numbers under normal errors of the deviation that fits best."""
        known = ~targets[:, 0].isnan()
        errors = self.losses(outputs[known], targets[known])
        return len(errors) / 2 * (errors.mean() + 1e-12).log()

    def read(self, cells: Sequence[str]) -> list[float]:
        """The number that the cell holds; nan where it is empty."""
        return [number(cells[0], self.columns[0])]

    def fit(self, targets: Float64[np.ndarray, "n 1"]) -> None:
        """Take mean and deviation from the training slides."""
        self.mean, self.deviation = float(np.nanmean(targets)), float(np.nanstd(targets))

    def lacks(self, targets: Float64[np.ndarray, "n 1"]) -> str:
        """Words for slides that do not differ, so that there is nothing to learn or to explain."""
        different = len(np.unique(targets[~np.isnan(targets)]))
        return "" if different > 1 else f"two slides that differ in {self.columns[0]!r}"

    def counts(self, targets: Float64[np.ndarray, "n 1"]) -> dict[str, str]:
        """Mean and range of the known numbers."""
        known = targets[~np.isnan(targets)]
        if not len(known):
            return {"mean": "-", "range": "-"}
        return {"mean": f"{known.mean():.4g}", "range": f"{known.min():.4g} to {known.max():.4g}"}

    def strata(self, targets: Float64[np.ndarray, "n 1"]) -> list[str | None]:
        """Side of the median that each slide is on."""
        name, median = self.spec.name, np.nanmedian(targets)
        return [
            None if np.isnan(t) else f"{name} {'above' if t > median else 'up to'} {median:.4g}"
            for t in targets[:, 0]
        ]

    def metric_value(self, values: Float64[np.ndarray, "n 1"], targets: Float64[np.ndarray, "n 1"]) -> float:
        """Share of the variance that is explained, R2."""
        known = ~np.isnan(targets[:, 0])
        return r2(values[known, 0], targets[known, 0])

    def loss(self, values: Float64[np.ndarray, "n 1"], targets: Float64[np.ndarray, "n 1"]) -> float:
        """Mean squared error, in standard deviations of the training slides."""
        return float(np.nanmean(((values - targets) / self.deviation) ** 2))

    def others(
        self, values: Float64[np.ndarray, "n 1"], targets: Float64[np.ndarray, "n 1"]
    ) -> dict[str, float]:
        """Mean absolute error, in the unit of the number, by name."""
        return {"mean_absolute_error": float(np.nanmean(np.abs(values - targets)))}
