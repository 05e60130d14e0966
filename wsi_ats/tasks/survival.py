"""`Survival`: how soon an event comes, where many slides' times end without it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from wsi_ats.errors import ConfigError
from wsi_ats.shown import counted
from wsi_ats.statistics.interval import LEAST, Interval
from wsi_ats.statistics.metrics import c_index
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import number, yes_or_no


class Survival(Task):
    """Task with one output, the log of the risk (hazard) relative to an unknown common one; Cox's partial likelihood.
    Target: time and event, 1 where the time ends with the event and 0 where observation ended before it.

    The risk sets are those of the batch: slides at risk are then a random sample of all that are, as in a nested
    case-control study, whose likelihood has its maximum at the same risks.

    Sources: D. R. Cox, "Regression Models and Life-Tables", JRSS B 34, 1972; ties: N. Breslow, "Covariance Analysis
    of Censored Survival Data", Biometrics 30, 1974; sampled risk sets: L. Goldstein, B. Langholz, "Asymptotic Theory
    for Nested Case-Control Sampling in the Cox Regression Model", Annals of Statistics 20, 1992.
    """

    metric = "c_index"

    def losses(self, outputs: Float[Tensor, "B 1"], targets: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """Minus the log of the share that a slide with the event has in the risk of all whose time is not over before;
        0 for slides without the event."""
        log_risk, (time, event) = outputs[:, 0], targets.unbind(1)
        # nan compares as false: slides without a target are in nobody's risk set but their own.
        itself = torch.eye(len(time), dtype=torch.bool, device=time.device)
        at_risk = (time[None, :] >= time[:, None]) | itself
        everyone = log_risk.expand(len(time), -1).masked_fill(~at_risk, -math.inf).logsumexp(1)
        return (event == 1) * (everyone - log_risk)

    def _values(self, outputs: Float[Tensor, "*b 1"]) -> Float[Tensor, "*b 1"]:
        """The log risk: only differences between slides mean something."""
        return outputs

    def misfit(self, outputs: Float[Tensor, "n 1"], targets: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
        """Minus the log of the partial likelihood, all slides in one risk set. An intercept changes nothing in it."""
        return self.losses(outputs, targets).sum()

    def read(self, cells: Sequence[str]) -> list[float]:
        """Time and event; both nan where both cells are empty."""
        time, event = number(cells[0], self.columns[0]), yes_or_no(cells[1], self.columns[1])
        if math.isnan(time) != math.isnan(event):
            raise ConfigError(
                f"{self.columns[0]} is {cells[0]!r} and {self.columns[1]} is {cells[1]!r}; a time needs to be known "
                "with or without its event",
                remedy="give both, or leave both empty",
            )
        if time < 0:
            raise ConfigError(
                f"{self.columns[0]} is {cells[0]!r}; a time must not be negative", remedy="correct the cell"
            )
        return [time, event]

    def fit(self, targets: Float64[np.ndarray, "n 2"]) -> None:
        """Take nothing from the training slides: the common risk cancels."""

    def lacks(self, targets: Float64[np.ndarray, "n 2"]) -> str:
        """Words for slides of which no two can be compared: there is no order of risks then."""
        comparable = math.isfinite(self.metric_value(np.zeros((len(targets), 1)), targets))
        return "" if comparable else "pair of slides of which the earlier time ends with the event"

    def counts(self, targets: Float64[np.ndarray, "n 2"]) -> dict[str, str]:
        """Number of slides with the event, and of others."""
        events = targets[:, 1]
        return {"events": str(int((events == 1).sum())), "censored": str(int((events == 0).sum()))}

    def strata(self, targets: Float64[np.ndarray, "n 2"]) -> list[str | None]:
        """Group of each slide by whether the event came, which should be on both sides of a split."""
        return [f"event {self.columns[1]!r}" if event == 1 else None for event in targets[:, 1]]

    def metric_value(self, values: Float64[np.ndarray, "n 1"], targets: Float64[np.ndarray, "n 2"]) -> float:
        """Harrell's C-index (`c_index`)."""
        known = ~np.isnan(targets[:, 0])
        time, event = targets[known].T
        return c_index(values[known, 0], time, event == 1)

    def interval(
        self,
        values: Float64[np.ndarray, "n 1"],
        targets: Float64[np.ndarray, "n 2"],
        rng: np.random.Generator,
    ) -> Interval:
        """C-index with its bootstrap interval; without where there are few events, since it is these that tell."""
        events = int((targets[:, 1] == 1).sum())
        if events < LEAST:
            return Interval.none(
                self.metric_value(values, targets), f"{counted(events, 'event')}: too few for an interval"
            )
        return super().interval(values, targets, rng)

    def loss(self, values: Float64[np.ndarray, "n 1"], targets: Float64[np.ndarray, "n 2"]) -> float:
        """Cox's loss with all slides in one risk set, mean over the events."""
        losses = self.losses(torch.from_numpy(values), torch.from_numpy(targets))
        return float(losses.sum() / np.nansum(targets[:, 1]))
