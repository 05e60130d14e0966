"""Batches by patient: one row, one folder, one failure a patient."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.batches import QUICK, run, table
from tests.support.commands import run as command
from tests.support.fake_model import calls, make_slide
from tests.support.helpers import give_opinions
from wsi_ats import load_model
from wsi_ats.batch.inputs import SlideItem, find_slides
from wsi_ats.batch.patients import patients_of
from wsi_ats.batch.run import Summary
from wsi_ats.batch.store import read_patient_prediction
from wsi_ats.build import build_model
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError
from wsi_ats.model_folder import save_model
from wsi_ats.synthetic.phantom import Phantom, write_phantom

BY_PATIENT = replace(QUICK, by="patient")
ROWS = [
    ("a/1.tif", "P1", "north"),
    ("a/2.tif", "P1", "south"),
    ("b/1.tif", "P2", "north"),
    ("b/2.tif", "", ""),
]


def silent(text: str) -> None:
    pass


def manifest(folder: Path, rows: Sequence[tuple[str, str, str]] = ROWS) -> Path:
    for i, (name, _, _) in enumerate(rows):
        if not (folder / name).exists():
            make_slide(folder / name, seed=i)
    path = folder / "m.csv"
    pd.DataFrame(rows, columns=["slide", "patient", "site"]).to_csv(path, index=False)
    return path


def patients(folder: Path) -> list[SlideItem]:
    return patients_of(find_slides([folder / "m.csv"], warn=silent), silent)


def predicted(folder: Path, **options: object) -> Summary:
    return run(patients(folder), folder, settings=BY_PATIENT, **options)


def test_one_row_and_one_folder_a_patient(tmp_path: Path) -> None:
    manifest(tmp_path)
    summary = run(patients(tmp_path), tmp_path, settings=replace(BY_PATIENT, heatmap=True))
    assert (summary.ok, summary.progress.total, summary.by) == (True, 3, "patient")
    found = table(tmp_path)
    assert list(found.columns[:2]) == ["patient", "slides"]
    assert found["patient"].tolist() == ["P1", "P2", "b/2.tif"]
    assert found["slides"].tolist() == ["a/1.tif;a/2.tif", "b/1.tif", "b/2.tif"]
    assert found["site"].tolist() == ["north;south", "north", ""]
    assert found["tiles_read"].tolist() == ["10", "5", "5"]
    assert list(table(tmp_path, "failures.csv").columns) == ["patient", "stage", "error", "remedy"]
    (folder,) = (tmp_path / "out" / "patients").glob("P1-*")
    inside = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file())
    assert [name.split("/")[-1] for name in inside] == ["attention.h5", "heatmap.png"] * 2 + ["result.json"]
    prediction = read_patient_prediction(folder)
    assert [slide.slide for slide in prediction.slides] == ["1.tif", "2.tif"]
    assert float(found["prob_tumour"][0]) == pytest.approx(float(prediction.probabilities[1]), abs=1e-6)
    # As many multiples of the mean over both as there are cells.
    total = sum(float(slide.relative_attention.sum()) for slide in prediction.slides)
    assert total == pytest.approx(2 * sum(len(slide.tissue) for slide in prediction.slides), rel=1e-4)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["patients"]["done"] == 3


def test_a_patient_is_done_until_a_slide_of_it_changes(tmp_path: Path) -> None:
    manifest(tmp_path)
    predicted(tmp_path)
    assert predicted(tmp_path).progress.known == 3
    before = len(calls(tmp_path / "model"))
    make_slide(tmp_path / "a/2.tif", seed=99)
    os.utime(tmp_path / "a/2.tif", ns=(1, 10**18))
    assert predicted(tmp_path).progress.known == 2
    assert len(calls(tmp_path / "model")) == before + 2
    manifest(tmp_path, ROWS[:1] + ROWS[2:])  # a slide less is another patient, of the same name
    assert predicted(tmp_path).progress.known == 2
    assert table(tmp_path)["slides"][0] == "a/1.tif"
    assert len([*(tmp_path / "out" / "patients").glob("P1-*/1-*")]) == 1
    assert not [*(tmp_path / "out" / "patients").glob("P1-*/2-*")]


def test_answers_by_slide_and_by_patient_share_a_folder(tmp_path: Path) -> None:
    manifest(tmp_path)
    predicted(tmp_path)
    run(find_slides([tmp_path / "m.csv"], warn=silent), tmp_path, settings=QUICK)
    assert table(tmp_path)["slide"].tolist() == [name for name, _, _ in ROWS]
    assert predicted(tmp_path).progress.known == 3
    assert table(tmp_path)["patient"].tolist() == ["P1", "P2", "b/2.tif"]


@pytest.mark.parametrize("wrong", ["missing", "damaged", "blank", "explode"])
def test_a_patient_fails_with_any_of_its_slides(tmp_path: Path, wrong: str) -> None:
    name = "a/explode.tif" if wrong == "explode" else "a/2.tif"
    manifest(tmp_path, [ROWS[0], (name, "P1", "south"), *ROWS[2:]])
    bad = tmp_path / name
    bad.unlink() if wrong == "missing" else None
    bad.write_bytes(b"II*\0 no slide") if wrong == "damaged" else None
    make_slide(bad, blank=True) if wrong == "blank" else None
    summary = predicted(tmp_path)
    (failure,) = summary.failures
    assert (failure.slide, summary.progress.done) == ("P1", 2)
    assert (
        "a/2.tif" if wrong in ("missing", "damaged") else {"blank": "2.tif", "explode": "a bug"}[wrong]
    ) in (failure.error)
    if wrong in ("missing", "damaged"):
        assert "leave its row out" in failure.remedy
    failed = table(tmp_path, "failures.csv")
    assert failed["patient"].tolist() == ["P1"]
    assert table(tmp_path)["status"].tolist() == ["failed", "done", "done"]
    assert table(tmp_path)["slides"][0] == f"a/1.tif;{name}"


def test_workers_do_patients(tmp_path: Path) -> None:
    from distributed import Client

    manifest(tmp_path)
    predicted(tmp_path)
    alone = table(tmp_path).drop(columns="seconds")
    with Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as client:
        predicted(tmp_path, client=client, overwrite=True)
    pd.testing.assert_frame_equal(table(tmp_path).drop(columns="seconds"), alone)


def test_who_is_a_patient(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    make_slide(tmp_path / "a/1.tif")
    (tmp_path / "a/link.tif").symlink_to(tmp_path / "a/1.tif")
    said: list[str] = []

    def of(rows: list[tuple[str, str, str]]) -> list[SlideItem]:
        return patients_of(find_slides([manifest(tmp_path, rows)], warn=said.append), said.append)

    (patient,) = of([("a/1.tif", "P1", ""), ("a/link.tif", "P1", "")])
    assert [slide.id for slide in patient.slides] == ["a/1.tif"]
    assert said == ["1 slide(s) are other names of a file of the same patient, and each file is taken once"]
    with pytest.raises(
        ConfigError, match=r"a/1.tif is of patient 'P1', and a/link.tif, the same file, of 'P2'"
    ):
        of([("a/1.tif", "P1", ""), ("a/link.tif", "P2", "")])
    with pytest.raises(ConfigError, match="P1"):
        of([("a/1.tif", "P1", ""), ("a/2.tif", "p1", "")])
    said.clear()
    assert [patient.id for patient in of([("a/1.tif", "P1", ""), ("a/2.tif", "", "")])] == ["P1", "a/2.tif"]
    (told,) = said
    assert "each of these slides counts as a patient of its own" in told
    with pytest.raises(ConfigError, match="is of a patient that is known"):
        of([("a/1.tif", "", "")])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was to be trained by patient, and 3 patients with 2 slides each."""
    folder = tmp_path_factory.mktemp("real")
    scale = ["view.downsample=8", "tile.downsample=2", "tile.px=32", "attention.stride=8", "train.by=patient"]
    model = build_model(load_config(None, scale), ("normal", "tumour"))
    give_opinions(model)
    save_model(model, folder / "model", "# a model\n")
    rows = []
    for i in range(3):
        for j in range(2):
            name = f"{i}{j}.tif"
            write_phantom(folder / name, Phantom(size=512, decoys=0, lesion=False, seed=2 * i + j))
            rows.append({"slide": name, "patient": f"P{i}", "label": ("normal", "tumour", "tumour")[i]})
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)
    return folder


def test_the_commands_answer_by_patient_as_the_model_was_trained(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(real)
    out = tmp_path / "out"
    common = ("--out", out, "--tiles", 12, "--workers", 0)
    said = command("predict", "model", "m.csv", *common).output
    assert "one answer a patient, as the model was trained; --by slide gives one a slide" in said
    assert "3 of 3 patients done" in said
    found = pd.read_csv(out / "predictions.csv")
    model = load_model("model")
    for row in found.to_dict("records"):
        prediction = model.predict([Path(slide) for slide in row["slides"].split(";")], tiles=12)
        np.testing.assert_allclose(row["prob_tumour"], prediction.probabilities[1], atol=1e-6)
        assert prediction.low is not None
        assert prediction.high is not None
        ends = prediction.low[1], prediction.high[1]
        np.testing.assert_allclose((row["low_tumour"], row["high_tumour"]), ends, atol=1e-6)
        (folder,) = (out / "patients").glob(f"{row['patient']}-*")
        kept = read_patient_prediction(folder)
        np.testing.assert_allclose(kept.low, prediction.low, atol=1e-6)
        np.testing.assert_allclose(kept.high, prediction.high, atol=1e-6)
    told = command("evaluate", out, "m.csv").output
    assert "3 of 3 labelled patients have an answer" in told
    assert "3 patients (normal 1, tumour 2)" in told
    page = (out / "report.html").read_text()
    assert "Figures of 3 patients; intervals by bootstrap over patients" in page
    assert "A patient, mean over 3 patients" in page
    assert "slides: 00.tif, 01.tif" in page
    assert page.count('class="heatmap"') == 6
    assert page.count("Tile of P0") == 6
    assert "could not be read again" not in page
    by_slide = command("predict", "model", "m.csv", *common, "--by", "slide").output
    assert "6 of 6 slides done" in by_slide
    told = command(
        "predict", "model", "00.tif", "--out", tmp_path / "loose", "--workers", 0, "--no-heatmaps"
    ).output
    assert "no slide is of one that is known: each is answered for itself" in told
    refused = command(
        "predict", "model", "00.tif", "--out", tmp_path / "no", "--by", "patient", status=2
    ).output
    assert "00.tif is no manifest: whose slide it is, nobody says" in refused


def test_evaluate_refuses_labels_that_contradict(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(real)
    pd.DataFrame(
        {"patient": ["P0", "P1", "P2"], "prob_normal": [0.9, 0.2, 0.4], "prob_tumour": [0.1, 0.8, 0.6]}
    ).to_csv(tmp_path / "p.csv", index=False)
    assert "3 of 3 labelled patients" in command("evaluate", tmp_path / "p.csv", "m.csv").output
    torn = pd.read_csv("m.csv")
    torn.loc[2, "label"] = "normal"
    torn.to_csv("torn.csv", index=False)
    said = command("evaluate", tmp_path / "p.csv", "torn.csv", status=2).output
    assert "'P1', label 'normal' (10.tif), 'tumour' (11.tif)" in said
