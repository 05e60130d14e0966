"""A batch: every slide is predicted once, whatever happens to the others, and what is done survives.

Slides that are done already are skipped; one that another process is at is waited for. The tables are written
at the end, also when the batch is interrupted."""

from __future__ import annotations

import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from distributed import Client, KilledWorker

from wsi_ats.atomic import remove_temporaries
from wsi_ats.batch.claim import look, remove_leftovers
from wsi_ats.batch.executors import Executor, OnCluster, Serial
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.job import (
    Job,
    Load,
    Outcome,
    Predictor,
    Run,
    has_killed,
    predict_slide,
    remember_model,
    settled,
    versions,
)
from wsi_ats.batch.records import write_record
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.batch.store import folder_name, slide_folders
from wsi_ats.batch.tables import write_tables
from wsi_ats.batch.twins import once_each, with_known_twins
from wsi_ats.catalogue import is_random
from wsi_ats.errors import ConfigError, Failure, WsiAtsError
from wsi_ats.output import OutputError, check_within, make_folder, writing
from wsi_ats.shown import public_url
from wsi_ats.statistics.novelty import Unlike

POLL = 0.5
"""Seconds between two looks at a slide that another process is at."""
LOSSES = 50
"""Number of times that Dask may give up a job whose workers died, without one that comes to its end, before that is
told: workers that die of what they all do would be started for ever."""
TIMEOUT = 1800.0
"""Seconds that a slide may take where nothing else is asked for; with a sampler that reads every tile, any number."""
TELL_EVERY = 30.0
"""Seconds between two looks of people at a batch: run.json is written anew, and what it waits for told again."""
PATIENCE = 5.0
"""Seconds that a batch waits before it says so."""
WINDOW = 50
"""Number of slides that the rate is taken over: the first ones also wait for models to be loaded."""
FEW = 5
"""Number of slides below which no rate is told."""


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
    rate: float = 0.0
    """Slides that this run predicts a second, over the last ones; 0 while it is too early to tell."""
    waiting: str = ""
    """What the batch waits for where nothing is under way; else empty."""


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
    unlike: tuple[Unlike, ...] = ()
    """How unlike the training slides each slide with a result is, where the model can tell."""
    by: str = "slide"
    """What there is one answer about: slide or patient."""

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
    timeout: float | None = None,
) -> Summary:
    """Predict `items` into the folder `out` (see docs/formats.md), a row each, and say how it went. Items that are
    names of one file are predicted once. Items are patients (`batch/patients.py`) where `settings.by` says so.

    model: the model's folder. load: makes a model of its folder; `wsi_ats.load_model` by default. client: a
    Dask client whose workers do the slides; None does them in this process, one after the other. overwrite:
    also predict slides that are done. on_progress: called after every slide, and now and then while nothing is under
    way. timeout: seconds that a slide may take, 0 for any number; it then fails, and a process that does not come
    back from it is ended. Slides that fail are in the summary and in failures.csv; raised is only what concerns them
    all: `ModelError`, `ConfigError`, a lost scheduler, `OutputError` for a full disk, KeyboardInterrupt. The tables
    are written then too, where they can be."""
    if any(bool(item.slides) != (settings.by == "patient") for item in items):
        raise ConfigError(
            f"answers are to be by {settings.by}, and the items are not",
            "make them with batch.patients.items_by",
        )
    folder = Path(model).absolute()
    # Loaded here first: a model that cannot be loaded is told before any slide is touched.
    network = (load or _load_model)(folder, device)
    remember_model(network, folder, device)
    run = Run(uuid.uuid4().hex, time.time(), overwrite)
    config = settings.hash(network.hash)
    place = _make_folder(Path(out), settings.by)
    items = with_known_twins(items, place, config, settings.override_mpp)
    slides = once_each(items)
    specs = tuple(network.specs)
    if timeout is None:
        timeout = TIMEOUT if is_random(settings.sampler) else 0.0
    jobs = [
        Job(
            item,
            place,
            folder,
            network.hash,
            config,
            settings,
            run,
            load or _load_model,
            device,
            specs=specs,
            timeout=timeout,
        )
        for item in slides
    ]
    log = _RunLog(place, settings, folder, network.hash, config, tuple(map(public_url, argv)))
    board = _Board(len(slides), on_progress, log)
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
        with _told_first(status):
            executor.cancel()
            # Those under way may have ended since: what is on the disk counts.
            for job in begun(jobs) if status != "finished" else ():
                board.look_again(job)
            write_tables(place, items, config, specs, board.settled, board.failures, board.wait, settings.by)
            log.write(status, board.progress)
    order = {item.id: position for position, item in enumerate(slides)}
    failures = sorted(board.failures.values(), key=lambda failure: order[failure.slide])
    notes = {slide: board.notes[slide] for slide in sorted(board.notes, key=order.__getitem__)}
    return Summary(
        place, board.progress, tuple(failures), notes, board.mean_stages(), tuple(board.unlike), settings.by
    )


@contextmanager
def _told_first(status: str) -> Iterator[None]:
    """A block after the work whose failure to write is not told where the work itself has failed: that comes first."""
    try:
        yield
    except OutputError:
        if status == "finished":
            raise


class _Board:
    """Keeps count of what became of the slides."""

    def __init__(self, total: int, tell: OnProgress | None, log: _RunLog) -> None:
        self.progress = Progress(total)
        self.settled: set[str] = set()
        self.failures: dict[str, Failure] = {}
        self.notes: dict[str, tuple[str, ...]] = {}
        self.unlike: list[Unlike] = []
        self._tell, self._log = tell, log
        self._stages: dict[str, float] = {}
        self._start = self._told = time.perf_counter()
        self._idle_since: float | None = None
        self._ends: deque[float] = deque(maxlen=WINDOW)

    def settle(self, outcome: Outcome) -> None:
        """Count a slide that came to its end."""
        self.settled.add(outcome.slide)
        made = outcome.status == "done"
        if outcome.failure is not None:
            self.failures[outcome.slide] = outcome.failure
        if outcome.notes:
            self.notes[outcome.slide] = outcome.notes
        if outcome.unlike is not None:
            self.unlike.append(outcome.unlike)
        for stage, seconds in outcome.seconds.items() if made else ():
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds
        before, now = self.progress, time.perf_counter()
        self._idle_since = None
        if outcome.status != "known":
            self._ends.append(now)
        self.progress = replace(
            before,
            done=before.done + (outcome.failure is None),
            known=before.known + (outcome.status == "known"),
            failed=before.failed + (outcome.failure is not None),
            tiles=before.tiles + made * outcome.tiles,
            bytes=before.bytes + made * outcome.bytes,
            bad_tiles=before.bad_tiles + outcome.bad_tiles,
            seconds=now - self._start,
            slide=outcome.slide,
            rate=self._rate(outcome.seconds.get("total", 0.0)),
            waiting="",
        )
        self._say()

    def look_again(self, job: Job) -> None:
        """Count a slide that is not known to have come to its end, where its folder says that it has."""
        outcome = None if job.item.id in self.settled else settled(job)
        if outcome is not None:
            self._tell = None
            self.settle(outcome)

    def wait(self, what: str) -> None:
        """Say what is waited for, when that changes and every now and then."""
        now = time.perf_counter()
        if not what or self._idle_since is None:
            self._idle_since = now if what else None
        elif now - self._idle_since > PATIENCE and (
            not self.progress.waiting or now - self._told > TELL_EVERY
        ):
            self._told = now
            self.progress = replace(self.progress, waiting=what, seconds=now - self._start)
            self._say()

    def look_up(self) -> None:
        """Bring run.json up to date, every now and then."""
        self._log.refresh(self.progress)

    def _say(self) -> None:
        if self._tell is not None:
            self._tell(self.progress)

    def _rate(self, seconds: float) -> float:
        """Slides a second over the last ones, of which one takes `seconds`: where several are done at once they end in
        bursts, and one burst has no rate."""
        span = self._ends[-1] - self._ends[0] if self._ends else 0.0
        if len(self._ends) <= FEW or span <= 2 * seconds:
            return self.progress.rate
        return (len(self._ends) - 1) / span

    def mean_stages(self) -> dict[str, float]:
        """Mean seconds a stage over the slides that this run predicted."""
        predicted = self.progress.done - self.progress.known
        return {stage: seconds / predicted for stage, seconds in self._stages.items()}


def _work(jobs: Sequence[Job], executor: Executor, board: _Board) -> None:
    """Bring every job to its end: a bounded number under way, those of other processes looked at now and
    then, and last those that processes may have died of."""
    todo, last = deque[Job](), deque[Job]()
    looked_at = {job.item.id for job in begun(jobs)}
    for job in jobs:
        if job.item.id not in looked_at:
            todo.append(job)
            continue
        outcome = settled(job)
        if outcome is not None:
            _tidy(job)
            board.settle(outcome)
            continue
        with writing(job.out):
            (last if has_killed(job) else todo).append(job)
        board.look_up()
    todo += last
    busy: deque[tuple[float, Job, str]] = deque()
    losses = under_way = 0
    while todo or busy or under_way:
        while busy and busy[0][0] <= time.monotonic():
            todo.appendleft(busy.popleft()[1])
        while todo and under_way < executor.capacity():
            executor.submit(todo.popleft())
            under_way += 1
        finished = executor.next(timeout=POLL)
        board.look_up()
        if finished is None:
            board.wait(executor.waits_for() or _others(busy if not under_way else ()))
            continue
        under_way -= 1
        job, result = finished
        if isinstance(result, KilledWorker):
            losses += 1
            if losses > LOSSES:
                raise _dying(losses) from result
            # What its claim says is for the next worker that gets it.
            result = Outcome(job.item.id, "busy")
        if isinstance(result, BaseException):
            raise result
        if result.status == "busy":
            busy.append((time.monotonic() + POLL, job, result.waits_for))
        else:
            losses = 0
            board.settle(result)


def begun(jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose slide has a folder: of the others nothing can be known."""
    there = slide_folders(jobs[0].out, jobs[0].settings.by) if jobs else frozenset[str]()
    return [job for job in jobs if folder_name(job.item.id) in there] if there else []


def _tidy(job: Job) -> None:
    """Delete the claim that a process left behind which died right after the slide was done."""
    path = job.store.claim
    with writing(job.out):
        found = look(path)
        if found is not None and found.is_gone(job.run.id):
            path.unlink(missing_ok=True)


def _others(busy: Iterable[tuple[float, Job, str]]) -> str:
    """What is waited for where other processes are at all slides that are left."""
    who = [text for _, _, text in busy if text]
    return f"waiting for {len(who)} slide(s) that other processes are at: {who[0]}" if who else ""


def _dying(losses: int) -> WsiAtsError:
    return WsiAtsError(
        f"worker processes have died {losses} times, and no slide came to its end meanwhile",
        remedy="look at the workers' logs: they may be short of memory or miss a library; run fewer workers, or "
        "--workers 0 to see the error; then give the same command again: what is done is kept",
    )


@dataclass
class _RunLog:
    """Writes run.json."""

    out: Path
    settings: PredictSettings
    model: Path
    model_hash: str
    config_hash: str
    argv: tuple[str, ...]
    start: datetime = field(default_factory=lambda: datetime.now(UTC))
    _written: float = 0.0

    def refresh(self, progress: Progress) -> None:
        """Say how far the run is, unless that was said just now."""
        if time.monotonic() - self._written > TELL_EVERY:
            self.write("running", progress)

    def write(self, status: str, progress: Progress) -> None:
        """Say how far the run is, and its end where it has ended."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._written = time.monotonic()
        record = {
            "status": status,
            "start": self.start.isoformat(timespec="seconds"),
            "updated": now,
            "end": None if status == "running" else now,
            "argv": list(self.argv),
            "config": asdict(self.settings),
            "config_hash": self.config_hash,
            "model": {"folder": str(self.model), "hash": self.model_hash},
            f"{self.settings.by}s": {
                name: getattr(progress, name) for name in ("total", "done", "known", "failed")
            },
            "versions": versions(),
            "host": socket.gethostname(),
        }
        with writing(self.out):
            write_record(self.out / "run.json", record)


def _make_folder(out: Path, by: str) -> Path:
    """Make the output folder ready, and find out whether it can be written to before anything is computed for it."""
    make_folder(out)
    slides = out / f"{by}s"
    if slides.is_symlink():
        raise ConfigError(
            f"{slides} is a link; results are written into folders alone",
            remedy="give the place that it leads to as output folder",
        )
    check_within(out, ("run.json", "predictions.csv", "failures.csv", ".tables"), (slides.name,))
    with writing(out):
        slides.mkdir(exist_ok=True)
        remove_temporaries(out)
        remove_leftovers(out / ".tables")
    return out.absolute()


def _load_model(folder: Path, device: str) -> Predictor:
    # Here, so that torch is loaded only where a real model is.
    from wsi_ats.model_folder import load_model

    return load_model(folder, device)
