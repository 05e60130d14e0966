"""Progress inside an epoch: how many slides it has seen, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from wsi_ats.progress import duration


@dataclass(frozen=True)
class Part:
    """One of several trainings that a command makes one after the other."""

    what: str
    """What each of them makes: `member`, `fold` or `seed`."""
    number: int
    """Which one it is, from 1."""
    of: int

    def __str__(self) -> str:
        return f"{self.what} {self.number}/{self.of}"


@dataclass(frozen=True)
class EpochProgress:
    """How far an epoch is. Of the slides, or patients, those of validation count, too."""

    epoch: int
    """Its number, from 1."""
    epochs: int
    """Number of epochs at most."""
    done: int
    total: int
    seconds: float
    """Seconds since the epoch began."""
    by: str = "slide"
    parts: tuple[Part, ...] = ()
    """Which of several trainings it is of, the outermost first: a fold, and one of its members."""

    @property
    def to_come(self) -> int:
        """Number of trainings that come after this one."""
        later = 0
        for part in self.parts:
            later = later * part.of + part.of - part.number
        return later

    @property
    def left(self) -> float:
        """Seconds that the rest of the epoch takes at this rate."""
        return self.seconds * (self.total - self.done) / max(self.done, 1)

    @property
    def all_left(self) -> float:
        """Seconds that this and all later epochs, of all trainings, take at this rate; fewer where one stops early."""
        epochs = self.epochs - self.epoch + self.epochs * self.to_come
        return self.left + self.seconds * self.total / max(self.done, 1) * epochs

    def __str__(self) -> str:
        where = ", ".join([*map(str, self.parts), f"epoch {self.epoch}/{self.epochs}"])
        words = f"{where}: {self.done} of {self.total} {self.by}s"
        if not self.done:
            return words
        of_all = "".join(f" of all {part.what}s" for part in self.parts[:1])
        more = self.epoch < self.epochs or self.to_come
        later = f", at most {duration(self.all_left)} of training{of_all}" if more else ""
        return f"{words}, {duration(self.left)} left{later}"


OnProgress = Callable[[EpochProgress], object]


def within(on_progress: OnProgress, what: str, number: int, of: int) -> OnProgress:
    """What gets the progress of one of several trainings, and passes it on with which one it is (`Part`)."""
    part = Part(what, number, of)

    def tell(progress: EpochProgress) -> None:
        on_progress(replace(progress, parts=(part, *progress.parts)))

    return tell if of > 1 else on_progress


class TellProgress(Callback):  # type: ignore[misc]
    """Tells after every step of training and of validation how far the epoch is.

    total: number of slides, or patients, of an epoch, those of validation included. by: what these are. processes:
    number of those that take as many a step.
    """

    def __init__(self, on_progress: OnProgress, total: int, by: str, processes: int = 1) -> None:
        self._tell, self._total, self._by, self._processes = on_progress, total, by, processes
        self._done, self._start = 0, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin to count."""
        self._done, self._start = 0, time.monotonic()
        self._told(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: int) -> None:
        """Count the slides of a step."""
        self._count(len(batch), trainer)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: int
    ) -> None:
        """Count the slides of a step of validation."""
        self._count(len(batch), trainer)

    def _count(self, slides: int, trainer: pl.Trainer) -> None:
        # A last batch may have fewer for others.
        self._done = min(self._done + slides * self._processes, self._total)
        self._told(trainer)

    def _told(self, trainer: pl.Trainer) -> None:
        seconds = time.monotonic() - self._start
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
        self._tell(EpochProgress(epoch, epochs, self._done, self._total, seconds, self._by))
