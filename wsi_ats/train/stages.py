"""Where the time of the epochs goes: the networks compute, or wait for pixels."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from wsi_ats.shown import csv_bytes
from wsi_ats.stopwatch import DECODING, READING, WAITING, Stopwatch

MEANINGS = {
    WAITING: "the networks wait for tiles, views and kept features",
    "forward": "attention, draws, features, estimate, loss",
    "backward": "gradients",
    "update": "step of the optimiser",
    "validation": "answers of the validation slides",
    "rest": "checkpoints, tables, order of slides",
    READING: "bytes are fetched, seconds of all threads",
    DECODING: "tiles are decoded, seconds of all threads (of OpenSlide: read and decoded)",
}
"""Stages by name. The last two go on inside the others, mostly while the networks wait."""
IN_THREADS = (READING, DECODING)


class StageClock(Callback):  # type: ignore[misc]
    """Adds up where the time of training goes, stage by stage; part of the trainer's state, so that a run that goes on
    counts on. `watch` must be `noting` meanwhile (`wsi_ats.stopwatch`)."""

    def __init__(self) -> None:
        self.watch = Stopwatch()
        self._before: dict[str, float] = {}
        self._since = self._waited = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage of `MEANINGS`."""
        mine = self.watch.seconds
        return {name: self._before.get(name, 0.0) + mine.get(name, 0.0) for name in MEANINGS}

    def state_dict(self) -> dict[str, float]:
        """Seconds so far."""
        return self.seconds

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Count on from a stored state."""
        self._before = dict(state_dict)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock; what was noted before is of no epoch."""
        self.watch.seconds.clear()
        self._since, self._waited = time.perf_counter(), 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """What was before is of no stage, except that networks waited."""
        self._lap("rest")

    def on_before_backward(self, *_: Any) -> None:
        """The loss is known."""
        self._lap("forward")

    def on_after_backward(self, *_: Any) -> None:
        """The gradients are known."""
        self._lap("backward")

    def on_train_batch_end(self, *_: Any) -> None:
        """The weights have moved, where it was time to."""
        self._lap("update")

    def on_validation_start(self, *_: Any) -> None:
        """The last step was before."""
        self._lap("rest")

    def on_validation_end(self, *_: Any) -> None:
        """All validation slides are answered."""
        self._lap("validation")

    def on_train_epoch_end(self, *_: Any) -> None:
        """The epoch is over."""
        self._lap("rest")

    def _lap(self, stage: str) -> None:
        """The time since the last lap was of this stage, as far as nothing was waited for."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what was begun is of the stage that began it
        now, waited = time.perf_counter(), self.watch.seconds.get(WAITING, 0.0)
        self.watch.add(stage, max(0.0, now - self._since - (waited - self._waited)))
        self._since, self._waited = now, waited


def total_of(clocks: Sequence[StageClock]) -> dict[str, float]:
    """Seconds of each stage, of the trainings of all members of a model."""
    return {name: sum(clock.seconds[name] for clock in clocks) for name in MEANINGS}


def stages_table(seconds: Mapping[str, float]) -> bytes:
    """Content of stages.csv."""
    shares = shares_of(seconds)
    rows = ([name, f"{seconds[name]:.3f}", f"{shares[name]:.4f}", words] for name, words in MEANINGS.items())
    return csv_bytes(["stage", "seconds", "share", "meaning"], rows)


def stages_in_words(seconds: Mapping[str, float]) -> Iterator[str]:
    """The table for people, a line at a time."""
    shares = shares_of(seconds)
    yield "where the time of the epochs went (seconds, share):"
    for name, words in MEANINGS.items():
        yield f"  {name:10s} {seconds[name]:9.1f} {shares[name]:6.1%}  {words}"


def shares_of(seconds: Mapping[str, float]) -> dict[str, float]:
    """Share of each stage in the time of the epochs; those of what goes on in threads may exceed 1."""
    total = sum(value for name, value in seconds.items() if name not in IN_THREADS)
    return {name: value / total if total else 0.0 for name, value in seconds.items()}
