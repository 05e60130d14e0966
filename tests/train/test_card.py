"""The model card says what answers rest on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_ats.manifest import Row
from wsi_ats.statistics.interval import Interval
from wsi_ats.statistics.novelty import Description, Reference, fit_reference
from wsi_ats.tasks.answer import TaskSpec
from wsi_ats.tasks.make import task_of
from wsi_ats.tasks.task import Task
from wsi_ats.train.card import MOST_NAMED, Trained, model_card, with_decisions


def a_task() -> Task:
    task = task_of(TaskSpec("label", "classes", ("benign", "tumour")))
    p = np.linspace(0.025, 0.975, 20)
    task.decide(np.stack([1 - p, p], 1), (p > 0.5).astype(float)[:, None], "20 slides")
    return task


def a_row(number: int, split: str, group: str = "", site: str = "") -> Row:
    name = f"{number}.svs"
    return Row(name, Path(name), "benign", name, split, None, group=group, site=site)  # type: ignore[arg-type]


def card_of(rows: list[Row], reference: Reference | None = None) -> str:
    done = Trained(Path("model"), {"val_auc": Interval(0.9, 0.8, 0.95)}, 3, 1.0, [], {})
    return model_card([a_task()], rows, done, reference)


def a_reference() -> Reference:
    rng = np.random.default_rng(0)
    points = [rng.normal(0, 1, (n, 3)) for n in (60, 39)]
    described = [
        [Description(np.float32(p), np.ones(3, np.float32), 32.0, np.float64(p)) for p in some]
        for some in points
    ]
    found = fit_reference(*described)
    assert found is not None
    return found


def test_groups_and_sites_of_each_split_are_named() -> None:
    rows = [a_row(i, "train", f"block {i % 3}", "Bern") for i in range(6)] + [
        a_row(9, "val", "block 9", "Basel")
    ]
    card = card_of(rows)
    assert "- groups of train, 3: block 0, block 1, block 2\n" in card
    assert "- groups of val, 1: block 9\n" in card
    assert "- sites of train, 1: Bern\n- sites of val, 1: Basel\n" in card


def test_many_groups_are_counted_and_none_are_not_mentioned() -> None:
    many = [a_row(i, "train", f"block {i}") for i in range(MOST_NAMED + 1)]
    assert f"- groups of train, {MOST_NAMED + 1}\n" in card_of(many)
    assert "groups of" not in card_of([a_row(0, "train")])


def test_the_operating_point_and_the_limits_of_sets_are_told() -> None:
    task = a_task()
    card = card_of([])
    assert task.spec.sets is not None
    text = with_decisions(card, [task])
    assert text == card, "what is calibrated anew takes the place of what was"
    task.calibrate(  # the card tells sets of calibrated tasks alone
        torch.zeros(20, 2), np.repeat([0.0, 1.0], 10)[:, None], "20 slides"
    )
    least = [1 - quantile for quantile in task.spec.sets.quantiles]
    text = with_decisions(card, [task])
    assert f"from a probability of {least[0]:.3f} (benign), {least[1]:.3f} (tumour) on" in text
    assert "Operating point: tumour from a probability of" in text
    assert text.count("## ") == card.count("## ")


@pytest.mark.parametrize("known", [True, False])
def test_how_slides_unlike_the_training_slides_are_told(known: bool) -> None:
    card = card_of([], a_reference() if known else None)
    section = card.split("## Slides unlike these\n")[1].split("\n## ")[0]
    if known:
        assert "rank 38 among 39 slides" in section
        assert "About 5.0% of such slides are flagged by mistake" in section
    else:
        assert "cannot be told" in section
