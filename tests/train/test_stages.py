"""Where the time of training goes: waiting is told apart from computing, and a run that goes on counts on."""

from __future__ import annotations

import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.cohort import settings
from tests.support.commands import TRAINING, run
from tests.support.training import silent, table
from wsi_ats.manifest import Row
from wsi_ats.progress import ProgressBar
from wsi_ats.report.found import find
from wsi_ats.report.page import page
from wsi_ats.slides.tiff.slide import TiffSlide
from wsi_ats.stopwatch import Stopwatch, noted, noting
from wsi_ats.train.module import TrainingModule
from wsi_ats.train.progress import EpochProgress, Part, within
from wsi_ats.train.run import train
from wsi_ats.train.seeds import train_seeds

PAUSE = 0.1


def seconds_of(run_folder: Path) -> dict[str, float]:
    return {line["stage"]: float(line["seconds"]) for line in table(run_folder / "stages.csv")}


def test_each_delay_is_of_its_stage(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow tiles make the networks wait, a slow network makes the forward pass slow, and nothing else."""
    decode, loss, backward = TiffSlide._decode, TrainingModule._loss, TrainingModule.backward
    decoded: list[int] = []

    def slow_decode(self: TiffSlide, *arguments: object) -> object:
        decoded.append(1)
        time.sleep(PAUSE)
        return decode(self, *arguments)

    def slow_loss(self: TrainingModule, *arguments: object) -> object:
        time.sleep(4 * PAUSE)
        return loss(self, *arguments)

    def slow_backward(self: TrainingModule, *arguments: object) -> None:
        time.sleep(8 * PAUSE)
        backward(self, *arguments)

    monkeypatch.setattr(TiffSlide, "_decode", slow_decode)
    monkeypatch.setattr(TrainingModule, "_loss", slow_loss)
    monkeypatch.setattr(TrainingModule, "backward", slow_backward)
    train(rows, settings("train.epochs=1"), tmp_path, say=silent)
    seconds = seconds_of(tmp_path)
    assert 3 * 4 * PAUSE <= seconds["forward"] < 3 * 8 * PAUSE, "three steps"
    assert 3 * 8 * PAUSE <= seconds["backward"] < 3 * 12 * PAUSE
    assert 0 < seconds["decoding"] < 2 * len(decoded) * PAUSE
    assert seconds["decoding"] / 8 < seconds["waiting"] < 1.5 * seconds["decoding"], "up to 8 threads decode"


def test_the_stages_are_all_of_the_time(trained: Path) -> None:
    seconds = seconds_of(trained)
    epochs = sum(float(line["seconds"]) for line in table(trained / "log.csv"))
    whole = sum(value for name, value in seconds.items() if name not in ("reading", "decoding"))
    assert whole == pytest.approx(epochs, rel=0.2, abs=0.2)
    shares = [float(line["share"]) for line in table(trained / "stages.csv")]
    assert sum(shares[:6]) == pytest.approx(1, abs=1e-3)
    assert all(seconds[name] > 0 for name in ("waiting", "forward", "backward", "decoding", "reading"))


def test_a_run_that_goes_on_counts_on(rows: list[Row], tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch 1/2"):
            raise KeyboardInterrupt

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train(rows, settings("train.epochs=2"), tmp_path, say=stop)
    train(rows, settings("train.epochs=2"), tmp_path, say=said.append)
    epochs = [float(line["seconds"]) for line in table(tmp_path / "log.csv")]
    seconds = seconds_of(tmp_path)
    whole = sum(value for name, value in seconds.items() if name not in ("reading", "decoding"))
    assert whole > 0.8 * sum(epochs)
    assert any(line.split()[:1] == ["waiting"] and "%" in line for line in said)


def test_the_report_has_the_stages(trained: Path) -> None:
    text = page(find(trained))
    assert "Where the time of the epochs went" in text
    assert "the networks wait for tiles" in text


def test_what_is_noted_counts_once_and_only_while_someone_notes() -> None:
    watch, other = Stopwatch(), Stopwatch()
    with noted("a"):
        pass
    with noting(watch):
        start = time.perf_counter()
        with noted("a"), noted("a"):
            time.sleep(0.02)
        took = time.perf_counter() - start
        with noting(other), noted("b"):
            pass
    with noted("a"):
        time.sleep(0.01)
    assert sorted(watch.seconds) == ["a", "b"]
    assert list(other.seconds) == ["b"]
    assert 0.02 <= watch.seconds["a"] <= took


# ---- Progress inside an epoch


def test_progress_is_told_at_every_step_and_reaches_the_end(rows: list[Row], tmp_path: Path) -> None:
    told: list[EpochProgress] = []
    train(rows, settings("train.epochs=2"), tmp_path, say=silent, on_progress=told.append)
    first = [p for p in told if p.epoch == 1]
    assert [p.done for p in first] == [0, 2, 4, 6, 8, 10]
    assert {(p.total, p.epochs) for p in told} == {(10, 2)}
    assert first[-1].left == 0
    assert [p.epoch for p in told] == sorted(p.epoch for p in told)


def test_progress_in_words() -> None:
    progress = EpochProgress(epoch=2, epochs=10, done=30, total=120, seconds=60.0)
    assert (progress.left, progress.all_left) == (180.0, 180.0 + 8 * 240.0)
    assert str(progress) == "epoch 2/10: 30 of 120 slides, 3 min left, at most 35 min of training"
    assert str(EpochProgress(10, 10, 119, 120, 119.0, "patient")).endswith("119 of 120 patients, 1 s left")
    assert str(EpochProgress(1, 10, 0, 120, 0.0)) == "epoch 1/10: 0 of 120 slides"


def test_the_time_left_is_that_of_all_members_and_folds() -> None:
    """Fold 2 of 5, member 1 of 3: 2 more members of this fold, and 3 folds of 3."""
    told: list[EpochProgress] = []
    tell = within(within(told.append, "fold", 2, 5), "member", 1, 3)
    tell(EpochProgress(epoch=2, epochs=10, done=30, total=120, seconds=60.0))
    (progress,) = told
    assert progress.to_come == 2 + 3 * 3
    assert progress.all_left == 180.0 + (8 + 11 * 10) * 240.0
    assert str(progress) == (
        "fold 2/5, member 1/3, epoch 2/10: 30 of 120 slides, 3 min left, at most 7 h 55 min of training of all folds"
    )
    last = replace(progress, epoch=10, parts=(Part("member", 2, 3),))
    assert str(last).endswith("left, at most 43 min of training of all members"), "one more to come"
    assert str(replace(last, parts=(Part("member", 3, 3),))).endswith("3 min left")


def test_what_trains_several_says_which_it_is_at(rows: list[Row], tmp_path: Path) -> None:
    told: list[EpochProgress] = []
    train(
        rows,
        settings("train.epochs=1", "train.members=2"),
        tmp_path / "run",
        say=silent,
        on_progress=told.append,
    )
    assert [str(p.parts[0]) for p in told if p.done == p.total] == ["member 1/2", "member 2/2"]
    told.clear()
    train_seeds(rows, settings("train.epochs=1"), 2, tmp_path / "seeds", say=silent, on_progress=told.append)
    assert [str(p.parts[0]) for p in told if p.done == p.total] == ["seed 1/2", "seed 2/2"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_lines_elsewhere(terminal: bool) -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, highlight=False)
    with ProgressBar(console, line_every=0.5, quiet_first=True) as bar:
        bar.show(1, 10, "one")
        console.print("epoch 1/2")
        time.sleep(0.6)
        bar.show(2, 10, "two")
        bar.show(3, 10, "three")
    said = text.getvalue()
    assert "epoch 1/2" in said
    if terminal:
        assert "three" in said, "the bar is drawn once more at its end"
    else:
        assert said == "epoch 1/2\ntwo\n"


def test_the_command_is_quiet_about_steps_where_there_is_no_terminal(cohort: Path, tmp_path: Path) -> None:
    said = run("train", cohort, "--out", tmp_path / "run", "--no-report", *TRAINING).stdout
    assert "epoch 3/3  loss" in said
    assert "left" not in said
    assert "where the time of the epochs went" in said
