"""A model folder where a slide was meant is known for what it is, and `info` says what the model is."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import tomli_w

from tests.conftest import SmallRun
from tests.support.commands import run
from wsi_ats.model_folder import SETTINGS, load_model, model_hash


@pytest.fixture
def decided(small_run: SmallRun, tmp_path: Path) -> Path:
    """The run of the small demo, its model of three members with a threshold."""
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder / "run" / "model", folder / "model")
    path = folder / "model" / SETTINGS
    values = tomllib.loads(path.read_text())
    share = {"value": 0.9, "low": 0.8, "high": 0.95, "note": ""}
    (task,) = values["model"]["tasks"]
    task["point"] = {
        "positive": "tumour",
        "threshold": 0.25,
        "rule": "Youden's index",
        "sensitivity": share,
        "specificity": share,
        "slides": 24,
        "on": "24 validation slides",
    }
    task["calibration"] = {
        "slopes": [1.0, 1.0],
        "intercepts": [0.0, 0.5],
        "slides": 24,
        "on": "24 validation slides",
    }
    path.write_text(tomli_w.dumps(values))
    return folder


@pytest.mark.parametrize("what", ["run", "model"])
def test_info_says_what_a_model_is(decided: Path, what: str) -> None:
    model = decided / "model"
    said = run("info", decided if what == "run" else model).stdout
    config = load_model(model).config
    for words in (
        f"model folder: {model} (hash {model_hash(model)})",
        "(classes): normal, tumour, one answer a slide",
        "  calibrated on: 24 validation slides",
        "  operating point: tumour from a probability of 0.250 (Youden's index; sensitivity 0.900 [0.800, 0.950], "
        "specificity 0.900 [0.800, 0.950], on 24 validation slides)",
        f"tiles: {config.tile.px} x {config.tile.px} px",
        f"trained on {config.sampling.tiles} a draw",
        "networks: 1",
        "model-card.md",
    ):
        assert words in said
    facts = json.loads(run("info", model, "--json").stdout)
    assert facts["tasks"][0]["names"] == ["normal", "tumour"]
    assert facts["view"]["mpp"] == config.view.mpp


def test_info_reads_a_damaged_model_with_a_word(decided: Path) -> None:
    path = decided / "model" / SETTINGS
    path.write_text(path.read_text().replace("[sampling]", "[sampled]"))
    said = run("info", decided / "model", status=2).stderr
    assert "config.toml has no section [sampling]" in said


@pytest.mark.parametrize("command", [("heatmap", "MODEL"), ("convert",), ("predict", "MODEL")])
def test_a_model_is_no_slide(decided: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    model = decided / "model"
    words = [str(model) if word == "MODEL" else word for word in command]
    out = {"convert": ("a.ome.zarr",), "heatmap": (), "predict": ("--out", tmp_path / "out")}[command[0]]
    said = run(*words, model, *out, status=2).stderr
    assert f"{model} is a model folder, not slides" in said
    assert f"`wsi-ats info {model}`" in said


@pytest.mark.parametrize(
    "name", ["a" * 300, "a" * 300 + ".csv", "a" * 300 + ".ome.zarr", "nul\x00", "https://127.0.0.1:9/model"]
)
def test_a_name_that_can_be_no_folder_is_told_as_one_of_a_slide(name: str) -> None:
    assert run("info", name, status=2).stderr.startswith("error: ")
