"""What every kind of task has in common: outputs of the head in, loss and answers out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsi_ats.answer import Answer, Question


class Task(nn.Module, ABC):
    """One head's question: how its outputs are learned and what is read from them.

    O outputs a slide, T numbers that make its target (nan where it is not known), V values of an answer.
    """

    def __init__(self, question: Question) -> None:
        super().__init__()
        self.question = question

    @property
    def outputs(self) -> int:
        """O."""
        return len(self.question.outputs)

    @property
    def unit(self) -> float:
        """What an output of 1 means in the unit that users read."""
        return 1.0

    @abstractmethod
    def losses(self, outputs: Float[Tensor, "B O"], targets: Float[Tensor, "B T"]) -> Float[Tensor, " B"]:
        """Each slide's share of the loss of a batch; 0 where its target is not known."""

    @abstractmethod
    def values(self, outputs: Float[Tensor, "*b O"]) -> Float[Tensor, "*b V"]:
        """What users read, as `question.values` names it."""

    def answer(
        self,
        outputs: Float[Tensor, " O"],
        rounds: Float[Tensor, "R O"],
        contributions: Float[Tensor, "N O"],
        *,
        exact: bool,
    ) -> Answer:
        """The answer of all drawn tiles; the spread of the rounds' answers gives its standard error, 0 where every
        tile was read."""
        values, spread = self.values(outputs.double()), self.values(rounds.double())
        if exact:
            stderr = torch.zeros_like(values)
        elif len(spread) > 1:
            stderr = spread.std(0) / len(spread) ** 0.5
        else:
            stderr = torch.full_like(values, float("nan"))
        return Answer(
            self.question,
            values.cpu().numpy(),
            stderr.cpu().numpy(),
            (self.unit * contributions).float().cpu().numpy(),
        )


class Tasks(nn.ModuleList):
    """All that a model is asked, the main task first; their outputs stand one after the other in those of the head."""

    def __iter__(self) -> Iterator[Task]:
        for module in super().__iter__():
            assert isinstance(module, Task)
            yield module

    @property
    def questions(self) -> tuple[Question, ...]:
        """One a task."""
        return tuple(task.question for task in self)

    @property
    def outputs(self) -> int:
        """Outputs of all tasks together."""
        return sum(task.outputs for task in self)

    def split(self, outputs: Float[Tensor, "*b O"]) -> tuple[Float[Tensor, "*b o"], ...]:
        """Each task's own outputs."""
        return torch.split(outputs, [task.outputs for task in self], -1)

    def answers(
        self,
        outputs: Float[Tensor, " O"],
        rounds: Sequence[Float[Tensor, " O"]],
        contributions: Float[Tensor, "N O"],
        *,
        exact: bool,
    ) -> tuple[Answer, ...]:
        """Every task's answer from its part of what `Task.answer` takes."""
        parts = map(self.split, (outputs, torch.stack(list(rounds)), contributions))
        return tuple(task.answer(o, r, c, exact=exact) for task, o, r, c in zip(self, *parts, strict=True))
