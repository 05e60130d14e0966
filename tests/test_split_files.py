"""Files of splits are written as CLAM and Patho-Bench have them, and read with slides known by any of their names."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.commands import TRAINING, run
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row, read_manifest, with_splits
from wsi_ats.manifest.folds import folds_of
from wsi_ats.manifest.split_files import clam_bytes, patho_bench_bytes, read_splits


def rows_of(*slides: str) -> list[Row]:
    return [
        Row(slide, Path("/slides", slide), "ab"[i % 2], f"P{i}", None, None) for i, slide in enumerate(slides)
    ]


def silent(_: str) -> None:
    pass


def read(folder: Path, text: str | bytes, rows: list[Row], fold: int | None = None) -> dict[str, str | None]:
    path = folder / "splits"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return {row.slide: row.split for row in read_splits(path, rows, fold, warn=silent)}


def test_clams_own_layout_is_read(tmp_path: Path) -> None:
    """As in CLAM's repository: a column of numbers without a name, the shorter columns filled up with nothing."""
    text = ",train,val,test\n0,slide_110,slide_403,slide_13\n1,slide_112,,slide_353\n2,slide_113,,\n"
    rows = rows_of(
        "slide_13.svs", "slide_110.svs", "slide_112.svs", "slide_113.svs", "slide_353.svs", "slide_403.svs"
    )
    assert list(read(tmp_path, text, rows).values()) == ["test", "train", "train", "train", "test", "val"]


def test_numbers_that_pandas_made_points_of_are_read(tmp_path: Path) -> None:
    frame = pd.concat([pd.Series([110, 112]), pd.Series([403]), pd.Series([13])], axis=1)
    frame.columns = pd.Index(["train", "val", "test"])
    assert "403.0" in frame.to_csv()
    assert read(tmp_path, frame.to_csv(), rows_of("13.svs", "110.svs", "112.svs", "403.svs")) == {
        "13.svs": "test", "110.svs": "train", "112.svs": "train", "403.svs": "val"
    }  # fmt: skip


PATHO_BENCH = (
    "case_id\tslide_id\tpr\tfold_0\tfold_1\n1\ta\t1\ttrain\ttest\n2\tb\t0\ttest\ttrain\n3\tc\t0\ttrain\t\n"
)


def test_patho_benchs_own_layout_is_read(tmp_path: Path) -> None:
    rows = rows_of("c.svs", "b.svs", "a.svs")
    assert read(tmp_path, PATHO_BENCH, rows, 0) == {"c.svs": "train", "b.svs": "test", "a.svs": "train"}
    assert read(tmp_path, PATHO_BENCH, rows, 1) == {"b.svs": "train", "a.svs": "test"}
    one = PATHO_BENCH.replace("fold_1", "other")
    assert read(tmp_path, one, rows) == read(tmp_path, PATHO_BENCH, rows, 0), "one fold need not be named"


@pytest.mark.parametrize("name", ["x/a.ome.tif", "a.ome.tif", "a", "x/a", "a.svs"])
def test_a_slide_is_known_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    rows = rows_of("x/a.ome.tif", "b.1.svs")
    assert read(tmp_path, f",train,val\n0,{name},b.1\n", rows) == {"x/a.ome.tif": "train", "b.1.svs": "val"}


def test_names_without_suffix_in_the_manifest_match_those_with_one(tmp_path: Path) -> None:
    rows = [replace(rows_of("a.2")[0], path=Path("a.2.svs"))]
    assert (
        read(tmp_path, ",train\n0,a.2.svs\n", rows)
        == read(tmp_path, ",train\n0,a.2\n", rows)
        == {"a.2": "train"}
    )


@pytest.mark.parametrize(
    ("text", "fold", "words"),
    [
        (",train,val\n0,a,z\n1,y,\n", None, r"has 2 slide\(s\) that the manifest has not: y, z"),
        (",train,val\n0,same,b\n", None, r"1 name\(s\) that several of the manifest's slides have: same"),
        (",train,val\n0,a,a.svs\n", None, r"1 slide\(s\) in two splits: a\.svs \(train and val\)"),
        (",train,val,test\na,True,False,False\n", None, "says True and False"),
        (",train,val\n0,a,b\n", 1, "--fold is 1, and .* is of one fold alone"),
        (",train,val\n0,,\n", None, "gives no slide a split"),
        (PATHO_BENCH, None, "has 2 folds"),
        (PATHO_BENCH, 2, "--fold is 2; .* has the folds 0, 1"),
        (PATHO_BENCH.replace("test", "tset"), 0, "row 2: fold_0 is 'tset'; it must be train, val or test"),
        ("slide,label\na,x\n", None, r"is no file of splits: its columns are \['slide', 'label'\]"),
    ],
)
def test_what_cannot_be_meant_is_an_error(tmp_path: Path, text: str, fold: int | None, words: str) -> None:
    rows = rows_of("a.svs", "b.svs", "c.svs", "x/same.svs", "y/same.svs")
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text, rows, fold)


def test_slides_that_the_file_lacks_are_told(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(",train,val\n0,a,b\n")
    said: list[str] = []
    read_splits(tmp_path / "s.csv", rows_of("a.svs", "b.svs", "c.svs", "d.svs"), warn=said.append)
    assert len(said) == 1
    assert "has no split for 2 of the manifest's slides, which are left out: c.svs, d.svs" in said[0]


NAMES = st.text("ab1=+._- /", min_size=1, max_size=5).map(lambda text: f"s/{text.strip()}x")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["", ".svs", ".tif", ".ome.tif"])), min_size=12, max_size=20)
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]]
) -> None:
    rows = rows_of(*dict.fromkeys("".join(name) for name in names))
    if len(rows) < 12:
        return
    folds = folds_of(rows, 3, 0.3, 0)
    folder = tmp_path_factory.mktemp("files")
    for k, fold in enumerate(folds):
        truth = {row.slide: row.split for row in fold}
        assert read(folder, clam_bytes(fold), rows) == truth
        assert read(folder, patho_bench_bytes(folds, ["label"]), rows, k) == truth


def test_pandas_reads_what_is_written_as_clam_does() -> None:
    fold = folds_of(rows_of(*(f"{i}.svs" for i in range(24))), 4, 0.25, 0)[0]
    frame = pd.read_csv(io.BytesIO(clam_bytes(fold)), dtype=str)
    for split in ("train", "val", "test"):
        assert frame[split].dropna().tolist() == [row.slide[:-4] for row in fold if row.split == split]


def test_validation_is_taken_from_train_where_a_split_has_none() -> None:
    rows = [
        replace(row, split=("train", "train", "test")[i % 3])
        for i, row in enumerate(rows_of(*"abcdefghijkl"))
    ]
    split = with_splits(rows, 0.25, 0)
    assert [row.slide for row in split if row.split == "test"] == [
        row.slide for row in rows if row.split == "test"
    ]
    assert {row.label for row in split if row.split == "val"} == {"a", "b"}
    assert {row.label for row in split if row.split == "train"} == {"a", "b"}
    assert with_splits(split, 0.5, 1) == split


# ---- The commands


def manifest(folder: Path, count: int = 24) -> Path:
    path = folder / "m.csv"
    lines = (f"x/{i}.svs,{'ab'[i // 2 % 2]},P{i // 2},{'AB'[i % 8 // 4]}\n" for i in range(count))
    path.write_text("slide,label,patient,site\n" + "".join(lines))
    return path


def test_the_command_writes_all_three(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run("splits", manifest(tmp_path), "--out", out, "--folds", "3").stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "cohort.csv", "k=all.tsv", "splits_0.csv", "splits_1.csv", "splits_2.csv"
    ]  # fmt: skip
    assert "fold 2" in said
    rows = read_manifest(tmp_path / "m.csv")
    assert [[row.split for row in read_splits(out / f"splits_{k}.csv", rows)] for k in range(3)] == [
        [row.split for row in fold] for fold in folds_of(rows, 3, 0.2, 0)
    ]
    cohort = pd.read_csv(out / "cohort.csv")
    assert cohort.slides.sum() == 24
    assert set(cohort.split) == {"fold 0", "fold 1", "fold 2"}


def test_each_site_can_be_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "slide,label,site\n" + "".join(f"{i}.svs,{'ab'[i % 2]},S{i % 9 // 3}\n" for i in range(36))
    )
    run("splits", path, "--out", tmp_path / "out", "--folds", "each", "--group", "site")
    rows = read_manifest(path)
    for k in range(3):
        test = {
            row.site for row in read_splits(tmp_path / "out" / f"splits_{k}.csv", rows) if row.split == "test"
        }
        assert test == {f"S{k}"}


def test_folds_of_another_number_are_not_mixed(tmp_path: Path) -> None:
    run("splits", manifest(tmp_path), "--out", tmp_path / "out", "--folds", "4")
    said = run("splits", tmp_path / "m.csv", "--out", tmp_path / "out", "--folds", "3", status=2)
    assert "holds splits_3.csv" in said.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fold", "1"], "no file of splits is given"),
        (["--splits", "k=all.tsv", "--folds", "3"], "give one of them"),
        (["--splits", "absent.csv"], "absent.csv does not exist"),
    ],
)
def test_options_that_contradict_are_told(tmp_path: Path, options: list[str], words: str) -> None:
    said = run("train", manifest(tmp_path), "--out", tmp_path / "run", *options, status=2)
    assert words in said.output
    assert not (tmp_path / "run").exists()


def test_train_refuses_a_file_that_parts_a_patient(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(",train,val\n" + "".join(f"{i},{2 * i},{2 * i + 1}\n" for i in range(12)))
    said = run("train", manifest(tmp_path), "--out", tmp_path / "run", "--splits", path, status=2)
    assert "12 patient(s) on two sides: 'P0' (train: x/0.svs; val: x/1.svs)" in said.output
    assert not (tmp_path / "run").exists()


def test_train_takes_a_fold_of_a_file_and_nothing_else(cohort: Path, tmp_path: Path) -> None:
    rows = read_manifest(cohort)
    path = tmp_path / "m.csv"
    path.write_text("slide,label\n" + "".join(f"{row.path},{row.label}\n" for row in rows))
    run("splits", path, "--out", tmp_path / "f", "--folds", "3")
    more = (*TRAINING, "--set", "train.epochs=1")
    run("train", path, "--out", tmp_path / "run", "--splits", tmp_path / "f/k=all.tsv", "--fold", "1", *more)
    fold = read_splits(tmp_path / "f/splits_1.csv", read_manifest(path))
    trained = pd.read_csv(tmp_path / "run/slides.csv")
    assert dict(zip(trained.slide, trained.split, strict=True)) == {row.slide: row.split for row in fold}
    assert set(trained.split) == {"train", "val", "test"}
    looked = pd.read_csv(tmp_path / "run/slides_looked_at.csv")
    assert set(looked.slide) == {row.slide for row in fold if row.split != "test"}, (
        "those of the test stay closed"
    )
