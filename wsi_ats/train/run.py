"""One training run: manifest in, model folder out."""

from __future__ import annotations

import csv
import json
import logging
import platform
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from wsi_ats import __version__
from wsi_ats.build import build_model
from wsi_ats.config import Config, load_config, save_config, to_values
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row, classes_of, with_splits
from wsi_ats.metrics import Interval, balanced_accuracy, bootstrap_auc
from wsi_ats.model import AttentionSampler
from wsi_ats.train.card import Trained, model_card
from wsi_ats.train.checkpoint import save_model
from wsi_ats.train.data import Example, Examples, Failure
from wsi_ats.train.module import TrainingModule

Say = Callable[[str], object]
CALIBRATION_SLIDES = 32
"""Slides from which the features are calibrated."""


def train(
    rows: Sequence[Row], config: Config, out: Path, *, say: Say = print, overwrite: bool = False
) -> Trained:
    """Train on the `train` rows, choose the epoch by the `val` rows, write `out/model/`.

    Slides that cannot be used are listed in `out/failures.csv` and left out. A run that was interrupted goes on
    from its last epoch when the same settings are given again. `say` gets progress, a line at a time.
    Raises `ConfigError` where a class has no usable slide or `out` holds another run.
    """
    start = time.monotonic()
    _prepare(out, config, overwrite)
    rows = with_splits(rows, config.train.val_fraction, config.train.seed)
    classes = classes_of(rows)
    train_set, val_set, failures = _inspect(rows, classes, config, out, say)
    module = TrainingModule(build_model(config, classes))
    some = [train_set[i].scene for i in range(min(len(train_set), CALIBRATION_SLIDES))]
    module.model.calibrate(some, config.train.seed, module.memory)
    history = _History(say)
    with _without_advice():
        _fit(module, train_set, val_set, config, out, history)
    interval, accuracy = _validate(module.model, val_set, config, out)
    seconds = time.monotonic() - start
    result = Trained(out / "model", interval, accuracy, history.epochs, seconds, failures)
    save_model(module.model, result.folder, model_card(module.model, rows, result))
    _write_run(out, config, result)
    return result


def _prepare(out: Path, config: Config, overwrite: bool) -> None:
    stored = out / "config.toml"
    if overwrite and stored.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    if stored.exists():
        if load_config(stored) != config:
            raise ConfigError(
                f"{out} holds a run with other settings (see {stored})",
                remedy="give another --out, or --overwrite to start again",
            )
        if (out / "model").exists():
            raise ConfigError(f"{out} holds a finished run", remedy="give another --out, or --overwrite")
    save_config(config, stored)


def _inspect(
    rows: Sequence[Row], classes: Sequence[str], config: Config, out: Path, say: Say
) -> tuple[Examples, Examples, list[Failure]]:
    # Views may take a quarter of the memory; tiles and features, met more often, the rest.
    room = (config.train.cache_mb << 20) // 4
    sets = {
        split: Examples([r for r in rows if r.split == split], classes, config, room // 2)
        for split in ("train", "val")
    }
    looked = Counter[str]()
    total = sum(map(len, sets.values()))

    def tick() -> None:
        looked["slides"] += 1
        if looked["slides"] % max(1, total // 4) == 0:
            say(f"looked at {looked['slides']} of {total} slides")

    failures = [failure for examples in sets.values() for failure in examples.inspect(tick)]
    _write_failures(out / "failures.csv", failures)
    for failure in failures:
        say(f"left out {failure.slide}: {failure.error}")
    for split, examples in sets.items():
        counts = Counter(row.label for row in examples.rows)
        say(f"{split}: {len(examples)} slides ({', '.join(f'{c} {counts[c]}' for c in classes)})")
        absent = [c for c in classes if not counts[c]]
        if absent:
            raise ConfigError(
                f"the {split} split has no usable slide of class {absent[0]!r} ({len(failures)} slides failed)",
                remedy=f"see {out / 'failures.csv'}, or add slides of that class",
            )
    return sets["train"], sets["val"], failures


def _fit(
    module: TrainingModule,
    train_set: Examples,
    val_set: Examples,
    config: Config,
    out: Path,
    history: Callback,
) -> None:
    settings = config.train
    best = ModelCheckpoint(
        out / "checkpoints",
        "best",
        monitor="val_score",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=settings.epochs,
        gradient_clip_val=settings.clip,
        logger=CSVLogger(out, name="", version="log"),
        callbacks=[best, EarlyStopping("val_score", mode="max", patience=settings.patience), history],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
    )
    shuffle = torch.Generator().manual_seed(settings.seed)
    last = out / "checkpoints" / "last.ckpt"
    trainer.fit(
        module,
        _loader(train_set, settings.batch, shuffle),
        _loader(val_set, settings.batch, None),
        ckpt_path=str(last) if last.exists() else None,
        weights_only=True,
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep Lightning's hints from the user: none of them is about the user's slides or settings."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # It advises loader processes; here tiles are chosen inside the step and read by threads.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # Its checkpoint folder holds the interrupted run that is to go on.
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            # Its own use of torch.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
            yield
    finally:
        log.setLevel(level)


def _loader(examples: Examples, batch: int, shuffle: torch.Generator | None) -> DataLoader[Example]:
    return DataLoader(examples, batch, shuffle=shuffle is not None, generator=shuffle, collate_fn=list)


def _validate(
    model: AttentionSampler, val_set: Examples, config: Config, out: Path
) -> tuple[Interval, float]:
    """Predict the validation slides with the chosen weights and write `validation.csv`."""
    model.eval()
    examples = [val_set[i] for i in range(len(val_set))]
    answers = np.stack(
        [
            model.predict_scene(
                x.scene, config.train.val_tiles, seed=config.train.seed, repeats=1
            ).probabilities
            for x in examples
        ]
    )
    labels = np.array([x.label for x in examples])
    with (out / "validation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "label", *(f"prob_{c}" for c in model.classes)])
        for example, answer in zip(examples, answers, strict=True):
            writer.writerow([example.slide, model.classes[example.label], *(f"{p:.6g}" for p in answer)])
    rng = np.random.default_rng(config.train.seed)
    return bootstrap_auc(answers, labels, rng), balanced_accuracy(answers, labels)


def _write_failures(path: Path, failures: Sequence[Failure]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Failure)])
        writer.writerows(asdict(failure).values() for failure in failures)


def _write_run(out: Path, config: Config, result: Trained) -> None:
    record = {
        "config": to_values(config),
        "versions": {"wsi_ats": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "host": platform.node(),
        "end": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 1),
        "epochs": result.epochs,
        "val_auc": asdict(result.val_auc),
        "val_balanced_accuracy": result.val_balanced_accuracy,
        "failures": len(result.failures),
    }
    (out / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


class _History(Callback):
    """A line an epoch."""

    def __init__(self, say: Say) -> None:
        self.epochs = 0
        self._say = say
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.epochs = trainer.current_epoch + 1
        self._say(
            f"epoch {self.epochs}/{trainer.max_epochs}  loss {metrics['loss']:.3f}  "
            f"val AUC {metrics['val_auc']:.3f}  val loss {metrics['val_loss']:.3f}  "
            f"{time.monotonic() - self._start:.1f} s"
        )
