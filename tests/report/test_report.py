"""The report of an evaluation, of a run and of a cross-validation: what is on the page, and what never is."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from tests.support.commands import run
from wsi_ats.errors import ConfigError
from wsi_ats.evaluate.files import evaluation_values, write_evaluation
from wsi_ats.evaluate.run import How, evaluate
from wsi_ats.manifest import Row
from wsi_ats.report.before import uncalibrated
from wsi_ats.report.cautions import cautions
from wsi_ats.report.found import Found, find
from wsi_ats.report.page import make_report, page
from wsi_ats.report.predicted import predict_examples
from wsi_ats.report.sections import SECTIONS
from wsi_ats.report.tripod import ITEMS
from wsi_ats.tasks.calibration import Calibration

MADE = datetime(2026, 1, 1, tzinfo=UTC)
SCRIPT = "<script>alert(1)</script>"
QUICK = How(resamples=100)
VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """The elements of a page; one that is not closed where it should be is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, attribute: str) -> list[str]:
        return [str(attrs[attribute]) for _, attrs in self.elements if attribute in attrs]


def svgs(text: str) -> Iterator[str]:
    for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text):
        yield base64.b64decode(data).decode()


def cohort_of(
    folder: Path, slides: int = 80, kind: str = "classes", names: tuple[str, str] = ("normal", "tumour")
) -> Found:
    """An evaluation of a made table: two slides a patient, two sites, one of them of one class."""
    rng = np.random.default_rng(0)
    truth = np.arange(slides) // 2 % 2
    ids = [f"s{i}{SCRIPT}.svs" for i in range(slides)]
    p = (1 / (1 + np.exp(-rng.normal(size=slides) - 2 * (truth - 0.5)))).round(6)
    columns = {f"prob_{names[0]}": (1 - p).round(6), f"prob_{names[1]}": p}
    if kind == "regression":
        columns = {"value": p}
    status = ["failed", *["done"] * (slides - 1)]
    unlike = ["yes" if i % 40 == 3 else "no" for i in range(slides)]
    table = pd.DataFrame({"slide": ids, **columns, "status": status, "unlike": unlike})
    table.to_csv(folder / "predictions.csv", index=False)
    pd.DataFrame(
        {
            "slide": ids,
            "label": p if kind == "regression" else np.array(names)[truth],
            "patient": [f"P{i // 2}" for i in range(slides)],
            "site": [f"north{SCRIPT}" if t and i % 8 < 4 else "south & east" for i, t in enumerate(truth)],
            "split": ["train" if i < 10 else "test" for i in range(slides)],
        }
    ).to_csv(folder / "m.csv", index=False)
    found = evaluate([folder], folder / "m.csv", QUICK, warn=lambda words: None)
    write_evaluation(found, folder)
    return find(folder)


def test_the_page_stands_alone_and_can_be_read_by_all(tmp_path: Path) -> None:
    text = page(cohort_of(tmp_path), MADE)
    found = Page(text)
    ids = found.all("id")
    assert len(ids) == len({*ids})
    assert {link[1:] for link in found.all("href")} == {*ids}
    assert all(src.startswith("data:image/") for src in found.all("src"))
    assert all(attrs.get("alt") for tag, attrs in found.elements if tag == "img")
    assert not re.search(r"https?://|url\(|@import", text.replace("http://www.w3.org", ""))
    assert {"script", "iframe", "object", "link"} & {tag for tag, _ in found.elements} == set()
    assert [tag for tag, _ in found.elements].count("h1") == 1
    plots = list(svgs(text))
    assert (
        len(plots) == 7
    )  # ROC, precision and recall, probabilities, decision, reliability, two figures by site
    for plot in plots:
        assert {e.tag.rpartition("}")[2] for e in ElementTree.fromstring(plot).iter()} & {
            "script",
            "a",
        } == set()


def test_names_of_strangers_are_text(tmp_path: Path) -> None:
    text = page(cohort_of(tmp_path, names=(f"no{SCRIPT}", f"$x_1${SCRIPT}\x1b")), MADE)
    assert SCRIPT not in text
    assert re.search(r"s\d+&lt;script&gt;alert\(1\)&lt;/script&gt;\.svs", text)
    assert "north&lt;script&gt;" in text
    assert "\x1b" not in text
    assert any("$x_1$" in plot for plot in svgs(text))  # as it is, no formula


def test_the_same_files_make_the_same_page(tmp_path: Path) -> None:
    assert page(cohort_of(tmp_path), MADE) == page(find(tmp_path), MADE)


def test_what_to_know_first(tmp_path: Path) -> None:
    said = "\n".join(cautions(cohort_of(tmp_path)))
    assert "slides are of the split train" in said
    assert (
        "1 labelled slide failed, and no figure knows of them; by class: normal 1 of 40, tumour 0 of 40"
        in said
    )
    assert f"sites are of one class: north{SCRIPT} (tumour)" in said
    assert "2 slides of 80 are unlike the slides that the model was trained on" in said
    assert "each slide counts as a patient" not in said
    (tmp_path / "predictions.csv").write_text("slide,prob_a,prob_b\ns,0.5,0.5\n")
    assert "predictions.csv has changed since it was evaluated" in "\n".join(cautions(find(tmp_path)))


def test_answers_are_found_from_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cohort_of(tmp_path)
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text(evaluation.read_text().replace(f"{tmp_path}/predictions.csv", "predictions.csv"))
    assert json.loads(evaluation.read_text())["answers"]["path"] == "predictions.csv"
    monkeypatch.chdir("/")
    assert len(find(tmp_path).predicted) == 80
    assert not find(tmp_path).changed


def test_few_patients_are_told(tmp_path: Path) -> None:
    said = "\n".join(cautions(cohort_of(tmp_path, slides=24)))
    assert "Too few patients for intervals (fewer than 10): normal 6, tumour 6." in said
    text = page(find(tmp_path), MADE)
    assert "No band: 6 patients with slides of tumour" in text
    (decision,) = re.findall(r"<figcaption>(Decision curve.*?)</figcaption>", text)
    assert "No band: 12 patients: too few" in decision


def test_every_figure_stands_with_its_interval(tmp_path: Path) -> None:
    found = cohort_of(tmp_path)
    text = page(found, MADE)
    for figure in found.evaluation["tasks"][0]["parts"][0]["figures"]:
        low, high = (f"{figure[side]:.3f}".replace("-", "−") for side in ("low", "high"))
        assert f"<td>{figure['value']:.3f}</td><td>{low} to {high}".replace("<td>-", "<td>−") in text
    assert "79 slides of 40 patients" in text


def test_numbers_have_a_page(tmp_path: Path) -> None:
    text = page(cohort_of(tmp_path, kind="regression"), MADE)
    assert "mean absolute" in text or "MAE" in text
    assert len(list(svgs(text))) >= 1


@pytest.mark.parametrize("kind", ["three classes", "ordinal", "labels", "survival"])
def test_every_kind_of_task_has_a_page(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    ids, p = [f"s{i}.svs" for i in range(60)], rng.dirichlet((1, 1, 1), 60).round(6)
    names = ["1", "2", "3"] if kind == "ordinal" else ["a", "b", "c"]
    answers = {f"prob_{name}": p[:, i] for i, name in enumerate(names)}
    truth: dict[str, Any] = {"label": np.array(names)[rng.integers(0, 3, 60)]}
    if kind == "ordinal":
        answers["expected"] = p @ [1, 2, 3]
    elif kind == "labels":
        answers = {f"prob_{name}": rng.random(60) for name in names}
        truth = {name: rng.integers(0, 2, 60).astype(str) for name in names}
        truth["a"][:5] = ""
    elif kind == "survival":
        answers, truth = (
            {"risk": rng.normal(size=60)},
            {"label": rng.random(60), "event": rng.integers(0, 2, 60)},
        )
    pd.DataFrame({"slide": ids, **answers}).to_csv(tmp_path / "predictions.csv", index=False)
    pd.DataFrame({"slide": ids, **truth}).to_csv(tmp_path / "m.csv", index=False)
    write_evaluation(evaluate([tmp_path], tmp_path / "m.csv", QUICK, warn=lambda words: None), tmp_path)
    text = make_report(tmp_path).read_text()
    Page(text)
    assert ("Confusion matrix" in text) == (kind in ("three classes", "ordinal"))
    assert ("C-index" in text) == (kind == "survival")
    assert len(list(svgs(text))) == (3 if kind == "survival" else 10 if kind == "ordinal" else 15)
    assert "each slide counts as a patient of its own" in text


def test_sites_with_both_classes_have_curves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth, p = np.arange(80) % 2, rng.random(80).round(6)
    ids = [f"s{i}.svs" for i in range(80)]
    pd.DataFrame({"slide": ids, "prob_a": (1 - p).round(6), "prob_b": p}).to_csv(
        tmp_path / "predictions.csv", index=False
    )
    sites = [("north", f"south{SCRIPT}")[i // 2 % 2] for i in range(80)]
    pd.DataFrame({"slide": ids, "label": np.where(truth == 1, "b", "a"), "site": sites}).to_csv(
        tmp_path / "m.csv", index=False
    )
    write_evaluation(evaluate([tmp_path], tmp_path / "m.csv", QUICK, warn=lambda words: None), tmp_path)
    text = make_report(tmp_path).read_text()
    Page(text)
    assert "ROC curve for b at north: 40 slides. Shaded: 95 %" in text
    assert "ROC curve for b at south" in text
    assert SCRIPT not in text


def test_a_damaged_evaluation_is_told(tmp_path: Path) -> None:
    cohort_of(tmp_path)
    told = json.loads((tmp_path / "evaluation.json").read_text())
    del told["tasks"][0]["curves"]
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="damaged, or of another version of the program: KeyError"):
        make_report(tmp_path)


def test_a_thousand_slides_are_a_small_page(tmp_path: Path) -> None:
    found = cohort_of(tmp_path, slides=1000)
    assert len(page(found, MADE)) < 1_000_000  # and nine pictures of at most a few hundred kB


def test_tripod_is_whole_and_leads_to_sections() -> None:
    assert len(ITEMS) == 52
    assert len({item for item, _, _ in ITEMS}) == 52
    assert {id for _, _, where in ITEMS for id in where.split()} <= {id for id, _, _ in SECTIONS}


def test_what_is_no_run_and_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no evaluation\.json and no training run"):
        find(tmp_path)
    (tmp_path / "evaluation.json").write_text("[" * 100_000)
    failed = run("report", str(tmp_path), status=2)
    assert "no training run" in failed.stderr


@pytest.fixture(scope="module")
def reported(trained: Path, rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run, with its examples and its report."""
    copy = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(trained, copy)
    split = pd.read_csv(copy / "slides.csv").set_index("slide").split
    predict_examples(copy, [Row(**{**vars(row), "split": split[row.slide]}) for row in rows])
    make_report(copy)
    return copy


def test_a_run_is_reported_with_pictures(reported: Path) -> None:
    text = (reported / "report.html").read_text()
    found = Page(text)
    pictures = [src for src in found.all("src") if src.startswith("data:image/jpeg")]
    slides = pd.read_csv(reported / "validation.csv").slide
    assert sum(f"<h4>{slide}</h4>" in text for slide in slides) >= 3
    assert len(pictures) > 6
    assert max(map(len, pictures)) < 400_000
    assert "they lean to the optimistic side" in text
    assert "Seconds a slide by stage" in text
    assert "tiles read" in text
    assert "Validation figures by epoch" in text


def test_before_calibration_is_what_the_networks_said(reported: Path) -> None:
    found = find(reported)
    assert uncalibrated(found, 0) is None  # so few slides calibrate nothing
    found.tasks[0].calibration = Calibration((1.5, 1.5), (0.2, -0.3), 20, "20 slides of ours")
    raw = uncalibrated(found, 0)
    assert raw is not None
    assert raw[1] == "20 slides of ours"
    columns = [f"output_{name}" for name in found.evaluation["tasks"][0]["names"]]
    outputs = pd.read_csv(reported / "validation.csv")[columns].to_numpy()
    powers = np.exp(outputs - outputs.max(1, keepdims=True))
    np.testing.assert_allclose(raw[0].values, powers / powers.sum(1, keepdims=True), atol=1e-5)
    assert found.tasks[0].calibration is not None  # as it was
    assert "calibrated on 20 slides of ours" in page(found, MADE)


def test_figures_of_a_run_are_those_of_evaluate(reported: Path) -> None:
    mine = find(reported).evaluation
    how = How(resamples=1000)
    theirs = evaluation_values(evaluate([reported], reported / "slides.csv", how, warn=lambda words: None))
    told: list[Any] = [values["tasks"][0]["parts"][0] for values in (mine, theirs)]
    assert json.dumps(told[0]) == json.dumps(told[1])


def test_a_report_that_fails_does_not_fail_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort_of(tmp_path)

    def fail(*args: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("wsi_ats.report.page.page", fail)
    (tmp_path / "evaluation.json").unlink()
    done = run("evaluate", str(tmp_path), str(tmp_path / "m.csv"), "--resamples", "100")
    assert "no report: no font" in done.stderr
    assert (tmp_path / "evaluation.json").exists()
    assert not (tmp_path / "report.html").exists()
    monkeypatch.undo()
    done = run("evaluate", str(tmp_path), str(tmp_path / "m.csv"), "--resamples", "100")
    assert f"report: {tmp_path / 'report.html'}" in done.stdout
    (tmp_path / "report.html").unlink()
    run("evaluate", str(tmp_path), str(tmp_path / "m.csv"), "--resamples", "100", "--no-report")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["slide.tif", "m.csv", "report"])
def test_a_page_replaces_nothing_but_pages(reported: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigError, match="is no name of a page"):
        make_report(reported, tmp_path / name)
    assert (tmp_path / name).read_text() == "precious"
