from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row, read_manifest, with_splits
from wsi_ats.tasks.texts import natural_order


def write(folder: Path, text: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text(text)
    return path


def rows_of(labels: list[str], patients: list[str]) -> list[Row]:
    return [
        Row(f"{i}.svs", Path(f"{i}.svs"), label, patient, None, None)
        for i, (label, patient) in enumerate(zip(labels, patients, strict=True))
    ]


def test_paths_are_relative_to_the_manifest_and_columns_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "slide,label,patient,split,mpp\na/x.svs,1,p1,train,0.25\ny.svs,0,p2,val,\n")
    first, second = read_manifest(path)
    assert first == Row("a/x.svs", tmp_path / "a/x.svs", "1", "p1", "train", 0.25)
    assert (second.patient, second.split, second.mpp) == ("p2", "val", None)


def test_columns_of_other_tools_are_understood(tmp_path: Path) -> None:
    (row,) = read_manifest(write(tmp_path, "case_id,slide_id,label\nc1,x.svs,tumour\n"))
    assert (row.slide, row.patient, row.label) == ("x.svs", "c1", "tumour")
    (row,) = read_manifest(write(tmp_path, "wsi,mpp,grade\nx.svs,0.5,2\n"), target="grade")
    assert (row.slide, row.mpp, row.label, row.patient) == ("x.svs", 0.5, "2", "x.svs")


def test_clam_names_without_suffix_are_found(tmp_path: Path) -> None:
    for name in ("tumor_001.ndpi", "tumor_002.x.svs", "both.svs", "both.tif"):
        (tmp_path / name).write_bytes(b"")
    rows = read_manifest(
        write(tmp_path, "case_id,slide_id,label\np1,tumor_001,1\np2,tumor_002.x,0\np3,gone,0\n")
    )
    assert [(row.slide, row.path.name) for row in rows] == [
        ("tumor_001", "tumor_001.ndpi"),
        ("tumor_002.x", "tumor_002.x.svs"),
        ("gone", "gone"),
    ]
    with pytest.raises(ConfigError, match=r"row 1: 'both' may be any of both\.svs, both\.tif"):
        read_manifest(write(tmp_path, "case_id,slide_id,label\np1,both,1\n"))
    (row,) = read_manifest(write(tmp_path, "slide,label\ntumor_001,1\n"))
    assert row.path.name == "tumor_001.ndpi", "whatever the column is called"


def test_nothing_is_taken_for_a_number(tmp_path: Path) -> None:
    text = "slide, label ,patient,site\n01.svs,02, 007 ,1.0\n1.svs,2,8,NA\n"
    first, second = read_manifest(write(tmp_path, text))
    assert (first.slide, first.label, first.patient) == ("01.svs", "02", "007")
    assert (second.slide, second.label, second.patient) == ("1.svs", "2", "8")
    assert [row.label for row in read_manifest(write(tmp_path, text), target="label")] == ["02", "2"]


@pytest.mark.parametrize("empty", ["", "NA", "nan", "N/A", "null"])
def test_empty_cells_however_they_are_written(tmp_path: Path, empty: str) -> None:
    text = f"slide,label,patient,split,mpp\nx.svs,1,{empty},{empty},{empty}\n"
    assert read_manifest(write(tmp_path, text)) == [
        Row("x.svs", tmp_path / "x.svs", "1", "x.svs", None, None)
    ]
    with pytest.raises(ConfigError, match=r"row 1: .*both must be given"):
        read_manifest(write(tmp_path, f"slide,label\nx.svs,{empty}\n"))


def test_bytes_and_commas_that_spreadsheets_add(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("slide,label\nä.svs,1\n", encoding="utf-8-sig")
    assert [row.slide for row in read_manifest(path)] == ["ä.svs"]
    (row,) = read_manifest(write(tmp_path, "slide,label\nx.svs,1,\n"))
    assert (row.slide, row.label) == ("x.svs", "1")


def test_two_spellings_of_a_path_are_one_slide(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'a/x\.svs' twice"):
        read_manifest(write(tmp_path, "slide,label\na/x.svs,1\n./a//x.svs,0\n"))


def test_parquet_is_the_same_as_csv(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    csv = write(tmp_path, "slide,label,patient,mpp\nx.svs,1,7,0.25\ny.svs,0,,1\n")
    pd.read_csv(csv).to_parquet(tmp_path / "manifest.parquet")
    assert pd.read_parquet(tmp_path / "manifest.parquet").patient.dtype == float, "the null makes 7 a 7.0"
    told: list[str] = []
    assert read_manifest(tmp_path / "manifest.parquet", warn=told.append) == read_manifest(
        csv, warn=told.append
    )
    assert len(told) == 2
    assert all("'patient' is empty in 1 of 2 rows" in text for text in told)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slide\nx.svs\n", ["no column 'label'", "--target"]),
        ("path,label\nx.svs,1\n", ["no column 'slide'", "path"]),
        ("slide,label\n", ["no rows"]),
        ("slide,label\nx.svs,\ny.svs,1\n", ["row 1", "both must be given"]),
        ("slide,label\nx.svs,1\nx.svs,0\n", ["x.svs", "twice"]),
        ("slide,label,split\nx.svs,1,training\n", ["row 1", "training", "train, val or test"]),
        ("slide,label,mpp\nx.svs,1,-0.5\n", ["row 1", "-0.5", "positive"]),
        ("slide,label,mpp\nx.svs,1,20x\n", ["row 1", "20x", "positive"]),
        ("slide,label,patient,split\nx,1,p,train\ny,0,p,val\n", ["'p'", "more than one split"]),
    ],
)
def test_a_wrong_manifest_is_named_with_the_row_and_the_rule(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_manifest(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.csv does not exist"):
        read_manifest(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("written", "classes"),
    [
        (["10", "2", "10.0"], ("2", "10")),
        (["1.0", "0.0", "1"], ("0", "1")),
        (["1.5", "1.50", "2.0"], ("1.5", "1.50", "2")),
        (["01", "1"], ("01", "1")),
        (["1.0", "1", "unknown"], ("1", "1.0", "unknown")),
        (["v1.0", "v1"], ("v1", "v1.0")),
    ],
)
def test_one_and_one_point_nought_are_one_class_in_a_column_of_numbers(
    tmp_path: Path, written: list[str], classes: tuple[str, ...]
) -> None:
    text = "slide,label\n" + "".join(f"{i}.svs,{label}\n" for i, label in enumerate(written))
    told: list[str] = []
    rows = read_manifest(write(tmp_path, text), warn=told.append)
    assert natural_order(row.label for row in rows) == classes
    assert bool(told) == (len(set(written)) > len(classes))
    assert all("(1 row) and" in line and "one number is one class" in line for line in told)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30)), min_size=1, max_size=60),
    st.floats(0.05, 0.9),
    st.integers(0, 5),
)
def test_splits_keep_patients_whole_and_every_class_on_both_sides(
    drawn: list[tuple[str, int]], fraction: float, seed: int
) -> None:
    # A patient has one label here: the label is part of its name.
    rows = rows_of([label for label, _ in drawn], [f"{label}{n}" for label, n in drawn])
    patients = {label: {r.patient for r in rows if r.label == label} for label in {r.label for r in rows}}
    try:
        split = with_splits(rows, fraction, seed)
    except ConfigError:
        assert any(max(1, round(fraction * len(own))) >= len(own) for own in patients.values())
        return
    sides = {side: {r.patient for r in split if r.split == side} for side in ("train", "val")}
    assert not sides["train"] & sides["val"]
    for own in patients.values():
        assert own & sides["train"]
        assert len(own & sides["val"]) == max(1, round(fraction * len(own)))
    assert split == with_splits(rows, fraction, seed)


def test_given_splits_are_kept_and_half_given_ones_refused(tmp_path: Path) -> None:
    rows = read_manifest(write(tmp_path, "slide,label,split\nx,1,train\ny,0,val\n"))
    assert with_splits(rows, 0.5, 0) == rows
    rows = read_manifest(write(tmp_path, "slide,label,split\nx,1,train\ny,0,\n"))
    with pytest.raises(ConfigError, match="some slides a split and others none"):
        with_splits(rows, 0.5, 0)
