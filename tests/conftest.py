"""Small slides and a small trained model, made once a test process, for the tests that need the whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.cohort import write_cohort


@dataclass(frozen=True)
class SmallRun:
    """What the demo leaves, at a size for tests: too small to be right, large enough to be real."""

    folder: Path
    lines: tuple[str, ...]

    @property
    def model(self) -> Path:
        return self.folder / "run" / "model"

    @property
    def manifest(self) -> Path:
        return self.folder / "slides" / "manifest.csv"

    @property
    def slides(self) -> list[Path]:
        return sorted((self.folder / "slides").glob("test_*.tif"))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    from wsi_ats.demo.run import run_demo
    from wsi_ats.demo.slides import Cohort

    folder = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    report = run_demo(folder, 0, 2, said.append, Cohort(train=6, val=4, test=4, px=1536), epochs=2)
    return SmallRun(folder, (*said, *report.lines()))


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of a few small slides; they must be left as they are."""
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run beside each other on few cores."""
    torch.set_num_threads(1)
