"""Slides that cannot be used are counted by class and site, and a class that is hit more than others is told."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.cohort import SETTINGS
from wsi_ats.config import load_config
from wsi_ats.errors import Failure, MissingMppError
from wsi_ats.manifest import Row
from wsi_ats.train.data import failure_of
from wsi_ats.train.looked_at import look_at
from wsi_ats.train.run import train


def lines(failed: dict[str, int], total: dict[str, int], what: str = "label") -> list[str]:
    """What is said where so many slides of each class (or site) failed, of so many."""
    rows = [
        replace(Row(f"{name}{i}", "", "", "", "train", None), **{what: name})
        for name, count in total.items()
        for i in range(count)
    ]
    failures = [
        Failure(f"{name}{i}", "open", "no", "") for name, count in failed.items() for i in range(count)
    ]
    return look_at(rows, [row.label for row in rows], failures).lines()


def test_nothing_is_said_where_all_can_be_used() -> None:
    assert lines({}, {"a": 5, "b": 5}) == []


@pytest.mark.parametrize("what", ["label", "site"])
def test_a_class_or_site_that_is_hit_more_is_a_bias(what: str) -> None:
    said = lines({"a": 8, "b": 1}, {"a": 20, "b": 40}, what)
    assert said[0] == "9 of 60 slides cannot be used (unreadable 9)"
    name = "class" if what == "label" else "site"
    assert f"cannot be used, by {name}: a 8 of 20 (40 %), b 1 of 40 (2 %)" in said
    (warning,) = (line for line in said if line.startswith("warning"))
    assert f"slides of {name} 'a' fail more often, 8 of 20 (40 %), than the others, 1 of 40 (2 %)" in warning
    assert "biased" in warning


def test_even_failures_are_no_bias() -> None:
    said = lines({"a": 6, "b": 7}, {"a": 20, "b": 20})
    assert said[1:] == ["cannot be used, by class: a 6 of 20 (30 %), b 7 of 20 (35 %)"]


def test_few_are_told_to_be_few() -> None:
    assert (
        lines({"a": 1}, {"a": 8, "b": 9})[-1]
        == "these are too few to tell whether one class is hit more than another"
    )


def test_chance_is_seldom_taken_for_bias() -> None:
    """Failures that know nothing of classes are told for a bias at most as often as the level says."""
    rng, told = np.random.default_rng(0), 0
    for _ in range(300):
        failed = {name: int(rng.binomial(30, 0.2)) for name in "abc"}
        told += any(line.startswith("warning") for line in lines(failed, dict.fromkeys("abc", 30)))
    assert told / 300 <= 0.05


def test_a_missing_scale_is_told_apart() -> None:
    error = MissingMppError("slide 'a' has no mpp", "give it")
    error.stage = "view"  # type: ignore[attr-defined]
    assert failure_of(Row("a", Path("a"), "x", "a", "train", None), error).stage == "mpp"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_has_both_tables_and_says_what_they_say(rows: list[Row], tmp_path: Path) -> None:
    gone = replace(rows[0], slide="=gone.svs", path=tmp_path / "gone.svs", site="Oslo")
    said: list[str] = []
    config = load_config(None, [*SETTINGS, "train.epochs=1"])
    train([replace(row, site="Bern") for row in rows] + [gone], config, tmp_path / "run", say=said.append)
    looked = table(tmp_path / "run" / "slides_looked_at.csv")
    opened = [row for row in rows if row.split != "test"]
    assert [line["found"] for line in looked] == ["usable"] * len(opened) + ["unreadable"]
    assert (looked[-1]["slide"], looked[-1]["site"], looked[-1]["class"]) == (
        "'=gone.svs",
        "Oslo",
        gone.label,
    )
    assert looked[-1]["error"]
    assert f"1 of {len(looked)} slides cannot be used (unreadable 1)" in said
    assert any(
        line.startswith("cannot be used, by site: Bern 0 of") and "Oslo 1 of 1" in line for line in said
    )
    counted = table(tmp_path / "run" / "cohort.csv")
    assert sum(int(line["slides"]) for line in counted) == len(rows) + 1
    assert any(line.split()[:1] == ["class"] and "train" in line for line in said), "the table"
