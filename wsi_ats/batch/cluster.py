"""Where a batch runs: worker processes of this machine, or an existing Dask cluster."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from wsi_ats.errors import ConfigError

CONNECT_SECONDS = 20


class Share(WorkerPlugin):  # type: ignore[misc]
    """Sets up a worker process of this machine, a restarted one too: its share of the cores, Ctrl-C left
    alone."""

    name = "wsi-ats-share"

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def setup(self, worker: Worker) -> None:
        """Called by Dask in the new process."""
        import torch  # the process that starts the workers needs no torch

        torch.set_num_threads(self.threads)
        if threading.current_thread() is threading.main_thread():
            # A terminal sends Ctrl-C to the whole group of processes; the one in front decides what to stop.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def local_cluster(workers: int) -> Iterator[Client]:
    """A Dask client on `workers` processes of this machine, gone at the end of the block.

    A worker that dies (out of memory, a crash in a codec) is started again; the slide that it was at is tried
    once more and then given up. Each worker gets an equal share of the cores for its arithmetic."""
    if workers < 1:
        raise ConfigError(f"workers is {workers}; it must be at least 1")
    share = Share(max(1, (os.cpu_count() or 1) // workers))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(share)
        yield client


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
