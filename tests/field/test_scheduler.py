"""A scheduler that is lost, or has no workers: told in a line, and the same command goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import CancelledError, Client, Future, KilledWorker
from distributed.comm import CommClosedError

from tests.support.batches import QUICK, ROOT, good_slides, run, start, table, wait_until
from tests.support.fake_model import calls, load, make_model
from wsi_ats.batch.cluster import connect, local_cluster
from wsi_ats.batch.executors import OnCluster
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.job import Job, Outcome, Run, predict_slide
from wsi_ats.batch.run import Progress
from wsi_ats.errors import WsiAtsError


@contextmanager
def scheduler(folder: Path, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Dask scheduler in a process of its own, with as many workers; its address is in folder/address."""
    address = folder / "address"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def dask(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *words, "--scheduler-file", str(address)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=environment, cwd=folder, **quiet)

    processes = [
        dask("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
        *(
            dask("distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard", "--death-timeout", "5")
            for _ in range(workers)
        ),
    ]
    try:
        wait_until(lambda: address.exists() and address.stat().st_size)
        yield processes[0]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def address_of(folder: Path) -> str:
    import json

    return str(json.loads((folder / "address").read_text())["address"])


@pytest.mark.slow
def test_a_scheduler_that_dies_is_told_and_the_batch_goes_on_without_it(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 8)
    make_model(tmp_path / "model", delay=0.3)
    with scheduler(tmp_path, 1) as process, connect(address_of(tmp_path)) as client:

        def lose(progress: Progress) -> None:
            if progress.done == 2:
                process.kill()
                process.wait()

        with pytest.raises(WsiAtsError, match="connection to the Dask scheduler was lost") as raised:
            run(slides, tmp_path, client=client, on_progress=lose)
    assert "what was done is kept" in raised.value.remedy
    assert list(table(tmp_path).status[:2]) == ["done", "done"]
    assert run(slides, tmp_path).progress.known >= 2


@pytest.mark.slow
def test_a_scheduler_without_workers_is_waited_for_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_ats.batch.run.PATIENCE", 0.5)
    told: list[str] = []

    def hear(progress: Progress) -> None:
        told.append(progress.waiting)
        raise KeyboardInterrupt

    with scheduler(tmp_path, 0), connect(address_of(tmp_path)) as client:
        with pytest.raises(KeyboardInterrupt):
            run(good_slides(tmp_path, 2), tmp_path, client=client, on_progress=hear)
        assert told == [f"waiting for workers: none is connected to the scheduler at {address_of(tmp_path)}"]


class Ended(Future):
    """A future that has ended, and what becomes of it when its result is fetched."""

    def __init__(self, *steps: object, status: str = "finished") -> None:
        self.key, self._status = "slide-1", status
        self._steps = list(steps)

    def __del__(self) -> None:
        pass

    @property
    def status(self) -> str:
        return self._status

    def cancelled(self) -> bool:
        return False

    def exception(self, timeout: float) -> object:
        return self._next()

    def result(self, timeout: float) -> object:
        return self._next()

    def add_done_callback(self, function: object) -> None:
        function(self)

    def release(self) -> None:
        pass

    def _next(self) -> object:
        step = self._steps.pop(0)
        if isinstance(step, tuple):
            raise step[0]
        return step


JOB = Job(
    SlideItem("a.svs", Path("a.svs")), Path("out"), Path("model"), "m", "c", QUICK, Run("run", 0.0), load
)
DONE = Outcome("a.svs", "done")


def executor_of(future: Ended) -> OnCluster:
    executor = OnCluster(Client.__new__(Client), predict_slide)
    executor._jobs[future.key] = (JOB, future)
    executor._finished.put(future)
    return executor


@pytest.mark.parametrize(
    "error", [CommClosedError("x"), OSError("x"), CancelledError("x"), RuntimeError("x")]
)
@pytest.mark.parametrize("before", [[], [None]])
def test_what_is_raised_while_a_result_is_fetched_means_that_the_scheduler_is_lost(
    error: Exception, before: list[None]
) -> None:
    with pytest.raises(WsiAtsError, match="lost"):
        executor_of(Ended(*before, (error,))).next(1.0)


@pytest.mark.parametrize("before", [[], [None]])
def test_a_result_that_was_lost_with_its_worker_is_waited_for(before: list[None]) -> None:
    executor = executor_of(Ended(*before, (TimeoutError(),), None, DONE))
    assert executor.next(1.0) is None
    assert executor.next(1.0) == (JOB, DONE)


def test_a_result_that_was_lost_and_then_failed_is_how_the_job_ended() -> None:
    killed = KilledWorker("slide", None, 4)
    assert executor_of(Ended(None, (killed,), status="error")).next(1.0) == (JOB, killed)


@pytest.mark.slow
def test_what_ends_at_ctrl_c_stands_in_the_table(tmp_path: Path) -> None:
    """Results of the slides that were under way are on the disk: the table says so."""
    slides = good_slides(tmp_path, 6)
    make_model(tmp_path / "model", delay=0.2)

    def stop(progress: Progress) -> None:
        done = tmp_path / "out" / "slides"
        wait_until(lambda: len(list(done.glob("*/result.json"))) >= 3)
        raise KeyboardInterrupt

    with local_cluster(2) as client:
        with pytest.raises(KeyboardInterrupt):
            run(slides, tmp_path, client=client, on_progress=stop)
        assert list(table(tmp_path).status).count("done") >= 3


def test_a_batch_of_a_process_alone_is_told_as_it_is_on_the_disk(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 3)
    other = tmp_path / "model"
    make_model(other)

    def stop(progress: Progress) -> None:
        process = start(tmp_path)  # another process does the rest meanwhile
        process.communicate()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(slides, tmp_path, on_progress=stop)
    assert list(table(tmp_path).status) == ["done"] * 3
    assert len(calls(other)) == 3
