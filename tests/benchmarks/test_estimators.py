"""The comparison of estimators: its table is that of its results, its claims hold, and its figures come out again."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from wsi_ats.estimator import expectation
from wsi_ats.sampling import Draws

ROOT = Path(__file__).resolve().parents[2]
RESULTS: dict[str, Any] = json.loads((ROOT / "benchmarks/results/estimators.json").read_text())
METHODS: dict[str, dict[str, dict[str, float]]] = RESULTS["methods"]
DEFAULT = "systematic, Hilbert order (default)"
FIXED = ["0.01", "0.10", "0.50", "0.82"]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("estimators")


def mse(name: str, column: str) -> float:
    return METHODS[name][column]["mse"]


def test_the_default_is_as_much_better_as_the_page_says() -> None:
    assert mse(DEFAULT, "0.82") <= 0.45 * mse("gumbel", "0.82")
    assert mse(DEFAULT, "0.82") <= 0.2 * mse("multinomial", "0.82")


@pytest.mark.parametrize("column", next(iter(METHODS.values())))
@pytest.mark.parametrize("other", ["gumbel", "multinomial"])
def test_the_default_is_nowhere_worse_than_the_paper_s(other: str, column: str) -> None:
    noise = 3 * (METHODS[DEFAULT][column]["mse_stderr"] + METHODS[other][column]["mse_stderr"])
    assert mse(DEFAULT, column) <= mse(other, column) + noise


def test_the_page_has_the_table_of_the_results() -> None:
    table = (ROOT / "benchmarks/results/estimators.md").read_text()
    assert table in (ROOT / "docs" / "estimators.md").read_text()
    for name, row in METHODS.items():
        figures = " | ".join(f"{c['mse']:.4f} / {c['gradient']:.3g}" for c in row.values())
        assert f"| {name} | {figures} |" in table


@pytest.mark.parametrize("column", ["0.10", "0.82"])
@pytest.mark.parametrize("name", ["gumbel", DEFAULT, "reference code"])
def test_figures_come_out_again(name: str, column: str, benchmark: ModuleType) -> None:
    found = benchmark.measure(benchmark.ALL[name], benchmark.field(float(column)), 300)
    recorded = METHODS[name][column]
    for key in ("mse", "gradient"):
        noise = 5 * (found[f"{key}_stderr"] + recorded[f"{key}_stderr"])
        assert found[key] == pytest.approx(recorded[key], abs=noise)


@pytest.mark.parametrize("centre", [True, False])
def test_its_gradients_are_those_of_autograd(centre: bool, benchmark: ModuleType) -> None:
    field = benchmark.field(0.5)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(2, benchmark.DIM, dtype=torch.float64, generator=generator)
    drawn: Draws = benchmark.drawn(field, 1, generator, "priority", field.order)
    phi, gradient = benchmark.estimate(field, v, drawn, centre)
    logits = field.log_p.clone().requires_grad_()
    one = drawn.split()[0]
    found = expectation(torch.log_softmax(logits, 0), one, field.features[one.cells], centre)
    assert phi[0].tolist() == pytest.approx(found.tolist())
    for direction, expected in zip(v, gradient[0], strict=True):
        (exact,) = torch.autograd.grad(direction @ found, logits, retain_graph=True)
        assert exact.numpy() == pytest.approx(expected.numpy(), abs=1e-12)
