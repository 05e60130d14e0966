"""Checkpoints of a training run after every epoch, so that it can be interrupted at any time and go on."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO

from wsi_ats.atomic import make_atomic, write_atomic
from wsi_ats.errors import ConfigError, ModelError, WsiAtsError
from wsi_ats.output import writing
from wsi_ats.train.data import BadTiles, pool_bad_tiles
from wsi_ats.train.figures import metric_label
from wsi_ats.train.processes import ALONE, Processes

Say = Callable[[str], object]
STATE = {"pytorch-lightning_version", "state_dict", "callbacks", "optimizer_states", "loops"}
"""Keys of a trainer's state without which no run goes on."""


class Checkpoints(TorchCheckpointIO):  # type: ignore[misc]
    """Files of the trainer's state that are there whole or not at all, and that cannot run code when loaded.

    network: what the state is of; one of a network with other parameters is refused.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self._network = network

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any | None = None
    ) -> None:
        """Write the state to `path` in one step. Raises `OutputError` where it cannot be written."""

        def save(temporary: Path) -> None:
            # Opened here: of a file that it opens itself, torch does not tell what is wrong.
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)

        path = Path(path)
        with writing(
            path.parents[1]
        ):  # the folder is there since the start: where it has vanished, so has its disk
            make_atomic(path, save)

    def load_checkpoint(
        self, path: Path | str, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read the state: tensors and plain values only, whatever the caller asks for.

        Raises `ModelError` where the file cannot be read or holds anything else.
        """
        remedy = "start the run again with --overwrite"
        try:
            state: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror or error}", remedy) from error
        except (
            Exception
        ) as error:  # of a file that is none of its own, torch raises whatever it stumbles over
            raise ModelError(f"{path} cannot be read: damaged, cut short or no checkpoint", remedy) from error
        if not self._is_of_network(state):
            raise ModelError(f"{path} is no checkpoint of a run with this network", remedy)
        return state

    def _is_of_network(self, state: object) -> bool:
        if not (isinstance(state, dict) and state.keys() >= STATE and isinstance(state["state_dict"], dict)):
            return False
        shapes = {name: getattr(value, "shape", None) for name, value in state["state_dict"].items()}
        return shapes == {name: value.shape for name, value in self._network.state_dict().items()}


class EpochCheckpoint(Callback):  # type: ignore[misc]
    """After every epoch: tells how it went, keeps the state of the trainer and of the best epoch, stops in time.

    The best epoch has the highest `val_score`; training stops after `patience` epochs that are no better, counted from
    the end of `warm_up`: before it, attention has not begun to learn. Both follow from the list of epochs alone, which
    is part of the state: a run that goes on decides as one that was never interrupted. So are the tiles of `bad_tiles`,
    which count against those that are tolerated.

    Members of a model are trained one after the other, and log.csv is of all: `before` are those before this one.

    Of several `processes`, the first keeps and writes. A run goes on in as many as it began in: with more or fewer,
    each step would be of other slides.
    """

    def __init__(
        self,
        out: Path,
        patience: int,
        say: Say,
        bad_tiles: BadTiles | None = None,
        warm_up: int = 0,
        before: Sequence[EpochCheckpoint] = (),
        processes: Processes = ALONE,
    ) -> None:
        self.member = f"member-{len(before) + 1}" if before else ""
        """Name of the member by which its files are told from the first one's."""
        name = f"-{self.member}" if before else ""
        self.last, self.best = (out / "checkpoints" / f"{which}{name}.ckpt" for which in ("last", "best"))
        self._members = (*before, self)
        self.epochs: list[dict[str, float]] = []
        """Metrics of every epoch."""
        self.seconds_before = 0.0
        """Seconds of the epochs that an earlier start of the run has trained."""
        self._bad_tiles = {} if bad_tiles is None else bad_tiles
        self._log = out / "log.csv"
        self._patience, self._warm_up = patience, warm_up
        self._processes = processes
        self._say = say
        self._start = 0.0

    @property
    def waited(self) -> int:
        """Number of epochs since the best one."""
        scores = [epoch["val_score"] for epoch in self.epochs]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    @property
    def is_patient(self) -> bool:
        """Whether a better epoch may still come."""
        return min(self.waited, len(self.epochs) - self._warm_up) < self._patience

    def state_dict(self) -> dict[str, Any]:
        """Plain values that are stored with the trainer's state."""
        bad = {slide: sorted(tiles) for slide, tiles in self._bad_tiles.items() if tiles}
        return {"epochs": self.epochs, "bad_tiles": bad, "processes": self._processes.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a stored state. Raises `ConfigError` where it is of another number of processes."""
        began_in = state_dict.get("processes", 1)
        if began_in != self._processes.count:
            raise ConfigError(
                f"the run was begun in {began_in} process(es) and is started in {self._processes.count}, and each step "
                "would be of other slides",
                remedy=f"start it in {began_in} (torchrun --nproc-per-node), give another --out, or --overwrite",
            )
        self.epochs = list(state_dict["epochs"])
        self.seconds_before = sum(epoch["seconds"] for epoch in self.epochs)
        for slide, tiles in state_dict["bad_tiles"].items():
            self._bad_tiles.setdefault(slide, set()).update(map(tuple, tiles))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Stop at once where the run was interrupted after its last epoch: nothing is left to train.

        Raises `ConfigError` where processes go on from different epochs.
        """
        if len({*self._processes.gather(len(self.epochs))}) > 1:
            raise ConfigError(
                f"not all processes see the checkpoint {self.last}",
                remedy="let --out be on a disk that all computers see, under the same path",
            )
        trainer.should_stop = not self.is_patient

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Record the epoch. Raises `WsiAtsError` where training has diverged."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = {**metrics, "seconds": time.monotonic() - self._start}
        self.epochs.append(self._processes.of_first(lambda: epoch))
        pool_bad_tiles(self._bad_tiles, self._processes)
        if not all(map(math.isfinite, metrics.values())):
            raise WsiAtsError(
                f"training diverged in epoch {len(self.epochs)}: {self._line(trainer.max_epochs)}",
                remedy="lower train.lr and train.lr_attention",
            )
        if self._processes.is_first:
            self._keep(trainer)
        trainer.should_stop = not self.is_patient

    def _keep(self, trainer: pl.Trainer) -> None:
        # The best one first: a run killed in between repeats this epoch, and with it the best one's file.
        if self.waited == 0:
            trainer.save_checkpoint(self.best)
        trainer.save_checkpoint(self.last)
        with writing(self._log):
            write_atomic(self._log, self._table())
        self._say(self._line(trainer.max_epochs))  # an epoch that was told is kept

    def _line(self, most: int | None) -> str:
        epoch = self.epochs[-1]
        figures = "  ".join(
            f"{metric_label(name)} {value:.3f}"
            for name, value in epoch.items()
            if name.startswith("val_") and name != "val_score"
        )
        return (
            f"epoch {len(self.epochs)}/{most}  loss {epoch['loss']:.3f}  {figures}  {epoch['seconds']:.1f} s"
        )

    def _table(self) -> bytes:
        """Content of log.csv: an epoch a line, with the number of the member where there are several."""
        text = io.StringIO(newline="")
        columns = ["member"] if len(self._members) > 1 else []
        writer = csv.DictWriter(
            text, [*columns, "epoch", *self.epochs[0]], lineterminator="\n", extrasaction="ignore"
        )
        writer.writeheader()
        for member, keeper in enumerate(self._members, 1):
            lines = enumerate(keeper.epochs, 1)
            writer.writerows({"member": member, "epoch": number, **epoch} for number, epoch in lines)
        return text.getvalue().encode()
