"""`wsi-ats evaluate` and `compare` on small tables, folders and runs, checked against scikit-learn."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from safetensors.torch import load_file, save_file
from sklearn import metrics as sk

from tests.conftest import SmallRun
from tests.support.commands import run
from tests.support.fake_model import load, make_model, make_slide
from tests.test_docs import keys_of_table
from wsi_ats.batch.inputs import find_slides
from wsi_ats.batch.run import run_batch
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.errors import ConfigError
from wsi_ats.evaluate.compare import compare
from wsi_ats.evaluate.files import evaluation_values
from wsi_ats.evaluate.predict import predict_with_seeds
from wsi_ats.evaluate.run import How, evaluate
from wsi_ats.statistics.calibration_figures import calibration_figures
from wsi_ats.statistics.clusters import Patients, sample_figures
from wsi_ats.statistics.operating_point import choose_operating_point

SLIDES = 80
QUICK = How(resamples=100)


@pytest.fixture(autouse=True)
def _without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is tested in tests/report, and takes longer than the figures."""
    monkeypatch.setattr("wsi_ats.cli.evaluate.report_beside", lambda folder: None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Predictions of two models, a.csv and b.csv, and m.csv with labels: 80 slides of 40 patients at two sites."""
    rng = np.random.default_rng(0)
    truth = np.arange(SLIDES) // 2 % 2
    names = [f"s{i}.svs" for i in range(SLIDES)]
    for table, skill in (("a", 2.0), ("b", 0.5)):
        p = (1 / (1 + np.exp(-rng.normal(size=SLIDES) - skill * (truth - 0.5)))).round(6)
        pd.DataFrame({"slide": names, "prob_normal": 1 - p, "prob_tumour": p}).round(6).to_csv(
            tmp_path / f"{table}.csv", index=False
        )
    pd.DataFrame(
        {
            "slide": names,
            "label": np.where(truth == 1, "tumour", "normal"),
            "patient": [f"P{i // 2}" for i in range(SLIDES)],
            "Hospital": [("north", "south")[i // 4 % 2] for i in range(SLIDES)],
        }
    ).to_csv(tmp_path / "m.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path: Path, **columns: Any) -> pd.DataFrame:
    """A table written again with other columns."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False).assign(**columns)
    table.to_csv(path, index=False)
    return table


def figures(values: dict[str, Any], task: int = 0, part: int = 0) -> dict[str, Any]:
    return {
        f["name"] + (f" {f['of']}" if f["of"] else ""): f
        for f in values["tasks"][task]["parts"][part]["figures"]
    }


def told(place: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((place / "evaluation.json").read_text())
    return content


def test_a_table_of_two_classes(place: Path) -> None:
    said = run("evaluate", "a.csv", "m.csv", "--resamples", "200").stdout
    assert "80 of 80 labelled slides have an answer (40 patients)" in said
    assert "decided by: tumour from a probability of 0.500 (no threshold is stated)" in said
    table = pd.read_csv("a.csv").merge(pd.read_csv("m.csv"), on="slide")
    truth, p = table.label == "tumour", table.prob_tumour
    called = p >= 0.5
    values = told(place)
    found = figures(values)
    wanted = {
        "auroc": sk.roc_auc_score(truth, p),
        "auprc": sk.average_precision_score(truth, p),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, called),
        "accuracy": sk.accuracy_score(truth, called),
        "f1": sk.f1_score(truth, called),
        "sensitivity": sk.recall_score(truth, called),
        "specificity": sk.recall_score(~truth, ~called),
        "ppv": sk.precision_score(truth, called),
        "npv": sk.precision_score(~truth, ~called),
        "kappa": sk.cohen_kappa_score(truth, called),
        "brier": sk.brier_score_loss(truth, p),
    }
    assert {name: found[name]["value"] for name in wanted} == pytest.approx(wanted)
    assert {*found} - {*wanted} == {"ece", "calibration_in_the_large", "calibration_slope"}
    assert all(f["low"] <= f["value"] <= f["high"] for f in found.values())
    assert f"AUROC{'':21}{wanted['auroc']:.3f}" in said
    task = values["tasks"][0]
    assert task["confusion"] == sk.confusion_matrix(truth, called).tolist()
    curve = task["curves"][0]
    assert sk.auc(curve["roc"]["fpr"], curve["roc"]["tpr"]) == pytest.approx(wanted["auroc"])
    assert sum(point["slides"] for point in curve["reliability"]) == SLIDES
    assert len(task["slides"]) == SLIDES
    table = pd.read_csv("evaluation.csv")
    mine = table[(table.by == "all") & (table.figure == "auroc")]
    assert mine.value.item() == pytest.approx(wanted["auroc"], abs=1e-6)


def test_formats_names_what_the_files_hold(place: Path) -> None:
    run("evaluate", "a.csv", "m.csv", "--resamples", "100")
    run("compare", "a.csv", "b.csv", "m.csv", "--resamples", "100", "--out", ".")
    evaluated, compared = (
        json.loads((place / f"{name}.json").read_text()) for name in ("evaluation", "comparison")
    )
    found = {
        "evaluation.json": {*evaluated},
        "evaluation.json tasks": {*evaluated["tasks"][0]},
        "evaluation.csv": {*pd.read_csv("evaluation.csv").columns},
        "comparison.json tasks": {*compared["tasks"][0]},
        "comparison.csv": {*pd.read_csv("comparison.csv").columns},
    }
    assert {name: keys_of_table(name) for name in found} == found
    assert {*compared} == {*evaluated} - {"seeds", "warnings"}


def test_sites_and_folds_are_evaluated_apart(place: Path) -> None:
    edit(place / "a.csv", fold=[str(i // 4 % 2) for i in range(SLIDES)])
    said = run("evaluate", "a.csv", "m.csv", "--resamples", "100").stdout
    values = told(place)
    parts = values["tasks"][0]["parts"]
    assert [(part["by"], part["member"], part["slides"], part["patients"]) for part in parts] == [
        ("all", "", 80, 40),
        ("site", "north", 40, 20),
        ("site", "south", 40, 20),
        ("fold", "0", 40, 20),
        ("fold", "1", 40, 20),
    ]
    table = pd.read_csv("a.csv").merge(pd.read_csv("m.csv"), on="slide")
    north = table[table.Hospital == "north"]
    assert figures(values, part=1)["auroc"]["value"] == pytest.approx(
        sk.roc_auc_score(north.label == "tumour", north.prob_tumour)
    )
    assert "site   slides  patients  AUROC" in said
    assert values["manifest"]["site"] == "Hospital"
    run("evaluate", "a.csv", "m.csv", "--site", "none", "--resamples", "100")
    assert {part["by"] for part in told(place)["tasks"][0]["parts"]} == {"all", "fold"}
    failed = run("evaluate", "a.csv", "m.csv", "--site", "clinic", status=2)
    assert "no column 'clinic'" in failed.stderr


def test_what_became_of_the_slides_is_told(place: Path) -> None:
    table = edit(place / "a.csv", status="done")
    table.loc[0, ["prob_normal", "prob_tumour", "status"]] = "", "", "failed"
    table.loc[1, ["prob_normal", "prob_tumour", "status"]] = "", "", "pending"
    table.loc[3, "slide"] = "other.svs"
    table.drop(index=2).to_csv("a.csv", index=False)
    said = run("evaluate", "a.csv", "m.csv", "--resamples", "100").stdout
    assert "76 of 80 labelled slides have an answer (38 patients)" in said
    assert "left out: 1 slide(s) that failed, 1 that are pending" in said
    assert "left out: 2 labelled slide(s) that were not predicted: s2.svs, s3.svs" in said
    assert "left out: 1 predicted slide(s) that the manifest does not have" in said
    assert told(place)["flow"] == {
        "labelled": 80,
        "predicted": 79,
        "by": "slide",
        "failed": 1,
        "pending": 1,
        "without_answer": ["s2.svs", "s3.svs"],
        "without_label": 1,
        "evaluated": 76,
        "patients": 38,
        "by_class": {"normal": {"labelled": 40, "failed": 1}, "tumour": {"labelled": 40, "failed": 0}},
    }


def test_slides_are_joined_by_their_files_where_folders_differ(place: Path) -> None:
    table = pd.read_csv("a.csv", dtype=str)
    edit(place / "a.csv", slide=[f"elsewhere/{name}" for name in table.slide])
    done = run("evaluate", "a.csv", "m.csv", "--resamples", "100")
    assert "are joined by the names of files" in done.stderr
    assert told(place)["flow"]["evaluated"] == SLIDES


def test_the_column_prediction_decides_where_the_threshold_is_not_known(place: Path) -> None:
    table = pd.read_csv("a.csv")
    edit(place / "a.csv", prediction=np.where(table.prob_tumour > 0.2, "tumour", "normal"))
    said = run("evaluate", "a.csv", "m.csv", "--resamples", "100").stdout
    assert "decided by: tumour as the column `prediction` says" in said
    truth = pd.read_csv("m.csv").label == "tumour"
    assert figures(told(place))["sensitivity"]["value"] == pytest.approx(
        sk.recall_score(truth, table.prob_tumour > 0.2)
    )


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"prob_tumour": ["7"] + ["0.5"] * 79}, "the probabilities are"),
        ({"prob_tumour": ["high"] + ["0.5"] * 79}, "prob_tumour is 'high'; it must be a finite number"),
        ({"slide": [f"x{i}" for i in range(80)]}, "no slide of m.csv has an answer in a.csv"),
        ({"slide": ["s0.svs"] * 80}, "have different answers for slide 's0.svs'"),
    ],
)
def test_tables_that_cannot_be_are_refused(
    place: Path, columns: dict[str, list[str]], complaint: str
) -> None:
    # A sum that is 1 elsewhere keeps the table one of classes.
    table = pd.read_csv("a.csv", dtype=str)
    edit(place / "a.csv", **columns, prediction="tumour")
    if "prob_tumour" in columns:
        edit(place / "a.csv", expected="0")
        edit(place / "a.csv", prob_normal=["0.5"] * 80)
    assert complaint in run("evaluate", "a.csv", "m.csv", status=2).stderr
    assert len(table) == 80


def test_wrong_arguments_are_told(place: Path) -> None:
    (place / "empty").mkdir()
    for words, complaint in (
        (("empty", "m.csv"), "not a model folder"),
        (("nowhere.csv", "m.csv"), "nowhere.csv"),
        (("a.csv", "none.csv"), "manifest none.csv does not exist"),
        (("a.csv", "m.csv", "--seeds", "3"), "its draws can be repeated"),
        (("a.csv", "m.csv", "--split", "test"), "no slide of split 'test'"),
        (("a.csv", "m.csv", "--target", "grade"), "no column 'grade'"),
    ):
        assert complaint in run("evaluate", *words, status=2).stderr


def test_a_run_is_evaluated_at_the_threshold_that_its_model_states(place: Path) -> None:
    table = pd.read_csv("a.csv")
    truth = pd.read_csv("m.csv").label == "normal"
    point = choose_operating_point(
        table.prob_normal.to_numpy(), truth.to_numpy(), "normal", "80 slides", "sensitivity", 0.95
    )
    task = {
        "name": "diagnosis",
        "kind": "classes",
        "names": ["normal", "tumour"],
        "point": point.to_values(),
    }
    (place / "run" / "model").mkdir(parents=True)
    card = {"model": {"format": 3, "tasks": [task]}, "tasks": {"diagnosis": {"target": "label"}}}
    (place / "run" / "model" / "config.toml").write_text(tomli_w.dumps(card))
    table.to_csv("run/validation.csv", index=False)
    said = run("evaluate", "run", "m.csv", "--resamples", "100").stdout
    assert "sensitivity of at least 0.95" in said
    values = told(place / "run")
    assert (values["tasks"][0]["positive"], values["tasks"][0]["task"]) == ("normal", "diagnosis")
    assert values["tasks"][0]["threshold"] == point.threshold
    found = figures(values)
    assert found["sensitivity"]["value"] == point.sensitivity.value >= 0.95
    assert found["specificity"]["value"] == point.specificity.value
    assert found["auroc"]["value"] == pytest.approx(sk.roc_auc_score(truth, table.prob_normal))


def test_slides_that_were_trained_on_are_told(place: Path) -> None:
    edit(place / "m.csv", split=["train" if i < 40 else "test" for i in range(SLIDES)])
    done = run("evaluate", "a.csv", "m.csv", "--resamples", "100")
    assert "40 of 80 slides are of the split train" in done.stderr
    done = run("evaluate", "a.csv", "m.csv", "--resamples", "100", "--split", "test")
    assert "split train" not in done.stderr
    assert told(place)["flow"]["evaluated"] == 40


def test_one_class_alone_has_words_and_no_crash(place: Path) -> None:
    edit(place / "m.csv", label="tumour")
    said = run("evaluate", "a.csv", "m.csv", "--resamples", "100").stdout
    assert "(no slides of normal)" in said
    found = figures(told(place))
    assert found["auroc"]["value"] is None
    assert found["balanced_accuracy"]["note"] == "the slides are of one class"
    assert found["sensitivity"]["low"] is not None


def other_kind(place: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of predictions and of a manifest of other kinds of tasks."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, SLIDES)
    p = rng.dirichlet(np.ones(3), SLIDES) + np.eye(3)[truth]
    p = (p / p.sum(1, keepdims=True)).round(6)
    grades = {f"prob_{g}": p[:, g] for g in range(3)}
    number = rng.normal(size=SLIDES).round(4)
    return {
        "several": (grades, {"label": truth}),
        "ordinal": ({**grades, "expected": p @ np.arange(3)}, {"label": truth}),
        "labels": (
            {"prob_x": rng.random(SLIDES).round(4), "prob_y": rng.random(SLIDES).round(4)},
            {"x": truth % 2, "y": np.where(truth == 0, "", truth - 1)},
        ),
        "regression": ({"value": number}, {"label": (number + rng.normal(size=SLIDES)).round(4)}),
        "survival": ({"risk": number}, {"label": rng.integers(1, 90, SLIDES), "event": truth % 2}),
    }[kind]


@pytest.mark.parametrize("kind", ["several", "ordinal", "labels", "regression", "survival"])
def test_every_kind_of_task(place: Path, kind: str) -> None:
    answers, truth = other_kind(place, kind)
    slides = {"slide": [f"s{i}.svs" for i in range(SLIDES)]}
    pd.DataFrame({**slides, **answers}).to_csv("o.csv", index=False)
    pd.DataFrame({**slides, **truth, "patient": [f"P{i // 2}" for i in range(SLIDES)]}).to_csv(
        "n.csv", index=False
    )
    run("evaluate", "o.csv", "n.csv", "--resamples", "100")
    values = told(place)
    found = figures(values)
    assert values["tasks"][0]["kind"] == {"several": "classes"}.get(kind, kind)
    if kind in ("several", "ordinal"):
        p, true = pd.DataFrame(answers).filter(like="prob_").to_numpy(), truth["label"]
        said = p.argmax(1) if kind == "several" else (p.cumsum(1) >= 0.5).argmax(1)
        weights = {"several": None, "ordinal": "quadratic"}[kind]
        name = {"several": "kappa", "ordinal": "kappa_quadratic"}[kind]
        assert found[name]["value"] == pytest.approx(sk.cohen_kappa_score(true, said, weights=weights))
        assert found["f1_macro"]["value"] == pytest.approx(sk.f1_score(true, said, average="macro"))
        if kind == "several":
            wanted = sk.roc_auc_score(true, p / p.sum(1, keepdims=True), multi_class="ovr")
            assert found["auroc_macro"]["value"] == pytest.approx(wanted, abs=1e-4)
        else:
            wanted = sk.roc_auc_score(true >= 1, p[:, 1:].sum(1))
            assert found["auroc >= 1"]["value"] == pytest.approx(wanted)
    elif kind == "labels":
        known = truth["y"] != ""
        wanted = sk.roc_auc_score(truth["y"][known].astype(int), answers["prob_y"][known])
        assert found["auroc y"]["value"] == pytest.approx(wanted)
    elif kind == "regression":
        assert found["r2"]["value"] == pytest.approx(sk.r2_score(truth["label"], answers["value"]))
        assert found["mae"]["value"] == pytest.approx(
            sk.mean_absolute_error(truth["label"], answers["value"])
        )
    else:
        assert 0.3 < found["c_index"]["value"] < 0.7
        assert -1 < found["calibration_slope"]["value"] < 1, "risks that tell nothing"
        groups = values["tasks"][0]["survival"]
        assert sum(group["slides"] for group in groups) == 3 * SLIDES
        assert all(0 < group["predicted"] < 1 for group in groups)
    assert (values["tasks"][0]["survival"] is None) == (kind != "survival")
    compared = compare("o.csv", "o.csv", "n.csv", QUICK).tasks[0]
    assert all(each.difference.value == 0 for each in compared.figures if not np.isnan(each.first))


def test_a_better_model_is_found_better(place: Path) -> None:
    said = run("compare", "a.csv", "b.csv", "m.csv", "--out", "both").stdout
    assert "80 slides of 40 patients that both answer" in said
    assert "DeLong, area under the ROC curve: +0." in said
    assert "(slides taken as independent, though patients have several)" in said
    values = json.loads((place / "both" / "comparison.json").read_text())
    (task,) = values["tasks"]
    area = task["figures"][0]
    truth = pd.read_csv("m.csv").label == "tumour"
    wanted = [sk.roc_auc_score(truth, pd.read_csv(f"{name}.csv").prob_tumour) for name in "ab"]
    assert [area["first"], area["second"]] == pytest.approx(wanted)
    assert 0 < area["difference"]["low"] < wanted[0] - wanted[1] < area["difference"]["high"]
    assert area["p"] < 0.05
    assert task["delong"][0]["p"] < 0.05
    assert task["delong"][0]["value"] == pytest.approx(wanted[0] - wanted[1])
    turned = compare("b.csv", "a.csv", "m.csv").tasks[0].figures[0].difference.interval
    assert turned.value == pytest.approx(-area["difference"]["value"])


def test_models_are_compared_on_the_slides_that_both_have(place: Path) -> None:
    pd.read_csv("b.csv", dtype=str).iloc[10:].to_csv("b.csv", index=False)
    assert compare("a.csv", "b.csv", "m.csv", QUICK).tasks[0].slides == SLIDES - 10
    pd.read_csv("b.csv").rename(columns={"prob_tumour": "prob_lesion"}).to_csv("b.csv", index=False)
    with pytest.raises(ConfigError, match="cannot be compared"):
        compare("a.csv", "b.csv", "m.csv", QUICK)


def test_a_model_with_several_seeds(tmp_path: Path) -> None:
    """The stand-in model draws by its seed: the spread over seeds is that of its answers."""
    for i in range(8):
        make_slide(tmp_path / f"s{i}.tif", seed=i)
    labels = [f"s{i}.tif,{('normal', 'tumour')[i % 2]}\n" for i in range(8)]
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,label\n" + "".join(labels))
    model = make_model(tmp_path / "model")
    settings = PredictSettings(tiles=3, heatmap=False)
    summaries = predict_with_seeds(
        find_slides([manifest]),
        tmp_path / "out",
        settings,
        3,
        lambda items, out, how: run_batch(items, out, how, model=model, load=load),
    )
    evaluation = evaluate([summary.out for summary in summaries], manifest, QUICK, seeds=range(3))
    values = evaluation_values(evaluation)
    brier = figures(values)["brier"]
    by_hand = []
    for folder in (tmp_path / "out", tmp_path / "out" / "seed-1", tmp_path / "out" / "seed-2"):
        table = pd.read_csv(folder / "predictions.csv")
        by_hand.append(np.mean((table.prob_tumour - np.arange(8) % 2) ** 2))
    assert values["seeds"] == [0, 1, 2]
    assert len(set(by_hand)) == 3
    assert brier["over_seeds"]["values"] == pytest.approx(by_hand, abs=1e-6)
    assert brier["over_seeds"]["sd"] == pytest.approx(np.std(by_hand, ddof=1), abs=1e-6)
    assert brier["note"] == "8 patients: too few for an interval"
    assert values["answers"]["model"]["hash"] == "abc"


def test_each_site_with_both_classes_has_a_curve(place: Path) -> None:
    """As scikit-learn has it; of a third one, whose slides are of one class, there is none."""
    labels = pd.read_csv("m.csv")
    sites = np.where(labels.index < 8, "east", labels.Hospital)
    edit(place / "m.csv", Hospital=sites, label=np.where(sites == "east", "tumour", labels.label))
    run("evaluate", "a.csv", "m.csv", "--resamples", "100")
    (curve,) = told(place)["tasks"][0]["curves"]
    assert [site["site"] for site in curve["sites"]] == ["north", "south"]
    table = pd.read_csv("a.csv").merge(pd.read_csv("m.csv"), on="slide")
    for site in curve["sites"]:
        mine = table[table.Hospital == site["site"]]
        fpr, tpr, _ = sk.roc_curve(mine.label == "tumour", mine.prob_tumour)
        assert (site["fpr"], site["tpr"], site["slides"]) == (fpr.tolist(), tpr.tolist(), len(mine))
        few = min(mine[mine.label == name].patient.nunique() for name in ("normal", "tumour")) < 10
        assert bool(site["band"]["low"]) == (not few)
    edit(place / "m.csv", Hospital=np.where(sites == "east", "east", "north"))
    run("evaluate", "a.csv", "m.csv", "--resamples", "100")
    assert told(place)["tasks"][0]["curves"][0]["sites"] == [], "one site is all slides"


def other_weights(model: Path, out: Path) -> Path:
    """The model with weights of its head turned round."""
    shutil.copytree(model, out)
    weights = load_file(out / "model.safetensors")
    save_file({k: -v if k.startswith("head.") else v for k, v in weights.items()}, out / "model.safetensors")
    return out


def test_two_models_are_predicted_and_compared(small_run: SmallRun, tmp_path: Path) -> None:
    """On the same slides by the same draws: a model is no better than itself. Their predictions are kept."""
    other = other_weights(small_run.model, tmp_path / "other")
    options = ("--split", "test", "--workers", "0", "--tiles", "4", "--seed", "3", "--resamples", "100")
    words = (small_run.model, other, small_run.manifest, *options)
    said = run("compare", *words, "--out", tmp_path / "both").stdout
    assert "4 slides of 4 patients that both answer" in said
    compared = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert [told["model"]["folder"] for told in compared["answers"]] == [str(small_run.model), str(other)]
    assert {told["model"]["config"]["seed"] for told in compared["answers"]} == {3}
    brier = next(f for f in compared["tasks"][0]["figures"] if f["name"] == "brier")
    assert brier["first"] != brier["second"]
    kept = [tmp_path / "both" / name for name in "AB"]
    run("compare", *kept, small_run.manifest, *options[:2], *options[-4:], "--out", tmp_path / "again")
    again = json.loads((tmp_path / "again" / "comparison.json").read_text())
    assert again["tasks"] == compared["tasks"]
    same = (small_run.model, kept[0], small_run.manifest, *options, "--out", tmp_path / "same")
    assert "A: 4 of 4 labelled slides have an answer" in run("compare", *same).stdout
    alike = json.loads((tmp_path / "same" / "comparison.json").read_text())
    values = {f["difference"]["value"] for f in alike["tasks"][0]["figures"]} - {None}
    assert values == {0.0}


def test_models_that_cannot_be_compared_are_told_before_any_slide_is_read(
    small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_ats.batch.run.run_batch", lambda *a, **k: pytest.fail("a slide was read"))
    other = tmp_path / "other"
    shutil.copytree(small_run.model, other)
    settings = other / "config.toml"
    values = tomllib.loads(settings.read_text())
    values["model"]["tasks"][0]["names"] = ["normal", "something"]
    settings.write_text(tomli_w.dumps(values))
    words = ("compare", small_run.model, other, small_run.manifest)
    said = run(*words, "--out", tmp_path / "out", status=2).stderr
    assert "they cannot be compared" in said
    (other / "model.safetensors").unlink()
    assert "is not a model folder" in run(*words, "--out", tmp_path / "out", status=2).stderr
    same = ("compare", small_run.model, small_run.model, small_run.manifest)
    assert "name a folder with --out" in run(*same, status=2).stderr


@pytest.mark.parametrize("positive", ["normal", "tumour"])
def test_a_cross_validation_tells_which_class_is_the_positive_one(
    small_run: SmallRun, place: Path, positive: str
) -> None:
    """As the models of its folds were trained; their thresholds are several, and none is stated."""
    table = pd.read_csv("a.csv")
    study = place / "study"
    shutil.copytree(small_run.model, study / "fold-0" / "model")
    settings = study / "fold-0" / "model" / "config.toml"
    values = tomllib.loads(settings.read_text())
    values["tasks"] = {"label": {"kind": "classes", "positive": positive}}
    settings.write_text(tomli_w.dumps(values))
    swapped = table.columns[
        [0, 2, 1]
    ]  # of another order than the model's: by column the other one would be taken
    table.assign(fold=0)[["fold", *swapped]].to_csv(study / "predictions.csv", index=False)
    (study / "run.json").write_text(json.dumps({"model": "ab12", "config": {}}))
    result = run("evaluate", study, "m.csv", "--resamples", "100")
    assert f"positive class: {positive}\n" in result.stdout
    assert "does not say which class" not in result.stderr
    assert "no threshold is stated" in result.stdout


def test_a_run_a_model_and_a_folder_of_real_ones(small_run: SmallRun, tmp_path: Path) -> None:
    """Of a run its validation slides; a model predicts first; the folder that it leaves is read again."""
    manifest, model = small_run.manifest, small_run.model
    said = run(
        "evaluate", small_run.folder / "run", manifest, "--out", tmp_path / "run", "--split", "val"
    ).stdout
    assert "4 of 4 labelled slides have an answer" in said
    assert "no threshold is stated" in said, "4 slides are too few for one"
    options = ("--split", "test", "--workers", "0", "--tiles", "4")
    said = run("evaluate", model, manifest, "--out", tmp_path / "out", "--seeds", "2", *options).stdout
    assert "sd over 2 seeds" in said
    first = told(tmp_path / "out")
    assert first["answers"]["model"]["folder"] == str(model)
    said = run("evaluate", tmp_path / "out", manifest, "--split", "test").stdout
    again = told(tmp_path / "out")
    assert again["tasks"][0]["slides"] == first["tasks"][0]["slides"]
    refused = run("evaluate", model, manifest, status=2).stderr
    assert "name a folder with --out" in refused
    bare, table = tmp_path / "bare.csv", pd.read_csv(manifest)
    table[table.split == "train"].drop(columns="split").to_csv(bare, index=False)
    done = run(
        "evaluate", model, bare, "--slides-dir", manifest.parent, "--out", tmp_path / "seen", *options[2:]
    )
    assert "slides have the names of slides that the model was trained on" in done.stderr


def test_probabilities_of_two_digits_are_of_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 60).round(2)
    assert (p.sum(1) != 1).any()
    ids = [f"s{i}" for i in range(60)]
    table = pd.DataFrame({"slide": ids, **{f"prob_{name}": p[:, i] for i, name in enumerate("abc")}})
    table.to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame({"slide": ids, "label": rng.choice(list("abc"), 60)}).to_csv(tmp_path / "m.csv", index=False)
    assert evaluate([tmp_path / "a.csv"], tmp_path / "m.csv", QUICK).tasks[0].task.spec.kind == "classes"


def test_an_interval_covers_where_the_number_of_each_class_matters() -> None:
    """Calibration in the large of true probabilities is 0: drawn class by class, 6 of 10 intervals held it."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(60):
        p = 1 / (1 + np.exp(-rng.normal(0, 1.2, 60)))
        truth = rng.random(60) < p
        every = calibration_figures(p, truth, "yes", {"yes": truth, "no": ~truth})
        (figure,) = (figure for figure in every if figure.name == "calibration_in_the_large")
        (found,) = sample_figures([figure], Patients.of([str(i) for i in range(60)]), rounds=200)
        assert found.interval.low is not None
        assert found.interval.high is not None
        covered += found.interval.low <= 0 <= found.interval.high
    assert covered >= 52
