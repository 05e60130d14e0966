"""Trainings in two processes that torchrun starts, by the command and one after the other from Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
Plan = tuple[str, str, str | None, list[str]]
"""Manifest, folder of the run, file of settings, further settings."""


def start_two(*arguments: str | Path) -> subprocess.Popen[str]:
    """A module with its arguments in two processes, each of one thread, as the tests' own are."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*TORCHRUN, "-m", *map(str, arguments)], env=environment, **pipes)


def said_by(process: subprocess.Popen[str], status: int = 0) -> str:
    """What the processes say until they end, which they do with this status."""
    said = process.communicate()[0]
    assert process.returncode == status, said
    return said


def train_all(plans: Sequence[Plan]) -> str:
    """All trainings, in this order; what they say. A line of JSON tells how each ended in each process."""
    return said_by(start_two("tests.support.together", json.dumps(plans)))


def main() -> None:
    """Train, in one of the two."""
    from wsi_ats.config import load_config
    from wsi_ats.errors import WsiAtsError
    from wsi_ats.manifest import read_manifest
    from wsi_ats.tasks.settings import LABEL, columns_of_targets
    from wsi_ats.train.processes import here
    from wsi_ats.train.run import train

    for manifest, out, file, more in json.loads(sys.argv[1]):
        config = load_config(None if file is None else Path(file), more)
        rows = read_manifest(Path(manifest), LABEL, columns_of_targets(config.tasks))
        ended: dict[str, object] = {"process": here().number}
        try:
            result = train(rows, config, Path(out))
            ended |= {"epochs": result.epochs, "failures": [failure.slide for failure in result.failures]}
        except WsiAtsError as error:
            ended |= {"error": error.message, "met_by": error.met_by}
        sys.stdout.write(json.dumps(ended) + "\n")  # in one go: the other one writes, too


if __name__ == "__main__":
    main()
