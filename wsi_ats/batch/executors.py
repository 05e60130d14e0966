"""Executors of jobs: in this process one after the other, or by the workers of a Dask cluster."""

from __future__ import annotations

import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable

from distributed import CancelledError, Client, Future

from wsi_ats.batch.job import Job, Outcome
from wsi_ats.errors import WsiAtsError

Work = Callable[[Job], Outcome]
Finished = tuple[Job, Outcome | BaseException]


@runtime_checkable
class Executor(Protocol):
    """An executor: takes jobs and gives them back finished, in any order."""

    def capacity(self) -> int:
        """Number of jobs that may be under way."""

    def submit(self, job: Job) -> None:
        """Start a job."""

    def next(self, timeout: float) -> Finished | None:
        """A finished job and its outcome or what it raised; None where none ends within `timeout` seconds."""

    def waits_for(self) -> str:
        """What the jobs under way wait for, for people; empty where they are being done."""

    def cancel(self) -> None:
        """Give up the jobs under way."""


class Serial:
    """An executor that does each job in this process when its outcome is asked for."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._jobs: deque[Job] = deque()

    def capacity(self) -> int:
        """Number of jobs that may be under way: one."""
        return 1

    def submit(self, job: Job) -> None:
        """Keep the job for `next`."""
        self._jobs.append(job)

    def next(self, timeout: float) -> Finished | None:
        """The oldest job, done now, and its outcome; what it raises is raised."""
        if not self._jobs:
            time.sleep(timeout)
            return None
        job = self._jobs.popleft()
        return job, self._work(job)

    def waits_for(self) -> str:
        """Nothing: a job is done at once."""
        return ""

    def cancel(self) -> None:
        """Forget the jobs."""
        self._jobs.clear()


class OnCluster:
    """An executor that sends jobs to the workers of a Dask client and forgets their futures as they finish.

    A few more jobs than threads are under way, so that workers do not wait for the driver and ten thousand
    slides do not burden the scheduler."""

    AHEAD = 2
    """Number of jobs under way a worker thread."""
    LOOK_EVERY = 5.0
    """Seconds between two looks at how many workers there are: they come and go."""

    def __init__(self, client: Client, work: Work) -> None:
        self._client, self._work = client, work
        self._finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._jobs: dict[str, tuple[Job, Future]] = {}
        self._threads, self._looked = 0, float("-inf")

    def capacity(self) -> int:
        """Number of jobs that may be under way: a small multiple of the cluster's threads."""
        if time.monotonic() - self._looked > self.LOOK_EVERY:
            with self._connected():
                self._threads = sum(self._client.nthreads().values())
            self._looked = time.monotonic()
        return self.AHEAD * max(1, self._threads)

    def submit(self, job: Job) -> None:
        """Send the job to the scheduler."""
        with self._connected():
            future = self._client.submit(self._work, job, key=f"slide-{uuid.uuid4().hex}", pure=False)
        self._jobs[future.key] = (job, future)
        future.add_done_callback(self._finished.put)

    def next(self, timeout: float) -> Finished | None:
        """The next job to end. Raises `WsiAtsError` where the scheduler was lost."""
        try:
            future = self._finished.get(timeout=timeout)
        except queue.Empty:
            self._check_connection()
            return None
        job, _ = self._jobs.pop(future.key)
        if future.cancelled():
            raise self._lost()
        with self._connected():
            result = self._result(future)
        if result is None:
            self._jobs[future.key] = (job, future)
            future.add_done_callback(self._finished.put)
            return None
        if isinstance(result, CancelledError):
            raise self._lost()
        future.release()
        return job, result

    def _result(self, future: Future) -> Outcome | BaseException | None:
        """What a job has come to; None where that was lost with its worker, and Dask does the job once more."""
        try:
            error: BaseException | None = future.exception(timeout=self.LOOK_EVERY)
            if error is not None:
                return error
            outcome: Outcome = future.result(timeout=self.LOOK_EVERY)
        except TimeoutError:
            return None
        except Exception as raised:
            if future.status != "error":
                raise
            return raised  # it was done once more, and this is how that ended
        return outcome

    def waits_for(self) -> str:
        """Workers, where the scheduler has none."""
        self.capacity()
        if self._threads:
            return ""
        return f"waiting for workers: none is connected to the scheduler at {self._client.scheduler.address}"

    def cancel(self) -> None:
        """Give up the jobs under way; a worker that is at one finishes it."""
        futures = [future for _, future in self._jobs.values()]
        self._jobs.clear()
        if self._client.status == "running":
            with suppress(
                Exception
            ):  # the scheduler may be lost at this very moment: there is nothing to give up then
                self._client.cancel(futures)

    def _check_connection(self) -> None:
        if self._client.status not in ("running", "connecting", "newly-created"):
            raise self._lost()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """A block that talks with the scheduler: what is raised in it means that it was lost."""
        try:
            yield
        except Exception as error:
            raise self._lost() from error

    def _lost(self) -> WsiAtsError:
        return WsiAtsError(
            "the connection to the Dask scheduler was lost",
            remedy="start it again and run the same command: what was done is kept",
        )
