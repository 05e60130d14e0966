"""Batches with the stand-in model, in this process and in others, as the tests of faults need them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from tests.support.fake_model import items, load, make_model, make_slide
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.run import Summary, run_batch
from wsi_ats.batch.settings import PredictSettings

ROOT = Path(__file__).parents[2]
QUICK = PredictSettings(tiles=5, heatmap=False)


def good_slides(folder: Path, count: int) -> list[SlideItem]:
    return items(*(make_slide(folder / f"s{i}.tif", seed=i) for i in range(count)))


def run(slides: Sequence[SlideItem], folder: Path, **options: object) -> Summary:
    """A batch into folder/out."""
    model = folder / "model"
    if not model.exists():
        make_model(model)
    settings = options.pop("settings", QUICK)
    return run_batch(slides, folder / "out", settings, model=model, load=load, **options)


def table(folder: Path, name: str = "predictions.csv") -> pd.DataFrame:
    return pd.read_csv(folder / "out" / name, keep_default_na=False, dtype=str)


def untimed(folder: Path) -> str:
    """predictions.csv without the times."""
    return table(folder).drop(columns="seconds").to_csv()


SCRIPT = """
import sys
from pathlib import Path
from tests.support.batches import run
from tests.support.fake_model import items
{setup}
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run(items(*sorted(folder.glob("*.tif"))), folder, **{options})
"""


def start(folder: Path, setup: str = "", **options: object) -> subprocess.Popen[str]:
    """The batch of all *.tif of `folder` in a process of its own, which runs the lines `setup` first."""
    make_model(folder / "model") if not (folder / "model").exists() else None
    script = SCRIPT.format(setup=setup, options=options)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT, env=environment, **pipes)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
