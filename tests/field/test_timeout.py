"""A slide that never ends fails at its time limit, wherever it is predicted, and the others are done."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.batches import good_slides, run, start, table, untimed
from tests.support.commands import run as command
from tests.support.fake_model import FakeModel, calls, items, load, make_model, make_slide
from wsi_ats.batch.cluster import local_cluster
from wsi_ats.batch.deadline import STATUS, Deadline, TimedOut
from wsi_ats.batch.run import run_batch
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.batch.store import SlideStore
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading
from wsi_ats.slides.base import Slide
from wsi_ats.stopwatch import Stopwatch


class SlowModel(FakeModel):
    """A stand-in that never ends on some slides: `*spins*` in Python, `*waits*` in a system call, `*hangs*` in code
    that gives no heed to anything."""

    def read(self, slide: Slide, reading: Reading) -> Prediction:
        with Stopwatch()("tiles"):
            if "spins" in slide.name:
                self._log(slide)
                while True:
                    try:
                        sum(range(100))
                    except Exception:  # noqa: BLE001 (as a reader that falls back to another one)
                        continue
            if "waits" in slide.name:
                self._log(slide)
                one, other = socket.socketpair()
                with one, other:
                    one.recv(1)
            if "hangs" in slide.name:
                self._log(slide)
                while True:
                    try:
                        time.sleep(1)
                    except TimedOut:
                        continue
        return super().read(slide, reading)

    def _log(self, slide: Slide) -> None:
        with (self.folder / "log.txt").open("a") as log:
            log.write(f"{slide.name} 0\n")


def load_slow(folder: Path, device: str) -> SlowModel:
    load(folder, device)
    return SlowModel(folder)


HANGING = (
    "from tests.field.test_timeout import load_slow\nimport tests.support.batches as b\nb.load = load_slow\n"
)
SHORT_GRACE = "import wsi_ats.batch.deadline as d\nd.GRACE = 0.3\n"


@pytest.mark.parametrize("kind", ["spins", "waits"])
def test_in_this_process_the_slide_fails_and_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("tests.support.batches.load", load_slow)
    slides = [*items(make_slide(tmp_path / f"{kind}.tif")), *good_slides(tmp_path, 2)]
    summary = run(slides, tmp_path, timeout=0.4)
    (failure,) = summary.failures
    assert (failure.slide, failure.stage) == (f"{kind}.tif", "tiles")
    assert failure.error == "timed out after 0.4 s in stage tiles"
    assert "--timeout" in failure.remedy
    assert list(table(tmp_path).status) == ["failed", "done", "done"]
    assert not any(
        thread.name == "time limit of a slide" for thread in threading.enumerate() if thread.is_alive()
    )


def test_what_does_not_come_back_ends_its_process_and_the_next_one_passes_it(tmp_path: Path) -> None:
    good_slides(tmp_path, 2)
    make_slide(tmp_path / "hangs.tif")
    process = start(tmp_path, HANGING + SHORT_GRACE, timeout=0.4)
    process.communicate()
    assert process.returncode == STATUS
    assert SlideStore(tmp_path / "out", "hangs.tif").claim.exists()
    process = start(tmp_path, HANGING + SHORT_GRACE, timeout=0.4)
    assert process.wait() == 0, process.communicate()[0]
    process.communicate()
    assert calls(tmp_path / "model").count("hangs.tif") == 1
    assert list(table(tmp_path).status) == ["failed", "done", "done"]
    (failure,) = table(tmp_path, "failures.csv").to_dict("records")
    assert failure["stage"] == "tiles"
    assert failure["error"] == "timed out after 0.4 s in stage tiles, and did not stop when it was told to"


@pytest.mark.slow
def test_workers_have_the_limit_too(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 3)
    late = items(*(make_slide(tmp_path / f"{kind}.tif") for kind in ("spins", "hangs")))
    model = make_model(tmp_path / "model")
    quick = PredictSettings(tiles=5, heatmap=False)
    with local_cluster(2) as client:
        client.run(_shorten)
        summary = run_batch(
            [*late, *slides], tmp_path / "out", quick, client, model=model, load=load_slow, timeout=1.0
        )
    assert {failure.slide: failure.stage for failure in summary.failures} == {
        "spins.tif": "tiles",
        "hangs.tif": "tiles",
    }
    assert summary.progress.done == 3
    assert Counter(calls(model)) == {f"{name}.tif": 1 for name in ("spins", "hangs", "s0", "s1", "s2")}


def _shorten() -> None:
    import wsi_ats.batch.deadline

    wsi_ats.batch.deadline.GRACE = 0.3


def test_the_limit_is_no_part_of_what_a_result_depends_on(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 2)
    run(slides, tmp_path, timeout=100.0)
    before = untimed(tmp_path)
    assert run(slides, tmp_path, timeout=0.0).progress.known == 2
    assert untimed(tmp_path) == before


def test_a_thread_that_is_not_the_main_one_is_stopped_and_goes_on_afterwards() -> None:
    said: list[str] = []

    def work() -> None:
        deadline = Deadline(0.1, stuck=said.append)
        try:
            with deadline, Stopwatch()("view"):
                while True:
                    sum(range(100))
        except TimedOut:
            said.append(deadline.stage)
        sum(range(100_000))
        said.append("went on")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert said == ["view", "went on"]


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_what_ends_in_time_is_left_alone(seconds: float) -> None:
    import signal

    before = signal.getsignal(signal.SIGALRM)
    with Deadline(seconds, stuck=pytest.fail):
        pass
    assert signal.getsignal(signal.SIGALRM) == before


def test_the_option(place: Path) -> None:
    base = ("predict", "run/model", "slides/test_0.tif", "slides/test_1.tif", "--workers", "0")
    command(*base, "--out", "out", "--timeout", "0.0001", status=1)
    failures = [json.loads(path.read_text())["error"] for path in Path("out").glob("slides/*/failure.json")]
    assert len(failures) == 2
    assert all(failure.startswith("timed out after 0.0001 s in stage ") for failure in failures)
    command(*base, "--out", "out", "--timeout", "0")
    assert "Invalid value" in command(*base, "--out", "out", "--timeout", "-1", status=2).stderr
