"""Slides that take their process with them: known by their claims, set aside, and the batch passes them."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.batches import good_slides, run, start, table, wait_until
from tests.support.fake_model import calls, items, make_model, make_slide
from wsi_ats.batch.cluster import local_cluster
from wsi_ats.batch.job import DEATHS
from wsi_ats.batch.run import Progress
from wsi_ats.batch.store import SlideStore
from wsi_ats.errors import WsiAtsError

CRASH = """
import os
from tests.support import fake_model
read = fake_model.FakeModel.read
def crash(self, slide, reading):
    if "abort" in slide.name:
        with (self.folder / "log.txt").open("a") as log:
            log.write(f"{{slide.name}} {{os.getpid()}}\\n")
        os.abort()
    return read(self, slide, reading)
fake_model.FakeModel.read = crash
""".replace("{{", "{").replace("}}", "}")


def slides_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tif"))


def test_one_process_after_the_other_passes_a_slide_that_kills(tmp_path: Path) -> None:
    good_slides(tmp_path, 3)
    make_slide(tmp_path / "abort.tif")  # the first in order
    ends = []
    for _ in range(DEATHS + 1):
        process = start(tmp_path, CRASH)
        process.communicate()
        ends.append(process.returncode)
    assert ends == [-signal.SIGABRT] * DEATHS + [0]
    assert Counter(calls(tmp_path / "model")) == {"abort.tif": DEATHS, "s0.tif": 1, "s1.tif": 1, "s2.tif": 1}
    assert list(table(tmp_path).status) == ["failed", "done", "done", "done"]
    (failure,) = table(tmp_path, "failures.csv").to_dict("records")
    assert failure["stage"] == "worker"
    assert f"{DEATHS} processes in a row died while they were at abort.tif" in failure["error"]
    assert "save the slide in another format" in failure["remedy"]


def test_what_may_have_killed_comes_last(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 3)
    make_slide(tmp_path / "abort.tif")
    process = start(tmp_path, CRASH)
    process.communicate()
    assert calls(tmp_path / "model") == ["abort.tif"]
    order: list[str] = []
    run([*items(tmp_path / "abort.tif"), *slides], tmp_path, on_progress=lambda p: order.append(p.slide))
    assert order == ["s0.tif", "s1.tif", "s2.tif", "abort.tif"]
    assert list((tmp_path / "out").rglob(".claim")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_stopped_has_not_died_of_its_slide(tmp_path: Path, number: signal.Signals) -> None:
    (slide,) = good_slides(tmp_path, 1)
    make_model(tmp_path / "model", delay=30)
    stops = (
        "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)"  # as the command has it
    )
    process = start(tmp_path, stops)
    wait_until(lambda: calls(tmp_path / "model"))
    process.send_signal(number)
    process.communicate()
    assert not SlideStore(tmp_path / "out", slide.id).claim.exists()


def test_a_model_that_kills_is_no_fault_of_the_slides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = good_slides(tmp_path, 2)
    die = "import os\nfrom wsi_ats.batch import job\njob._model_of = lambda job: os._exit(9)"
    for _ in range(DEATHS + 1):
        process = start(tmp_path, die)
        process.communicate()
        assert process.returncode == 9
    assert list((tmp_path / "out").rglob(".claim")) == []
    assert run(slides, tmp_path).ok


@pytest.mark.slow
def test_workers_killed_again_and_again_lose_no_good_slide(tmp_path: Path) -> None:
    """A slide is lost to a worker that has it open alone: what waits in its queue is not given up."""
    slides = good_slides(tmp_path, 8)
    crash = items(make_slide(tmp_path / "crash.tif"))
    make_model(tmp_path / "model", delay=0.3)
    with local_cluster(2) as client:
        killed = 0

        def kill(progress: Progress) -> None:
            nonlocal killed
            if progress.done in (2, 4, 6) and killed < progress.done // 2:
                killed += 1
                workers = client.scheduler_info()["workers"]  # asked of the scheduler: a worker may be dying
                client.run(_die, workers=[next(iter(workers))], on_error="ignore")

        summary = run([*crash, *slides], tmp_path, client=client, on_progress=kill)
    assert killed == 3
    assert [failure.slide for failure in summary.failures] == ["crash.tif"]
    assert summary.progress.done == 8
    assert Counter(calls(tmp_path / "model"))["crash.tif"] == DEATHS


def _die() -> None:
    import os

    os._exit(9)


@pytest.mark.slow
def test_a_cluster_that_is_closed_leaves_no_claim(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 4)
    make_model(tmp_path / "model", delay=0.5)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with local_cluster(2) as client:
        with pytest.raises(KeyboardInterrupt):
            run(slides, tmp_path, client=client, on_progress=stop)
        assert list((tmp_path / "out").rglob(".claim")) != [], "a worker is at the next slide"
    time.sleep(0.5)
    assert list((tmp_path / "out").rglob(".claim")) == []
    assert run(slides, tmp_path).ok


def test_workers_that_always_die_end_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import KilledWorker

    from wsi_ats.batch import run as batch

    class Dying(batch.Serial):
        def next(self, timeout: float) -> object:
            return self._jobs.popleft(), KilledWorker("slide", None, 4)

    monkeypatch.setattr(batch, "Serial", Dying)
    monkeypatch.setattr(batch, "POLL", 0.0)
    with pytest.raises(WsiAtsError, match="worker processes have died 51 times"):
        run(good_slides(tmp_path, 2), tmp_path)
