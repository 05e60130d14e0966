"""A batch: every slide is predicted once, whatever happens to the others, and what is done survives.

Slides that are done already are skipped; one that another process is at is waited for. The tables are written
at the end, also when the batch is interrupted."""

from __future__ import annotations

import socket
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from distributed import Client, KilledWorker

from wsi_ats.batch.claim import acquire, look
from wsi_ats.batch.executors import Executor, OnCluster, Serial
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.job import (
    Job,
    Load,
    Outcome,
    Predictor,
    Run,
    fail,
    predict_slide,
    remember_model,
    settled,
    versions,
)
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.batch.store import write_record
from wsi_ats.batch.tables import write_tables
from wsi_ats.batch.twins import once_each, with_known_twins
from wsi_ats.errors import ConfigError, Failure, WsiAtsError
from wsi_ats.shown import public_url

POLL = 0.5
"""Seconds between two looks at a slide that another process is at."""
DEATHS = 3
"""Number of times that a slide may be lost with a worker that had not begun it before it is given up."""


@dataclass(frozen=True)
class Progress:
    """Progress of a batch: how far it is."""

    total: int
    done: int = 0
    """Number of slides with a result, those of earlier runs included."""
    known: int = 0
    """Number of slides whose result an earlier run or another process made."""
    failed: int = 0
    tiles: int = 0
    """Number of tiles read by this run."""
    bytes: int = 0
    bad_tiles: int = 0
    """Number of damaged tiles that were read as background, in all slides with a result."""
    seconds: float = 0.0
    """Seconds since the batch began."""
    slide: str = ""
    """Id of the slide that came to its end last."""


@dataclass(frozen=True)
class Summary:
    """Summary of how a batch ended."""

    out: Path
    progress: Progress
    failures: tuple[Failure, ...]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Notes on slides with a result, by id: what should be known before their answer is believed."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Mean seconds a slide by stage, over the slides that this run predicted."""

    @property
    def ok(self) -> bool:
        """Whether every slide has a result."""
        return self.progress.done == self.progress.total


OnProgress = Callable[[Progress], object]


def run_batch(
    items: Sequence[SlideItem],
    out: Path | str,
    settings: PredictSettings,
    client: Client | None = None,
    on_progress: OnProgress | None = None,
    *,
    model: Path | str,
    load: Load | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    argv: Sequence[str] = (),
) -> Summary:
    """Predict `items` into the folder `out` (see docs/formats.md), a row each, and say how it went. Items that are
    names of one file are predicted once.

    model: the model's folder. load: makes a model of its folder; `wsi_ats.load_model` by default. client: a
    Dask client whose workers do the slides; None does them in this process, one after the other. overwrite:
    also predict slides that are done. on_progress: called after every slide. Slides that fail are in the
    summary and in failures.csv; raised is only what concerns them all: `ModelError`, `ConfigError`, a lost
    scheduler, a full disk, KeyboardInterrupt. The tables are written then too."""
    folder = Path(model).absolute()
    # Loaded here first: a model that cannot be loaded is told before any slide is touched.
    network = (load or _load_model)(folder, device)
    remember_model(network, folder, device)
    run = Run(uuid.uuid4().hex, time.time(), overwrite)
    config = settings.hash(network.hash)
    place = _make_folder(Path(out))
    items = with_known_twins(items, place, config, settings.override_mpp)
    slides = once_each(items)
    jobs = [
        Job(item, place, folder, network.hash, config, settings, run, load or _load_model, device)
        for item in slides
    ]
    log = _RunLog(place, settings, folder, network.hash, config, tuple(argv))
    board = _Board(len(slides), on_progress)
    executor: Executor = Serial(predict_slide) if client is None else OnCluster(client, predict_slide)
    log.write("running", board.progress)
    status = "stopped by an error"
    try:
        _work(jobs, executor, board)
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        executor.cancel()
        write_tables(place, items, config, network.specs, board.settled)
        log.write(status, board.progress)
    order = {item.id: position for position, item in enumerate(slides)}
    failures = sorted(board.failures, key=lambda failure: order[failure.slide])
    notes = {slide: board.notes[slide] for slide in sorted(board.notes, key=order.__getitem__)}
    return Summary(place, board.progress, tuple(failures), notes, board.mean_stages())


class _Board:
    """Keeps count of what became of the slides."""

    def __init__(self, total: int, tell: OnProgress | None) -> None:
        self.progress = Progress(total)
        self.settled: set[str] = set()
        self.failures: list[Failure] = []
        self.notes: dict[str, tuple[str, ...]] = {}
        self._tell = tell
        self._stages: dict[str, float] = {}
        self._start = time.perf_counter()

    def settle(self, outcome: Outcome) -> None:
        """Count a slide that came to its end."""
        self.settled.add(outcome.slide)
        made = outcome.status == "done"
        if outcome.failure is not None:
            self.failures.append(outcome.failure)
        if outcome.notes:
            self.notes[outcome.slide] = outcome.notes
        for stage, seconds in outcome.seconds.items() if made else ():
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds
        before = self.progress
        self.progress = replace(
            before,
            done=before.done + (outcome.failure is None),
            known=before.known + (outcome.status == "known"),
            failed=before.failed + (outcome.failure is not None),
            tiles=before.tiles + made * outcome.tiles,
            bytes=before.bytes + made * outcome.bytes,
            bad_tiles=before.bad_tiles + outcome.bad_tiles,
            seconds=time.perf_counter() - self._start,
            slide=outcome.slide,
        )
        if self._tell is not None:
            self._tell(self.progress)

    def mean_stages(self) -> dict[str, float]:
        """Mean seconds a stage over the slides that this run predicted."""
        predicted = self.progress.done - self.progress.known
        return {stage: seconds / predicted for stage, seconds in self._stages.items()}


def _work(jobs: Sequence[Job], executor: Executor, board: _Board) -> None:
    """Bring every job to its end: a bounded number under way, those of other processes looked at now and
    then."""
    todo: deque[Job] = deque()
    for job in jobs:
        outcome = settled(job)
        if outcome is None:
            todo.append(job)
        else:
            board.settle(outcome)
    busy: deque[tuple[float, Job]] = deque()
    deaths: Counter[str] = Counter()
    under_way = 0
    while todo or busy or under_way:
        while busy and busy[0][0] <= time.monotonic():
            todo.appendleft(busy.popleft()[1])
        while todo and under_way < executor.capacity():
            executor.submit(todo.popleft())
            under_way += 1
        finished = executor.next(timeout=POLL)
        if finished is None:
            continue
        under_way -= 1
        job, result = finished
        if isinstance(result, KilledWorker):
            deaths[job.item.id] += 1
            result = _after_death(job, deaths[job.item.id])
        if isinstance(result, BaseException):
            raise result
        if result.status == "busy":
            busy.append((time.monotonic() + POLL, job))
        else:
            board.settle(result)


def _after_death(job: Job, deaths: int) -> Outcome:
    """A slide that was lost with its worker: failed where the worker was at it, to be tried again where it
    was only next in that worker's queue."""
    found = look(job.store.claim)
    begun = found is not None and found.holder is not None and found.holder.run == job.run.id
    if not begun and deaths <= DEATHS:
        return Outcome(job.item.id, "busy")
    job.store.folder.mkdir(parents=True, exist_ok=True)
    claim = acquire(job.store.claim, job.run.id)
    if claim is None:
        return Outcome(job.item.id, "busy")
    with claim:
        error = WsiAtsError(
            f"the worker process died, twice, while it was at {job.item.id}",
            remedy="out of memory: run fewer workers; a crash in a decoder: save the slide in another format",
        )
        return settled(job) or fail(job, "worker", error)


@dataclass(frozen=True)
class _RunLog:
    """Writes run.json."""

    out: Path
    settings: PredictSettings
    model: Path
    model_hash: str
    config_hash: str
    argv: tuple[str, ...]
    start: datetime = field(default_factory=lambda: datetime.now(UTC))

    def write(self, status: str, progress: Progress) -> None:
        """Say how far the run is, and its end where it has ended."""
        end = None if status == "running" else datetime.now(UTC).isoformat(timespec="seconds")
        record = {
            "status": status,
            "start": self.start.isoformat(timespec="seconds"),
            "end": end,
            "argv": [public_url(argument) for argument in self.argv],
            "config": asdict(self.settings),
            "config_hash": self.config_hash,
            "model": {"folder": str(self.model), "hash": self.model_hash},
            "slides": {name: getattr(progress, name) for name in ("total", "done", "known", "failed")},
            "versions": versions(),
            "host": socket.gethostname(),
        }
        write_record(self.out / "run.json", record)


def _make_folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output folder {out} cannot be made: {error.strerror}") from error
    return out.absolute()


def _load_model(folder: Path, device: str) -> Predictor:
    # Here, so that torch is loaded only where a real model is.
    from wsi_ats.model_folder import load_model

    return load_model(folder, device)
