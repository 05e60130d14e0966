"""The benchmark of adaptive reading: figures of readings whose figures are known, and a small run that goes on."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import SmallRun
from wsi_ats.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("adaptive")


def answer(tumour: float, tiles: int = 10, stderr: float = 0.01, rounds: int = 8) -> dict:
    measured = {"stderr": stderr, "reach": 2 * stderr}
    return {"tiles": tiles, "rounds": rounds, **measured, "p": [1 - tumour, tumour]}


def test_figures_of_a_reading(benchmark: ModuleType) -> None:
    """Two slides of each class, two seeds; one answer is far off, another did not settle."""
    reading = benchmark.Reading(None, 0.1)
    exact = {"a": (0, 0.1), "b": (0, 0.4), "c": (1, 0.6), "d": (1, 0.9)}
    runs = {
        "a": [answer(0.1, 10), answer(0.1, 20)],
        "b": [answer(0.7, 30), answer(0.4, 40)],  # off by 0.3, above c
        "c": [answer(0.6, 50), answer(0.6, 60, stderr=0.09)],  # 0.09 reaches beyond 0.1
        "d": [answer(0.9, 70), answer(0.8, 80, stderr=0.0)],
    }
    slides = [
        {
            "slide": name,
            "model": "m",
            "label": label,
            "all tiles": answer(p, 100),
            "runs": {reading.name: each},
        }
        for (name, (label, p)), each in zip(exact.items(), runs.values(), strict=True)
    ]
    found = benchmark.figures(slides, reading)
    assert (found.tiles, found.quartiles) == (45, (27.5, 45, 62.5))
    assert found.aucs == pytest.approx([0.75, 1.0])
    assert found.auc == pytest.approx(0.875)
    assert (found.low, found.high) == (None, None)  # so few slides have no interval
    assert found.accuracy == 7 / 8
    assert found.error == pytest.approx((0.3 + 0.1) / 8)
    assert (found.beyond, found.spent) == (1 / 8, 1 / 8)
    assert benchmark.whole(slides) == (100, 1.0, 1.0)
    assert "| tolerance 0.1 | 45.0 | 28 45 62 | 0.875 |" in benchmark.line(found)


def test_a_run_leaves_table_and_picture_and_goes_on(
    benchmark: ModuleType, small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, picture = tmp_path / "adaptive", tmp_path / "adaptive.png"
    arguments = ["--model", small_run.model, "--manifest", small_run.manifest, "--out", out]
    arguments += ["--picture", picture, "--seeds", 2, "--tolerances", 10, 0, "--budget", 50, "--tiles", 8]
    monkeypatch.setattr(sys, "argv", ["adaptive.py", *map(str, arguments)])
    benchmark.main()
    first, table = (out.with_suffix(suffix).read_text() for suffix in (".json", ".md"))
    for slide in json.loads(first):
        easy, hard, fixed = (slide["runs"][name] for name in ("tolerance 10", "tolerance 0", "8 tiles"))
        for low, middle, high in zip(fixed, easy, hard, strict=True):
            assert low["tiles"] <= 8 < middle["tiles"] < high["tiles"] <= slide["all tiles"]["tiles"]
        assert easy[0] != easy[1]
    assert table.count("\n| ") == 5
    assert picture.stat().st_size > 5000
    out.with_suffix(".json").write_text("".join(first.splitlines(keepends=True)[:-2]).rstrip(",\n") + "\n]\n")
    monkeypatch.setattr(benchmark, "read", counted := Counted(benchmark.read))
    benchmark.main()
    assert counted.times == 1
    assert out.with_suffix(".json").read_text() == first
    assert out.with_suffix(".md").read_text() == table


class Counted:
    def __init__(self, function: object) -> None:
        self.function, self.times = function, 0

    def __call__(self, *arguments: object) -> object:
        self.times += 1
        return self.function(*arguments)  # type: ignore[operator]


def test_a_split_without_each_class_is_refused(
    benchmark: ModuleType, small_run: SmallRun, tmp_path: Path
) -> None:
    lines = small_run.manifest.read_text().splitlines()
    one = tmp_path / "one.csv"
    one.write_text("\n".join([lines[0], *(line for line in lines if "normal" in line)]))
    model = benchmark.load_model(small_run.model)
    with pytest.raises(ConfigError, match="split test: 2 slides"):
        benchmark.rows_of(one, "test", model)
    assert len(benchmark.rows_of(small_run.manifest, "test", model)) == 4
