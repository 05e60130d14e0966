"""Clusters that a batch runs on: worker processes of this machine, or an existing Dask cluster."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from wsi_ats.arguments import whole_number
from wsi_ats.batch.claim import release_all
from wsi_ats.errors import ConfigError

CONNECT_SECONDS = 20


class StopsWhenTold(WorkerPlugin):  # type: ignore[misc]
    """A plugin that makes a worker process ignore Ctrl-C: a terminal sends it to the whole group of processes, and the
    one in front decides what to stop. One that is stopped gives back its claims: it has not died of its slide."""

    name = "wsi-ats-stops-when-told"

    def setup(self, worker: Worker) -> None:
        """Set the worker process up; called by Dask in it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def teardown(self, worker: Worker) -> None:
        """Leave the slides to others; called by Dask when the worker closes."""
        release_all()


def client_for(
    slides: int, *, workers: int | None, scheduler: str | None, device: str
) -> AbstractContextManager[Client | None]:
    """A client of the cluster that a user asks for: that of `scheduler`, or `workers` processes of this machine.

    None: a worker a core, for one slide no cluster at all. 0: no cluster. Raises `ConfigError` where both are
    given.
    """
    if scheduler is not None:
        if workers is not None:
            raise ConfigError(
                f"workers is {workers} and scheduler is {scheduler}: a batch runs here or there",
                remedy="give one of them",
            )
        return connect(scheduler)
    if workers is None:
        # Several processes may share a GPU, to read while another computes, but each takes memory on it.
        most = cores() if device == "cpu" else min(cores(), 4)
        workers = min(most, slides) if slides > 1 else 0
    return local_cluster(workers) if workers else nullcontext()


def cores() -> int:
    """Number of cores that this process may use: in a job of a cluster, fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of(workers: int) -> int:
    """Number of threads of each of so many workers: its share of the cores, or fewer where OMP_NUM_THREADS says so.

    The last digits of a sum depend on it: who wants the same bytes from any number of workers fixes it."""
    share = max(1, cores() // workers)
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(wanted)) if wanted.isdecimal() and int(wanted) else share


@contextmanager
def local_cluster(workers: int) -> Iterator[Client]:
    """A Dask client on `workers` processes of this machine, gone at the end of the block.

    A worker that dies (out of memory, a crash in a codec) is started again; the slide that it was at is tried
    once more and then given up, as its claim says. Each worker gets an equal share of the cores for its arithmetic."""
    whole_number("workers", workers, 1)
    threads = str(threads_of(workers))
    with (
        _environment_kept() as restore,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            # Any free port: a second cluster on the machine would warn about a fixed one.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            # Set in the workers alone, before they import torch.
            env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        restore()
        client.register_plugin(StopsWhenTold())
        yield client


@contextmanager
def _environment_kept() -> Iterator[Callable[[], None]]:
    """Undo, when called and at the end of the block, the variables that Dask sets in this process for its
    workers."""
    # The second one in releases up to 2025, the third since then.
    own = ("PYTHONHASHSEED", "DASK_PARENT", "__DASK_PARENT_PID")
    names = [*dask.config.get("distributed.nanny.pre-spawn-environ"), *own]
    before = {name: os.environ.get(name) for name in names}

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    try:
        yield restore
    finally:
        restore()


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """A Dask client on the scheduler at `address` (tcp://host:port, or host:port).

    Raises `ConfigError` where no scheduler answers.
    """
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at {address!r} within {CONNECT_SECONDS} s: {error}",
            remedy="start one with `dask scheduler` and give the address that it prints",
        ) from error
    with client:
        yield client
