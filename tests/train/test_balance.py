"""What a rare class counts for: weights in the loss and weighted sampling do what they say, and are said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.cohort import settings
from tests.support.training import silent
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row
from wsi_ats.tasks.make import make_tasks
from wsi_ats.train.balance import balanced_chances, in_words
from wsi_ats.train.data import Shuffled
from wsi_ats.train.module import TrainingModule
from wsi_ats.train.run import train


@pytest.fixture
def uneven(rows: list[Row]) -> list[Row]:
    """To train on: one slide with a tumour, three without."""
    tumour = [row for row in rows if row.split == "train" and row.label == "tumour"]
    return [row for row in rows if row not in tumour[1:]]


def test_chances_make_classes_come_equally_often() -> None:
    chances = balanced_chances(["a", "a", "a", "b", "c", "c"])
    assert chances.tolist() == pytest.approx([1 / 9] * 3 + [1 / 3] + [1 / 6] * 2)
    sampler = Shuffled(range(6), 0, chances)
    drawn: Counter[int] = Counter()
    for epoch in range(2000):
        sampler.set_epoch(epoch)
        mine = list(sampler)
        assert len(mine) == 6
        drawn.update(mine)
    shares = np.array([drawn[i] for i in range(6)]) / (2000 * 6)
    np.testing.assert_allclose(shares, chances.numpy(), atol=0.015)  # 4 standard errors
    again = Shuffled(range(6), 0, chances)
    again.set_epoch(1999)
    assert list(again) == mine, "of seed and epoch alone"


def test_without_chances_every_slide_comes_once() -> None:
    assert sorted(Shuffled(range(6), 0)) == [*range(6)]


def test_a_slide_that_comes_again_is_drawn_from_anew(
    uneven: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: dict[str, list[tuple[int, ...]]] = {}
    draw = TrainingModule._draw

    def keep(self: TrainingModule, *arguments: object) -> object:
        drawn, fetched = draw(self, *arguments)
        for one in drawn:
            draws.setdefault(one.slide.name, []).append(tuple(one.cells.tolist()))
        return drawn, fetched

    monkeypatch.setattr(TrainingModule, "_draw", keep)
    said: list[str] = []
    config = settings("train.epochs=1", "train.balanced=true", "train.seed=3")
    train(uneven, config, tmp_path, say=said.append)
    assert sum(map(len, draws.values())) == 4
    again = [tiles for tiles in draws.values() if len(tiles) > 1]
    assert again, "of four draws with replacement, one of four slides comes again"
    assert all(len(set(tiles)) == len(tiles) for tiles in again)
    assert "slides are drawn with replacement: normal 3 at 0.167 each, tumour 1 at 0.500 each" in said


def test_weights_in_the_loss_are_said(uneven: list[Row], tmp_path: Path) -> None:
    said: list[str] = []
    config = settings("train.epochs=1", "tasks.label.class_weights=balanced")
    train(uneven, config, tmp_path / "balanced", say=said.append)
    assert "label: weights in the loss: normal 0.667, tumour 2.000" in said
    said.clear()
    train(uneven, settings("train.epochs=1"), tmp_path / "none", say=said.append)
    assert not any("weights in the loss" in line or "replacement" in line for line in said)


def test_weights_of_labels_are_said() -> None:
    config = settings(
        "tasks.found.kind=labels", 'tasks.found.target=["a","b"]', "tasks.found.class_weights={a=2,b=1}"
    )
    (task,) = make_tasks(config.tasks, {"a": ["1", "0", "0"], "b": ["1", "0", "1"]})
    task.fit(np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]))
    assert in_words([task]) == [
        "found: weights in the loss: a 1.500 (without 0.750), b 1.000 (without 1.000)"
    ]


def test_what_has_no_classes_cannot_be_balanced(rows: list[Row], tmp_path: Path) -> None:
    numbers = [replace(row, label=str(i), cells={"label": str(i)}) for i, row in enumerate(rows)]
    config = settings("train.balanced=true", "tasks.label.kind=regression")
    with pytest.raises(ConfigError, match=r"train\.balanced is true, and task 'label' is of kind regression"):
        train(numbers, config, tmp_path / "run", say=silent)
    assert not (tmp_path / "run").exists()
