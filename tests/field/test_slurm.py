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
    r"(train|val): \d slides \(normal \d, tumour \d\)",
    r"epoch 1/1  loss .*",
    r"validation AUC .*",
    r"model: run/model",
)
"""Lines of a run of one epoch."""

FROZEN = ("features.network=resnet", "features.frozen=true")


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


@pytest.mark.parametrize(
    ("job", "more"),
    [({}, ()), (JOB, ()), (JOB | {"SLURM_JOB_NAME": "bash"}, ()), ({"RANK": "3", "LOCAL_RANK": "1"}, FROZEN)],
    ids=["no job", "a task of a job", "an interactive job", "another launcher, frozen features"],
)
def test_training_says_what_is_its_own_and_leaves_a_model(
    cohort: Path, tmp_path: Path, srun: str, job: dict[str, str], more: tuple[str, ...]
) -> None:
    # What another program of Lightning's left for its own job to go on with.
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("not ours")
    command = [sys.executable, "-m", "wsi_ats", "train", str(cohort), "--out", "run"]
    done = subprocess.run(
        [*command, *options(*SETTINGS, "train.epochs=1", *more)],
        cwd=tmp_path,
        env={**os.environ, **job, "PATH": srun, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, others(done.stdout)) == (0, "", [])
    assert {path.name for path in (tmp_path / "run" / "model").iterdir()} == {
        "config.toml",
        "model-card.md",
        "model.safetensors",
    }
