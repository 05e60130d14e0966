"""The bootstrap over patients: what is drawn, what its intervals cover, and what has none."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import bootstrap

from wsi_ats.statistics.clusters import Patients, sample_figures
from wsi_ats.statistics.evaluation import Answered, figures_of
from wsi_ats.statistics.weighted import Figure, roc_area, share, weighted_mean


def two_classes(p: np.ndarray, truth: np.ndarray) -> Answered:
    return Answered(
        "classes",
        ("normal", "tumour"),
        np.stack([1 - p, p], 1),
        truth[:, None].astype(np.float64),
        (p >= 0.5).astype(np.int64),
    )


def test_patients_are_drawn_whole_and_class_by_class() -> None:
    names = ["A", "A", "B", "C", "C", "D", "E"]
    groups = ["t", "t", "t", "n", "n", "n", "n"]
    patients = Patients.of(names, groups)
    counts = patients.resamples(np.random.default_rng(0), 50)
    assert (counts[:, :2].sum(1) == 2).all()
    assert (counts[:, 2:].sum(1) == 3).all()
    assert len(np.unique(counts, axis=0)) > 10
    slides = counts[:, patients.index]
    assert (slides[:, 0] == slides[:, 1]).all()
    without = patients.without_each()
    np.testing.assert_allclose(without.sum(1), 5)
    assert (np.diag(without) == 0).all()
    mixed = Patients.of(["A", "A", "B"], ["t", "n", "t"])
    assert mixed.stratum[0] != mixed.stratum[1], "a patient of two classes stands for neither"


def test_the_order_of_the_slides_does_not_move_an_interval() -> None:
    rng = np.random.default_rng(0)
    values, names = rng.normal(size=60), [f"P{i // 2}" for i in range(60)]
    order = rng.permutation(60)
    one, other = (
        sample_figures([Figure("mean", weighted_mean(values[o]))], Patients.of([names[i] for i in o]))[0]
        for o in (np.arange(60), order)
    )
    assert other.interval.low == pytest.approx(one.interval.low, abs=1e-12)
    assert other.interval.high == pytest.approx(one.interval.high, abs=1e-12)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_are_scipys_where_each_patient_has_one_slide(method: str) -> None:
    values = np.random.default_rng(0).exponential(size=40)
    patients = Patients.of([str(i) for i in range(40)], [""] * 40)
    (found,) = sample_figures([Figure("mean", weighted_mean(values))], patients, rounds=20_000, method=method)
    wanted = bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.interval.low == pytest.approx(wanted.low, abs=0.01)
    assert found.interval.high == pytest.approx(wanted.high, abs=0.015)


def test_the_interval_covers_where_slides_of_a_patient_are_alike() -> None:
    """AUC of 30 and 30 patients of four slides: an interval over slides would cover far too seldom."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(60) < 30, 4)
    names = [str(i // 4) for i in range(240)]
    groups = [str(t) for t in truth]
    by_patient, by_slide = Patients.of(names, groups), Patients.of([str(i) for i in range(240)], groups)
    true_area = 0.760  # P(Z > -1 / sqrt 2), Z standard normal
    held = {"patients": 0, "slides": 0}
    for seed in range(200):
        score = np.repeat(rng.normal(size=60) * 0.95, 4) + rng.normal(size=240) * 0.31 + truth
        figure = Figure("auroc", roc_area(score, truth), form="area")
        for name, patients in (("patients", by_patient), ("slides", by_slide)):
            (found,) = sample_figures([figure], patients, rounds=200, seed=seed, method="percentile")
            assert found.interval.low is not None
            assert found.interval.high is not None
            held[name] += found.interval.low <= true_area <= found.interval.high
    assert 0.89 <= held["patients"] / 200 <= 0.99
    assert held["slides"] / 200 < 0.80, "the test can fail"


def test_the_same_seed_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    answered = two_classes(rng.random(60), np.arange(60) % 2 == 0)
    patients = Patients.of([str(i // 2) for i in range(60)], [""] * 60)

    def limits(seed: int) -> list[tuple[float | None, float | None]]:
        found = sample_figures(figures_of(answered), patients, seed=seed, rounds=200)
        return [(each.interval.low, each.interval.high) for each in found]

    assert limits(3) == limits(3)
    assert limits(3) != limits(4)


def test_what_has_no_interval_has_a_word() -> None:
    truth = np.arange(40) >= 20
    everyone = Patients.of([str(i) for i in range(40)], [str(t) for t in truth])
    both = {"slides of tumour": truth, "slides of normal": ~truth}
    perfect, nothing = np.arange(40.0), np.zeros(40, bool)
    figures = [
        Figure("auroc", roc_area(perfect, truth), groups=both, form="area"),
        Figure("sensitivity", share(truth, truth), groups={"slides of tumour": truth}, form="share"),
        Figure("constant", weighted_mean(np.ones(40) / 2)),
        Figure("ppv", share(truth, nothing), groups={"slides called tumour": nothing}),
        Figure("few", share(truth, perfect < 5), groups={"slides of a kind": perfect < 5}),
        Figure("seldom", lambda w: np.where(w[:, 0] == 1, 0.5 + w[:, 1], np.nan)),
    ]
    found = [each.interval for each in sample_figures(figures, everyone)]
    assert found[0].low == pytest.approx(0.899, abs=1e-3)
    assert found[0].note == "Newcombe: all resamples agree"
    assert (found[1].high, found[1].note) == (1.0, "Wilson: all resamples agree")
    assert found[1].low == pytest.approx(0.839, abs=1e-3)
    notes = [(each.low, each.note) for each in found[2:5]]
    assert notes == [
        (None, "the same in every resample: no interval"),
        (None, "no slides called tumour"),
        (None, "5 patients with slides of a kind: too few for an interval"),
    ]
    assert found[5].low is None
    assert "of the resamples have no value" in found[5].note
    few = sample_figures(figures[2:3], Patients.of(["A", "B"] * 20, [""] * 40))[0].interval
    assert few.note == "2 patients: too few for an interval"


@pytest.mark.parametrize("kind", ["classes", "ordinal", "labels", "regression", "survival"])
@pytest.mark.parametrize("slides", [1, 2, 30])
def test_no_kind_of_task_crashes_on_odd_slides(kind: str, slides: int) -> None:
    """One slide, one class, constant answers: a value or a word."""
    names = ("a", "b", "c") if kind in ("classes", "ordinal", "labels") else ()
    values = np.full((slides, max(1, len(names))), 1 / 3)
    width = {"labels": 3, "survival": 2}.get(kind, 1)
    targets = np.zeros((slides, width))
    if kind == "labels" and slides > 1:
        targets[0, 0] = np.nan
    answered = Answered(kind, names, values, targets, np.zeros(slides, np.int64), 2)
    found = sample_figures(
        figures_of(answered), Patients.of([str(i) for i in range(slides)], [""] * slides), rounds=100
    )
    assert found
    for each in found:
        missing = np.isnan(each.value) or each.interval.low is None
        assert bool(each.interval.note) or not missing, each.figure.name


def test_a_thousand_resamples_of_a_thousand_slides_take_seconds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(1000) < 0.4
    answered = two_classes(1 / (1 + np.exp(-rng.normal(size=1000) - truth)), truth)
    patients = Patients.of([str(i // 2) for i in range(1000)], [str(t) for t in truth])
    start = time.process_time()
    sample_figures(figures_of(answered), patients)
    assert time.process_time() - start < 30  # 2 seconds on two idle cores
