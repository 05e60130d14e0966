"""What tables say twice, and otherwise than each other: one rule decides, and the user is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.commands import run
from wsi_ats.errors import ConfigError
from wsi_ats.evaluate.compare import compare
from wsi_ats.evaluate.files import evaluation_values, write_evaluation
from wsi_ats.evaluate.join import Chosen
from wsi_ats.evaluate.run import Evaluation, How, evaluate
from wsi_ats.report.cautions import cautions
from wsi_ats.report.found import find

N = 12
P = np.linspace(0.05, 0.94, N).round(2)
TRUTH = np.where(np.arange(N) >= 5, "tumour", "normal")
PLAIN = {"slide": [f"s{i}.svs" for i in range(N)], "prob_normal": (1 - P).round(2), "prob_tumour": P}
LABELS = {"slide": PLAIN["slide"], "label": TRUTH}


def evaluated(
    folder: Path, answers: dict[str, Any], labels: dict[str, Any], **chosen: Any
) -> tuple[Evaluation, list[str]]:
    """The evaluation of a table, and what is told, but for the positive class."""
    pd.DataFrame(answers).to_csv(folder / "a.csv", index=False)
    pd.DataFrame(labels).to_csv(folder / "m.csv", index=False)
    said: list[str] = []
    how = How(Chosen(**chosen), resamples=100)
    made = evaluate([folder / "a.csv"], folder / "m.csv", how, warn=said.append)
    assert list(made.warnings) == said
    return made, [words for words in said if "positive" not in words]


def told(folder: Path, answers: dict[str, Any], **labels: Any) -> str:
    return "\n".join(evaluated(folder, PLAIN | answers, LABELS | labels)[1])


# ---- The answer in words, and the probabilities


def test_a_prediction_that_contradicts_the_probabilities_is_told_and_decides(tmp_path: Path) -> None:
    said = np.where(P >= 0.5, "tumour", "normal")
    assert told(tmp_path, {"prediction": said}) == ""
    said[[1, 10]] = "tumour", "normal"
    words = told(tmp_path, {"prediction": said})
    assert "the column 'prediction' contradicts the probabilities of 2 of 12 slides" in words
    assert "'s1.svs' ('tumour' beside prob_normal 0.87, prob_tumour 0.13)" in words
    assert "the column decides" in words
    assert "explains it" not in words, "no threshold says so"
    made, _ = evaluated(tmp_path, PLAIN | {"prediction": said}, LABELS)
    slides = evaluation_values(made)["tasks"][0]["slides"]
    assert [slide["decision"] for slide in slides] == said.tolist()


def test_a_threshold_that_explains_the_predictions_is_named(tmp_path: Path) -> None:
    words = told(tmp_path, {"prediction": np.where(P >= 0.2, "tumour", "normal")})
    assert "a threshold between 0.13 and 0.21 of tumour explains it" in words


def test_rounded_probabilities_contradict_nothing(tmp_path: Path) -> None:
    p = P.copy()
    p[6] = 0.5  # .497, perhaps
    said = np.where(p >= 0.51, "tumour", "normal")
    assert told(tmp_path, {"prob_tumour": p, "prob_normal": (1 - p).round(2), "prediction": said}) == ""


def test_a_prediction_that_is_none_of_the_classes_is_told(tmp_path: Path) -> None:
    words = told(tmp_path, {"prediction": ["Tumor"] * 3 + [""] * (N - 3)})
    assert "row 1: prediction is 'Tumor', which is none of ['normal', 'tumour'] (3 such row(s))" in words


@pytest.mark.parametrize(
    ("answers", "labels", "right", "rule"),
    [
        (
            {"prob_a": P, "prob_b": P[::-1]},
            {"a": 1, "b": 0},
            ["b"] * 6 + ["a"] * 6,
            "the probabilities decide",
        ),
        ({"value": P * 10}, {"label": P}, (P * 10).round(1), "the values decide"),
    ],
)
def test_of_other_kinds_the_values_decide(
    tmp_path: Path, answers: dict[str, Any], labels: dict[str, Any], right: Any, rule: str
) -> None:
    answers = {"slide": PLAIN["slide"], **answers, "prediction": right}
    labels = {"slide": PLAIN["slide"], **labels}
    if "a" in labels:
        answers["prob_a"] = np.minimum(answers["prob_a"] * 1.05, 1)  # no classes: their sum is not 1
    assert evaluated(tmp_path, answers, labels)[1] == []
    answers["prediction"] = [*right[:-1], "7" if "value" in answers else "b"]
    assert rule in "\n".join(evaluated(tmp_path, answers, labels)[1])


# ---- Patients and sites


def test_patients_and_sites_that_differ_are_told(tmp_path: Path) -> None:
    patients = [f"P{i // 2}" for i in range(N)]
    sites = ["north", "south"] * 6
    same = {"patient": patients, "site": sites}
    assert told(tmp_path, same, **same) == ""
    words = told(tmp_path, {"patient": ["P9", *patients[1:]], "site": ["east", *sites[1:]]}, **same)
    assert "patients of 1 slide differ: 's0.svs' is of 'P0' in" in words
    assert "sites of 1 slide differ: 's0.svs' is of 'north' in" in words
    assert words.count("the manifest stands") == 2
    made, _ = evaluated(tmp_path, PLAIN | {"patient": ["x"] * N}, LABELS | same)
    assert made.joined.flow.patients == N // 2


def test_patients_that_the_answers_alone_name_are_told(tmp_path: Path) -> None:
    assert "names patients (column 'Patient ID') and" in told(tmp_path, {"Patient ID": ["P1"] * N})
    assert told(tmp_path, {"patient": PLAIN["slide"]}) == "", "a slide's own name names no patient"


@pytest.mark.parametrize("named", [True, False])
def test_the_report_says_that_no_patients_were_named_only_where_none_were(
    tmp_path: Path, named: bool
) -> None:
    more = {"patient": [f"P{i}" for i in range(N)]} if named else {}
    write_evaluation(evaluated(tmp_path, PLAIN, LABELS | more)[0], tmp_path)
    assert ("each slide counts as a patient of its own" in "\n".join(cautions(find(tmp_path)))) != named


# ---- Names of files


@pytest.mark.parametrize(
    ("theirs", "differ"),
    [("s{}.tiff", "suffixes"), ("x/s{}.svs", "folders"), ("x/s{}", "folders and suffixes")],
)
def test_what_differs_in_the_names_of_slides_is_told(tmp_path: Path, theirs: str, differ: str) -> None:
    words = told(tmp_path, {"slide": [theirs.format(i) for i in range(N)]})
    assert f"joined by the names of files: their {differ} differ" in words


# ---- The positive class


def test_the_positive_class_of_a_table_is_told_and_may_be_named(tmp_path: Path) -> None:
    turned = {"slide": PLAIN["slide"], "prob_tumour": P, "prob_normal": (1 - P).round(2)}
    made, _ = evaluated(tmp_path, turned, LABELS)
    assert made.tasks[0].positive == "normal"
    assert "'normal' is taken, the last of its columns prob_tumour and prob_normal" in made.warnings[0]
    done = run("evaluate", tmp_path / "a.csv", tmp_path / "m.csv", "--resamples", 100, "--no-report")
    assert "does not say which class is the positive one" in done.stderr
    assert "positive class: normal" in done.stdout
    made, _ = evaluated(tmp_path, turned, LABELS, positive="tumour")
    assert (made.tasks[0].positive, made.warnings) == ("tumour", ())
    assert evaluation_values(made)["tasks"][0]["positive"] == "tumour"
    said: list[str] = []
    compare(tmp_path / "a.csv", tmp_path / "a.csv", tmp_path / "m.csv", How(resamples=100), warn=said.append)
    assert "'normal' is taken" in said[0]
    with pytest.raises(ConfigError, match=r"--positive is 'Tumor', and the answers .* are of classes"):
        evaluated(tmp_path, turned, LABELS, positive="Tumor")
