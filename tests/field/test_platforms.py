"""What other systems lack, taken away here: the same answers without it. The real macOS and Windows are not tested."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support.commands import run

MACOS = ("posix_fadvise", "sched_getaffinity")
WINDOWS = (*MACOS, "pread", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY")
WITHOUT = """
import os, sys

for name in sys.argv.pop(1).split(","):
    delattr(os, name)

def no_kernel(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc/sys/kernel"):
        raise FileNotFoundError(2, "no such file", arguments[0])

sys.addaudithook(no_kernel)

from wsi_ats.cli.main import main

main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="takes away what Linux has")
@pytest.mark.parametrize("lacking", [MACOS, WINDOWS], ids=["macOS", "Windows"])
def test_answers_are_the_same_on_systems_that_lack_something(place: Path, lacking: tuple[str, ...]) -> None:
    command = ["predict", "run/model", "slides/test_1.tif", "--tiles", "4", "--workers", "0", "--out"]
    run(*command, "here")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(lacking), *command, "there"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    here, there = (pd.read_csv(f"{out}/predictions.csv").drop(columns="seconds") for out in ("here", "there"))
    pd.testing.assert_frame_equal(here, there)
