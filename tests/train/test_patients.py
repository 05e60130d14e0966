"""Training by patient: an example is all slides of a patient, and fails as one."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.support.cohort import settings
from tests.support.training import assert_same_weights, silent, table
from wsi_ats import load_model
from wsi_ats.attention.levels import Drawn
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.evaluate.run import How, evaluate
from wsi_ats.manifest import read_manifest
from wsi_ats.manifest.folds import folds_of
from wsi_ats.manifest.patients import patients_of
from wsi_ats.reading import Reading
from wsi_ats.report.found import find
from wsi_ats.report.page import make_report
from wsi_ats.report.predicted import predict_examples
from wsi_ats.synthetic.phantom import Phantom, write_phantom
from wsi_ats.train.calibrate import calibrate_model
from wsi_ats.train.folds import cross_validate
from wsi_ats.train.run import train

BY_PATIENT = settings("train.by=patient")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pairs of slides, a lesion on the second of every second pair."""
    folder = tmp_path_factory.mktemp("slides")
    for i in range(8):
        for j in range(2):
            lesion = i % 2 == 1 and j == 1
            phantom = Phantom(size=640, decoys=0, lesion=lesion, lesion_fraction=0.05, seed=2 * i + j)
            write_phantom(folder / f"{i}_{j}.tif", phantom)
    return folder


def manifest(folder: Path, name: str, rows: Sequence[Mapping[str, object]]) -> Path:
    path = folder / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return path


def pairs(folder: Path, name: str = "pairs", count: int = 8) -> Path:
    """A patient a pair, the last two for validation."""
    rows = [
        {
            "slide": f"{i}_{j}.tif",
            "label": ("normal", "tumour")[i % 2],
            "patient": f"P{i}",
            "split": "val" if i >= count - 2 else "train",
        }
        for i in range(count)
        for j in range(2)
    ]
    return manifest(folder, name, rows)


def test_one_slide_a_patient_is_training_by_slide(slides: Path, tmp_path: Path) -> None:
    rows = [
        {"slide": f"{i}_1.tif", "label": ("normal", "tumour")[i % 2], "patient": f"P{i}", "split": split}
        for i, split in enumerate(["train"] * 4 + ["val"] * 2)
    ]
    labelled = read_manifest(manifest(slides, "singles", rows))
    train(labelled, settings(), tmp_path / "slide", say=silent)
    train(labelled, BY_PATIENT, tmp_path / "patient", say=silent)
    assert_same_weights(*(tmp_path / name / "model" / "model.safetensors" for name in ("slide", "patient")))


def test_a_run_by_patient_counts_patients_and_its_model_says_so(slides: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(read_manifest(pairs(slides)), BY_PATIENT, tmp_path / "run", say=said.append)
    assert "train: 6 patients (normal 3, tumour 3)" in said
    assert [row["patient"] for row in table(tmp_path / "run" / "validation.csv")] == ["P6", "P7"]
    assert len(table(tmp_path / "run" / "slides_looked_at.csv")) == 16
    card = (tmp_path / "run" / "model" / "model-card.md").read_text()
    assert "One answer a patient" in card
    assert "| train | 12 | 6 | 3 | 3 |" in card
    model = load_model(tmp_path / "run" / "model")
    assert model.config.train.by == "patient"
    # The answer of validation is the one that a user gets.
    reading = Reading(model.config.train.val_tiles, repeats=1, seed=model.config.train.seed)
    prediction = model.read([slides / "6_1.tif", slides / "6_0.tif"], reading)
    told = table(tmp_path / "run" / "validation.csv")[0]
    np.testing.assert_allclose(prediction.probabilities[1], float(told["prob_tumour"]), atol=1e-4)
    calibrated, failures = calibrate_model(
        model,
        tmp_path / "run" / "model",
        read_manifest(pairs(slides)),
        reading,
        tmp_path / "new",
        "ours",
        say=silent,
    )
    assert not failures
    assert "calibrated on 8 patients of ours" in calibrated.done[0]
    embed = model.embed

    def embed_but_one(drawn: Sequence[Drawn]) -> list[Tensor]:
        for part in drawn:
            for slide in part.slide.slides:
                if slide.name == "3_1.tif":
                    error = SlideError("level 0 cannot be read", "copy it again")
                    error.address = slide.address
                    raise error
        return embed(drawn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "embed", embed_but_one)
        rows = read_manifest(pairs(slides))
        folders = tmp_path / "run" / "model", tmp_path / "newer"
        calibrated, failures = calibrate_model(
            model, folders[0], rows, reading, folders[1], "ours", say=silent
        )
    assert [(failure.slide, failure.error) for failure in failures] == [
        ("P3", "slide 3_1.tif: level 0 cannot be read")
    ]
    assert "calibrated on 7 patients of ours" in calibrated.done[0]
    rows = [replace(row, split="val") for row in read_manifest(pairs(slides)) if row.patient in ("P6", "P7")]
    predict_examples(tmp_path / "run", rows)
    page = make_report(tmp_path / "run").read_text()
    assert "judged by its own validation patients" in page
    assert "slides: 6_0.tif, 6_1.tif" in page
    assert page.count('class="heatmap"') == 4
    assert find(tmp_path / "run").by == "patient"


def test_a_patient_with_a_slide_that_cannot_be_used_is_left_out(slides: Path, tmp_path: Path) -> None:
    (slides / "broken.tif").write_bytes(b"no slide")
    rows = table(pairs(slides, "most"))
    rows.append({**rows[0], "slide": "broken.tif"})
    said: list[str] = []
    result = train(
        read_manifest(manifest(slides, "broken", rows)), BY_PATIENT, tmp_path / "run", say=said.append
    )
    (failure,) = result.failures
    assert failure.slide == "P0"
    assert failure.error.startswith("slide broken.tif: ")
    assert "leave out its row" in failure.remedy
    assert "train: 5 patients (normal 2, tumour 3)" in said
    unusable = [
        row["slide"] for row in table(tmp_path / "run" / "slides_looked_at.csv") if row["found"] != "usable"
    ]
    assert unusable == ["0_0.tif", "0_1.tif", "broken.tif"]


def test_labels_of_a_patient_that_contradict_are_listed(slides: Path, tmp_path: Path) -> None:
    rows = table(pairs(slides, "own"))
    for row in rows:
        if row["slide"] in ("1_0.tif", "3_0.tif"):
            row["label"] = "normal"  # as the slide shows it, not as the patient has it
    labelled = read_manifest(manifest(slides, "torn", rows))
    with pytest.raises(ConfigError, match="have slides that contradict each other") as caught:
        train(labelled, BY_PATIENT, tmp_path / "run", say=silent)
    assert caught.value.message.startswith("2 patient(s) ")
    assert "'P1', label 'normal' (1_0.tif), 'tumour' (1_1.tif); 'P3', label" in caught.value.message
    assert not (tmp_path / "run").exists()


def test_targets_that_some_slides_leave_out_are_those_of_the_others(slides: Path) -> None:
    rows = [
        {"slide": f"0_{j}.tif", "grade": grade, "age": age, "patient": "P0", "site": site}
        for j, (grade, age, site) in enumerate([("", "71", "a"), ("2", "71", "b")])
    ]
    (patient,) = patients_of(read_manifest(manifest(slides, "gaps", rows), columns=("grade", "age")))
    assert (patient.cells, patient.site) == ({"grade": "2", "age": "71"}, "a + b")


def test_patients_are_asked_for_and_none_is_named(slides: Path, tmp_path: Path) -> None:
    rows = [{"slide": f"{i}_1.tif", "label": ("normal", "tumour")[i % 2]} for i in range(8)]
    with pytest.raises(ConfigError, match="the manifest names no patients"):
        train(read_manifest(manifest(slides, "none", rows)), BY_PATIENT, tmp_path / "run", say=silent)


def test_a_cross_validation_by_patient_is_evaluated_by_patient(slides: Path, tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("slide", "label", "patient")} for row in table(pairs(slides, "whole"))]
    whole = manifest(slides, "folds", rows)
    labelled = read_manifest(whole)
    quick = settings("train.by=patient", "train.epochs=1")
    made = folds_of(labelled, 3, 0.25, seed=0)
    result = cross_validate(made, quick, tmp_path / "run", say=silent)
    assert (result.answered, result.asked) == (8, 8)
    found = table(tmp_path / "run" / "predictions.csv")
    assert sorted(row["patient"] for row in found) == [f"P{i}" for i in range(8)]
    assert {row["slides"] for row in found if row["patient"] == "P3"} == {"3_0.tif;3_1.tif"}
    evaluation = evaluate([tmp_path / "run"], whole, How(resamples=100), warn=silent)
    assert (evaluation.joined.flow.evaluated, evaluation.joined.answers.by) == (8, "patient")
    again = cross_validate(made, quick, tmp_path / "run", say=silent)  # from what it kept
    assert again == result
    page = make_report(tmp_path / "run").read_text()
    assert "Figures of 8 patients" in page
    assert "3 models, each asked about the patients that it has not seen" in page
    assert "are of the split train" not in page
    values = {
        f["name"]: f["value"] for f in find(tmp_path / "run").evaluation["tasks"][0]["parts"][0]["figures"]
    }
    assert values["auroc"] == evaluation.tasks[0].parts[0].figures[0].interval.value
