"""`Task`, what every kind of task has in common: from cells of the manifest to targets, from outputs of the head to
results and to what these are worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from wsi_ats.errors import ConfigError
from wsi_ats.statistics.interval import Interval, bootstrap
from wsi_ats.tasks.answer import TaskResult, TaskSpec
from wsi_ats.tasks.calibration import SLIDES_FOR_SLOPE, Calibration, fit_affine
from wsi_ats.tasks.settings import TaskSettings
from wsi_ats.tasks.spread import Spread


class Task(nn.Module, ABC):
    """One task of a model: how the outputs of its head are learned and what is read from them.

    Shapes: O outputs a slide, T numbers that make its target (nan where it is not known), V values of a result.
    """

    metric: ClassVar[str]
    """Name of the metric by which the task is judged."""

    def __init__(self, spec: TaskSpec, settings: TaskSettings | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.settings = settings or TaskSettings(kind=spec.kind)
        self.calibration: Calibration | None = None
        """Calibration of the outputs, through which all values are read; None: as they are."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the manifest that hold the target."""
        return self.settings.columns(self.spec.name)

    @property
    def outputs(self) -> int:
        """Number O of outputs of the head a slide."""
        return len(self.spec.outputs)

    @property
    def unit(self) -> float:
        """Value of an output of 1 in the unit that users read."""
        return 1.0

    @property
    def learned(self) -> dict[str, float]:
        """Numbers by name that a trained task needs beside the weights."""
        return {}

    @property
    def weighting(self) -> str:
        """Words on what classes weigh in the loss; empty where the settings say nothing of it."""
        return ""

    # -- from the manifest

    @abstractmethod
    def read(self, cells: Sequence[str]) -> list[float]:
        """The target (T numbers) that the cells of `columns` hold; nan where they are empty.

        Raises `ConfigError` naming the column, the value and the rule.
        """

    @abstractmethod
    def fit(self, targets: Float64[np.ndarray, "n T"]) -> None:
        """Take from the targets of the training slides what must be known before the first step."""

    @abstractmethod
    def lacks(self, targets: Float64[np.ndarray, "n T"]) -> str:
        """Words for what slides to learn from or to validate on lack, as in "no usable ..."; empty where nothing."""

    @abstractmethod
    def counts(self, targets: Float64[np.ndarray, "n T"]) -> dict[str, str]:
        """Words by name for what there is to learn from, such as the slides of each class."""

    @abstractmethod
    def strata(self, targets: Float64[np.ndarray, "n T"]) -> list[str | None]:
        """Group of each slide, which should be on both sides of a split; None where it does not matter."""

    # -- from the outputs of the head

    @abstractmethod
    def losses(self, outputs: Float[Tensor, "B O"], targets: Float[Tensor, "B T"]) -> Float[Tensor, " B"]:
        """Share of each slide in the loss of a batch; 0 where its target is not known."""

    def values(self, outputs: Float[Tensor, "*b O"]) -> Float[Tensor, "*b V"]:
        """Values that users read, as `spec.values` names them, of outputs that are calibrated where the task is."""
        return self._values(outputs if self.calibration is None else self.calibration(outputs))

    @abstractmethod
    def _values(self, outputs: Float[Tensor, "*b O"]) -> Float[Tensor, "*b V"]:
        """Values of calibrated outputs."""

    @abstractmethod
    def misfit(self, outputs: Float[Tensor, "n O"], targets: Float[Tensor, "n T"]) -> Float[Tensor, ""]:
        """Minus the log-likelihood of slides, those of unknown target left out; without class weights, since
        probabilities are to be those of slides as they come."""

    def calibrate(
        self, outputs: Float[Tensor, "n O"], targets: Float64[np.ndarray, "n T"], on: str
    ) -> Calibration:
        """Take the calibration from slides that training has not seen, of known outputs before any calibration.

        on: the slides' name. Raises `ConfigError` where these slides cannot tell.
        """
        known = ~np.isnan(targets).all(1)
        lacking = self.lacks(targets[known])
        if lacking:
            raise ConfigError(
                f"the slides to calibrate task {self.spec.name!r} on have no {lacking}",
                remedy="add such slides: what is not there cannot be told from the rest",
            )
        truth = torch.from_numpy(targets[known])
        slopes, intercepts = fit_affine(
            lambda calibrated: self.misfit(calibrated, truth),
            outputs[torch.from_numpy(known)].cpu(),
            slope=int(known.sum()) >= SLIDES_FOR_SLOPE,
        )
        self.calibration = Calibration(slopes, intercepts, int(known.sum()), on)
        return self.calibration

    # -- what answers are worth

    @abstractmethod
    def metric_value(self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n T"]) -> float:
        """Value of the metric called `metric`: higher is better, 1 is perfect; nan where the slides do not tell."""

    def interval(
        self,
        values: Float64[np.ndarray, "n V"],
        targets: Float64[np.ndarray, "n T"],
        rng: np.random.Generator,
    ) -> Interval:
        """Value of the metric with its interval: a bootstrap of the slides whose target is known, stratum by
        stratum."""
        known = ~np.isnan(targets).all(1)
        mine, true = values[known], targets[known]
        groups = np.unique([group or "" for group in self.strata(true)], return_inverse=True)[1]
        return bootstrap(lambda chosen: self.metric_value(mine[chosen], true[chosen]), groups, rng)

    @abstractmethod
    def loss(self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n T"]) -> float:
        """Mean loss of the values of n slides, without class weights."""

    def others(
        self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n T"]
    ) -> dict[str, float]:
        """Further metric values by their names."""
        return {}

    def decide(
        self, values: Float64[np.ndarray, "n V"], targets: Float64[np.ndarray, "n T"], on: str
    ) -> list[str]:
        """Take from slides that training has not seen how values are put into an answer: a threshold, sets.

        on: the slides' name. Returns words for what they were too few for.
        """
        return []

    def spread(
        self,
        outputs: Float[Tensor, " O"],
        without: Float[Tensor, "R O"],
        unseen: Float[Tensor, "M O"] | None = None,
    ) -> Spread:
        """Spread of each value, from the outputs, those without each of R rounds, and those with more tiles like each
        of M that may have been missed; not known where R is below 2."""
        more = None if unseen is None else self.values(unseen.double())
        parts = self.values(outputs.double()), self.values(without.double()), more
        return Spread.of(*parts, probabilities=len(self.spec.names))

    def exact(self, outputs: Float[Tensor, " O"]) -> Spread:
        """Spread of the values of all tiles: none."""
        return Spread.exact(self.values(outputs.double()))

    def result(
        self, outputs: Float[Tensor, " O"], spread: Spread, contributions: Float[Tensor, "N O"]
    ) -> TaskResult:
        """Result of a slide in plain numpy, from outputs, their spread and contributions of the N drawn tiles."""
        return TaskResult(
            self.spec,
            self.values(outputs.double()).cpu().numpy(),
            spread.stderr.cpu().numpy(),
            (self.unit * contributions).float().cpu().numpy(),
            outputs.double().cpu().numpy(),
            spread.low.cpu().numpy(),
            spread.high.cpu().numpy(),
        )


class Tasks(nn.ModuleList):
    """All tasks of a model, the main one first; their outputs stand one after the other in those of the head."""

    def __iter__(self) -> Iterator[Task]:
        for module in super().__iter__():
            assert isinstance(module, Task)
            yield module

    @property
    def specs(self) -> tuple[TaskSpec, ...]:
        """Specs of the tasks, the main one first."""
        return tuple(task.spec for task in self)

    @property
    def outputs(self) -> int:
        """Number of outputs of all tasks together."""
        return sum(task.outputs for task in self)

    def losses(
        self, outputs: Float[Tensor, "B O"], targets: Sequence[Float64[np.ndarray, "B _"]]
    ) -> Float[Tensor, " B"]:
        """Share of each slide in the loss of a batch, the tasks' own weighted by their strengths."""
        total = torch.zeros(len(outputs), device=outputs.device)
        for task, mine, target in zip(self, self.split(outputs), targets, strict=True):
            total = total + task.settings.strength * task.losses(
                mine, torch.from_numpy(target).to(mine.device)
            )
        return total

    def split(self, outputs: Float[Tensor, "*b O"]) -> tuple[Float[Tensor, "*b _"], ...]:
        """Outputs of each task by itself."""
        return torch.split(outputs, [task.outputs for task in self], -1)

    def spread(
        self, outputs: Float[Tensor, " O"], without: Float[Tensor, "R O"], unseen: Float[Tensor, "M O"]
    ) -> tuple[Spread, ...]:
        """Spread of each task's values, from its part of the outputs (`Task.spread`)."""
        parts = zip(self, self.split(outputs), self.split(without), self.split(unseen), strict=True)
        return tuple(task.spread(mine, others, more) for task, mine, others, more in parts)

    def reach(self, outputs: Float[Tensor, " O"], spreads: Sequence[Spread]) -> float:
        """How far the interval of a value reaches from it: the farthest of the main task's probabilities, or that of
        its number; nan where it is not known. This is what a tolerance is for."""
        (main, *_), (mine, *_) = self, self.split(outputs)
        values, spread = main.values(mine.double()), spreads[0]
        farthest = torch.maximum(spread.high - values, values - spread.low)
        return float(farthest[: len(main.spec.names) or None].max())

    def exact(self, outputs: Float[Tensor, " O"]) -> tuple[Spread, ...]:
        """Spread of each task's values where they are those of all tiles: none."""
        return tuple(task.exact(mine) for task, mine in zip(self, self.split(outputs), strict=True))

    def results(
        self,
        outputs: Float[Tensor, " O"],
        spreads: Sequence[Spread],
        contributions: Float[Tensor, "N O"],
    ) -> tuple[TaskResult, ...]:
        """Results of all tasks, each from its part of what `Task.result` takes."""
        parts = zip(self, self.split(outputs), spreads, self.split(contributions), strict=True)
        return tuple(task.result(o, s, c) for task, o, s, c in parts)
