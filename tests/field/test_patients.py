"""Patients are recognised under the names that people give them, asked about where they may be, and counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import TRAINING, run
from wsi_ats.batch.inputs import find_slides
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row, read_manifest, with_splits
from wsi_ats.train.patients import patients_in_words, say_patients
from wsi_ats.train.targets import ask, targets_of


def manifest(folder: Path, column: str, cells: list[str], more: str = "", label: str = "label") -> Path:
    path = folder / "m.csv"
    rows = (f"s{i}.tif,{'ab'[i % 2]},{cell}{more and ',z'}\n" for i, cell in enumerate(cells))
    path.write_text(f"slide,{label},{column}{more and f',{more}'}\n" + "".join(rows))
    return path


PAIRS = [f"P{i // 4}" for i in range(40)]
"""Ten patients of four slides."""


def sides(rows: list[Row]) -> list[str]:
    """Patients on both sides of a split, by where the slides truly come from."""
    of: dict[str, set[str | None]] = {}
    for row in with_splits(rows, 0.25, 0):
        of.setdefault(PAIRS[int(row.slide[1:-4])], set()).add(row.split)
    return sorted(patient for patient, splits in of.items() if len(splits) > 1)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "patient",
            "patient_id",
            "PatientID",
            "Patient ID",
            "PATIENT",
            "patient-id",
            "Patient Number",
            "case_id",
        ),
        *("case", "Case ID", "subject", "subject_id", "participant_id", "donor", "submitter_id"),
        *("bcr_patient_barcode", "case_submitter_id", "MRN"),
    ],
)
def test_common_names_are_patients_and_none_is_on_both_sides(tmp_path: Path, name: str) -> None:
    path = manifest(tmp_path, name, PAIRS)
    rows = read_manifest(path)
    assert [row.patient for row in rows] == PAIRS
    assert sides(rows) == []
    assert [item.patient for item in find_slides([path])] == PAIRS


@pytest.mark.parametrize(
    "name", ["Patient pseudonym", "case ref", "study_no", "accession number", "pid", "key"]
)
def test_a_column_that_may_be_patients_is_asked_about(tmp_path: Path, name: str) -> None:
    path = manifest(tmp_path, name, PAIRS)
    with pytest.warns(UserWarning, match=rf'"?{name}"? looks like one of patients|--patient "{name}"'):
        rows = read_manifest(path)
    assert sides(rows), "the warning is there for a reason"
    rows = read_manifest(path, patient=name)
    assert ([row.patient for row in rows], sides(rows)) == (PAIRS, [])
    assert [row.patient for row in read_manifest(path, patient="none")] == [row.slide for row in rows]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("scanner", ["AT2", "GT450"] * 20),
        ("age", [str(40 + i % 17) for i in range(40)]),
        ("stain", ["H&E"] * 40),
        ("note", [f"seen {i}" for i in range(40)]),
        ("site", [f"S{i % 7}" for i in range(40)]),
        ("block", [f"B{i}" for i in range(40)]),
    ],
)
def test_other_columns_are_left_alone(tmp_path: Path, name: str, cells: list[str]) -> None:
    read_manifest(manifest(tmp_path, name, cells))  # a warning would be an error here


def test_an_option_for_a_column_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column 'doctor'; its columns are") as caught:
        read_manifest(manifest(tmp_path, "patient", PAIRS), patient="doctor")
    assert "--patient" in caught.value.remedy


def test_two_columns_of_patients_that_disagree_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("slide,label,case_id,patient_id\na,x,C1,P1\nb,x,C2,P1\nc,y,C3,P2\n")
    read_manifest(path)  # cases are parts of patients: patient_id is the wider one
    path.write_text("slide,label,case_id,patient_id\na,x,C1,P1\nb,x,C1,P2\nc,y,C3,P2\n")
    with pytest.warns(UserWarning, match="'case_id' groups the slides otherwise"):
        assert [row.patient for row in read_manifest(path)] == ["P1", "P2", "P2"]


def test_names_of_tcga_are_a_hint(tmp_path: Path) -> None:
    names = ["TCGA-AA-1234-01Z-00-DX1.svs", "TCGA-AA-1234-01Z-00-DX2.svs", "TCGA-BB-0001-01Z-00-DX1.svs"]
    path = tmp_path / "m.csv"
    path.write_text("slide,label\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)))
    with pytest.warns(UserWarning, match="3 slides have names of 2 TCGA patients"):
        assert [row.patient for row in read_manifest(path)] == names


@pytest.mark.parametrize(
    ("what", "option"),
    [("patient", {}), ("batch", {"group": "batch"}), ("hospital", {})],
    ids=lambda x: str(x),
)
@pytest.mark.parametrize(
    "names", [["P1", "p1"], ["1", "01"], ["P 1", "P-1"], ["\u04201", "P1"], ["1.0", "01"]]
)
def test_spellings_of_one_patient_group_or_site_are_an_error(
    tmp_path: Path, what: str, option: dict[str, str], names: list[str]
) -> None:
    path = manifest(tmp_path, what, [*names, "2"])
    with pytest.raises(
        ConfigError, match=f"column '{what}' has .* spelt differently they would be differ"
    ) as caught:
        read_manifest(path, **option, warn=[].append)
    assert "write one of them everywhere" in caught.value.remedy


def test_one_number_is_one_patient_which_is_told(tmp_path: Path) -> None:
    path = manifest(tmp_path, "patient", ["1", "1.0", "2", "3.0"])
    with pytest.warns(UserWarning, match=r"'1' \(1 row\) and '1.0' \(1 row\): one number is one patient"):
        rows = read_manifest(path)
    assert [row.patient for row in rows] == ["1", "1", "2", "3"]
    assert [item.patient for item in find_slides([path], warn=[].append)] == ["1", "1", "2", "3"]
    path.write_text("slide,label,patient,split\na,x,1,train\nb,y,1.0,val\n")
    with pytest.raises(ConfigError, match="1 patient\\(s\\) into more than one split, '1' for one"):
        read_manifest(path, warn=[].append)


# ---- What train says


def words(labels: str, patients: str) -> str:
    rows = [
        Row(str(i), Path(str(i)), label, patient, "train", None)
        for i, (label, patient) in enumerate(zip(labels, patients, strict=True))
    ]
    tasks = ask(load_config(), rows)
    return patients_in_words(tasks, rows, targets_of(tasks, rows))


def test_patients_are_counted_by_class() -> None:
    assert words("aaabb", "11123") == "3 patients (a 1, b 2)"
    assert words("aabb", "1121") == "2 patients (a 1, b 2)", "one with slides of both is in both"


def test_it_is_said_where_there_are_no_patients() -> None:
    rows = [Row(name, Path(name), "x", patient, None, None) for name, patient in (("a", "a"), ("b", "P"))]
    said: list[str] = []
    for some in (rows, rows[:1], rows[1:]):
        say_patients(some, said.append)
    assert [line.split(":")[0] for line in said] == ["no patient column"], "some: told with the manifest"


def test_train_says_how_many_patients_there_are(place: Path) -> None:
    lines = Path("slides/manifest.csv").read_text().splitlines()
    rows = [f"slides/{line},P{i // 2 if line.startswith('train') else i}" for i, line in enumerate(lines[1:])]
    Path("m.csv").write_text("\n".join([f"{lines[0]},Patient Code", *rows]) + "\n")
    more = (*TRAINING, "--set", "train.epochs=1")
    said = run("train", "m.csv", "--out", "new", *more).stdout.splitlines()
    assert (
        said[said.index("train: 6 slides (normal 3, tumour 3)") + 1]
        == "train: 3 patients (normal 3, tumour 3)"
    )
    assert not any(line.startswith("no patient") for line in said)
