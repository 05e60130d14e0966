"""Tasks of every kind from a manifest to predictions.csv: five heads on one summary learn what was painted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.commands import options, run
from tests.support.graded import write_graded
from tests.support.training import silent, table
from wsi_ats import load_model
from wsi_ats.batch.store import read_prediction
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError, WsiAtsError
from wsi_ats.manifest import read_manifest
from wsi_ats.model import AttentionSampler
from wsi_ats.statistics.metrics import auc, c_index, quadratic_kappa, r2
from wsi_ats.train.run import train

SETTINGS = """\
view = { downsample = 8 }
tile = { downsample = 2, px = 16 }
tissue = { min_fraction = 0.1 }
attention = { stride = 4, width = 4 }
features = { network = "paper" }
sampling = { tiles = 24 }
train = { epochs = 14, lr = 1e-2, val_tiles = 24, augment = false }

[tasks.purity]
kind = "regression"

[tasks.grade]
kind = "ordinal"
grades = ["I", "II", "III"]

[tasks.stains]
kind = "labels"
target = ["purple", "brown"]

[tasks.death]
kind = "survival"
target = "months"
event = "died"

[tasks.stain]
kind = "classes"
class_weights = "balanced"
"""
TASKS = ("purity", "grade", "stains", "death", "stain")
COLUMNS = ("purity", "grade", "purple", "brown", "months", "died", "stain")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slides/, run/ and out/ as the commands leave them; to be left as they are."""
    home = tmp_path_factory.mktemp("tasks")
    torch.set_num_threads(1)
    write_graded(home / "slides")
    (home / "tasks.toml").write_text(SETTINGS)
    manifest = pd.read_csv(home / "slides" / "manifest.csv", dtype=str, keep_default_na=False)
    manifest[manifest.split == "test"].to_csv(home / "slides" / "test.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        said = run("train", "slides/manifest.csv", "--out", "run", "--config", "tasks.toml").stdout
        run("predict", "run/model", "slides/test.csv", "--out", "out", "--tiles", "32", "--workers", "0")
    (home / "said.txt").write_text(said)
    return home


@pytest.fixture(scope="module")
def answers(home: Path) -> pd.DataFrame:
    return pd.read_csv(home / "out" / "predictions.csv")


@pytest.fixture(scope="module")
def model(home: Path) -> AttentionSampler:
    return load_model(home / "run" / "model")


# ---- What is learned, on slides that were not trained on


def test_a_number_is_learned_in_its_own_unit(answers: pd.DataFrame) -> None:
    assert r2(answers.value.to_numpy(), answers.purity.to_numpy()) > 0.7
    assert answers.prediction.to_numpy() == pytest.approx(answers.value.to_numpy())


def test_grades_are_learned(answers: pd.DataFrame) -> None:
    index = {"I": 0, "II": 1, "III": 2}
    told, true = (answers[column].map(index).to_numpy() for column in ("grade_prediction", "grade"))
    assert quadratic_kappa(told, true) > 0.6
    shares = answers[[f"grade_prob_{name}" for name in index]].to_numpy()
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(answers.grade_expected, shares @ [1, 2, 3], atol=1e-4)


def test_labels_are_learned(answers: pd.DataFrame) -> None:
    for name in ("purple", "brown"):
        p, truth = answers[f"stains_prob_{name}"].to_numpy(), answers[name].to_numpy(copy=True)
        assert auc(np.stack([1 - p, p], 1), truth) > 0.8
    for _, row in answers.fillna({"stains_prediction": ""}).iterrows():
        given = [name for name in ("purple", "brown") if row[f"stains_prob_{name}"] >= 0.5]
        assert row.stains_prediction == ";".join(given)


def test_risks_are_learned(answers: pd.DataFrame) -> None:
    risk, time = answers.death_risk.to_numpy(), answers.months.to_numpy()
    assert c_index(risk, time, answers.died.to_numpy() == 1) > 0.8


def test_classes_are_learned_beside_them(answers: pd.DataFrame) -> None:
    names = sorted(answers.stain.unique())
    shares = answers[[f"stain_prob_{name}" for name in names]].to_numpy()
    assert auc(shares, answers.stain.map(names.index).to_numpy(copy=True)) > 0.8


def test_everything_has_a_standard_error(answers: pd.DataFrame) -> None:
    columns = [column for column in answers if "stderr_" in column]
    assert len(columns) == 1 + 4 + 2 + 1 + 4
    assert (answers[columns] > 0).all().all()
    # purity is a share of the squares, and 32 of 64 are a good sample of them
    assert 0.005 < answers.stderr_value.mean() < 0.1


# ---- What is written


def test_columns_stand_task_by_task_the_main_one_without_its_name(answers: pd.DataFrame) -> None:
    assert list(answers.columns)[:25] == [
        "slide", "patient", "prediction", "value", "stderr_value", "low_value", "high_value",
        "grade_prediction", "grade_prob_I", "grade_prob_II", "grade_prob_III", "grade_expected",
        "grade_stderr_I", "grade_stderr_II", "grade_stderr_III", "grade_stderr_expected",
        "grade_low_I", "grade_low_II", "grade_low_III", "grade_low_expected",
        "grade_high_I", "grade_high_II", "grade_high_III", "grade_high_expected", "stains_prediction",
    ]  # fmt: skip


def test_a_slides_folder_has_all_answers(home: Path, answers: pd.DataFrame) -> None:
    folder = next((home / "out" / "slides").glob("test_3-*"))
    record = json.loads((folder / "result.json").read_text())
    assert tuple(answer["task"] for answer in record["answers"]) == TASKS
    row = answers[answers.slide.str.endswith("test_3.tif")].iloc[0]
    assert record["answers"][3]["values"] == pytest.approx([row.death_risk], rel=1e-5)
    with h5py.File(folder / "attention.h5") as file:
        names = list(file["contributions"].attrs["classes"])
        assert file["contribution"].attrs["class"] == "purity"
    assert names[:6] == [
        "purity",
        "grade_grade",
        "stains_purple",
        "stains_brown",
        "death_death",
        "stain_both",
    ]
    prediction = read_prediction(folder)
    assert tuple(answer.spec.name for answer in prediction.results) == TASKS
    assert [answer.contributions.shape[1] for answer in prediction.results] == [1, 1, 2, 1, 4]


def test_a_run_says_what_it_learned_from_and_how_well(home: Path) -> None:
    said = (home / "said.txt").read_text()
    for words in ("train: 32 slides (purity: mean ", "stains: purple 2", "death: events "):
        assert words in said
    (last,) = (line for line in said.splitlines() if line.startswith("validation "))
    for words in ("validation R² ", "grade kappa ", "stains AUC ", "death C-index ", "stain AUC "):
        assert words in last
    record = json.loads((home / "run" / "run.json").read_text())
    figure = record["val_death_c_index"]
    assert 0 <= figure["value"] <= 1
    assert (figure["low"], figure["high"]) == (None, None)
    assert figure["note"].endswith("too few for an interval")
    assert record["val_mean_absolute_error"] > 0
    card = (home / "run" / "model" / "model-card.md").read_text()
    for words in ("- **grade** (ordinal): I, II, III", "| death C-index | ", "| mean absolute error | 0."):
        assert words in card
    log = table(home / "run" / "log.csv")
    assert float(log[-1]["loss"]) < float(log[0]["loss"])
    assert table(home / "run" / "slides.csv")[0].keys() == {
        "slide", *COLUMNS, "patient", "split", "mpp", "default_mpp",
    }  # fmt: skip


def test_the_model_answers_as_validation_csv_says(home: Path, model: AttentionSampler) -> None:
    line = table(home / "run" / "validation.csv")[4]
    prediction = model.predict(home / "slides" / line["slide"], tiles=24, repeats=1)
    assert prediction.values == pytest.approx([float(line["value"])], abs=1e-5)
    assert prediction.about("grade").probabilities[1] == pytest.approx(float(line["grade_prob_II"]), abs=1e-5)
    assert prediction.about("death").values == pytest.approx([float(line["death_risk"])], abs=1e-5)


# ---- Contributions and pictures


def test_contributions_and_the_bias_make_every_output(home: Path, model: AttentionSampler) -> None:
    purity, grade, stains, death, _ = model.predict(home / "slides" / "test_4.tif", tiles=20).results
    bias = model.head.linear.bias.detach().double().numpy()

    def whole(of: object) -> np.ndarray:
        return of.contributions.sum(0, dtype=np.float64)

    number, *_ = model.tasks
    assert number.unit * purity.outputs == pytest.approx(whole(purity) + number.unit * bias[0], abs=1e-4)
    assert grade.outputs == pytest.approx(whole(grade) + bias[1:2], abs=1e-4)
    assert stains.outputs == pytest.approx(whole(stains) + bias[2:4], abs=1e-4)
    assert death.outputs == pytest.approx(whole(death) + bias[4:5], abs=1e-4)
    for task, result in zip(model.tasks, (purity, grade, stains, death), strict=False):
        values = task.values(torch.from_numpy(result.outputs)).detach().numpy()  # calibrated
        assert result.values == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (None, "purity: 0."),
        ("grade", "III: probability 0."),
        ("stains", "purple 0."),
        ("death", "death: log risk "),
    ],
)
def test_the_picture_names_the_answer_that_was_asked_for(
    home: Path, model: AttentionSampler, task: str | None, words: str
) -> None:
    prediction = model.predict(home / "slides" / "test_5.tif", tiles=32)
    prediction = prediction if task is None else prediction.about(task)
    figure = prediction.heatmap().figure()
    texts = [artist.get_text() for artist in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert any(words in text for text in texts), texts


def test_the_heatmap_command_takes_a_task(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    command = ["heatmap", "run/model", "slides/test_5.tif", "--out", "grade.png", "--task"]
    assert ": I 0." in run(*command, "grade").stdout
    assert "purity, grade, stains, death, stain" in run(*command, "mood", status=2).stderr


def test_a_number_has_no_probabilities(home: Path, model: AttentionSampler) -> None:
    prediction = model.predict(home / "slides" / "test_0.tif", tiles=8)
    assert prediction.classes == ()
    with pytest.raises(WsiAtsError, match="'purity' is of kind regression"):
        _ = prediction.probabilities


# ---- What is refused


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--target", "grade"], "--target is grade and the settings name the tasks purity"),
        (options("tasks.age.kind=regression"), "has no column 'age'"),
        (options("train.batch=1"), "train.batch is 1 and task 'death'"),
        (options("tasks.purity.target=stain"), "slide 'train_0.tif': stain is 'brown'; it must be a number"),
    ],
)
def test_what_cannot_be_learned_is_told_before_training(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], complaint: str
) -> None:
    monkeypatch.chdir(home)
    command = ["train", "slides/manifest.csv", "--out", tmp_path / "run", "--config", "tasks.toml", *more]
    assert complaint in run(*command, status=2).stderr
    assert not (tmp_path / "run").exists()


def test_a_slide_without_any_target_is_told(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,months,died\na.tif,,\nb.tif,1,1\n")
    with pytest.raises(
        ConfigError, match=r"row 1: .*months is '' and died is ''; one of these must be given"
    ):
        read_manifest(manifest, columns=["months", "died"])


def test_a_split_without_events_is_told(home: Path, tmp_path: Path) -> None:
    rows = [
        replace(row, cells={**row.cells, "died": row.cells["died"] and "0"}) if row.split == "val" else row
        for row in read_manifest(home / "slides" / "manifest.csv", columns=COLUMNS)
    ]
    with pytest.raises(ConfigError, match="the val split has no pair of slides of which the earlier"):
        train(rows, load_config(home / "tasks.toml"), tmp_path / "run", say=silent)
