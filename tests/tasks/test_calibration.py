"""Calibration of every kind of task: what was put off is put right again, and a model folder keeps it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from wsi_ats.errors import ConfigError
from wsi_ats.tasks.answer import TaskSpec
from wsi_ats.tasks.calibration import PRIOR_OF_INTERCEPT, PRIOR_OF_SLOPE, Calibration
from wsi_ats.tasks.classes import Classes
from wsi_ats.tasks.labels import Labels
from wsi_ats.tasks.make import from_card, to_card
from wsi_ats.tasks.ordinal import Ordinal
from wsi_ats.tasks.regression import Regression
from wsi_ats.tasks.settings import TaskSettings
from wsi_ats.tasks.survival import Survival

SIZE = 4000


def binary(n: int, offset: float, slope: float, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Outputs (n, 2) of a head whose logits are `slope` times the true ones, `offset` too high for tumour."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-true))).astype(float)
    off = slope * true + offset
    return torch.from_numpy(np.stack([-off / 2, off / 2], 1)), labels[:, None]


def classes(*names: str) -> Classes:
    return Classes(TaskSpec("label", "classes", names))


def test_an_offset_and_a_slope_are_found_again() -> None:
    task = classes("benign", "tumour")
    outputs, targets = binary(SIZE, offset=4.0, slope=2.5)
    found = task.calibrate(outputs, targets, "4,000 slides")
    assert np.mean(found.slopes) == pytest.approx(1 / 2.5, rel=0.1)
    p = task.values(outputs)[:, 1].numpy()
    assert p.mean() == pytest.approx(targets.mean(), abs=0.005)
    for low, high in (
        (0.1, 0.3),
        (0.4, 0.6),
        (0.7, 0.9),
    ):  # slides said to be so probable are so often of the class
        inside = (p > low) & (p < high)
        assert targets[inside].mean() == pytest.approx(p[inside].mean(), abs=0.06)


def test_few_slides_give_an_intercept_alone() -> None:
    task = classes("benign", "tumour")
    outputs, targets = binary(39, offset=4.0, slope=1.0)
    assert task.calibrate(outputs, targets, "39 slides").slopes == (1.0, 1.0)
    p = task.values(outputs)[:, 1].numpy()
    assert p.mean() == pytest.approx(targets.mean(), abs=0.02)


@pytest.mark.parametrize("n", [6, 60])
def test_classes_that_are_parted_without_an_error_do_not_run_away(n: int) -> None:
    task = classes("benign", "tumour")
    labels = np.arange(n) % 2
    logits = np.where(labels, 8.0, 2.0) + np.linspace(-0.5, 0.5, n)
    outputs = torch.from_numpy(np.stack([-logits / 2, logits / 2], 1))
    found = task.calibrate(outputs, labels[:, None].astype(float), "some")
    assert (task.values(outputs)[:, 1].numpy() > 0.5).tolist() == (labels == 1).tolist()
    assert max(map(abs, (*found.slopes, *found.intercepts))) < 8


def test_it_is_the_minimum_that_scipy_finds() -> None:
    """Vector scaling of three classes, by the formula."""
    rng = np.random.default_rng(3)
    outputs, targets = rng.normal(0, 3, (80, 3)), rng.integers(0, 3, (80, 1)).astype(float)
    task = classes("a", "b", "c")
    found = task.calibrate(torch.from_numpy(outputs), targets, "80 slides")

    def misfit(free: np.ndarray) -> float:
        scaled = np.exp(free[3:]) * outputs + free[:3]
        log_p = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
        chosen = log_p[np.arange(80), targets[:, 0].astype(int)]
        prior = (free[:3] ** 2).sum() / PRIOR_OF_INTERCEPT**2 + (free[3:] ** 2).sum() / PRIOR_OF_SLOPE**2
        return float(-chosen.sum() + prior / 2)

    oracle = minimize(misfit, np.zeros(6), method="BFGS", options={"gtol": 1e-8})
    assert found.intercepts == pytest.approx(oracle.x[:3], abs=1e-4)
    assert found.slopes == pytest.approx(np.exp(oracle.x[3:]), rel=1e-4)


def test_labels_each_have_their_own() -> None:
    task = Labels(TaskSpec("label", "labels", ("mitoses", "necrosis")), TaskSettings(kind="labels"))
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (SIZE, 2))
    targets = (rng.random((SIZE, 2)) < 1 / (1 + np.exp(-true))).astype(float)
    targets[::7, 1] = np.nan
    found = task.calibrate(torch.from_numpy(true + np.array([3.0, -1.0])), targets, "some")
    assert found.intercepts == pytest.approx((-3.0, 1.0), abs=0.4)


def test_grades() -> None:
    task = Ordinal(TaskSpec("grade", "ordinal", ("1", "2", "3")), TaskSettings(kind="ordinal"))
    rng = np.random.default_rng(0)
    score = torch.from_numpy(rng.normal(0, 2, (SIZE, 1)))
    p = task.values(score)[:, :3].detach().numpy()
    targets = (p.cumsum(1) < rng.random((SIZE, 1))).sum(1, keepdims=True).astype(float)
    found = task.calibrate(2 * score + 3, targets, "some")
    assert (found.slopes[0], found.intercepts[0]) == pytest.approx((0.5, -1.5), abs=0.15)


def test_a_number() -> None:
    task = Regression(
        TaskSpec("age", "regression"), TaskSettings(kind="regression"), mean=60.0, deviation=10.0
    )
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(0, 1, (SIZE, 1)))
    truth = 60 + 10 * (0.7 * outputs.numpy() + 0.4) + rng.normal(0, 1, (SIZE, 1))
    found = task.calibrate(outputs, truth, "some")
    assert (found.slopes[0], found.intercepts[0]) == pytest.approx((0.7, 0.4), abs=0.01)
    assert np.abs(task.values(outputs).numpy() - truth).mean() < 1


def test_a_risk() -> None:
    """The slope is Cox's; what an intercept would add is in nobody's likelihood."""
    task = Survival(TaskSpec("time", "survival"), TaskSettings(kind="survival", event="event"))
    rng = np.random.default_rng(0)
    risk = rng.normal(0, 1, (1000, 1))
    time = rng.exponential(np.exp(-risk))
    targets = np.concatenate([time.clip(0, 2), (time < 2).astype(float)], 1)
    found = task.calibrate(torch.from_numpy(3 * risk), targets, "some")
    assert found.slopes[0] == pytest.approx(1 / 3, abs=0.04)
    assert found.intercepts[0] == pytest.approx(0, abs=1e-6)


def test_slides_that_lack_a_class() -> None:
    with pytest.raises(ConfigError, match="no slide of class 'tumour'"):
        classes("benign", "tumour").calibrate(torch.zeros(3, 2), np.zeros((3, 1)), "some")


def test_a_model_folder_keeps_it() -> None:
    task = classes("benign", "tumour")
    outputs, targets = binary(60, offset=2.0, slope=1.0)
    task.calibrate(outputs, targets, "60 slides")
    again = from_card(to_card(task), {})
    assert again.calibration == task.calibration
    assert torch.equal(again.values(outputs), task.values(outputs))
    assert "calibration" not in to_card(classes("benign", "tumour"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"slopes": [1.0], "intercepts": [0.0]},
        {"slopes": [1.0, -1.0], "intercepts": [0.0, 0.0]},
        {"slopes": [1.0, float("nan")], "intercepts": [0.0, 0.0]},
        {"slopes": [1.0, 1.0]},
    ],
)
def test_a_damaged_one_is_refused(wrong: dict[str, object]) -> None:
    card = to_card(classes("benign", "tumour"))
    with pytest.raises((KeyError, ValueError)):
        from_card({**card, "calibration": {"slides": 3, "on": "some", **wrong}}, {})


def test_a_calibration_of_ones_and_zeros_changes_nothing() -> None:
    outputs = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(Calibration((1.0, 1.0), (0.0, 0.0), 0, "")(outputs), outputs)
