"""One of a thing is not told as several, and a number is told once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsi_ats.evaluate.join import Flow
from wsi_ats.manifest import Row
from wsi_ats.statistics.clusters import Patients, sample_figures
from wsi_ats.statistics.curve_bands import band_of, roc_heights
from wsi_ats.statistics.interval import bootstrap
from wsi_ats.statistics.operating_point import choose_operating_point
from wsi_ats.statistics.weighted import Figure, weighted_mean
from wsi_ats.train.patients import patients_in_words

SEVERAL = re.compile(r"(?<![\w.])1 (slides|patients|events|tiles|rows|groups)\b")
FLOW = Flow(1, 1, 0, 0, (), 0, 1, 1)
TRUTH = np.array([True, False])


def row(name: str) -> Row:
    return Row(name, Path(name), "tumour", "P", None, None)


def of_patient(groups: dict[str, np.ndarray]) -> str:
    figure = Figure("mean", weighted_mean(np.ones(2)), groups=groups)
    return sample_figures([figure], Patients.of(["P", "P"]))[0].interval.note


WORDS: dict[str, Callable[[], str]] = {
    "flow": lambda: FLOW.lines()[0],
    "training": lambda: patients_in_words([], [row("a"), row("b")], []),
    "figure": lambda: of_patient({}),
    "group": lambda: of_patient({"slides of tumour": TRUTH}),
    "band": lambda: (
        band_of(
            roc_heights(np.array([0.1, 0.9]), TRUTH), {"slides of tumour": TRUTH}, Patients.of(["P", "Q"])
        ).note
    ),
    "slides": lambda: bootstrap(lambda chosen: 0.5, np.zeros(1, np.int64), np.random.default_rng(0)).note,
}


@pytest.mark.parametrize("what", WORDS)
def test_one_is_told_as_one(what: str) -> None:
    said = WORDS[what]()
    assert re.search(r"\b1 (slide|patient)\b", said), said
    assert not SEVERAL.search(said)


def test_two_are_told_as_two() -> None:
    assert "(2 patients)" in replace(FLOW, patients=2).lines()[0]


@pytest.mark.parametrize("what", ["slides", "patients"])
def test_what_an_operating_point_was_chosen_on_is_told_once(what: str) -> None:
    p = np.linspace(0.1, 0.9, 24)
    point = choose_operating_point(p, p > 0.5, "tumour", f"24 validation {what}")
    assert str(point).endswith(f", on 24 validation {what})")
    assert str(point).count("24") == 1
