"""A model calibrated on its validation slides, and anew on slides of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.cohort import write_cohort
from tests.support.commands import TRAINING, run
from wsi_ats import load_model
from wsi_ats.attention.levels import Drawn
from wsi_ats.batch.store import read_prediction
from wsi_ats.errors import SlideError
from wsi_ats.model import AttentionSampler

OWN = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose validation was on 12 slides, and 12 other slides."""
    home = tmp_path_factory.mktemp("calibrate")
    manifest = write_cohort(home / "slides", train=4, val=OWN, test=OWN)
    table = pd.read_csv(manifest)
    table[table.split != "test"].to_csv(home / "slides" / "study.csv", index=False)
    own = table[table.split == "test"].drop(columns="split")
    own.to_csv(home / "slides" / "own.csv", index=False)
    own.assign(label=own.label.map({"normal": "tumour", "tumour": "normal"})).to_csv(
        home / "slides" / "turned.csv", index=False
    )
    own.iloc[:4].to_csv(home / "slides" / "four.csv", index=False)
    own[own.label == "normal"].to_csv(home / "slides" / "normal.csv", index=False)
    said = run("train", home / "slides" / "study.csv", "--out", home / "run", *TRAINING).stdout
    assert "label: calibrated on 12 validation slides: intercepts" in said
    assert "label: no prediction sets: prediction sets that miss at most 10% of each class need 9" in said
    return home


def frequency(home: Path, model: str) -> float:
    """Mean probability of tumour on one's own slides, each read as the calibration read it."""
    network = load_model(home / model)
    slides = pd.read_csv(home / "slides" / "own.csv").slide
    return float(np.mean([network.predict(home / "slides" / name).probabilities[1] for name in slides]))


def test_validation_says_as_often_tumour_as_there_is(home: Path) -> None:
    table = pd.read_csv(home / "run" / "validation.csv")
    assert table.prob_tumour.mean() == pytest.approx((table.label == "tumour").mean(), abs=0.02)
    card = (home / "run" / "model" / "model-card.md").read_text()
    for words in (
        "calibrated on 12 validation slides: normal: 1.000 x output",
        "Operating point: tumour from",
    ):
        assert words in card


def test_ones_own_slides_make_a_new_model_of_the_same_networks(home: Path) -> None:
    """One half of one's own slides has a tumour, and so says the new model on average; it names them."""
    slides, model = home / "slides", home / "run" / "model"
    said = run("calibrate", model, slides / "own.csv", "--out", home / "own").stdout
    assert "label: calibrated on 12 slides of own.csv" in said
    old, new = load_model(model), load_model(home / "own")
    assert old.hash != new.hash
    assert all(
        torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True)
    )
    assert frequency(home, "own") == pytest.approx(0.5, abs=0.02)
    card = (home / "own" / "model-card.md").read_text()
    assert "calibrated on 12 slides of own.csv" in card
    assert "validation slides:" not in card.partition("## From outputs to answers")[2].partition("\n## ")[0]
    assert card.count("## From outputs to answers") == card.count("## Intended use") == 1


def test_predict_says_what_the_threshold_says(home: Path) -> None:
    """Also where a result is read again without the model."""
    slides = home / "slides"
    run("predict", home / "run" / "model", slides / "own.csv", "--out", home / "out", "--workers", "0")
    point = load_model(home / "run" / "model").specs[0].point
    assert point is not None
    table = pd.read_csv(home / "out" / "predictions.csv")
    assert (table.prediction == np.where(table.prob_tumour >= point.threshold, "tumour", "normal")).all()
    again = sorted(read_prediction(p.parent).label for p in (home / "out" / "slides").glob("*/result.json"))
    assert again == sorted(table.prediction)


def test_a_wish_is_kept_and_sets_are_made_where_slides_are_enough(home: Path) -> None:
    run(
        *("train", home / "slides" / "study.csv", "--out", home / "wish", *TRAINING),
        *("--set", "tasks.label.threshold=sensitivity", "--set", "tasks.label.wish=1.0"),
        *("--set", "tasks.label.set_error=0.25"),
    )
    spec = load_model(home / "wish" / "model").specs[0]
    assert spec.point is not None
    assert (spec.point.rule, spec.point.sensitivity.value) == ("sensitivity of at least 1.0", 1.0)
    run(
        "predict",
        home / "wish" / "model",
        home / "slides" / "own.csv",
        "--out",
        home / "sets",
        "--workers",
        "0",
    )
    table = pd.read_csv(home / "sets" / "predictions.csv", keep_default_na=False)
    assert spec.sets is not None
    for row in table.itertuples():
        p = dict(zip(spec.names, (row.prob_normal, row.prob_tumour), strict=True))
        inside = [n for n, q in zip(spec.names, spec.sets.quantiles, strict=True) if 1 - p[n] <= q + 1e-6]
        assert row.prediction_set == ";".join(inside)
        assert row.refer == ("no" if len(inside) == 1 else "yes")


def test_slides_that_were_trained_on_are_told(home: Path) -> None:
    own = pd.read_csv(home / "slides" / "own.csv")
    own.assign(split=["train", *["test"] * (len(own) - 1)]).to_csv(home / "slides" / "split.csv", index=False)
    done = run("calibrate", home / "run" / "model", home / "slides" / "split.csv", "--out", home / "split")
    assert f"warning: 1 of {len(own)} slides are of the split train: a model is too sure" in done.stderr


def test_a_slide_whose_tiles_cannot_be_read_is_left_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = AttentionSampler.embed

    def fail_at_one(model: AttentionSampler, drawn: Sequence[Drawn], *others: object) -> list[torch.Tensor]:
        if drawn[0].slide.name == name:
            raise SlideError(f"slide {name!r}: level 0 cannot be read", "copy it again")
        return read(model, drawn, *others)

    slides = pd.read_csv(home / "slides" / "own.csv").slide
    name = Path(slides[3]).name
    monkeypatch.setattr(AttentionSampler, "embed", fail_at_one)
    model, out = home / "run" / "model", home / "less"
    done = run("calibrate", model, home / "slides" / "own.csv", "--out", out, status=1)
    assert "calibrated on 11 slides of own.csv" in done.stdout
    assert done.stderr.splitlines() == [f"left out {slides[3]}: slide {name!r}: level 0 cannot be read"]
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("manifest", "out", "said"),
    [
        ("four.csv", "few", "4 slides with a known target are too few"),
        ("normal.csv", "one", "no slide of class 'tumour'"),
        ("own.csv", "run", "exists"),
    ],
)
def test_what_cannot_be_calibrated(home: Path, manifest: str, out: str, said: str) -> None:
    model = home / "run" / "model"
    result = run("calibrate", model, home / "slides" / manifest, "--out", home / out, status=2)
    assert said in result.stderr


def test_a_model_that_is_wrong_gets_no_slope_that_turns_it_round(home: Path) -> None:
    """With labels turned round a model is worth nothing, which no calibration may hide."""
    said = run(
        "calibrate", home / "run" / "model", home / "slides" / "turned.csv", "--out", home / "turned"
    ).stdout
    calibration = load_model(home / "turned").tasks[0].calibration
    assert calibration is not None
    assert min(calibration.slopes) > 0, said
