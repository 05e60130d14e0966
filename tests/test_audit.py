"""Leaks are errors that list them, classes that go with sites are warnings, and tables count as they should."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats.contingency import association as cramer

from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row, Split, read_manifest
from wsi_ats.manifest.audit import association, audit
from wsi_ats.manifest.cohort import Cohort

SIDES: tuple[Split, ...] = ("train", "val")


def pair(one: Row, other: Row) -> list[Row]:
    """Two rows on two sides of a split."""
    return [replace(one, split="train"), replace(other, split="val")]


def row(slide: str, patient: str = "", label: str = "a", **more: object) -> Row:
    return Row(slide, Path(slide), label, patient or slide, None, None, **more)  # type: ignore[arg-type]


def found(rows: list[Row]) -> tuple[str, ...]:
    return audit(rows, [r.label for r in rows]).warnings


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [row("a.svs", "P"), row("b.svs", "P")],
            r"1 patient\(s\) on two sides: 'P' \(train: a\.svs; val: b\.svs\)",
        ),
        ([row("a.svs", group="Bern"), row("b.svs", group="Bern")], r"1 group\(s\) on two sides: 'Bern'"),
        (
            [row("x/S-1.svs"), row("x/s_1.tif")],
            r"1 slide\(s\) under two spellings on two sides: one name \(train: x/S-1",
        ),
        ([row("x/s 1"), row("x/s.1.ome.tif")], r"under two spellings"),
    ],
)
def test_a_leak_is_an_error_that_names_both_sides(rows: list[Row], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        found(pair(*rows))
    assert "one split" in caught.value.remedy
    assert found([replace(r, split="val") for r in rows]) == (), "on one side it is none"


@pytest.mark.parametrize("names", [("x/1.svs", "y/1.svs"), ("a1.svs", "a11.svs"), ("a_1_2.svs", "a_12.svs")])
def test_other_slides_are_no_spelling_of_one(names: tuple[str, str]) -> None:
    assert found(pair(*map(row, names))) == ()


def test_a_copy_on_the_other_side_is_a_leak_whatever_it_is_called(tmp_path: Path) -> None:
    first, copy, other = (tmp_path / name for name in ("a.svs", "b.svs", "c.svs"))
    first.write_bytes(b"1" * 300_000)
    shutil.copy(first, copy)
    other.write_bytes(b"1" * 299_999 + b"2")
    rows = [replace(row(path.name), path=path) for path in (first, copy, other)]
    with pytest.raises(
        ConfigError, match=r"1 file\(s\) on two sides: one file \(train: a\.svs; val: b\.svs\)"
    ):
        found(pair(*rows[:2]))
    assert found(pair(rows[0], rows[2])) == ()
    with pytest.raises(
        ConfigError, match=r"1 file\(s\) with two labels: a\.svs and b\.svs \(label 'a' and 'b'\)"
    ):
        found([rows[0], replace(rows[1], label="b")])


def test_many_leaks_are_counted_and_the_first_named() -> None:
    rows = [replace(row(f"{n}{side}.svs", f"P{n}"), split=side) for n in range(5) for side in SIDES]
    with pytest.raises(ConfigError, match=r"5 patient\(s\) on two sides: 'P0' .*'P2' [^']*, and 2 more"):
        found(rows)


def cohort(table: dict[tuple[str, str], int]) -> list[Row]:
    """Slides, each of a patient, of classes and sites."""
    cells = [key for key, count in table.items() for _ in range(count)]
    return [
        replace(row(f"{i}.svs", label=label, site=site), split="train")
        for i, (label, site) in enumerate(cells)
    ]


def test_a_class_of_one_site_is_told() -> None:
    (words,) = found(cohort({("x", "A"): 3, ("x", "B"): 3, ("y", "A"): 6}))
    assert words.startswith("1 class(es) that live at one site only: y from A (6 patients); what tells")
    assert found(cohort({("x", "A"): 3, ("x", "B"): 3, ("y", "A"): 3, ("y", "B"): 3})) == ()
    assert found(cohort({("x", "A"): 6, ("y", "A"): 6})) == (), "one site tells no classes apart"


def test_a_class_that_goes_with_a_site_is_told() -> None:
    (words,) = found(cohort({("x", "A"): 18, ("x", "B"): 2, ("y", "A"): 2, ("y", "B"): 18}))
    assert words.startswith("class and site go together (Cramér's V 0.79)")
    assert "x: 18 of 20 patients from A, y: 18 of 20 patients from B" in words
    assert found(cohort({("x", "A"): 12, ("x", "B"): 8, ("y", "A"): 8, ("y", "B"): 12})) == ()


def test_slides_of_one_patient_count_once_for_a_site() -> None:
    """Two patients of twenty slides prove no association."""
    rows = [replace(r, patient=r.label) for r in cohort({("x", "A"): 20, ("y", "B"): 20})]
    assert found(rows) == ()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(1, 60), min_size=3, max_size=3), min_size=2, max_size=4))
def test_association_is_below_the_biased_one_and_near_it_for_many(counts: list[list[int]]) -> None:
    table = np.array(counts)
    biased = cramer(table, method="cramer", correction=False)
    corrected, _ = association(table)
    assert 0 <= corrected <= 1
    many, _ = association(table * 10_000)
    assert many == pytest.approx(biased, abs=0.02)


def test_chance_makes_no_association() -> None:
    rng = np.random.default_rng(0)
    tables = [rng.multinomial(40, np.full(20, 1 / 20)).reshape(2, 10) + 1 for _ in range(200)]
    corrected = [association(table) for table in tables]
    assert np.mean([v for v, _ in corrected]) < 0.1 < np.mean([cramer(t, method="cramer") for t in tables])
    assert sum(v >= 0.5 and p < 0.01 for v, p in corrected) <= 1


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(*(st.integers(0, 2) for _ in range(4))), min_size=1, max_size=40))
def test_the_table_counts_as_a_count_by_hand(drawn: list[tuple[int, int, int, int]]) -> None:
    rows = [
        row(f"{i}.svs", f"P{patient}", "abc"[label], site="AB "[site].strip())
        for i, (label, _, site, patient) in enumerate(drawn)
    ]
    parts = [("train", "val", "test")[part] for _, part, _, _ in drawn]
    counted = Cohort.count(rows, [r.label for r in rows], parts)
    table = list(csv.DictReader(io.StringIO(counted.as_csv().decode())))
    slides = Counter((r.label, part, r.site) for r, part in zip(rows, parts, strict=True))
    assert {(t["class"], t["split"], t["site"]): int(t["slides"]) for t in table} == slides
    for t in table:
        key = t["class"], t["split"], t["site"]
        patients = {r.patient for r, part in zip(rows, parts, strict=True) if (r.label, part, r.site) == key}
        assert int(t["patients"]) == len(patients)
    for name in counted.classes:
        assert counted.numbers(name)[1] == len({r.patient for r in rows if r.label == name})


def test_the_table_for_a_terminal_is_plain_text() -> None:
    rows = cohort({("x\x1b[31m", "A"): 2, ("y", "B"): 1})
    text = "\n".join(Cohort.count(rows, [r.label for r in rows], ["train", "val", "train"]).lines())
    assert "\x1b" not in text
    assert [line.split() for line in text.splitlines()[-1:]] == [["y", "B", "1", "(1)", "-"]]


@pytest.mark.parametrize("name", ["site", "Hospital", "center"])
def test_sites_are_found_under_common_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"slide,label,{name},lab room\n1.svs,a,Oslo,7\n2.svs,b,NA,8\n")
    assert [r.site for r in read_manifest(path)] == ["Oslo", ""]
    assert [r.site for r in read_manifest(path, site="lab room")] == ["7", "8"]
    assert [r.site for r in read_manifest(path, site="none")] == ["", ""]
    with pytest.raises(ConfigError, match="no column 'town'") as caught:
        read_manifest(path, site="town")
    assert "--site" in caught.value.remedy
