"""Small slides and a small trained model, made once, for the tests that need the whole."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.support.cohort import settings, write_cohort
from wsi_ats.atomic import write_atomic
from wsi_ats.manifest import Row, read_manifest


def pytest_configure() -> None:
    """Make a slow machine and a start in the background no reasons to fail."""
    # A run started in the background (`make test &`, some CI runners) ignores Ctrl-C, and so would its children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A red run tells of the change, never of the day: the same examples every time. `make search` looks for others.
    hypothesis.settings.register_profile("steady", hypothesis.settings(), deadline=None, derandomize=True)
    hypothesis.settings.register_profile("search", hypothesis.settings(), deadline=None, print_blob=True)
    hypothesis.settings.load_profile("steady")


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
    """Made by whichever test process needs it first; the others wait for it. To be left as it is."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of the session, which its processes share
    folder, lines = base / "small-run", base / "small-run.json"
    try:
        folder.mkdir()
    except FileExistsError:
        while not lines.exists():  # no longer than pytest's own time limit
            time.sleep(0.2)
    else:
        write_atomic(lines, json.dumps(_make_small_run(folder)).encode())
    said = json.loads(lines.read_text())
    if not said:
        pytest.fail("the demo failed in another test process")
    return SmallRun(folder, tuple(said))


def _make_small_run(folder: Path) -> list[str]:
    """What the demo says; nothing where it fails, and the test that asked for it gets the traceback."""
    from wsi_ats.demo import run_demo
    from wsi_ats.synthetic.cohort import Cohort

    said: list[str] = []
    try:
        report = run_demo(folder, 0, 2, said.append, Cohort(train=6, val=4, test=4, px=1536), epochs=2)
    except BaseException:
        write_atomic(folder.with_name("small-run.json"), b"[]")
        raise
    return [*said, *report.lines()]


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of a few small slides; they must be left as they are."""
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def rows(cohort: Path) -> list[Row]:
    """The slides of `cohort`."""
    return read_manifest(cohort)


@pytest.fixture(scope="session")
def trained(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of three epochs on `cohort`; to be left as it is."""
    from wsi_ats.train.run import train

    out = tmp_path_factory.mktemp("train") / "run"
    torch.set_num_threads(1)
    train(rows, settings(), out, say=lambda line: None)
    return out


@pytest.fixture
def place(cohort: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, with slides/ and run/ to be left as they are."""
    (tmp_path / "slides").symlink_to(cohort.parent)
    (tmp_path / "run").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    # A thread a worker, as in this process: more threads may change the last digit of a float32.
    monkeypatch.setattr("wsi_ats.batch.cluster.cores", lambda: 2)
    return tmp_path


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run beside each other on few cores."""
    torch.set_num_threads(1)
