"""The scripts that users copy: each runs as it is, one after the other, from labelled tiles to a table of answers."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support.cohort import settings
from tests.synthetic.test_mosaic import SIDE, flat_tiles, write_folder
from wsi_ats.config import save_config

FOLDER = Path(__file__).resolve().parents[1] / "pipelines"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def run(script: str, *arguments: str | Path, cwd: Path) -> str:
    command = [sys.executable, "-W", "error", str(FOLDER / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_tiles_to_answers(tmp_path: Path) -> None:
    write_folder(tmp_path / "tiles", flat_tiles())
    said = run(
        "mosaic_slides.py", "--tiles", "tiles", "--out", "slides", "--train", 4, "--val", 2, "--size", 8 * SIDE,
        cwd=tmp_path,
    )  # fmt: skip
    assert "6 slides are listed in slides/manifest.csv" in said

    save_config(settings("view.downsample=8", "tile.px=16", "train.epochs=1"), tmp_path / "small.toml")
    said = run("train.py", "slides/manifest.csv", "run", "small.toml", cwd=tmp_path)
    assert "train: 4 slides (benign 2, tumour 2)" in said
    assert "model in run/model" in said

    said = run("sweep.py", "slides/manifest.csv", "sweep", "small.toml", "--trials", 1, cwd=tmp_path)
    assert "settings in sweep/best.toml" in said

    said = run("predict_cohort.py", "run/model", "slides/manifest.csv", "out", cwd=tmp_path)
    assert said.startswith("prediction\n")
    table, manifest = (
        pd.read_csv(tmp_path / "out" / "predictions.csv"),
        pd.read_csv(tmp_path / "slides/manifest.csv"),
    )
    assert (table.status == "done").all()
    assert table[["slide", "label", "split", "patch_fraction"]].equals(manifest)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_say_how_they_are_called(script: Path, tmp_path: Path) -> None:
    said = run(script.name, "--help", cwd=tmp_path)
    assert said.startswith(f"usage: {script.name} ")
    assert f"python pipelines/{script.name} " in said


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_flat_and_explained(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 60
    assert f"python pipelines/{script.name}" in (ast.get_docstring(tree) or ""), "how to call it"
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)] == ["main"]
    private = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert private == []
