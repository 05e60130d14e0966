"""Cross-validation from one command: killed and resumed it gives what it would have given."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.support.cohort import write_cohort
from tests.support.commands import TRAINING, run, send_at, start
from wsi_ats import load_model
from wsi_ats.ensemble import Ensemble
from wsi_ats.report.found import find

FOLDS = ("--folds", "3", "--patient", "case", *TRAINING)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 slides of 9 patients, each with slides of one class."""
    folder = tmp_path_factory.mktemp("folds")
    path = write_cohort(folder, train=18, val=0, test=0)
    table = pd.read_csv(path).drop(columns="split")
    table["case"] = [f"case {i // 4 * 2 + i % 2}" for i in range(len(table))]
    table["site"] = [f"site {i // 6}" for i in range(len(table))]
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def whole(manifest: Path) -> Path:
    """The cross-validation, without an interruption."""
    torch.set_num_threads(1)  # as in processes of their own: more threads may change the last digit
    said = run("train", manifest, "--out", manifest.parent / "whole", *FOLDS).stdout
    assert "18 of 18 slides answered by models that have not seen them" in said
    return manifest.parent / "whole"


def test_every_slide_is_answered_once_by_a_model_that_has_not_seen_its_patient(
    manifest: Path, whole: Path
) -> None:
    table = pd.read_csv(whole / "predictions.csv")
    assert Counter(table.slide) == Counter(pd.read_csv(manifest).slide)
    patient = dict(zip(table.slide, table.patient, strict=True))
    for fold in range(3):
        slides = pd.read_csv(whole / f"fold-{fold}" / "slides.csv")
        tested = set(table.slide[table.fold == fold])
        assert set(slides.slide[slides.split == "test"]) == tested
        assert not {patient[s] for s in tested} & {patient[s] for s in slides.slide[slides.split != "test"]}
        model = load_model(whole / f"fold-{fold}" / "model")
        for row in table[table.fold == fold].itertuples():
            again = model.predict(manifest.parent / row.slide)
            assert again.probabilities[1] == pytest.approx(row.prob_tumour, abs=1e-5)


def test_its_report_shows_slides_by_the_model_that_has_not_seen_them(whole: Path) -> None:
    text = (whole / "report.html").read_text()
    assert text.count('class="heatmap"') >= 3
    assert "No picture" not in text
    fold = pd.read_csv(whole / "predictions.csv").set_index("slide").fold
    shown = [
        (path.parents[3].name, json.loads(path.read_text()))
        for path in whole.glob("*/examples/*/*/result.json")
    ]
    assert len(shown) >= 3
    for folder, record in shown:
        assert folder == f"fold-{fold[record['slide']]}"
        assert f"<h4>{record['slide']}</h4>" in text


def test_the_figures_are_those_of_the_table(whole: Path) -> None:
    table = pd.read_csv(whole / "predictions.csv")
    record = json.loads((whole / "run.json").read_text())
    true = table.label == "tumour"
    assert record["figures"]["auc"]["value"] == pytest.approx(
        roc_auc_score(true, table.prob_tumour), abs=1e-6
    )
    for fold, figures in enumerate(record["folds"]):
        mine = table[table.fold == fold]
        assert figures["auc"]["value"] == pytest.approx(
            roc_auc_score(mine.label == "tumour", mine.prob_tumour), abs=1e-6
        )
        shares = mine.assign(right=mine.prediction == mine.label).groupby("label").right.mean()
        assert figures["balanced_accuracy"] == pytest.approx(shares.mean())


def test_the_models_of_all_folds_answer_as_one(manifest: Path, whole: Path) -> None:
    model, slide = load_model(whole / "model"), manifest.parent / "train_1.tif"
    assert isinstance(model, Ensemble)
    alone = [load_model(whole / f"fold-{fold}" / "model").predict(slide, sampler="all") for fold in range(3)]
    mean = np.mean([one.results[0].outputs for one in alone], axis=0)
    assert model.predict(slide, sampler="all").results[0].outputs == pytest.approx(mean, abs=1e-5)
    card = (whole / "model" / "model-card.md").read_text()
    assert "An ensemble of 3 networks, those of all folds" in card
    assert "answered by the networks of its fold alone" in card
    assert "calibrated on 18 slides, each answered by the fold that had not seen it" in card
    auc = json.loads((whole / "run.json").read_text())["figures"]["auc"]["value"]
    assert f"| AUC | {auc:.3f}" in card
    assert "95 % interval over patients, all slides of one together" in card


def test_the_interval_is_that_of_an_evaluation(
    manifest: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over patients, of whom each has several slides; a few patients are enough for this test."""
    for module in ("clusters", "interval"):
        monkeypatch.setattr(f"wsi_ats.statistics.{module}.LEAST", 2)
    study = tmp_path / "study"
    shutil.copytree(whole, study)
    run("train", manifest, "--out", study, *FOLDS)
    figure = json.loads((study / "run.json").read_text())["figures"]["auc"]
    run("evaluate", study, manifest, "--patient", "case", "--no-report")
    parts = json.loads((study / "evaluation.json").read_text())["tasks"][0]["parts"]
    wanted = next(f for f in parts[0]["figures"] if f["name"] == "auroc")
    assert figure["low"] is not None
    assert [figure[k] for k in ("value", "low", "high")] == pytest.approx(
        [wanted[k] for k in ("value", "low", "high")], abs=1e-6
    )


def test_the_same_command_again_makes_nothing_anew(manifest: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "model").iterdir()}
    run("train", manifest, "--out", whole, *FOLDS)
    assert {path: path.stat().st_mtime_ns for path in (whole / "model").iterdir()} == before
    (whole / "model" / "config.toml").unlink()
    said = run("train", manifest, "--out", whole, *FOLDS).stdout
    assert "the models of all folds as one" in said
    assert load_model(whole / "model").hash == json.loads((whole / "run.json").read_text())["model"]


def test_the_report_is_of_all_folds(whole: Path) -> None:
    found = find(whole)
    assert (found.folds, found.missing) == (3, "")
    table = pd.read_csv(whole / "predictions.csv")
    whole_cohort, *folds = found.evaluation["tasks"][0]["parts"]
    assert whole_cohort["figures"][0]["value"] == pytest.approx(
        roc_auc_score(table.label == "tumour", table.prob_tumour)
    )
    assert [(part["by"], part["member"]) for part in folds] == [("fold", str(i)) for i in range(3)]
    text = (whole / "report.html").read_text()
    assert "Cross-validation: whole" in text
    assert "18 slides of 10 patients" in text


def test_killed_twice_it_goes_on(manifest: Path, whole: Path, tmp_path: Path) -> None:
    command = ("train", manifest, "--out", tmp_path / "out", *FOLDS)
    for line, number in (("epoch 2/3", signal.SIGKILL), ("fold 2 of 3", signal.SIGTERM)):
        send_at(start(*command), line, number)
    run(*command)
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert "18 of 18 slides answered" in run(*command).stdout  # nothing is trained again


@pytest.mark.parametrize("how", [(), ("--seeds", "2"), ("--overwrite",)])
def test_no_other_training_goes_into_its_folder(manifest: Path, whole: Path, how: tuple[str, ...]) -> None:
    before = (whole / "run.json").read_bytes()
    result = run("train", manifest, "--out", whole, "--patient", "case", *TRAINING, *how, status=2)
    assert "holds a cross-validation" in result.stderr
    assert (whole / "run.json").read_bytes() == before


def test_nor_does_it_go_into_the_folder_of_another(manifest: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "fold-0", tmp_path / "out")
    result = run("train", manifest, "--out", tmp_path / "out", *FOLDS, status=2)
    assert "holds a training run" in result.stderr
    assert not (tmp_path / "out" / "fold-0").exists()


def test_each_site_is_kept_out_once(manifest: Path, tmp_path: Path) -> None:
    table = pd.read_csv(manifest).drop(columns="case")
    path = manifest.parent / "sites.csv"
    table.to_csv(path, index=False)
    run("train", path, "--out", tmp_path / "out", "--folds", "each", "--group", "site", *TRAINING)
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv").merge(table[["slide", "site"]])
    assert [set(mine.site) for _, mine in predictions.groupby("fold")] == [{f"site {i}"} for i in range(3)]


@pytest.mark.parametrize("folds", ["1", "many", "0.5"])
def test_folds_that_make_no_sense(manifest: Path, tmp_path: Path, folds: str) -> None:
    result = run("train", manifest, "--out", tmp_path / "out", "--folds", folds, status=2)
    assert f"--folds is '{folds}'; it must be a whole number from 3 to 100, or each" in result.stderr
