"""A training run that is interrupted, at any time and in any way, ends as one that was not."""

from __future__ import annotations

import pickle
import shutil
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.cohort import settings
from tests.support.training import Bomb, assert_same_weights, silent, table
from wsi_ats.errors import ModelError, WsiAtsError
from wsi_ats.manifest import Row
from wsi_ats.model_folder import model_hash
from wsi_ats.train.data import Example, Shuffled
from wsi_ats.train.epoch_checkpoint import EpochCheckpoint
from wsi_ats.train.module import TrainingModule
from wsi_ats.train.run import train


class Interruptions:
    """Ctrl-C at given moments: when a line that begins so is said, or at the n-th training step from here."""

    def __init__(self, *moments: str | int) -> None:
        self._ahead = list(moments)
        self._steps = 0

    def say(self, line: str) -> None:
        if self._ahead and isinstance(self._ahead[0], str) and line.startswith(self._ahead[0]):
            self._now()

    def step(self) -> None:
        self._steps += 1
        if self._ahead and self._steps == self._ahead[0]:
            self._now()

    def _now(self) -> None:
        self._ahead.pop(0)
        self._steps = 0
        raise KeyboardInterrupt

    def __bool__(self) -> bool:
        return bool(self._ahead)


@pytest.mark.parametrize("moments", [["looked"], ["epoch 1"], [5, "epoch 2"], ["epoch 2", 1]])
def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(
    rows: list[Row],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moments: list[str | int],
) -> None:
    """Three steps an epoch: the fifth is in the middle of the second."""
    interruptions = Interruptions(*moments)
    step = TrainingModule.training_step

    def with_interruptions(module: TrainingModule, batch: list[Example], index: int) -> torch.Tensor:
        interruptions.step()
        return step(module, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", with_interruptions)
    out = tmp_path / "run"
    while interruptions:
        with pytest.raises(KeyboardInterrupt):
            train(rows, settings(), out, say=interruptions.say)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert not (out / "run.json").exists()
    result = train(rows, settings(), out, say=silent)
    assert result.epochs == 3
    for name in ("model/model.safetensors", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert_same_weights(out / name, trained / name)
    logs = [[{**row, "seconds": ""} for row in table(folder / "log.csv")] for folder in (out, trained)]
    assert logs[0] == logs[1]
    assert (out / "validation.csv").read_bytes() == (trained / "validation.csv").read_bytes()


def test_an_epoch_that_was_told_is_not_done_again(rows: list[Row], tmp_path: Path) -> None:
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(rows, settings(), tmp_path, say=stop)
    train(rows, settings(), tmp_path, say=said.append)
    assert [line[:7] for line in said if line.startswith("epoch")] == ["epoch 1", "epoch 2", "epoch 3"]


@pytest.mark.parametrize("patience", [1, 40])
def test_a_run_that_was_killed_after_its_last_epoch_trains_no_further(
    rows: list[Row], tmp_path: Path, patience: int
) -> None:
    config = settings(f"train.patience={patience}", "train.epochs=8", "train.lr=0.5")
    first = train(rows, config, tmp_path, say=silent)
    digest = model_hash(tmp_path / "model")
    if patience == 1:
        assert first.epochs < 8, "early stopping is what this is about"
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "run.json").unlink()
    said: list[str] = []
    again = train(rows, config, tmp_path, say=said.append)
    assert [line for line in said if line.startswith("epoch")] == []
    assert again.epochs == first.epochs
    assert model_hash(tmp_path / "model") == digest


def test_sigterm_without_a_handler_ends_with_143(rows: list[Row], tmp_path: Path) -> None:
    """Lightning would end the process with status 0."""

    def terminate(line: str) -> None:
        if line.startswith("epoch 1"):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        train(rows, settings(), tmp_path, say=terminate)
    assert caught.value.code == 143
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_the_order_of_slides_depends_on_seed_and_epoch_alone() -> None:
    def orders(seed: int, epochs: list[int]) -> list[list[int]]:
        sampler = Shuffled(range(20), seed)
        found = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            found.append(list(sampler))
        return found

    first = orders(0, [0, 1, 2])
    assert all(sorted(order) == list(range(20)) for order in first)
    assert len({tuple(order) for order in first}) == 3
    assert orders(0, [2, 0]) == [first[2], first[0]]
    assert orders(1, [0]) != first[:1]


class StandIn(pl.Trainer):
    """What the keeper needs of a trainer."""

    max_epochs, should_stop, callback_metrics = 99, False, None

    def __init__(self) -> None:
        self.saved: list[str] = []

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(path.name)


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([0.1, 0.5, 0.7, 0.9]), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(0, 8),
    st.data(),
)
def test_the_keeper_decides_as_one_that_remembers_everything(
    scores: list[float], patience: int, warm_up: int, data: st.DataObject
) -> None:
    """Best epoch and end of training against counting by hand, with an interruption after any epoch."""
    cut = data.draw(st.integers(0, len(scores)))
    folder = Path("/nonexistent")
    keeper, trainer = EpochCheckpoint(folder, patience, silent, None, warm_up), StandIn()
    module = pl.LightningModule()
    scores = [score - 10 * (number < warm_up) for number, score in enumerate(scores)]
    wait, best, expected, saved, stop = 0, -99.0, [], [], None
    for number, score in enumerate(scores, 1):
        wait, best = (0, score) if score > best else (wait + 1, best)
        expected += [(number, "best.ckpt")] * (wait == 0) + [(number, "last.ckpt")]
        if number > warm_up and min(wait, number - warm_up) >= patience:
            stop = number
            break
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_ats.train.epoch_checkpoint.write_atomic", lambda *_: None)
        for number, score in enumerate(scores, 1):
            if number - 1 == cut:
                state = pickle.loads(pickle.dumps(keeper.state_dict()))  # noqa: S301
                keeper = EpochCheckpoint(folder, patience, silent, None, warm_up)
                keeper.load_state_dict(state)
                keeper.on_train_start(trainer, module)
            if trainer.should_stop:
                break
            trainer.callback_metrics = {"val_score": score, "loss": 1.0, "val_auc": 0.5, "val_loss": 1.0}
            keeper.on_train_epoch_end(trainer, module)
            epochs = len(keeper.epochs)
            assert epochs == number
            saved += [(epochs, name) for name in trainer.saved]
            trainer.saved.clear()
    assert saved == expected
    assert trainer.should_stop == (stop is not None)


def test_the_keeper_remembers_bad_tiles() -> None:
    before, after = {"a": {(0, 2, 1), (0, 1, 1)}, "b": set()}, {"a": {(0, 1, 1)}}
    kept = after["a"]  # a scene holds it
    state = pickle.loads(pickle.dumps(EpochCheckpoint(Path(), 1, silent, before).state_dict()))  # noqa: S301
    EpochCheckpoint(Path(), 1, silent, after).load_state_dict(state)
    assert after == {"a": {(0, 1, 1), (0, 2, 1)}}
    assert after["a"] is kept


def test_a_run_that_diverges_is_told(tmp_path: Path) -> None:
    trainer = StandIn()
    trainer.callback_metrics = {"val_score": 0.5, "loss": float("nan"), "val_auc": 0.5, "val_loss": 0.5}
    with pytest.raises(WsiAtsError, match=r"diverged in epoch 1: .*loss nan") as caught:
        EpochCheckpoint(tmp_path, 3, silent).on_train_epoch_end(trainer, pl.LightningModule())
    assert "train.lr" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(
    rows: list[Row], trained: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    (copy / "run.json").unlink()
    torch.save({"state_dict": Bomb(tmp_path / "boom")}, copy / "checkpoints" / "last.ckpt")
    with pytest.raises(ModelError, match=r"last\.ckpt cannot be read") as caught:
        train(rows, settings(), copy, say=silent)
    assert "--overwrite" in caught.value.remedy
    assert not (tmp_path / "boom").exists()
