"""Jobs: one a slide, small and picklable (paths, hashes, settings; never pixels), done by whatever process gets
it."""

from __future__ import annotations

import io
import socket
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol, overload, runtime_checkable

from PIL import Image

from wsi_ats.batch.claim import Claim, acquire, look
from wsi_ats.batch.deadline import Deadline, TimedOut
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.records import Record, answers
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.batch.store import SlideStore, folder_name, unlike_of
from wsi_ats.errors import Failure, ModelError, NoTissueError, SlideError, WsiAtsError
from wsi_ats.lowres.view import read_view
from wsi_ats.output import OutputError, writing
from wsi_ats.prediction import PatientPrediction, Prediction
from wsi_ats.reading import Reading
from wsi_ats.shown import printable, public_url, shown, url_id
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.slides.fingerprint import fingerprint_of
from wsi_ats.slides.storage.opening import is_url
from wsi_ats.statistics.novelty import Unlike
from wsi_ats.stopwatch import Stopwatch
from wsi_ats.tasks.answer import TaskSpec

SHARED = "on a cluster, model, slides and output folder must lie on a file system that every worker sees"
"""Remedy where a worker misses a file that the driver sees."""
MODELS_KEPT = 2
"""Number of models that a process keeps loaded."""
SLOW = "look at where the slide is stored, or give it more time: --timeout SECONDS, 0 for any number"
"""Remedy where a slide took too long."""
WITHOUT = "or leave its row out, and the patient is answered from the other slides"
"""Remedy where one slide of a patient cannot be read: the patient fails, since the tumour may be on that slide."""
PICTURE_PX = 1024
"""Longest side in px of the picture of a slide without tissue."""
DEATHS = 2
"""Number of processes in a row that may die while they have a slide open, before it is set aside as failed: one may
have been killed for a reason of its own."""


@runtime_checkable
class Predictor(Protocol):
    """The part of a model that a batch needs."""

    hash: str

    @property
    def specs(self) -> tuple[TaskSpec, ...]:
        """Specs of the model's tasks, the main one first."""

    @property
    def srgb(self) -> bool:
        """Whether the model is for slides whose colours were turned to sRGB."""

    @overload
    def read(self, slide: Slide, reading: Reading) -> Prediction: ...

    @overload
    def read(self, slide: Sequence[Slide], reading: Reading) -> PatientPrediction: ...

    def read(self, slide: Slide | Sequence[Slide], reading: Reading) -> Prediction | PatientPrediction:
        """The prediction of an open slide, or of the open slides of a patient, read as `reading` says."""


Load = Callable[[Path, str], Predictor]
"""A function that makes a model of its folder, on a device. Pickled by name: it is of an importable module."""


@dataclass(frozen=True)
class Run:
    """A call of `run_batch`: which claims are its own, and what counts as made by it or after its start."""

    id: str
    started: float
    overwrite: bool = False


@dataclass(frozen=True)
class Job:
    """A job: all that a worker needs to predict one slide, or one patient."""

    item: SlideItem
    out: Path
    model: Path
    model_hash: str
    config_hash: str
    settings: PredictSettings
    run: Run
    load: Load
    device: str = "cpu"
    specs: tuple[TaskSpec, ...] = ()
    """Specs of the model's tasks."""
    timeout: float = 0.0
    """Seconds that the slide may take; 0: any number."""

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 px that win over what the job's slide says; None: as the slide says."""
        return self.mpp_of(self.item)

    def mpp_of(self, slide: SlideItem) -> float | None:
        """Likewise of one of its slides."""
        return slide.mpp if slide.mpp is not None else self.settings.override_mpp

    @property
    def store(self) -> SlideStore:
        """Store of the slide's folder."""
        return SlideStore(self.out, self.item.id, self.settings.by)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job, which goes back to the driver."""

    slide: str
    status: Literal["done", "known", "failed", "busy"]
    """Status; known: done by an earlier run or another process; busy: another process is at it."""
    tiles: int = 0
    bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    bad_tiles: int = 0
    """Number of damaged tiles that were read as background."""
    notes: tuple[str, ...] = ()
    """Notes of the prediction."""
    unlike: Unlike | None = None
    """How unlike the training slides the slide is, where the model can tell."""
    failure: Failure | None = None
    waits_for: str = ""
    """Who is at a busy slide, for people."""


def predict_slide(job: Job) -> Outcome:
    """Predict one slide and write its folder, unless that is done already or another process is at it.

    What goes wrong with the slide becomes a failure; what would go wrong with every slide is raised:
    `ModelError`, and `OutputError` for an output folder that this machine does not see or cannot write to."""
    known = settled(job)
    if known is not None:
        return known
    if not job.out.is_dir():
        raise OutputError(f"output folder {job.out} is not there on {socket.gethostname()}", remedy=SHARED)
    # First: a process that dies while it loads a model has not died of a slide.
    model = _model_of(job)
    try:
        job.store.make()
    except OutputError:
        raise
    except WsiAtsError as error:
        return Outcome(job.item.id, "failed", failure=_failure(job, "write", error))
    with writing(job.out):
        claim = acquire(job.store.claim, job.run.id)
        if claim is None:
            return Outcome(job.item.id, "busy", waits_for=_holder(job))
    with claim:
        # Looked at again under the claim: another process may have finished the slide since.
        return settled(job) or _after_deaths(job, claim) or _attempt(job, model, claim)


def has_killed(job: Job) -> bool:
    """Whether a process may have died of the slide: its claim was left behind, or an earlier run set it aside."""
    found = look(job.store.claim)
    if found is not None and found.holder is not None:
        return found.is_gone(job.run.id)
    failure = job.store.failure()
    return failure is not None and failure["stage"] == WORKER


WORKER = "worker"
"""Stage of a failure of which no more is known than that processes died."""


def _holder(job: Job) -> str:
    found = look(job.store.claim)
    return "" if found is None else f"{job.item.id} ({found.describe(job.run.id)})"


def _after_deaths(job: Job, claim: Claim) -> Outcome | None:
    """A failure where the slide has taken its processes with it, as the claims of these say; else None."""
    if claim.last is None:
        return None
    if claim.last.why:
        return fail(job, claim.last.stage, WsiAtsError(claim.last.why, remedy=SLOW))
    if claim.holder.deaths < DEATHS:
        return None
    error = WsiAtsError(
        f"{claim.holder.deaths} processes in a row died while they were at {job.item.id}, the last of them process "
        f"{claim.last.pid} on {claim.last.host}",
        remedy="out of memory: run fewer workers; a crash in a decoder: save the slide in another format; killed "
        "from outside: give the same command again",
    )
    return fail(job, WORKER, error)


def settled(job: Job) -> Outcome | None:
    """The outcome that is known without predicting the slide; None where it has to be predicted.

    A result counts where it is of this configuration and of the slide as it is now (size and time of change);
    with `overwrite` only if made since this run began. A failure counts only if made since this run began, by
    another process that shares the output folder: the next run tries again."""
    result = job.store.result()
    if result is not None and _is_of(job, result) and _is_new(job, result, job.run.overwrite):
        # Of this very run where the worker died before it could say that it was done.
        status: Literal["done", "known"] = "done" if result["run"] == job.run.id else "known"
        measured = result["tiles_read"], result["bytes_read"], result["seconds"]
        bad, notes = len(result["bad_tiles"]), tuple(result["notes"])
        return Outcome(job.item.id, status, *measured, bad, notes, unlike_of(result))
    failure = job.store.failure()
    if failure is not None and failure["config_hash"] == job.config_hash and _is_new(job, failure, True):
        fields = {name: failure[name] for name in ("stage", "error", "remedy")}
        return Outcome(job.item.id, "failed", failure=Failure(job.item.id, **fields))
    return None


def fail(job: Job, stage: str, error: BaseException, remedy: str = "") -> Outcome:
    """Write failure.json, with the traceback of an error that was not raised on purpose."""
    failure = _failure(job, stage, error, remedy)
    trace = "\n".join(shown(line) for line in "".join(traceback.format_exception(error)).split("\n"))
    job.store.write_failure(failure, provenance(job, None), trace)
    return Outcome(job.item.id, "failed", failure=failure)


def _failure(job: Job, stage: str, error: BaseException, remedy: str = "") -> Failure:
    if isinstance(error, WsiAtsError):
        message, remedy = error.message, error.remedy or remedy
    else:
        message = f"{type(error).__name__}: {error}"
        remedy = remedy or f"see the traceback in {job.store.folder.name}/failure.json"
    return Failure(job.item.id, stage, shown(" ".join(message.split())), shown(" ".join(remedy.split())))


def provenance(job: Job, found: Mapping[str, Any] | None) -> Record:
    """Provenance of a result or failure: its slide, configuration and software; `found`: more about the slide."""
    return {
        "slide": job.item.id,
        "path": _path_of(job.item),
        **(found or {}),
        "patient": job.item.patient,
        "extra": dict(job.item.extra),
        "config_hash": job.config_hash,
        "model": {"folder": str(job.model), "hash": job.model_hash},
        "settings": asdict(job.settings),
        "mpp_given": job.mpp,
        "versions": versions(),
        "host": socket.gethostname(),
        "run": job.run.id,
        "finished": time.time(),
    }


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("wsi-ats", "numpy", "torch", "openslide-python", "openslide-bin", "scikit-image")
    return {name: _version(name) for name in names}


def remember_model(model: Predictor, folder: Path, device: str) -> None:
    """Keep a loaded model for the jobs of this process."""
    with _models_lock:
        _models[folder, model.hash, device] = model
        _models.move_to_end((folder, model.hash, device))
        while len(_models) > MODELS_KEPT:
            _models.popitem(last=False)


_models: OrderedDict[tuple[Path, str, str], Predictor] = OrderedDict()
_models_lock = threading.RLock()


def _model_of(job: Job) -> Predictor:
    """The job's model, loaded once a process."""
    with _models_lock:
        kept = _models.get((job.model, job.model_hash, job.device))
        if kept is not None:
            return kept
        if not job.model.is_dir():
            raise ModelError(
                f"model folder {job.model} is not there on {socket.gethostname()}", remedy=SHARED
            )
        model = job.load(job.model, job.device)
        if model.hash != job.model_hash:
            raise ModelError(
                f"model folder {job.model} changed during the batch: its hash is {model.hash}, "
                f"at the start it was {job.model_hash}",
                remedy="leave the model alone while slides are predicted; start the batch again",
            )
        remember_model(model, job.model, job.device)
        return model


def _attempt(job: Job, model: Predictor, claim: Claim) -> Outcome:
    job.store.clear()
    watch = Stopwatch()
    late = f"timed out after {job.timeout:g} s"

    def leave_word(stage: str) -> None:
        why = f"{late} in stage {_named(stage)}, and did not stop when it was told to"
        sys.stderr.write(
            f"{shown(job.item.id)}: {why}; this process ends. The same command again goes on without that slide.\n"
        )
        sys.stderr.flush()
        claim.give_up(_named(stage), why)

    deadline = Deadline(job.timeout, leave_word)
    try:
        with deadline:
            with watch("total"):
                prediction, found = _predict(job, model, watch)
            prediction = replace(prediction, seconds={**prediction.seconds, **watch.seconds})
            with watch("write"):
                job.store.write_result(prediction, provenance(job, found), _places(job, prediction))
    except TimedOut:
        stage = _named(deadline.stage)
        return settled(job) or fail(job, stage, WsiAtsError(f"{late} in stage {stage}", remedy=SLOW))
    except (ModelError, OutputError):
        raise
    except Exception as error:  # noqa: BLE001 (whatever is wrong with one slide must not stop the others)
        return fail(job, _stage_of(error), error)
    measured = prediction.tiles_read, prediction.bytes_read, dict(prediction.seconds)
    bad = len(found["bad_tiles"])
    return Outcome(job.item.id, "done", *measured, bad, prediction.notes, prediction.unlike)


def _predict(job: Job, model: Predictor, watch: Stopwatch) -> tuple[Prediction | PatientPrediction, Record]:
    """Predict and write all but result.json; also returns for it the fingerprint of the file, or files, and the
    damaged tiles."""
    with ExitStack() as stack:
        with watch("open"):
            stamp = _stamp(job)
            slides = [stack.enter_context(_open(job, slide, model)) for slide in job.item.of_slides]
        if job.item.slides:
            prediction, bad = _predict_patient(job, model, slides, watch)
            return prediction, {**stamp, "bad_tiles": bad}
        (slide,) = slides
        try:
            of_slide = model.read(slide, job.settings)
        except NoTissueError:
            job.store.write_picture("no-tissue.png", _thumbnail(slide))
            raise
        with watch("write"):
            job.store.write_attention(of_slide)
            if job.settings.heatmap:
                job.store.write_picture("heatmap.png", _printable(of_slide).heatmap(slide).encode())
        return of_slide, {**stamp, "bad_tiles": [list(tile) for tile in slide.bad_tiles]}


def _predict_patient(
    job: Job, model: Predictor, slides: Sequence[Slide], watch: Stopwatch
) -> tuple[PatientPrediction, list[list[int]]]:
    """Predict a patient and write what is known of each slide into a folder of its own; also returns the damaged tiles,
    each behind the number of its slide."""
    prediction = model.read(slides, job.settings)
    with watch("write"):
        shown_as = replace(prediction, slides=tuple(map(_printable, prediction.slides)))
        pictures = shown_as.heatmaps([slides[i] for i in prediction.given]) if job.settings.heatmap else ()
        for number, part in enumerate(prediction.slides):
            folder = folder_name(_slide_of(job, prediction, number).id)
            job.store.write_attention(part, folder)
            if pictures:
                job.store.write_picture("heatmap.png", pictures[number].encode(), folder)
    return prediction, [[i, *tile] for i, slide in enumerate(slides) for tile in slide.bad_tiles]


def _places(job: Job, prediction: Prediction | PatientPrediction) -> list[Record]:
    """Id, path and folder of each slide of a patient, in the order of the prediction."""
    if not isinstance(prediction, PatientPrediction):
        return []
    slides = [_slide_of(job, prediction, number) for number in range(len(prediction.slides))]
    return [{"id": slide.id, "path": _path_of(slide), "folder": folder_name(slide.id)} for slide in slides]


def _path_of(item: SlideItem) -> str:
    """The path as records have it: a URL without what is secret."""
    return url_id(str(item.path)) if is_url(str(item.path)) else str(item.path)


def _slide_of(job: Job, prediction: PatientPrediction, number: int) -> SlideItem:
    """The slide of a patient that a part of the prediction is about."""
    return job.item.slides[prediction.given[number]]


def _printable(prediction: Prediction) -> Prediction:
    """The prediction under a name that fonts have letters for."""
    return replace(prediction, slide=printable(prediction.slide))


def _open(job: Job, slide: SlideItem, model: Predictor) -> Slide:
    settings = job.settings
    with _named_slide(job, slide):
        return open_slide(
            slide.path,
            mpp=job.mpp_of(slide),
            default_mpp=settings.mpp,
            srgb=model.srgb,
            tolerate_bad_tiles=settings.tolerate_bad_tiles,
        )


@contextmanager
def _named_slide(job: Job, slide: SlideItem) -> Iterator[None]:
    """A block whose error names the slide, where it is one of a patient's, and says how to do without it."""
    try:
        yield
    except WsiAtsError as error:
        if job.item.slides:
            error.message = f"slide {slide.id} of patient {job.item.id}: {error.message}"
            error.remedy = f"{error.remedy}; {WITHOUT}" if error.remedy else WITHOUT
        raise


def _stamp(job: Job) -> dict[str, Any]:
    """Size and time of change of the slide's file: a slide that changed is predicted again. Of a patient, of all."""
    found = []
    for slide in job.item.of_slides:
        with _named_slide(job, slide):
            found.append((slide, *_stamp_of(slide)))
    stamp: dict[str, Any] = {
        "size_bytes": sum(size for _, size, _ in found),
        "mtime_ns": max(changed for *_, changed in found),
    }
    if job.item.slides:
        stamp["files"] = [[slide.id, size, changed, job.mpp_of(slide)] for slide, size, changed in found]
    return stamp


def _stamp_of(slide: SlideItem) -> tuple[int, int]:
    if slide.trouble:
        raise SlideError(slide.trouble, remedy=slide.hint)
    try:
        return fingerprint_of(slide.path)
    except (OSError, ValueError) as error:  # ValueError: no name of a file
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SlideError(
            f"slide {public_url(str(slide.path))} cannot be found on {socket.gethostname()}: {why}",
            remedy=slide.hint or f"check the path; {SHARED}",
        ) from error


def _is_of(job: Job, result: Record) -> bool:
    """Whether a result is of this job's slide, as it is now, and configuration."""
    try:
        stamp = _stamp(job)
    except SlideError:
        return False
    wanted = {"slide": job.item.id, "config_hash": job.config_hash, "mpp_given": job.mpp, **stamp}
    return all(result[key] == value for key, value in wanted.items()) and answers(result, job.specs)


def _is_new(job: Job, record: Record, must_be: bool) -> bool:
    return not must_be or float(record["finished"]) >= job.run.started


def _stage_of(error: Exception) -> str:
    """Where a slide failed, as the stopwatch marked it."""
    if isinstance(error, NoTissueError):
        return "tissue"
    return _named(str(getattr(error, "stage", "")))


def _named(stage: str) -> str:
    return "predict" if stage in ("", "total") else stage


def _thumbnail(slide: Slide) -> bytes:
    """A small PNG of the slide."""
    step = max(1.0, max(slide.size) / PICTURE_PX)
    buffer = io.BytesIO()
    Image.fromarray(read_view(slide, (step, step), 1).pixels).save(buffer, "png")
    return buffer.getvalue()


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
