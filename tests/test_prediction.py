from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from wsi_ats.errors import WsiAtsError
from wsi_ats.geometry import Grid, Size
from wsi_ats.prediction import Prediction
from wsi_ats.tasks.answer import COVERS, UNKNOWN, TaskResult, TaskSpec


def answer_of(
    probabilities: tuple[float, ...], stderr: tuple[float, ...] = (0.02, np.nan), drawn: int = 4
) -> TaskResult:
    """Of two classes."""
    contributions = np.random.default_rng(0).normal(size=(drawn, 2)).astype(np.float32)
    return TaskResult(
        TaskSpec("label", "classes", ("normal", "tumour")),
        np.array(probabilities),
        np.array(stderr),
        contributions,
    )


ATTRIBUTES_OF_COORDS = {
    "name": "case_7",
    "patch_size": 64,
    "patch_size_level0": 80,
    "level0_width": 1000,
    "level0_height": 700,
    "target_magnification": 16.0,
    "level0_magnification": 20.0,
    "overlap": -16,
    "savetodir": ".",
}
"""Attributes that attention.h5 has of `make_prediction((1000, 700), 100.0)`, as TRIDENT writes them."""


def make_prediction(
    size: tuple[int, int] = (1000, 700),
    cell: float = 100.0,
    hot: int | None = None,
    drawn: int = 4,
    mpp: tuple[float, float] | None = (0.5, 0.5),
    tissue: Callable[[Grid], np.ndarray] | None = None,
    answer: TaskResult | None = None,
) -> Prediction:
    """Nearly all attention on cell `hot` (half-way by default); every second cell is tissue unless `tissue`
    says."""
    grid = Grid.covering(Size(*size), (cell, cell))
    cells = np.arange(0, len(grid), 2) if tissue is None else tissue(grid)
    hot = int(cells[len(cells) // 2]) if hot is None else hot
    attention = np.where(cells == hot, 1.0, 0.001)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(np.union1d([hot], rng.permutation(cells[cells != hot])[: drawn - 1]))
    return Prediction(
        slide="case_7.svs",
        results=(answer or answer_of((0.07, 0.93), (0.02, np.nan), len(chosen)),),
        grid=grid,
        slide_size=size,
        mpp=mpp,
        tissue=cells.astype(np.int64),
        attention=(attention / attention.sum()).astype(np.float32),
        cells=chosen.astype(np.int64),
        weights=rng.uniform(1, 9, len(chosen)),
        tile_px=64,
        tile_downsample=(1.25, 1.25),
        tiles_read=len(chosen),
        rounds=1,
        bytes_read=0,
        seconds={},
    )


def test_label_is_the_most_probable_class() -> None:
    prediction = make_prediction()
    assert (prediction.label, prediction.top) == ("tumour", 1)
    assert make_prediction(answer=answer_of((0.5, 0.5))).label == "normal"


def test_relative_attention_has_mean_one() -> None:
    prediction = make_prediction()
    assert prediction.relative_attention.mean() == pytest.approx(1, rel=1e-5)
    assert prediction.relative_attention.max() > 10


def test_drawn_gives_positions_in_the_tissue() -> None:
    prediction = make_prediction()
    assert (prediction.tissue[prediction.drawn()] == prediction.cells).all()


def test_a_drawn_cell_must_be_tissue() -> None:
    prediction = make_prediction()
    with pytest.raises(WsiAtsError, match=r"case_7\.svs: drawn cells \[1\] are not tissue"):
        replace(prediction, cells=np.array([0, 1, 2, 4]))


def test_tile_size_is_in_level_0_px() -> None:
    assert make_prediction().tile_size == (80.0, 80.0)


@pytest.mark.parametrize(
    ("spec", "values", "stderr", "words"),
    [
        (
            TaskSpec("label", "classes", ("normal", "tumour")),
            (0.07, 0.93),
            (0.01, 0.01),
            "tumour 0.930 ± 0.010",
        ),
        (TaskSpec("label", "classes", ("normal", "tumour")), (0.07, 0.93), (np.nan, np.nan), "tumour 0.930"),
        (TaskSpec("label", "labels", ("a", "b")), (0.2, 0.7), (0.1, 0.1), "b 0.700 ± 0.100"),
        (TaskSpec("label", "labels", ("a", "b")), (0.6, 0.7), (0.1, 0.1), "a;b"),
        (TaskSpec("label", "labels", ("a", "b")), (0.2, 0.3), (0.1, 0.1), "no label"),
        (TaskSpec("isup", "ordinal", ("1", "2")), (0.4, 0.6, 1.6), (0.1, 0.2, 0.3), "2 0.600 ± 0.200"),
        (TaskSpec("age", "regression"), (61.25,), (1.5,), "age 61.25 ± 1.5"),
        (TaskSpec("age", "regression"), (61.25,), (np.nan,), "age 61.25"),
        (TaskSpec("death", "survival"), (-0.5,), (0.25,), "death -0.5 ± 0.25"),
    ],
)
def test_repr_is_one_short_line(
    spec: TaskSpec, values: tuple[float, ...], stderr: tuple[float, ...], words: str
) -> None:
    contributions = np.zeros((4, len(spec.outputs)), np.float32)
    answer = TaskResult(spec, np.array(values), np.array(stderr), contributions)
    prediction = make_prediction(answer=answer)
    tissue = len(prediction.tissue)
    known = "±" in words
    covers = f" ({COVERS if known else UNKNOWN})" if known or np.isnan(stderr).any() else ""
    assert repr(prediction) == f"Prediction('case_7.svs': {words}{covers}; 4 of {tissue} tiles read)"


def test_prediction_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, wsi_ats.prediction; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
