"""Every command as a user gives it: what it writes, what it says, the status it ends with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from tests.cohort import SETTINGS
from tests.fake_model import make_slide
from wsi_ats import __version__
from wsi_ats.batch.cluster import local_cluster
from wsi_ats.cli import app
from wsi_ats.config import Config, parse_config
from wsi_ats.doctor import Check


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


TRAINING = options(*SETTINGS)


def run(*arguments: str | Path, status: int = 0) -> Result:
    """A command in this process; its status is checked, and that it speaks to people in plain text."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output, "escape codes where there is no terminal"
    return result


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    program = [sys.executable, "-c", "from wsi_ats.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(program, env=environment, **pipes)


def send_at(process: subprocess.Popen[str], line: str, number: int) -> str:
    """Send a signal as soon as the process says a line that begins with `line`; what it says after that."""
    assert process.stdout is not None
    said = []
    for said_now in process.stdout:
        said.append(said_now)
        if said_now.startswith(line):
            process.send_signal(number)
            break
    else:
        pytest.fail(f"never said {line!r}: {''.join(said)}")
    with process:  # waits, and closes the pipe
        return process.stdout.read()


@pytest.fixture(scope="module")
def home(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with slides/ (links), a manifest, and a model trained by the command line."""
    home = tmp_path_factory.mktemp("cli")
    (home / "slides").mkdir()
    for path in cohort.parent.iterdir():
        (home / "slides" / path.name).symlink_to(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        result = run("train", "slides/manifest.csv", "--out", "run", *TRAINING, "-s", "train.epochs=2")
    assert "epoch 2/2" in result.output
    assert "validation AUC" in result.output
    assert "model: run/model" in result.output
    return home


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, with slides/ and run/."""
    (tmp_path / "slides").symlink_to(home / "slides")
    (tmp_path / "run").symlink_to(home / "run")
    monkeypatch.chdir(tmp_path)
    # A thread a worker, as in this process: more threads may change the last digit of a float32.
    monkeypatch.setattr("wsi_ats.batch.cluster.cores", lambda: 2)
    return tmp_path


PREDICT = ("predict", "run/model", "--tiles", "8", "--no-heatmaps")
SEVEN = [f"slides/{split}_{i}.tif" for split, count in (("test", 3), ("val", 4)) for i in range(count)]


def untimed(out: str | Path) -> str:
    """predictions.csv without the times, byte for byte."""
    table = pd.read_csv(Path(out) / "predictions.csv", dtype=str, keep_default_na=False)
    assert (table.seconds != "").any()
    return table.drop(columns="seconds").to_csv(index=False)


@pytest.fixture(scope="module")
def expected(home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """predictions.csv of the seven slides, made in one process without interruption."""
    out = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        result = run(*PREDICT, *SEVEN, "--out", out, "--workers", "0")
    assert "7 of 7 slides done (0 of them before), 0 failed" in result.stdout
    assert "seconds a slide, by stage: open " in result.stdout
    assert "7/7 slides" in result.stderr
    return untimed(out)


# ---- predict


def test_two_workers_answer_as_one_process(place: Path, expected: str) -> None:
    run(*PREDICT, *SEVEN, "--out", "out", "--workers", "2")
    assert untimed("out") == expected


def test_an_existing_cluster_answers_as_one_process_and_goes_on(place: Path, expected: str) -> None:
    with local_cluster(2) as client:
        address = client.scheduler.address
        hosts = client.run(os.getpid)
        run(*PREDICT, *SEVEN[:4], "--out", "out", "--scheduler", address)
        result = run(*PREDICT, *SEVEN, "--out", "out", "--scheduler", address)
        assert client.run(os.getpid) == hosts, "the cluster is left as it was"
    assert len(set(hosts.values())) == 2
    assert "7 of 7 slides done (4 of them before)" in result.stdout
    assert untimed("out") == expected


def test_the_order_of_slides_changes_the_order_of_rows_alone(place: Path, expected: str) -> None:
    run(*PREDICT, *reversed(SEVEN), "--out", "out", "--workers", "0")
    header, *rows = untimed("out").splitlines()
    assert [header, *reversed(rows)] == expected.splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_predict_that_is_stopped_goes_on_where_it_was(
    place: Path, expected: str, number: signal.Signals
) -> None:
    command = [*PREDICT, *SEVEN, "--out", "out", "--workers", "0"]
    process = start(*command)
    rest = send_at(process, "1/7 slides", number)
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert rest.splitlines()[-1] == "terminated: the same command, without --overwrite, goes on"
        status = pd.read_csv("out/predictions.csv").status
        assert set(status) == {"done", "pending"}
        assert json.loads(Path("out/run.json").read_text())["status"] == "interrupted"
    else:
        assert process.returncode == -number
    result = run(*command)
    assert "(0 of them before)" not in result.stdout
    assert untimed("out") == expected
    assert json.loads(Path("out/run.json").read_text())["status"] == "finished"


def test_slides_that_fail_make_status_1(place: Path) -> None:
    make_slide(Path("blank.tif"), blank=True, size=(512, 512))
    Path("text.svs").write_text("this is no slide")
    result = run(
        *PREDICT,
        "blank.tif",
        SEVEN[0],
        "text.svs",
        "--out",
        "out",
        "--workers",
        "0",
        "--mpp",
        "0.5",
        status=1,
    )
    assert "1 of 3 slides done (0 of them before), 2 failed" in result.stdout
    assert "failed: blank.tif: " in result.stderr
    assert result.stderr.count("  remedy: ") == 2
    failures = pd.read_csv("out/failures.csv")
    assert list(zip(failures.slide, failures.stage, strict=True)) == [
        ("blank.tif", "tissue"),
        ("text.svs", "open"),
    ]


# ---- train


def test_ctrl_c_in_training_is_130_and_the_same_command_goes_on(place: Path) -> None:
    command = ["train", "slides/manifest.csv", "--out", "mine", *TRAINING]
    process = start(*command)
    rest = send_at(process, "epoch 1/3", signal.SIGINT)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "interrupted: the same command, without --overwrite, goes on"
    result = run(*command)
    done = [line.split()[1] for line in result.output.splitlines() if line.startswith("epoch")]
    assert done in (["2/3", "3/3"], ["3/3"]), "the second epoch may have ended before the signal came"
    assert "holds a finished run" in run(*command, status=2).stderr
    assert "epoch 1/3" in run(*command, "--overwrite").output


def test_training_without_one_slide_is_status_1(place: Path) -> None:
    manifest = Path("slides/manifest.csv").read_text().replace("train_2.tif", "gone.tif")
    path = Path("slides").resolve() / "one-gone.csv"
    path.write_text(manifest)
    result = run("train", path, "--out", "mine", *TRAINING, "-s", "train.epochs=1", status=1)
    assert "1 slide(s) could not be used: see mine/failures.csv" in result.stderr
    assert Path("mine/model/model.safetensors").exists()


def test_mpp_for_slides_that_do_not_say(place: Path) -> None:
    lines = ["slide,label,split"]
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = np.full((512, 512, 3), 255, np.uint8)
        pixels[:, :256] = rng.integers((140, 60, 130), (220, 140, 210), (512, 256, 3))
        tifffile.imwrite(f"{i}.tif", pixels, tile=(256, 256), photometric="rgb")
        lines.append(f"{i}.tif,{i % 2},{('train', 'val')[i // 2]}")
    Path("manifest.csv").write_text("\n".join(lines) + "\n")
    in_mpp = [setting for setting in SETTINGS if "downsample" not in setting]
    command = ["train", "manifest.csv", *options(*in_mpp, "view.mpp=8", "tile.mpp=1", "train.epochs=1")]
    assert "no usable slide" in run(*command, "--out", "one", status=2).stderr
    failures = pd.read_csv("one/failures.csv")
    assert failures.error.str.contains("does not say its micrometres per pixel").all()
    run(*command, "--out", "two", "--mpp", "0.5")
    assert "0.5" in Path("two/slides.csv").read_text()


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
        (["info", "gone.svs"], "'gone.svs' cannot be opened"),
        (["info", "slides/manifest.csv"], "'manifest.csv' is in no format"),
        (["config", "--set", "speed.limit=3"], "no such setting"),
        (["config", "--out", "slides/test_0.tif/c.toml"], "cannot be written"),
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
    result = run(*PREDICT, "slides", "--out", "o", "--device", "cuda:3", status=2)
    assert "--device cuda:3" in result.stderr


# ---- the small commands


def test_version_and_help() -> None:
    assert run("--version").stdout == f"wsi-ats {__version__}\n"
    text = run("--help").stdout
    for name in ("train", "predict", "heatmap", "info", "config", "doctor", "demo"):
        assert f"\n  {name} " in text


def test_info(place: Path) -> None:
    text = run("info", "slides/test_1.tif").stdout
    assert text.splitlines()[:5] == [
        "slide: test_1.tif",
        "backend: openslide",
        "size: 768 x 768 px",
        "mpp: 0.5 x 0.5 um/px (openslide.mpp-x)",
        "level 0: 768 x 768 px, downsample 1 x 1",
    ]
    facts = json.loads(run("info", "slides/test_1.tif", "--json", "--properties", "--mpp", "0.25").stdout)
    assert (facts["size"], facts["mpp"], facts["mpp source"]) == ([768, 768], [0.25, 0.25], "given")
    assert facts["properties"]["openslide.vendor"] == "generic-tiff"
    assert [level["size"] for level in facts["levels"]] == [[768, 768], [192, 192], [48, 48]]
    assert "openslide.vendor: generic-tiff" in run("info", "slides/test_1.tif", "--properties").stdout


def test_info_of_a_slide_without_mpp(place: Path) -> None:
    tifffile.imwrite("plain.tif", np.zeros((512, 512, 3), np.uint8), tile=(256, 256), photometric="rgb")
    assert "mpp: unknown; give --mpp where it is needed" in run("info", "plain.tif").stdout
    assert "mpp: 0.25 x 0.25 um/px (given)" in run("info", "plain.tif", "--mpp", "0.25").stdout


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
    assert "tissue tiles read" in text
    with Image.open("new/h.png") as picture:
        assert min(picture.size) > 300
        assert picture.convert("L").getextrema()[0] < 50 < 250 < picture.convert("L").getextrema()[1]
    assert "±" not in run("heatmap", "run/model", "slides/test_1.tif", "--repeats", "1").stdout


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("doctor").stdout
    assert "ok  slide written and read back: " in text
    assert "BAD" not in text
    checks = [Check("disk", True, "large"), Check("device", False, "none [red]", "buy one")]
    monkeypatch.setattr("wsi_ats.doctor.checks", lambda: iter(checks))
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

    monkeypatch.setattr("wsi_ats.demo.run.run_demo", run_demo)
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
    assert said.startswith("slide: caf\\udce9.tif\n")
