"""Tables as people and spreadsheets write them are read as what they say, or refused with the row; never shifted."""

from __future__ import annotations

import csv
import datetime
import io
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.commands import run
from wsi_ats.batch.inputs import find_slides
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.manifest.table import read_table


def written(folder: Path, content: str | bytes, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def said(rows: list[Row]) -> list[tuple[str, str, str, float | None]]:
    return [(row.slide, row.label, row.patient, row.mpp) for row in rows]


def refused(path: Path, *words: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_manifest(path)
    for word in (str(path), *words):
        assert word in str(caught.value)
    assert caught.value.remedy
    return caught.value


PLAIN = "slide,label,patient,mpp\nä.svs,tumour,007,0.25\nb.svs,normal,P-2,\n"
TRUTH = [("ä.svs", "tumour", "007", 0.25), ("b.svs", "normal", "P-2", None)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_encodings_and_line_ends(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    text = PLAIN.replace(",", delimiter).replace("\n", end)
    assert said(read_manifest(written(tmp_path, text.encode(encoding)))) == TRUTH


def test_latin_1_is_read_and_told(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN.encode("latin-1"))
    with pytest.warns(UserWarning, match=r"not UTF-8 \(byte 25 is 0xe4\).*Windows-1252"):
        assert said(read_manifest(path)) == TRUTH


def test_a_name_of_a_file_that_is_no_utf8_is_found_by_its_bytes(tmp_path: Path) -> None:
    raw = b"\xe4.svs"
    try:
        (Path(tmp_path.as_posix().encode().decode()) / raw.decode("utf-8", "surrogateescape")).touch()
    except OSError:
        pytest.skip("the file system takes names in UTF-8 alone")
    with pytest.warns(UserWarning, match="not UTF-8"):
        (row,) = read_manifest(written(tmp_path, b"slide,label\n" + raw + b",x\n"))
    assert Path(row.path).exists()


def test_decimal_commas(tmp_path: Path) -> None:
    path = written(tmp_path, "slide;label;mpp;age\na.svs;x;0,25;1,5\nb.svs;y;0.5;2\n")
    assert [row.mpp for row in read_manifest(path)] == [0.25, 0.5]
    assert [row.cell("age") for row in read_manifest(path, columns=["age"])] == ["1.5", "2"]
    assert [i.mpp for i in find_slides([written(tmp_path, 'slide,mpp\na.svs,"0,25"\n')])] == [0.25]
    words = written(tmp_path, "slide;label\na.svs;2,5\nb.svs;2, or 3\n")
    assert [row.label for row in read_manifest(words)] == ["2,5", "2, or 3"]


def test_a_line_that_names_the_delimiter(tmp_path: Path) -> None:
    assert said(read_manifest(written(tmp_path, "sep=;\r\nslide;label\r\na,b;x\r\n"))) == [
        ("a,b", "x", "a,b", None)
    ]


# ---- Rows are never shifted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "slide,label,patient\na.svs,x,P1\nb.svs,cancer, grade 2,P2\n",
            ["row 2 has 4 cells, the header 3", "grade 2"],
        ),
        ("slide,label\na,b.tif,normal\n", ["row 1 has 3 cells, the header 2: a | b.tif | normal"]),
        ("slide,label,patient\na.svs,x\n", ["row 1 has 2 cells, the header 3"]),
        ("slide\na,b.svs\n", ["row 1 has 2 cells, the header 1"]),
        ('slide,label\na.svs,"x\nb.svs,y\n', ["cannot be read", "line 3"]),
        ('slide,label\n"a"b,x\n', ["cannot be read", "line 2"]),
        ("slide,label,label\na.svs,x,y\n", ["two columns 'label'"]),
        ("slide,Label,LABEL\na.svs,x,y\n", ["['Label', 'LABEL'] could each be 'label'"]),
        ("slide,label\na.svs,#REF!\n", ["row 1", "'#REF!'", "error of the spreadsheet"]),
        ("slide,label\n", ["no rows"]),
        ("\n\n", ["it is empty"]),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_row(tmp_path: Path, text: str, words: list[str]) -> None:
    refused(written(tmp_path, text), *words)


def test_predict_refuses_it_too_and_quoted_commas_are_no_matter(place: Path) -> None:
    Path("m.csv").write_text("slide,label,patient\nslides/test_0.tif,cancer, grade 2,P1\n")
    result = run("predict", "run/model", "m.csv", "--out", "out", status=2)
    assert "row 1 has 4 cells, the header 3" in result.stderr
    assert not Path("out").exists()
    quoted = written(Path(), 'slide,label,patient\n"a, b.svs","cancer, ""grade"" 2",P1\n', "q.csv")
    assert said(read_manifest(quoted)) == [("a, b.svs", 'cancer, "grade" 2', "P1", None)]


def test_what_spreadsheets_leave_empty_is_no_matter(tmp_path: Path) -> None:
    text = ",slide,label,,\n0,a.svs,x,,\n,,,,\n\n1,b.svs,y,,\n,,,,\n"
    table = read_table(written(tmp_path, text), pytest.fail)
    assert table.columns == ("column 1", "slide", "label")
    assert (table.column("slide"), list(table.numbers)) == (["a.svs", "b.svs"], [1, 4])
    refused(written(tmp_path, "slide,label,,\na.svs,x,,lost\n"), "row 1 has 4 cells, the header 2")


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8).map(str.strip)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from(",;\t"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_whatever_is_written_by_the_rules_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]], delimiter: str, encoding: str
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([["one", "two", "three"], *cells])
    path = written(tmp_path_factory.mktemp("table"), text.getvalue().encode(encoding))
    wanted = [row for row in cells if any(row)]
    if not wanted:
        with pytest.raises(ConfigError, match="no rows"):
            read_table(path, pytest.fail)
        return
    assert [list(row) for row in read_table(path, pytest.fail).rows] == wanted


# ---- Files that are no text


def test_what_a_file_is_tells_its_content(tmp_path: Path) -> None:
    refused(written(tmp_path, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 etc"), "old kind", "save it as .xlsx or CSV")
    refused(written(tmp_path, "slide,label\na,b\n".encode("utf-16-le")), "zero bytes")
    refused(written(tmp_path, b"PK\x03\x04 no workbook"))
    refused(tmp_path, "not a regular file")


def test_a_pipe_is_no_manifest_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.csv")
    refused(tmp_path / "m.csv", "not a regular file")
    with pytest.raises(ConfigError, match="not a regular file"):
        find_slides([tmp_path / "m.csv"])


def test_workbooks_are_read_as_they_are_shown(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="the xlsx extra is not installed")
    book = openpyxl.Workbook()
    sheet = book.active
    day = datetime.datetime(2026, 1, 31)
    for row in (
        ["Slide", "Label", "Patient ID", "mpp", "scanned", "note"],
        ["a.svs", 1, "007", 0.25, day, None],
        ["b.svs", 2.0, 8, None, day.replace(hour=13), "x, y"],
        [None] * 6,
    ):
        sheet.append(row)
    sheet["C3"].number_format = "000"
    book.create_sheet("another").append(["slide", "label"])
    path = tmp_path / "m.xlsx"
    book.save(path)
    assert said(read_manifest(path)) == [("a.svs", "1", "007", 0.25), ("b.svs", "2", "008", None)]
    first, second = find_slides([path])
    assert first.extra == {"Label": "1", "scanned": "2026-01-31", "note": ""}
    assert second.extra["scanned"] == "2026-01-31T13:00:00"
    sheet["B2"] = '=IF(TRUE,"x","y")'  # as a program writes it that does not compute
    book.save(path)
    refused(path, "cell B2 is a formula")


def test_without_openpyxl_the_remedy_is_its_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    refused(written(tmp_path, b"PK\x03\x04", "m.xlsx"), 'pip install "wsi-ats[xlsx]"')


def test_parquet_under_any_name(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    pd.DataFrame({"slide": ["a.svs"], "label": ["x"]}).to_parquet(tmp_path / "m.csv")
    assert said(read_manifest(tmp_path / "m.csv")) == [("a.svs", "x", "a.svs", None)]


# ---- Columns


def test_columns_of_other_tools(tmp_path: Path) -> None:
    stamp = written(tmp_path, "PATIENT,FILENAME,Diagnosis\nP1,a.svs,x\n")
    assert said(read_manifest(stamp, "diagnosis")) == [("a.svs", "x", "P1", None)]
    shouted = written(tmp_path, "SLIDE ID,LABEL,CASE-ID,MPP,Split\na.svs,x,P1,0.5,Train\n")
    assert said(read_manifest(shouted)) == [("a.svs", "x", "P1", 0.5)]
    assert read_manifest(shouted)[0].split == "train"
    (item,) = find_slides([shouted])
    assert (item.id, item.patient, item.mpp, item.extra) == (
        "a.svs",
        "P1",
        0.5,
        {"LABEL": "x", "Split": "Train"},
    )


def test_what_the_label_may_be_is_named_with_the_option(tmp_path: Path) -> None:
    error = refused(
        written(tmp_path, "slide,patient,diagnosis,tumor type\na.svs,P1,x,y\n"), "no column 'label'"
    )
    assert '--target diagnosis or --target "tumor type"' in error.remedy
    error = refused(written(tmp_path, "path,label\na.svs,x\n"), "no column 'slide'")
    assert "'path'" in error.remedy


def test_labels_that_differ_in_spelling_alone_are_one_class_by_mistake(place: Path) -> None:
    lines = Path("slides/manifest.csv").read_text().replace("\n", "\nslides/").removesuffix("slides/")
    Path("m.csv").write_text(lines.replace("tumour", "Tumour", 1))
    result = run("train", "m.csv", "--out", "new", status=2)
    assert "column 'label' has 'Tumour' (1 slides) and 'tumour' (" in result.stderr
    assert "'tumour' for example" in result.stderr
    assert not Path("new").exists()
