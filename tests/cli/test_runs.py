"""`train` and `predict` as users give them: the same answers however they are run, stopped and started again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from tests.support.cohort import SETTINGS
from tests.support.commands import TRAINING, options, run, send_at, start
from tests.support.fake_model import make_slide
from wsi_ats.batch.cluster import local_cluster

PREDICT = ("predict", "run/model", "--tiles", "8", "--no-heatmaps")
SEVEN = [f"slides/{split}_{i}.tif" for split, count in (("test", 3), ("val", 4)) for i in range(count)]


def untimed(out: str | Path) -> str:
    """predictions.csv without the times, byte for byte."""
    table = pd.read_csv(Path(out) / "predictions.csv", dtype=str, keep_default_na=False)
    assert (table.seconds != "").any()
    return table.drop(columns="seconds").to_csv(index=False)


@pytest.fixture(scope="module")
def expected(cohort: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """predictions.csv of the seven slides, made in one process without interruption."""
    home = tmp_path_factory.mktemp("expected")
    (home / "slides").symlink_to(cohort.parent)
    (home / "run").symlink_to(trained)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        result = run(*PREDICT, *SEVEN, "--out", "out", "--workers", "0")
    assert "7 of 7 slides done (0 of them before), 0 failed" in result.stdout
    assert "seconds a slide, by stage: open " in result.stdout
    assert "7/7 slides" in result.stderr
    return untimed(home / "out")


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
    manifest = pd.read_csv("slides/manifest.csv")
    manifest["slide"] = "slides/" + manifest["slide"].replace("train_2.tif", "gone.tif")
    manifest.to_csv("mine.csv", index=False)
    result = run("train", "mine.csv", "--out", "mine", *TRAINING, "-s", "train.epochs=1", status=1)
    assert "epoch 1/1" in result.stdout
    assert "validation AUC" in result.stdout
    assert "model: mine/model" in result.stdout
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
