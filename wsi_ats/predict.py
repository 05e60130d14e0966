"""Prediction: tiles of a slide, or of all slides of a patient, are drawn, of a reading with a tolerance more and more
of them until that is enough.

The drawn tiles are dealt out to rounds. What the answer would be without each of these gives its standard error and its
interval, from the drawing of tiles alone (`sampling/jackknife.py`, `tasks/spread.py`); how many tiles are drawn,
`reading.py` says.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from wsi_ats.arguments import of_kind, some_path
from wsi_ats.attention.levels import Drawn, SlideAttention
from wsi_ats.catalogue import is_random
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
from wsi_ats.sampling import find_sampler, generator_for, pool
from wsi_ats.sampling.jackknife import loose, loose_pooled, without_each
from wsi_ats.sampling.unseen import with_unseen
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.statistics.novelty import Description, Reference, Unlike
from wsi_ats.stopwatch import Stopwatch
from wsi_ats.tasks.answer import TaskResult
from wsi_ats.tasks.spread import Spread
from wsi_ats.tasks.task import Tasks


@runtime_checkable
class Model(Protocol):
    """What prediction needs of a model; `wsi_ats.slide_model.SlideModel` is one."""

    config: Config
    reference: Reference | None
    """What the training slides were like; None: not known."""
    tasks: Tasks
    """Tasks of the model, the main one first."""
    head: Head
    """From a summary to the outputs of all tasks."""

    @abstractmethod
    def attend(self, slide: Prepared, *, uniform: bool = False) -> SlideAttention:
        """The attention over a slide, or over all slides of a patient, that tiles are drawn from; `uniform`: as if it
        had no opinion on the tissue."""

    @abstractmethod
    def embed(self, drawn: Sequence[Drawn]) -> list[Float[Tensor, "_ D"]]:
        """Read the drawn tiles, and no others, and turn each into a vector; all slides in one pass."""

    @abstractmethod
    def estimate(self, drawn: Drawn, features: Float[Tensor, "N D"]) -> Summary:
        """The slide's summary Phi from the vectors of its drawn tiles."""

    @abstractmethod
    def modules(self) -> Iterator[nn.Module]:
        """All networks of the model."""

    @abstractmethod
    def eval(self) -> object:
        """Set all networks to evaluation mode."""


def predict_slide(model: Model, slide: Slide | Path | str, reading: Reading) -> Prediction:
    """The prediction of a slide, opened where it is not open yet and prepared, with what that cost."""
    _check_reading(reading)
    watch = Stopwatch()
    with watch("total"), ExitStack() as stack:
        opened = _open(model, slide, stack, watch)
        prediction = predict_prepared(model, opened.prepared, reading, watch)
    return replace(
        prediction, bytes_read=opened.bytes_read, seconds=watch.seconds, digest=opened.handle.digest
    )


def predict_patient(
    model: Model, slides: Sequence[Slide | Path | str], reading: Reading
) -> PatientPrediction:
    """The prediction of a patient from all slides, as `predict_slide` makes that of one; `reading` is of all together.

    Of slides that hold the same, one is read, and a note says so. Raises `ConfigError` where there is no slide.
    """
    if not slides:
        raise ConfigError(f"slide is {slides!r}: a patient has no slides", "give at least one")
    _check_reading(reading)
    watch = Stopwatch()
    with watch("total"), ExitStack() as stack:
        opened = [_open(model, slide, stack, watch) for slide in slides]
        first: dict[object, _Opened] = {}
        for one in opened:
            first.setdefault(one.content, one)
        patient = prepared_patient([one.prepared for one in first.values()])
        prediction = predict_prepared_patient(model, patient, reading, watch)
    part_of = dict(zip(map(id, patient.slides), prediction.slides, strict=True))
    copies = [
        f"{one.handle.name} holds the same as {first[one.content].handle.name}, which is read once"
        for one in opened
        if first[one.content] is not one
    ]
    return replace(
        prediction,
        slides=tuple(
            replace(part_of[id(one.prepared)], digest=one.handle.digest, bytes_read=one.bytes_read)
            for one in first.values()
        ),
        bytes_read=sum(one.bytes_read for one in opened),
        seconds=watch.seconds,
        notes=(*copies, *prediction.notes),
        given=tuple(number for number, one in enumerate(opened) if first[one.content] is one),
    )


def _check_reading(reading: object) -> None:
    of_kind("reading", reading, Reading, "a Reading", "make one by wsi_ats.reading.Reading.of(tiles=64)")


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
    if not isinstance(slide, Slide):
        some_path(
            "slide", slide, "give an open slide (wsi_ats.open_slide makes one of arrays), a path or a URL"
        )
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
    """What was drawn as one draw, or the draw of every cell."""
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
        vectors = TileVectors(model.embed)
        look = _looked(model, attention, slide.names, reading, vectors, watch)
        # A reading that falls short is carried to its end where the budget is enough for that.
        exact = not attention.exceeds(reading.tiles if look.short else len(vectors))
        every = attention.all() if exact else look.drawn
        with watch("tiles"):
            vectors.read([every])
        with watch("head"):
            features = vectors.of(every)
            summary = model.estimate(every, features)
            outputs = model.head(summary.phi)
            results = model.tasks.results(
                outputs,
                model.tasks.exact(outputs) if exact else look.spreads,
                model.head.contributions(features, summary.shares),
            )
            description = describe_slide(every, features)
            # The limits of a reference are those of what the model was trained on: slides, or patients.
            judged = len(slide.slides) == 1 or model.config.train.by == "patient"
            unlike = model.reference.judge(description) if model.reference and judged else None
    px = model.config.tile.px
    return _Read(attention, every, results, look.rounds, description, unlike, px)


@dataclass(frozen=True, eq=False)
class _Look:
    """What is known once a draw has been read."""

    drawn: Drawn
    rounds: int
    spreads: tuple[Spread, ...]
    short: bool
    """Whether there is a tolerance that the answer does not keep."""


def _looked(
    model: Model,
    attention: SlideAttention,
    names: Sequence[str],
    reading: Reading,
    vectors: TileVectors,
    watch: Stopwatch,
) -> _Look:
    """The last look of a reading: at its only draw or, with a tolerance, at the first one that is enough."""
    draws = attention.draw_each(reading.sizes, reading.sampler, generator_for(reading.seed, *names, 0))
    look = None
    for n in reading.sizes:
        with watch("attention"):
            # To read all of a slide is better than to draw as many tiles as it has.
            if look is not None and not attention.exceeds(n):
                break
            drawn = next(draws)
        with watch("tiles"):
            vectors.read(drawn)
        with watch("head"):
            look = _look(model, drawn, vectors, reading, generator_for(reading.seed, *names, n, "rounds"))
        if not look.short:
            break
    assert look is not None
    return look


def _look(
    model: Model, parts: Sequence[Drawn], vectors: TileVectors, reading: Reading, generator: torch.Generator
) -> _Look:
    """What independent draws that answer together say."""
    drawn = _pooled(parts)
    features = vectors.of(drawn)
    summary = model.estimate(drawn, features)
    answer = model.head(summary.phi)

    def outputs(factors: Float[Tensor, "R N"]) -> Float[Tensor, "R O"]:
        """Outputs where the weights of the tiles are so many times what they are."""
        shares = summary.reweighted(factors, sums_to_one=_sums_to_one(model, reading))
        logits: Tensor = model.head(model.head.summary(shares, features))
        return logits

    without = _without_each(parts, drawn, reading, generator)
    prior = model.config.sampling.prior if model.config.sampling.refined else 1.0
    unseen = with_unseen(drawn.log_p, drawn.draws, prior)
    spreads = model.tasks.spread(answer, outputs(without), outputs(unseen))
    short = reading.falls_short(model.tasks.reach(answer, spreads))
    return _Look(drawn, max(1, len(without)), spreads, short)


def _sums_to_one(model: Model, reading: Reading) -> bool:
    """Whether the shares of the drawn tiles sum to 1 in every draw, so that what one loses the others have."""
    return model.config.sampling.refined or find_sampler(reading.sampler).sums_to_one


def _pooled(parts: Sequence[Drawn]) -> Drawn:
    """Independent draws as one; the last one knows the cells of all. Cells ascend."""
    return parts[-1].of(pool([part.draws for part in parts]))


def _without_each(
    parts: Sequence[Drawn], drawn: Drawn, reading: Reading, generator: torch.Generator
) -> Float64[Tensor, "R N"]:
    """Factors of the weights without each round of the parts together; none where they tell nothing."""
    if not is_random(reading.sampler):
        return drawn.draws.log_weights.new_empty(0, len(drawn.draws))
    chances = find_sampler(reading.sampler).chances
    each = [loose(drawn.log_p, part.draws, chances=chances) for part in parts]
    part = loose_pooled([part.draws for part in parts], each, drawn.draws)
    clusters = _clusters(parts, drawn)
    return without_each(drawn.draws, part, reading.repeats, generator=generator, clusters=clusters)


def _clusters(parts: Sequence[Drawn], drawn: Drawn) -> Int64[Tensor, " N"] | None:
    """Numbers (N,) that cells share which came by one chance: of a region that was drawn and is not always. None where
    each came by its own."""
    owners = drawn.owners
    if owners is None:
        return None
    cells, opened = drawn.draws.cells, torch.zeros(len(owners), dtype=torch.bool, device=owners.device)
    for part in parts:
        assert part.log_opened is not None
        opened[: len(part.log_opened)] |= part.log_opened > 0
    return torch.where(opened[cells], owners[cells], len(owners) + cells)


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
