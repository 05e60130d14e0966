"""Training where `srun` is at hand and in the midst of a SLURM job: it runs as anywhere, and says what is its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cohort import SETTINGS
from tests.support.commands import options
from tests.support.encoders import save_vision_model

JOB = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_JOB_NODELIST": "node[1-4]",
    "SLURM_NODELIST": "node[1-4]",
    "SLURM_NNODES": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "SLURM_CPUS_PER_TASK": "2",
}
"""Variables of the last of four tasks, as `sbatch --ntasks=4` with `srun` sets them."""

LINES = (
    r"looked at \d+ of 10 slides",
    r"(train|val): \d (slides|patients) \(normal \d, tumour \d\)",
    r"no patient column: .*",
    r"slides \(patients\)|  class +train +val +test| ─+",
    r"  (normal|tumour)( +\d \(\d\)){3}",
    r"epoch 1/1  loss .*",
    r"validation AUC .*",
    r"frozen features: .*",
    r"where the time of the epochs went .*",
    r"  [a-z]+ +\d+\.\d +\d+\.\d%  .*",
    r"label: not calibrated, 4 slides where it takes 6",
    r"slides unlike the training slides cannot be told: .*",
    r"model: run/model",
    r"report: run/report.html",
)
"""Lines of a run of one epoch."""


@pytest.fixture
def srun(tmp_path: Path) -> str:
    """A PATH on which an `srun` that only fails comes first."""
    program = tmp_path / "bin" / "srun"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


def others(said: str) -> list[str]:
    """Lines that are none of ours."""
    return [line for line in said.splitlines() if not any(re.fullmatch(form, line) for form in LINES)]


def train_beside(srun: str, cohort: Path, folder: Path, job: dict[str, str], *more: str) -> None:
    """Train an epoch in a process of its own: it says nothing but what is ours, and leaves a model."""
    # What another program of Lightning's left for its own job to go on with.
    (folder / "hpc_ckpt_1.ckpt").write_text("not ours")
    command = [sys.executable, "-m", "wsi_ats", "train", str(cohort), "--out", "run"]
    done = subprocess.run(
        [*command, *options(*SETTINGS, "train.epochs=1", *more)],
        cwd=folder,
        env={**os.environ, **job, "PATH": srun, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, others(done.stdout)) == (0, "", [])
    left = {path.name for path in (folder / "run" / "model").iterdir()}
    assert left == {"config.toml", "model-card.md", "model.safetensors"}


@pytest.mark.parametrize(
    "job",
    [{}, JOB, JOB | {"SLURM_JOB_NAME": "bash"}, {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}],
    ids=["no job", "a task of a job", "an interactive job", "another launcher"],
)
def test_training_says_what_is_its_own(cohort: Path, tmp_path: Path, srun: str, job: dict[str, str]) -> None:
    train_beside(srun, cohort, tmp_path, job)


def test_networks_that_rest_are_not_remarked_on(cohort: Path, tmp_path: Path, srun: str) -> None:
    save_vision_model(tmp_path / "vit", "vit")
    encoder = (
        "network=huggingface",
        f"weights={tmp_path / 'vit'}",
        "pooling=cls",
        "mpp=0.5",
        "any_scale=true",
    )
    train_beside(srun, cohort, tmp_path, {}, "tile.px=28", *(f"features.{setting}" for setting in encoder))
    slide = cohort.parent / "test_0.tif"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "wsi_ats",
            "predict",
            "run/model",
            str(slide),
            "--out",
            "out",
            "--workers",
            "1",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert re.fullmatch(r"(1/1 slides, \d+ tiles/s\n)*", done.stderr), "no report or bar of a library"
