"""The sweep goes on where it was killed, and its run ends as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.batches import wait_until
from tests.support.cohort import settings
from tests.support.training import assert_same_weights, silent, table
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row
from wsi_ats.train import sweep as module
from wsi_ats.train.run import train
from wsi_ats.train.sweep import Range, best_score, sweep, with_settings

pytest.importorskip("optuna", reason="sweeps are an extra")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
SPACE = {"train.lr": Range(3e-4, 1e-2, log=True), "sampling.prior": Range(0.0, 1.0)}
FEW = ("train.epochs=8", "train.disk_mb=0")
CHILD = """
import sys
from pathlib import Path
import torch
from tests.train.test_sweep import FEW, SPACE
from tests.support.cohort import settings
from wsi_ats.manifest import read_manifest
from wsi_ats.train.sweep import sweep
torch.set_num_threads(1)
sweep(read_manifest(Path(sys.argv[1])), settings(*FEW), SPACE, Path(sys.argv[2]), 2)
"""


def test_a_killed_sweep_goes_on(cohort: Path, rows: list[Row], tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(cohort), str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: (out / "trial-0000" / "checkpoints" / "last.ckpt").exists(), 120)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "trial-0000" / "run.json").exists(), "killed too late to tell"

    found = sweep(rows, settings(*FEW), SPACE, out, 2, say=silent)
    trials = table(out / "trials.csv")
    assert [t["state"] for t in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [t["user_attrs_folder"] for t in trials] == ["trial-0000", "trial-0000", "trial-0002"]
    for name in SPACE:
        first, same, other = (t[f"params_{name}"] for t in trials)
        assert first == same != other
    best = max(trials[1:], key=lambda t: float(t["value"]))
    config = load_config(found.best)
    assert config == load_config(out / best["user_attrs_folder"] / "config.toml")
    assert config == with_settings(settings(*FEW), found.values)
    assert found.score == float(best["value"]) == best_score(out / best["user_attrs_folder"])

    # Nothing is left to do, nothing is done.
    before = (out / "trial-0002" / "run.json").read_bytes()
    assert sweep(rows, settings(*FEW), SPACE, out, 2, say=silent) == found
    assert (out / "trial-0002" / "run.json").read_bytes() == before

    same_values = with_settings(settings(*FEW), {name: float(trials[0][f"params_{name}"]) for name in SPACE})
    train(rows, same_values, tmp_path / "quiet", say=silent)
    weights = Path("model") / "model.safetensors"
    assert_same_weights(out / "trial-0000" / weights, tmp_path / "quiet" / weights)

    with pytest.raises(ConfigError, match="holds a sweep of other slides, ranges or settings"):
        sweep(rows, settings(*FEW), {"train.lr": Range(1e-3, 1e-2)}, out, 3, say=silent)
    with pytest.raises(ConfigError, match="holds a sweep of other slides, ranges or settings"):
        sweep(rows[1:], settings(*FEW), SPACE, out, 3, say=silent)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"train.lr": Range(0.0, 1.0)}, r"train\.lr = 0"),
        ({"train.speed": Range(0.0, 1.0)}, "no such setting"),
        ({"lr": Range(1e-3, 1e-2)}, r"section\.key"),
        ({}, "1 trials of 0 settings"),
    ],
)
def test_what_cannot_be_searched_is_told_before_anything_is_written(
    space: dict[str, Range], says: str, rows: list[Row], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        sweep(rows, settings(), space, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_without_optuna(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="optuna is not installed") as error:
        sweep(rows, settings(), SPACE, tmp_path / "out", 1)
    assert "wsi-ats[sweep]" in error.value.remedy
