"""Folds: nothing that must stay together is parted, every slide is tested once, every class is on all sides."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.commands import run
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row, read_manifest, with_splits
from wsi_ats.manifest.folds import folds_of
from wsi_ats.manifest.splits import units_of


def rows_of(slides: Sequence[tuple[str, str, str]]) -> list[Row]:
    """Rows from (label, patient, group)."""
    return [
        Row(f"{i}.svs", "", label, patient, None, None, group=group)
        for i, (label, patient, group) in enumerate(slides)
    ]


@st.composite
def cohorts(draw: st.DrawFn) -> list[Row]:
    """Patients of 1 to 3 slides of two classes, some of whom share a group."""
    slides: list[tuple[str, str, str]] = []
    for label in ("benign", "tumour"):
        for number in range(draw(st.integers(8, 14))):
            group = draw(st.sampled_from(["", "", f"block {label} {number // 2}"]))
            patient = f"{label} {number}"
            slides += [(label, patient, group)] * draw(st.integers(1, 3))
    return rows_of(slides)


def linked(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Patients that each patient is linked to, found by going round until nothing changes."""
    near = {row.patient: {row.patient} for row in rows}
    changed = True
    while changed:
        changed = False
        for a in rows:
            for b in rows:
                if (a.patient == b.patient or (a.group and a.group == b.group)) and near[a.patient] != (
                    both := near[a.patient] | near[b.patient]
                ):
                    near[a.patient] = near[b.patient] = both
                    changed = True
        for patient in near:
            whole = set().union(*(near[other] for other in near[patient]))
            changed |= whole != near[patient]
            near[patient] = whole
    return near


@given(cohorts())
def test_units_are_what_is_linked(rows: list[Row]) -> None:
    near = linked(rows)
    for row, unit in zip(rows, units_of(rows), strict=True):
        assert unit == min(near[row.patient])


@given(cohorts(), st.integers(3, 4), st.integers(0, 5))
def test_each_slide_is_tested_once_and_no_unit_is_parted(rows: list[Row], k: int, seed: int) -> None:
    folds = folds_of(rows, k, 0.25, seed)
    tested = Counter(row.slide for fold in folds for row in fold if row.split == "test")
    assert tested == Counter(row.slide for row in rows)
    near = linked(rows)
    for fold in folds:
        assert [row.slide for row in fold] == [row.slide for row in rows]
        side = {row.patient: row.split for row in fold}
        assert all(side[row.patient] == row.split for row in fold)
        assert all(side[other] == split for patient, split in side.items() for other in near[patient])
        for label in ("benign", "tumour"):
            assert {row.split for row in fold if row.label == label} >= {"train", "val"}


@given(cohorts(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(rows: list[Row], rng: random.Random) -> None:
    other = list(rows)
    rng.shuffle(other)
    one, two = (
        {row.slide: row.split for row in fold} for fold in (folds_of(r, 3, 0.25, 0)[0] for r in (rows, other))
    )
    assert one == two


def test_each_site_is_left_out_once() -> None:
    slides = [(("benign", "tumour")[i % 2], f"patient {i}", f"site {i // 8}") for i in range(32)]
    folds = folds_of(rows_of(slides), "each", 0.25, 0)
    assert [{row.group for row in fold if row.split == "test"} for fold in folds] == [
        {f"site {i}"} for i in range(4)
    ]


def test_a_patient_at_two_sites_keeps_them_together() -> None:
    slides = [(("benign", "tumour")[i % 2], f"patient {i}", f"site {i // 8}") for i in range(40)]
    slides.append(("benign", "patient 0", "site 3"))
    folds = folds_of(rows_of(slides), "each", 0.25, 0)
    assert next({row.group for row in fold if row.split == "test"} for fold in folds) == {"site 0", "site 3"}
    assert len(folds) == 4


@pytest.mark.parametrize(
    ("slides", "k", "said"),
    [
        (
            [("a", f"p{i}", "") for i in range(9)] + [("b", f"q{i}", "") for i in range(4)],
            5,
            "'b' has 4 patients",
        ),
        ([("ab"[i % 2], f"p{i}", f"site {i % 2}") for i in range(20)], "each", "2 groups"),
    ],
)
def test_too_few_for_folds(slides: list[tuple[str, str, str]], k: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        folds_of(rows_of(slides), k, 0.25, 0)


def test_folds_are_not_made_over_a_split_that_is_given() -> None:
    with pytest.raises(ConfigError, match="has a column of splits"):
        folds_of([Row("a.svs", "", "a", "p", "train", None)], 3, 0.25, 0)


def test_a_split_by_group_parts_no_group() -> None:
    slides = [(("a", "b")[i % 2], f"p{i}", f"site {i // 4}") for i in range(40)]
    rows = with_splits(rows_of(slides), 0.25, 0)
    sides = {row.group: {other.split for other in rows if other.group == row.group} for row in rows}
    assert all(len(side) == 1 for side in sides.values())


def test_a_given_split_that_parts_a_group_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(
        "slide,label,centre,split\na.svs,x,north,train\nb.svs,y,north,val\nc.svs,y,,val\nd.svs,x,,train\n"
    )
    assert [row.group for row in read_manifest(path)] == [""] * 4
    with pytest.raises(ConfigError, match=r"1 group\(s\) into more than one split, 'north'"):
        read_manifest(path, group="centre")


@pytest.mark.parametrize("command", ["train", "splits"])
def test_the_help_says_how_many_folds_there_must_be(command: str) -> None:
    assert "3 or more" in " ".join(run(command, "--help").stdout.split())
    said = run(command, "m.csv", "--out", "out", "--folds", "2", status=2).stderr
    assert "--folds is '2'; it must be a whole number from 3" in said
