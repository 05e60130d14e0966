"""Tables as people and spreadsheets write them are read as what they say, or refused with the row; never shifted."""

from __future__ import annotations

import csv
import datetime
import io
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.commands import run
from wsi_ats.batch.inputs import find_slides
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.manifest.table import read_table
from wsi_ats.train.targets import ask


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


def told(path: Path, **how: str) -> list[str]:
    """What is told of a manifest, to train and to predict."""
    said: list[str] = []
    read_manifest(path, warn=said.append, **how)
    find_slides([path], warn=said.append)
    return said


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
        (
            "slide,Label,LABEL\na.svs,x,y\n",
            ["'Label' and 'LABEL' could each be 'label'", "'x' and 'y' in row 1"],
        ),
        ("slide,label,Label\na.svs,x,x\nb.svs,x,y\n", ["'label' and 'Label' could each", "row 2, for one"]),
        ("slide,label,split,Split\na.svs,x,val,train\n", ["'split' and 'Split' could each be 'split'"]),
        ("slide,label,mpp,MPP\na.svs,x,0.25,0.5\n", ["'mpp' and 'MPP' could each be 'mpp'"]),
        ("slide,label,MPP (um),um/px\na.svs,x,0.25,0.5\n", ["'MPP (um)' and 'um/px' could each"]),
        ("slide,label,patient,Patient\na.svs,x,1,2\n", ["'patient' and 'Patient' could each"]),
        ("slide,label,site,SITE\na.svs,x,1,2\n", ["'site' and 'SITE' could each"]),
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
FIRST = CELL.filter(
    lambda cell: not cell.startswith("#")
)  # such a row may be a comment; those have their own tests
ROW = st.tuples(FIRST, CELL, CELL).map(list)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(ROW, min_size=1, max_size=6),
    st.sampled_from(",;\t"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_whatever_is_written_by_the_rules_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]], delimiter: str, encoding: str
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([["slide", "two", "three"], *cells])
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
    with pytest.warns(UserWarning, match=r"sheet 'Sheet' \(there are also 'another'\) is read"):
        assert said(read_manifest(path)) == [("a.svs", "1", "007", 0.25), ("b.svs", "2", "008", None)]
    del book["another"]
    book.save(path)
    first, second = find_slides([path])
    assert first.extra == {"Label": "1", "scanned": "2026-01-31", "note": ""}
    assert second.extra["scanned"] == "2026-01-31T13:00:00"
    sheet["B2"] = '=IF(TRUE,"x","y")'  # as a program writes it that does not compute
    book.save(path)
    refused(path, "cell B2 is a formula")


@pytest.fixture
def book(tmp_path: Path) -> Any:
    """A workbook of three slides, saved as m.xlsx by its own `save()`."""
    openpyxl = pytest.importorskip("openpyxl", reason="the xlsx extra is not installed")
    book = openpyxl.Workbook()
    for row in (
        ["slide", "label", "patient"],
        ["a.svs", "x", "P1"],
        ["b.svs", "x", None],
        ["c.svs", "y", "P2"],
    ):
        book.active.append(row)
    save = book.save
    book.save = lambda: save(tmp_path / "m.xlsx")
    return book


def test_merged_cells_have_the_value_that_is_shown_over_them(tmp_path: Path, book: Any) -> None:
    book.active.merge_cells("C2:C3")
    book.active.merge_cells("B2:B3")
    book.active.merge_cells("D2:E4")
    book.save()
    with pytest.warns(UserWarning, match=r"merged cells \((B2:B3, C2:C3|C2:C3, B2:B3)\): what they show"):
        rows = read_manifest(tmp_path / "m.xlsx")
    assert [(row.label, row.patient) for row in rows] == [("x", "P1"), ("x", "P1"), ("y", "P2")]
    with pytest.warns(UserWarning, match="merged cells"):
        assert [item.patient for item in find_slides([tmp_path / "m.xlsx"])] == ["P1", "P1", "P2"]


def test_a_header_over_two_rows_is_refused(tmp_path: Path, book: Any) -> None:
    book.active.insert_rows(2)
    book.active.merge_cells("A1:A2")
    book.save()
    with pytest.warns(UserWarning, match="merged cells"):
        refused(tmp_path / "m.xlsx", "row 1: slide is 'slide', the name of the column")
    refused(written(tmp_path, "slide,label\na,x\nslide,label\nb,y\n"), "row 2", "header stands there again")


def test_a_patient_that_is_left_out_where_others_have_one_is_told(tmp_path: Path, book: Any) -> None:
    book.save()
    both = told(tmp_path / "m.xlsx")
    assert len(both) == 2
    assert all(
        "'patient' is empty in 1 of 3 rows (number 2): each of these slides counts as" in text
        for text in both
    )
    none = written(tmp_path, "slide,label,patient\na,x,\nb,y,\n")
    assert told(none) == [], "train says it of all"


def test_hidden_rows_and_columns_are_read_and_told(tmp_path: Path, book: Any) -> None:
    sheet = book.active
    sheet["C3"] = "P3"
    sheet.row_dimensions[3].hidden = sheet.row_dimensions[9].hidden = True
    sheet.column_dimensions["B"].hidden = sheet.column_dimensions["F"].hidden = True
    book.save()
    rows, columns = told(tmp_path / "m.xlsx")[:2]
    assert "1 hidden row(s), by hand or by a filter (3 of the sheet), which are read" in rows
    assert "1 hidden column(s) (B), which are read" in columns
    assert len(find_slides([tmp_path / "m.xlsx"], warn=[].append)) == 3


def test_rows_that_are_struck_through_are_read_and_told(tmp_path: Path, book: Any) -> None:
    font = pytest.importorskip("openpyxl.styles").Font(strike=True)
    book.active["C3"] = "P3"
    for cell in (*book.active[3], book.active["A4"]):
        cell.font = font
    book.save()
    first, *_ = told(tmp_path / "m.xlsx")
    assert "has 1 row(s) that are struck through (3 of the sheet), which are read as all others" in first
    assert len(find_slides([tmp_path / "m.xlsx"], warn=[].append)) == 3


def test_cells_beyond_the_header_of_a_workbook_are_no_matter_of_quotes(tmp_path: Path, book: Any) -> None:
    book.active["E3"] = "?"
    book.save()
    error = refused(tmp_path / "m.xlsx", "row 2 has 5 cells, the header 3")
    assert error.remedy == "name their columns in the header, or empty the cells beyond it"
    error = refused(written(tmp_path, "slide;label\na.svs;x;y\n"), "row 1 has 3 cells, the header 2")
    assert error.remedy.startswith('quote cells that contain the delimiter, "a; b"; else name')


def test_the_first_sheet_that_is_shown_is_read_and_others_are_named(tmp_path: Path, book: Any) -> None:
    book.active["C3"] = "P3"
    notes = book.create_sheet("notes", 0)
    notes.append(["written by me"])
    book.create_sheet("empty")
    book.save()
    with pytest.warns(UserWarning, match="sheet 'notes'"):
        refused(tmp_path / "m.xlsx", "sheet 'notes' (there are also 'Sheet')", "has no rows")
    notes.sheet_state = "hidden"
    book.active = 1
    book.save()
    first, _ = told(tmp_path / "m.xlsx")
    assert "sheet 'Sheet' (there are also 'notes' (hidden)) is read; to read another one" in first


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


def test_two_columns_of_one_name_that_say_the_same_are_no_matter(tmp_path: Path) -> None:
    path = written(tmp_path, "slide,Slide,label,Label,mpp,MPP\na.svs,a.svs,x,x,0.5,0.5\n")
    assert said(read_manifest(path)) == [("a.svs", "x", "a.svs", 0.5)]


@pytest.mark.parametrize("name", ["MPP (um)", "MPP [µm]", "mpp_um", "um/px", "microns per pixel", "MPP"])
def test_scales_under_their_common_names_are_read(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, f"slide,label,{name}\na.svs,x,0.25\n")
    assert [row.mpp for row in read_manifest(path)] == [item.mpp for item in find_slides([path])] == [0.25]


@pytest.mark.parametrize(
    "names", ["mpp_x,mpp_y", "magnification,Objective Power", "Pixel Size (um),Resolution"]
)
def test_what_may_be_a_scale_and_is_none_is_told(tmp_path: Path, names: str) -> None:
    one, other = names.split(",")
    for note in told(written(tmp_path, f"slide,label,{names}\na.svs,x,0.25,0.25\n")):
        assert f"{one!r} and {other!r} may tell of the scale and cannot be used" in note
        assert "add a column mpp" in note
    told_beside = told(written(tmp_path, f"slide,label,mpp,{names}\na.svs,x,0.5,0.25,0.25\n"))
    assert told_beside == [], "the column mpp is taken"


@pytest.mark.parametrize(
    ("other", "shown"),
    [("tum\u043eur", "(with U+043E)"), ("tu\u00admour", "(with U+00AD)"), ("TUMOUR ", "'TUMOUR'")],
)
def test_labels_that_look_alike_are_one_class_by_mistake(tmp_path: Path, other: str, shown: str) -> None:
    rows = read_manifest(written(tmp_path, f"slide,label\na.svs,tumour\nb.svs,{other}\nc.svs,normal\n"))
    with pytest.raises(ConfigError, match="spelt differently they would be different classes") as caught:
        ask(load_config(), rows)
    assert shown in caught.value.message


def test_labels_that_differ_in_spelling_alone_are_one_class_by_mistake(place: Path) -> None:
    lines = Path("slides/manifest.csv").read_text().replace("\n", "\nslides/").removesuffix("slides/")
    Path("m.csv").write_text(lines.replace("tumour", "Tumour", 1))
    result = run("train", "m.csv", "--out", "new", status=2)
    assert "column 'label' has 'Tumour' (1 slide) and 'tumour' (" in result.stderr
    assert "'tumour' for example" in result.stderr
    assert not Path("new").exists()


# ---- Which column names the slides


@pytest.mark.parametrize(
    ("text", "slides"),
    [
        ("slide,slide_id\na.svs,S1\nb.svs,S2\n", ["a.svs", "b.svs"]),
        ("slide_id,filename\nS1,a.svs\nS2,b.svs\n", ["a.svs", "b.svs"]),
        ("slide_id,slide_path\na,far/a.svs\nb,far/b.svs\n", ["far/a.svs", "far/b.svs"]),
        ("slide_path,slide\nfar/a.ome.tif,a\nfar/b.tif,b\n", ["far/a.ome.tif", "far/b.tif"]),
        ("slide,wsi\na,a\nb,b\n", ["a", "b"]),
        ("slide,slide_path\nhere,/gone/there.svs\nhere,/gone/there.svs\n", ["here", "here"]),
    ],
)
def test_of_two_columns_the_one_that_leads_to_files_is_taken_and_told(
    tmp_path: Path, text: str, slides: list[str]
) -> None:
    (tmp_path / "here.svs").touch()
    path = written(tmp_path, text)
    said: list[str] = []
    assert [item.id for item in find_slides([path], warn=said.append)] == slides
    (note,) = said
    assert "names the slides' files; '" in note


@pytest.mark.parametrize(
    "text",
    [
        "slide,filename\na.svs,a.svs\nb.svs,c.svs\nd.svs,e.svs\n",
        "slide,slide_path\na.svs,x/a.svs\nx/b.svs,y/b.svs\nx/c.svs,y/c.svs\n",
        "slide_id,slide_name\nS1,S1\nS2,B2\nS3,B3\n",
    ],
)
def test_two_columns_that_contradict_each_other_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"row 2: .*may name the slides; and 1 more row") as caught:
        find_slides([written(tmp_path, text)])
    assert "rename the one" in caught.value.remedy


# ---- Labels that are numbers


def test_labels_of_one_number_are_one_class_or_refused(tmp_path: Path) -> None:
    (note, *_) = told(written(tmp_path, "slide,label\na,1\nb,1.0\nc,0\n"))
    assert "column 'label' has '1' (1 row) and '1.0' (1 row): one number is one class" in note
    for labels in ("1 01 0", "1.5 1.50 2", "1 1.0 unknown"):
        rows = read_manifest(
            written(tmp_path, "slide,label\n" + "".join(f"{i},{x}\n" for i, x in enumerate(labels.split())))
        )
        with pytest.raises(ConfigError, match="spelt differently they would be different classes"):
            ask(load_config(), rows)


# ---- What is no header


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_comments_before_the_header_are_left_out_and_told(tmp_path: Path, delimiter: str) -> None:
    text = f"# made by me, today\n\n#v2\n{PLAIN.replace(',', delimiter)}"
    with pytest.warns(
        UserWarning, match=r"begins with 2 line\(s\) of comment, '# made by me, today' for one"
    ):
        assert said(read_manifest(written(tmp_path, text))) == TRUTH


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_comments_below_the_header_are_left_out_and_told(tmp_path: Path, delimiter: str) -> None:
    text = f"{PLAIN}# by me\n#total 2{delimiter * 3}\n".replace(",", delimiter)
    path = written(tmp_path, text)
    with pytest.warns(
        UserWarning, match=r"2 row\(s\) of comment are left out \(row 3: '# by me'; row 4: '#total 2'\)"
    ):
        assert said(read_manifest(path)) == TRUTH
    assert len(find_slides([path], warn=[].append)) == 2
    (tmp_path / "#1").touch()
    path = written(tmp_path, "slide\n#1.svs\n#1\n# the end\n")
    assert [item.id for item in find_slides([path], warn=[].append)] == ["#1.svs", "#1"], (
        "slides may be called so"
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "comment",
    [
        "# one, two",  # as wide as the header, so that it was a row
        "# one, two, three, four",  # wider: the table was refused
        "# b.svs, old",  # a row that was put out
        "#total,2",
    ],
)
def test_comments_that_hold_the_delimiter_are_no_slides(tmp_path: Path, comment: str, delimiter: str) -> None:
    text = f"slide,label\na.svs,x\n{comment}\n"
    path = written(tmp_path, text.replace(",", delimiter))
    with pytest.warns(UserWarning, match=r"1 row\(s\) of comment are left out \(row 2: '#"):
        assert [row.slide for row in read_manifest(path)] == ["a.svs"]
    assert [item.id for item in find_slides([path], warn=[].append)] == ["a.svs"]


def test_slides_and_other_cells_that_begin_so_are_rows(tmp_path: Path) -> None:
    for name in ("# 1.svs", "#2.svs", "#4"):
        (tmp_path / name).touch()
    path = written(tmp_path, "slide,label\n# 1.svs,x\n#2,x\n#3.svs,y\n#4,y\n")
    assert told(path) == []
    assert [row.slide for row in read_manifest(path)] == ["# 1.svs", "#2", "#3.svs", "#4"]
    numbered = written(tmp_path, "#,slide,label\n#1,a.svs,x\n#2,b.svs,y\n# end,of,it\n")
    assert [row.slide for row in read_manifest(numbered, warn=[].append)] == ["a.svs", "b.svs"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_titles_before_the_header_are_named_with_the_header(tmp_path: Path, delimiter: str) -> None:
    text = f"Cohort of 2024\n\n{PLAIN.replace(',', delimiter)}"
    error = refused(
        written(tmp_path, text), "row 1 is 'Cohort of 2024'", "row 3 looks like one: slide | label"
    )
    assert "delete what stands before row 3" in error.remedy


def test_a_title_in_a_workbook_is_named(tmp_path: Path, book: Any) -> None:
    book.active.insert_rows(1)
    book.active["A1"] = "# Cohort"
    book.save()
    refused(tmp_path / "m.xlsx", "row 1 is '# Cohort'", "row 2 looks like one: slide | label | patient")


@pytest.mark.parametrize("text", ["a.svs,x,x\nb.svs,y,y\n", "here,x\n", "a.svs\nb.svs\n", "z.ome.zarr;x\n"])
def test_a_table_without_a_header_is_told_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "here").touch()
    error = refused(written(tmp_path, text), "has no header: its first row is '")
    assert "write the names of the columns above it" in error.remedy


# ---- All rows with a mistake


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "slide,label,mpp\n" + "a,x,0.5 um\n" * 2 + "b,x,0.5\n" + "c,x,20x\n" * 5,
            ["row 1: mpp is '0.5 um'", "and 6 more row(s) like it: 2 ('0.5 um'), 4 ('20x')", ", ..."],
        ),
        (
            "slide,label\na,\nb,x\nc,NA\n",
            ["row 1: slide is 'a' and label is ''", "and 1 more row(s) like it: 3"],
        ),
        ("slide,label\n,x\nb,x\n,y\n", ["row 1: slide is ''", "1 more row(s) like it: 3 ('')"]),
        ("slide,label,split\na,x,t\nb,x,u\n", ["row 1: split is 't'; it must be", "2 ('u')"]),
        ("slide,label\na,#REF!\nb,#NUM!\n", ["row 1: label is '#REF!'", "2 ('#NUM!')"]),
    ],
)
def test_all_rows_with_a_mistake_are_counted(tmp_path: Path, text: str, words: list[str]) -> None:
    refused(written(tmp_path, text), *words)
