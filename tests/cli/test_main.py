"""What commands say and the status they end with: wrong arguments, and the small commands."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.support.commands import run, start
from tests.support.fake_model import make_slide
from tests.support.tiffs import picture, write_aperio
from wsi_ats import __version__
from wsi_ats.cli.doctor import Check
from wsi_ats.config import Config, parse_config

# ---- wrong arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["predict", "--bogus"], "No such option"),
        (["train", "slides/manifest.csv"], "Missing option '--out'"),
        (["train", "gone.csv", "--out", "o"], "manifest gone.csv does not exist"),
        (["train", "slides/manifest.csv", "--out", "o", "--config", "gone.toml"], "gone.toml cannot be read"),
        (["train", "slides/manifest.csv", "--out", "o", "--set", "epochs=3"], "section.key=value"),
        (["train", "slides/manifest.csv", "--out", "o", "--set", "train.epochs=0"], "train.epochs = 0"),
        (["train", "slides/manifest.csv", "--out", "o", "--target", "grade"], "no column 'grade'"),
        (["train", "slides/manifest.csv", "--out", "o", "--mpp", "-1"], "'--mpp'"),
        (["predict", "gone", "slides", "--out", "o"], "gone is not a model folder"),
        (["predict", "run/model", "gone.svs", "--out", "o"], "gone.svs does not exist"),
        (
            ["predict", "run/model", "slides", "--out", "slides/test_0.tif", "--workers", "0"],
            "test_0.tif cannot be made",
        ),
        (["predict", "run/model", "slides", "--out", "o", "--tiles", "0"], "'--tiles'"),
        (["predict", "run/model", "slides", "--out", "o", "--sampler", "best"], "unknown sampler 'best'"),
        (["predict", "run/model", "slides", "--out", "o", "--device", "gpu"], "--device is gpu; it must be"),
        (
            ["predict", "run/model", "slides", "--out", "o", "--workers", "2", "--scheduler", "tcp://a:1"],
            "workers is 2 and scheduler is tcp://a:1",
        ),
        (["heatmap", "run/model", "gone.svs"], "'gone.svs' cannot be opened"),
        (["heatmap", "run/model", "slides/test_0.tif", "--out", "h.gif"], "h.gif; its suffix must be"),
        (["heatmap", "run/model", "slides/test_0.tif", "--sampler", "best"], "unknown sampler 'best'"),
        (["heatmap", "run/model", "slides/test_0.tif", "--cmap", "tartan"], "cmap is 'tartan'"),
        (["export", "gone", "--out", "o"], "gone is not a model folder"),
        (["export", "run/model", "--out", "slides"], "--out slides exists"),
        (["export", "run/model", "--out", "slides", "--overwrite"], "slides holds no export.json"),
        (["export", "run/model", "--out", "slides/test_0.tif"], "test_0.tif cannot be made"),
        (["export", "run/model", "--out", "o", "--format", "tflite"], "'--format'"),
        (["export", "run/model", "--out", "o", "--check", "gone.svs"], "'gone.svs' cannot be opened"),
        (["info", "gone.svs"], "'gone.svs' cannot be opened"),
        (["info", "slides/manifest.csv"], "manifest.csv is a table of 13 slide"),
        (["config", "--set", "speed.limit=3"], "no such setting"),
        (["config", "--out", "slides/test_0.tif/c.toml"], "test_0.tif is a file, not a folder"),
    ],
)
def test_a_wrong_command_is_status_2_and_one_clear_message(
    place: Path, arguments: list[str], says: str
) -> None:
    before = sorted(place.iterdir())
    result = run(*arguments, status=2)
    assert says in result.stderr
    assert result.stdout == ""
    left = set(place.iterdir()) - set(before)
    assert left <= {place / "o"}


def test_heatmap_of_a_slide_without_tissue(place: Path) -> None:
    make_slide(Path("blank.tif"), blank=True, size=(512, 512))
    result = run("heatmap", "run/model", "blank.tif", "--mpp", "0.5", status=2)
    assert "'blank.tif': no tissue" in result.stderr
    assert not Path("heatmap.png").exists()


def test_a_missing_device_is_told(place: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    result = run("predict", "run/model", "slides", "--out", "o", "--device", "cuda:3", status=2)
    assert "--device cuda:3" in result.stderr


# ---- the small commands


def test_version_and_help() -> None:
    assert run("--version").stdout == f"wsi-ats {__version__}\n"
    text = run("--help").stdout
    for name in ("train", "predict", "heatmap", "info", "config", "doctor", "demo"):
        assert f"\n  {name} " in text


def test_info(place: Path) -> None:
    text = run("info", "slides/test_1.tif").stdout
    assert text.splitlines()[:6] == [
        "slide: test_1.tif",
        "backend: tiff (tiled JPEG TIFF, generic TIFF)",
        "vendor: generic-tiff",
        "size: 768 x 768 px",
        "mpp: 0.5 x 0.5 um/px (tiff.XResolution)",
        "level 0: 768 x 768 px, downsample 1 x 1",
    ]
    facts = json.loads(run("info", "slides/test_1.tif", "--json", "--properties", "--mpp", "0.25").stdout)
    assert (facts["size"], facts["mpp"], facts["notes"]) == ([768, 768], [0.5, 0.5], [])
    assert facts["properties"]["openslide.vendor"] == "generic-tiff"
    assert [level["size"] for level in facts["levels"]] == [[768, 768], [192, 192], [48, 48]]
    assert "openslide.vendor: generic-tiff" in run("info", "slides/test_1.tif", "--properties").stdout


def test_info_says_all_that_an_svs_says(tmp_path: Path) -> None:
    path = write_aperio(tmp_path / "a.svs", [picture(300, 400)])
    text = run("info", path).stdout
    for line in (
        "backend: tiff (tiled JPEG TIFF, Aperio)",
        "magnification: 20x, says the slide",
        "background: #ffffff; ICC profile: no",
    ):
        assert line in text
    assert "thumbnail (80 x 60 px)" in text
    facts = json.loads(run("info", path, "--json").stdout)
    assert facts["associated images"]["thumbnail"] == [80, 60]
    assert facts["mpp"] == pytest.approx([0.499, 0.499])


def test_info_has_a_hint_for_slides_without_small_levels(place: Path) -> None:
    tifffile.imwrite("flat.tif", np.zeros((64, 4352, 3), np.uint8), tile=(64, 256), photometric="rgb")
    assert "hint: the coarsest level has 4352 x 64 px" in run("info", "flat.tif").stdout
    assert json.loads(run("info", "slides/test_1.tif", "--json").stdout)["hint"] == ""
    run("convert", "flat.tif", "flat.ome.zarr")
    assert "hint" not in run("info", "flat.ome.zarr").stdout


def test_info_of_a_slide_without_mpp(place: Path) -> None:
    tifffile.imwrite("plain.tif", np.zeros((512, 512, 3), np.uint8), tile=(256, 256), photometric="rgb")
    assert "mpp: unknown; give --mpp where it is needed" in run("info", "plain.tif").stdout
    assert "mpp: 0.25 x 0.25 um/px (given as default)" in run("info", "plain.tif", "--mpp", "0.25").stdout


def test_config_is_what_train_reads(tmp_path: Path) -> None:
    assert parse_config(tomllib.loads(run("config").stdout), "config") == Config()
    run("config", "--set", "train.epochs=7", "--out", tmp_path / "new" / "c.toml")
    config = parse_config(tomllib.loads((tmp_path / "new" / "c.toml").read_text()), "config")
    assert config.train.epochs == 7
    again = run("config", "--config", tmp_path / "new" / "c.toml", "--set", "train.batch=3").stdout
    assert "epochs = 7" in again
    assert "batch = 3" in again


def test_heatmap(place: Path) -> None:
    text = run("heatmap", "run/model", "slides/test_1.tif", "--out", "new/h.png", "--size", "300").stdout
    assert text.startswith("test_1.tif: normal 0.")
    assert "±" in text
    assert "(± and 95 % interval: from the drawing of tiles alone)" in text
    assert "tissue tiles read" in text
    with Image.open("new/h.png") as picture:
        assert min(picture.size) > 300
        assert picture.convert("L").getextrema()[0] < 50 < 250 < picture.convert("L").getextrema()[1]
    once = run("heatmap", "run/model", "slides/test_1.tif", "--repeats", "1").stdout
    assert "(± unknown: too few tiles or rounds drawn by chance)" in once


def test_heatmap_options(place: Path) -> None:
    few = ("heatmap", "run/model", "slides/test_1.tif", "--tiles", "4", "--size", "300")
    run(*few, "--out", "both.png")
    run(*few, "--out", "one.png", "--panel", "contributions", "--contribution-limit", "2")
    run(*few, "--out", "dark.png", "--panel", "attention", "--dark", "--limits", "1", "100", "--blur", "1")
    both, one, dark = (Image.open(f"{name}.png").convert("L") for name in ("both", "one", "dark"))
    assert both.width > 1.5 * one.width
    assert both.height == one.height == dark.height
    assert one.getpixel((1, 1)) > 200 > 50 > dark.getpixel((1, 1))
    assert "limits is (5.0, 2.0)" in run(*few, "--limits", "5", "2", status=2).stderr


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("doctor").stdout
    assert "ok  slide written and read back: " in text
    assert "BAD" not in text
    checks = [Check("disk", True, "large"), Check("device", False, "none [red]", "buy one")]
    monkeypatch.setattr("wsi_ats.cli.doctor.checks", lambda: iter(checks))
    assert run("doctor", status=1).stdout == "ok  disk: large\nBAD device: none [red]\n     buy one\n"


def test_demo_passes_its_options_on_and_prints_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Report:
        def lines(self) -> list[str]:
            return ["AUC [0.9, 1.0]"]

    def run_demo(out: Path, seed: int, workers: int, say: object) -> Report:
        say(f"{out.name} {seed} {workers} [bold]")
        return Report()

    monkeypatch.setattr("wsi_ats.demo.run_demo", run_demo)
    result = run("demo", "--out", tmp_path / "there", "--seed", "3", "--workers", "1")
    assert result.stdout == "there 3 1 [bold]\nAUC [0.9, 1.0]\n"


def test_the_program_itself(place: Path) -> None:
    """The entry point that is installed; names of files need not be text."""
    name = os.fsdecode(b"caf\xe9.tif")
    try:
        shutil.copy("slides/test_0.tif", name)
    except OSError:
        pytest.skip("this file system knows text alone")
    process = start("info", name)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert said.startswith("slide: caf\\xe9.tif\n")
