"""Prediction: tiles of a slide are drawn in rounds until that is enough, and all rounds answer together.

The rounds are exchangeable. What the answer would be without each of them gives its standard error from the drawing of
tiles (`sampling/jackknife.py`); how many there are, `reading.py` decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsi_ats.attention.levels import Drawn, SlideAttention
from wsi_ats.config import Config
from wsi_ats.embed import TileVectors
from wsi_ats.errors import ConfigError
from wsi_ats.estimator import Summary
from wsi_ats.head import Head
from wsi_ats.lowres.patient import Prepared, prepared_patient
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.prediction import PatientPrediction, Prediction
from wsi_ats.reading import Reading
from wsi_ats.reference import describe_slide
from wsi_ats.sampling import generator_for, pool
from wsi_ats.sampling.draws import same_draw
from wsi_ats.sampling.jackknife import leave_one_out
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.statistics.novelty import Description, Reference, Unlike
from wsi_ats.stopwatch import Stopwatch
from wsi_ats.tasks.answer import TaskResult
from wsi_ats.tasks.task import Tasks


@runtime_checkable
class Model(Protocol):
    """The part of a model that prediction needs (`wsi_ats.model.AttentionSampler`)."""

    config: Config
    reference: Reference | None

    @property
    def tasks(self) -> Tasks:
        """Tasks of the model, the main one first."""

    @property
    def head(self) -> Head:
        """Head of the model: from a summary to the outputs of all tasks."""

    def attend(self, slide: Prepared) -> SlideAttention:
        """Attention over the tissue cells of a slide, or of all slides of a patient, which tiles are drawn from."""

    def embed(self, drawn: Sequence[Drawn]) -> list[Float[Tensor, "_ D"]]:
        """Vectors (N, D) of the drawn tiles of each slide."""

    def estimate(self, drawn: Drawn, features: Float[Tensor, "N D"]) -> Summary:
        """Summary of the slide from the vectors (N, D) of its drawn tiles."""

    def modules(self) -> Iterator[nn.Module]:
        """All networks of the model."""

    def eval(self) -> object:
        """Set all networks to evaluation mode."""


def predict_slide(model: Model, slide: Slide | Path | str, reading: Reading) -> Prediction:
    """The prediction of a slide, opened where it is not open yet and prepared, with what that cost."""
    watch = Stopwatch()
    with watch("total"), ExitStack() as stack:
        opened = _open(model, slide, stack, watch)
        prediction = predict_prepared(model, opened.prepared, reading, watch)
    return replace(prediction.measured(opened.bytes_read, watch.seconds), digest=opened.handle.digest)


def predict_patient(
    model: Model, slides: Sequence[Slide | Path | str], reading: Reading
) -> PatientPrediction:
    """The prediction of a patient from all slides, as `predict_slide` makes that of one; `reading` is of all together.

    Of slides that hold the same, one is read, and a note says so. Raises `ConfigError` where there is no slide.
    """
    if not slides:
        raise ConfigError("a patient has no slides", "give at least one")
    watch = Stopwatch()
    with watch("total"), ExitStack() as stack:
        opened = [_open(model, slide, stack, watch) for slide in slides]
        first: dict[object, _Opened] = {}
        for one in opened:
            first.setdefault(one.content, one)
        patient = prepared_patient([one.prepared for one in first.values()])
        prediction = predict_prepared_patient(model, patient, reading, watch)
    part_of = dict(zip(map(id, patient.slides), prediction.slides, strict=True))
    given = [number for number, one in enumerate(opened) if id(one.prepared) in part_of]
    copies = [
        f"{one.handle.name} holds the same as {first[one.content].handle.name}, which is read once"
        for one in opened
        if id(one.prepared) not in part_of
    ]
    kept = [opened[number] for number in given]
    return replace(
        prediction,
        slides=tuple(
            replace(part_of[id(one.prepared)], digest=one.handle.digest, bytes_read=one.bytes_read)
            for one in kept
        ),
        bytes_read=sum(one.bytes_read for one in opened),
        seconds=watch.seconds,
        notes=(*copies, *prediction.notes),
        given=tuple(given),
    )


@dataclass(frozen=True, eq=False)
class _Opened:
    """A slide that is open and prepared."""

    handle: Slide
    prepared: PreparedSlide
    before: int
    """Bytes that had been read of it before."""

    @property
    def content(self) -> object:
        """What it has in common with its copies."""
        return self.handle.digest or self.handle.address

    @property
    def bytes_read(self) -> int:
        """Bytes that were read of it since."""
        return self.handle.bytes_read - self.before


def _open(model: Model, slide: Slide | Path | str, stack: ExitStack, watch: Stopwatch) -> _Opened:
    """The slide prepared; opened where it is not open yet, and then closed with the stack."""
    with watch("open"):
        if isinstance(slide, str | Path):
            slide = stack.enter_context(open_slide(slide, srgb=model.config.slide.srgb))
        _ = slide.digest  # remembered; it takes a while
    before = slide.bytes_read
    with watch("view"):
        return _Opened(slide, prepare(slide, model.config, keep_open=True), before)


def predict_prepared(
    model: Model, slide: PreparedSlide, reading: Reading, watch: Stopwatch | None = None
) -> Prediction:
    """The prediction of a slide that is prepared already; bytes read and seconds are left to the caller.

    The model is in evaluation mode meanwhile, and as it was again after it, also after an error.
    """
    read = _read(model, slide, reading, watch or Stopwatch())
    notes = read.unlike.notes if read.unlike else ()
    (prediction,) = read.by_slide()
    return replace(prediction, notes=(*slide.notes, *notes), description=read.description, unlike=read.unlike)


def predict_prepared_patient(
    model: Model, patient: Prepared, reading: Reading, watch: Stopwatch | None = None
) -> PatientPrediction:
    """The prediction of a patient whose slides are prepared already, likewise."""
    read = _read(model, patient, reading, watch or Stopwatch())
    parts = read.by_slide()
    several = len(parts) > 1
    notes = [f"{part.slide}: {note}" if several else note for part in parts for note in part.notes]
    return PatientPrediction(
        slides=tuple(parts),
        rounds=read.rounds,
        bytes_read=0,
        seconds={},
        notes=(*notes, *(read.unlike.notes if read.unlike else ())),
        description=read.description,
        unlike=read.unlike,
        given=tuple(range(len(parts))),
    )


@dataclass(frozen=True, eq=False)
class _Read:
    """What the tiles that were read come to."""

    attention: SlideAttention
    every: Drawn
    """All rounds as one draw, or the draw of every cell."""
    results: tuple[TaskResult, ...]
    rounds: int
    description: Description
    unlike: Unlike | None
    tile_px: int

    def by_slide(self) -> list[Prediction]:
        """The prediction as it concerns each slide, without what was found out about all together."""
        drawn = self.every.slide
        tissue, by_cell = self.attention.by_cell()
        owners, cells = drawn.locate(tissue)
        tiles, places = drawn.locate(self.every.cells)
        weights = self.every.draws.log_weights.double().exp().cpu().numpy()
        predictions = []
        for number, slide in enumerate(drawn.slides):
            mine, read = owners == number, tiles == number
            predictions.append(
                Prediction(
                    slide=slide.name,
                    results=tuple(replace(r, contributions=r.contributions[read]) for r in self.results),
                    grid=slide.view.grid,
                    slide_size=slide.slide_size,
                    mpp=slide.mpp,
                    tissue=cells[mine],
                    attention=by_cell[mine],
                    cells=places[read],
                    weights=weights[read],
                    tile_px=self.tile_px,
                    tile_downsample=slide.tile_downsample,
                    tiles_read=int(read.sum()),
                    rounds=self.rounds,
                    bytes_read=0,
                    seconds={},
                    notes=slide.notes,
                    view_shares=slide.view_shares,
                    patient_cells=len(tissue) if len(drawn.slides) > 1 else 0,
                )
            )
        return predictions


@torch.inference_mode()
def _read(model: Model, slide: Prepared, reading: Reading, watch: Stopwatch) -> _Read:
    """Read tiles of a slide, or of all slides of a patient, until that is enough."""
    with _evaluating(model):
        with watch("attention"):
            attention = model.attend(slide)
            plan = reading.plan(few=attention.exhausted_by(reading.shortest))
        vectors, rounds = TileVectors(model.embed), _Rounds(model)
        while more := plan.more(len(rounds), len(vectors), rounds.largest_stderr, attention.exceeds):
            with watch("attention"):
                numbers = range(len(rounds), len(rounds) + more)
                generators = [generator_for(reading.seed, *slide.names, number) for number in numbers]
                drawn = [attention.draw(plan.size, reading.sampler, generator) for generator in generators]
            with watch("tiles"):
                vectors.read(drawn)
            with watch("head"):
                rounds.add(drawn, vectors)
        # A reading that falls short is carried to its end where the budget is enough for that.
        short = plan.falls_short(len(rounds), rounds.largest_stderr)
        exact = not attention.exceeds(plan.tiles if short else len(vectors))
        every = attention.all() if exact else rounds.pooled()
        with watch("tiles"):
            vectors.read([every])
        with watch("head"):
            features = vectors.of(every)
            summary = model.estimate(every, features)
            results = model.tasks.results(
                model.head(summary.phi),
                tuple(map(torch.zeros_like, rounds.stderr)) if exact else rounds.stderr,
                model.head.contributions(features, summary.shares),
            )
            description = describe_slide(every, features)
            # The limits of a reference are those of what the model was trained on: slides, or patients.
            judged = len(slide.slides) == 1 or model.config.train.by == "patient"
            unlike = model.reference.judge(description) if model.reference and judged else None
    px = model.config.tile.px
    return _Read(attention, every, tuple(results), len(rounds), description, unlike, px)


class _Rounds:
    """The rounds drawn so far, and the standard error of their common answer."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._drawn: list[Drawn] = []
        self._summaries: list[Summary] = []
        self._alike = True
        self.stderr = self._stderr()
        """Standard error of every value of every task; nan where there are no two rounds that differ."""

    def __len__(self) -> int:
        return len(self._drawn)

    def add(self, drawn: Sequence[Drawn], vectors: TileVectors) -> None:
        """More rounds, whose tiles have been read."""
        self._drawn += drawn
        self._summaries += [self._model.estimate(d, vectors.of(d)) for d in drawn]
        first = self._drawn[0].draws
        self._alike = self._alike and all(same_draw(first, d.draws) for d in drawn)
        self.stderr = self._stderr()

    def pooled(self) -> Drawn:
        """All rounds as one draw; the last one knows the cells of all."""
        return self._drawn[-1].of(pool([d.draws for d in self._drawn]))

    @property
    def largest_stderr(self) -> float:
        """Largest standard error of the values that a tolerance is for."""
        return self._model.tasks.largest(self.stderr)

    def _stderr(self) -> tuple[Float[Tensor, " _"], ...]:
        tasks = self._model.tasks
        # Rounds that drew the same agree whatever the other tiles hold: they are one round.
        if self._alike:
            return tasks.stderr(torch.empty(0, tasks.outputs))
        summaries = torch.stack([s.phi for s in self._summaries])
        masses = torch.stack([s.log_mass for s in self._summaries])
        return tasks.stderr(self._model.head(leave_one_out(summaries, masses)))


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """Every network in evaluation mode for the length of the block, then in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
