"""Metrics of every epoch for TensorBoard and MLflow, beside log.csv: into the run's folder, and nowhere else."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

from wsi_ats.config import Config, to_values
from wsi_ats.errors import ConfigError
from wsi_ats.output import writing
from wsi_ats.train.epoch_checkpoint import EpochCheckpoint

NEEDS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Modules that each logger needs; the extra that brings them has the logger's name."""
EXPERIMENT = "wsi-ats"
"""Name of the experiment that MLflow has the run in."""


def check_loggers(config: Config) -> None:
    """Raise `ConfigError` where a logger of `train.loggers` is not installed."""
    for name in config.train.loggers:
        missing = [module for module in NEEDS[name] if find_spec(module) is None]
        if missing:
            raise ConfigError(
                f"train.loggers has {name!r}, which needs the package {missing[0]}",
                remedy=f"pip install 'wsi-ats[{name}]', or leave {name} out: log.csv has the same figures",
            )


class EpochLogger(Callback, ABC):  # type: ignore[misc]
    """Writes the metrics of each epoch once; a run that goes on writes those that are not there yet.

    out: folder of the run. config: its settings. keeper: knows the epochs; it must be called before this.
    """

    def __init__(self, out: Path, config: Config, keeper: EpochCheckpoint) -> None:
        self._out, self._config, self._keeper = out.absolute(), config, keeper
        self._written = 0

    def on_train_start(self, *_: Any) -> None:
        """Begin, or go on: a run may have been killed between keeping an epoch and writing it here."""
        with self._own_words():
            self._written = self._open()
        self._write_missing()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Write the epoch."""
        self._write_missing()

    def on_train_end(self, *_: Any) -> None:
        """The run is over."""
        with self._own_words():
            self._close()

    def _write_missing(self) -> None:
        with self._own_words():
            for number, metrics in enumerate(self._keeper.epochs[self._written :], self._written + 1):
                self._write(number, metrics)
        self._written = len(self._keeper.epochs)

    @contextmanager
    def _own_words(self) -> Iterator[None]:
        """A block whose warnings are about the logger's own use of others, and whose errors of the disk are told."""
        with writing(self._out), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield

    @abstractmethod
    def _open(self) -> int:
        """Begin to write, or go on; the number of epochs that are there and stay."""

    @abstractmethod
    def _write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch, counted from 1."""

    @abstractmethod
    def _close(self) -> None:
        """Write what is left."""


class TensorBoardLogger(EpochLogger):
    """Event files in RUN/tensorboard."""

    def _open(self) -> int:
        from torch.utils.tensorboard import SummaryWriter

        folder = self._out / "tensorboard" / self._keeper.member
        begun = folder.exists()
        # What was written before an interruption is not shown: all epochs that were kept are written anew.
        self._writer = SummaryWriter(str(folder), purge_step=1)
        for name, value in () if begun else flat(self._config).items():
            self._writer.add_text(name, str(value), 0)
        return 0

    def _write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def _close(self) -> None:
        self._writer.close()


class MlflowLogger(EpochLogger):
    """A run of MLflow in the database RUN/mlflow/mlflow.db; environment variables that name a server mean nothing."""

    def _open(self) -> int:
        # Before it is imported: it would tell its makers that it is used.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        import logging

        from mlflow import MlflowClient

        for quiet in ("mlflow.store.db.utils", "mlflow.tracking", "alembic"):
            logging.getLogger(quiet).setLevel(logging.WARNING)
        folder = self._out / "mlflow" / self._keeper.member
        folder.mkdir(parents=True, exist_ok=True)
        store = f"sqlite:///{folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=store, registry_uri=store)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = (
            experiment.experiment_id
            if experiment is not None
            else self._client.create_experiment(EXPERIMENT, artifact_location=(folder / "artifacts").as_uri())
        )
        runs = self._client.search_runs([number])
        if runs:
            self._id = runs[0].info.run_id
            return len(self._client.get_metric_history(self._id, "loss"))
        self._id = self._client.create_run(number, run_name=self._out.name).info.run_id
        for name, value in flat(self._config).items():
            self._client.log_param(self._id, name, str(value)[:500])
        return 0

    def _write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value, step=epoch)

    def _close(self) -> None:
        self._client.set_terminated(self._id)


LOGGERS: Mapping[str, type[EpochLogger]] = {"tensorboard": TensorBoardLogger, "mlflow": MlflowLogger}


def loggers_of(out: Path, config: Config, keeper: EpochCheckpoint) -> Sequence[EpochLogger]:
    """The loggers that the settings name."""
    return [LOGGERS[name](out, config, keeper) for name in dict.fromkeys(config.train.loggers)]


def flat(config: Config) -> dict[str, Any]:
    """Settings by their full names, as in `--set`."""

    def inner(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from inner(value, f"{before}{name}.")
            else:
                yield f"{before}{name}", value

    return dict(inner(to_values(config), ""))
