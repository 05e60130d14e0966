"""The notebook runs from top to bottom on what the demo leaves, and shows what it says it shows."""

from __future__ import annotations

import base64
import io
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import SmallRun

nbformat = pytest.importorskip("nbformat", reason="nbformat (the extra 'notebook') is not installed")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOK = FOLDER / "01_explore_attention.ipynb"
FIGURES = 5
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|mnt|var|opt)/|[A-Z]:\\\\")
MOST_BYTES = 900_000


def figures(notebook: Any) -> list[Image.Image]:
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(output.data["image/jpeg"])))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/jpeg" in output.get("data", {})
    ]
    return [picture.convert("L") for picture in pictures]


def test_it_runs_on_a_demo(small_run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSI_ATS_DEMO", str(small_run.folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    execute = runpy.run_path(str(FOLDER / "execute.py"))["execute"]

    notebook = execute(NOTEBOOK)  # raises where a cell fails

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    drawn = figures(notebook)
    assert len(drawn) == FIGURES
    for picture in drawn:
        low, high = picture.getextrema()
        assert min(picture.size) > 200
        assert high - low > 100, "a figure is blank"


def test_it_is_committed_with_its_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(figures(notebook)) == FIGURES
    assert not [
        o for cell in code for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
    ]


def test_the_file_is_small_and_says_nothing_of_the_machine() -> None:
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    text = re.sub(r'"image/\w+": "[^"]*"', "", NOTEBOOK.read_text(encoding="utf-8"))
    assert not MACHINE_PATH.search(text)


@pytest.mark.parametrize("path", ["/home/ann/x.svs", "'/tmp/a'", "see /mnt/x", "/opt/demo"])
def test_machine_paths_are_recognised(path: str) -> None:
    assert MACHINE_PATH.search(path)


def test_only_public_names_are_used() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert not re.search(r"\._\w", source)
