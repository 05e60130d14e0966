"""Prediction: tiles of a slide are drawn in rounds until that is enough, and all rounds answer together.

The rounds are exchangeable. What the answer would be without each of them gives its standard error from the drawing of
tiles (`sampling/jackknife.py`); how many there are, `reading.py` decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsi_ats.arguments import of_kind, some_path
from wsi_ats.attention.levels import Drawn, SlideAttention
from wsi_ats.config import Config
from wsi_ats.embed import TileVectors
from wsi_ats.estimator import Summary
from wsi_ats.head import Head
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading
from wsi_ats.reference import describe_slide
from wsi_ats.sampling import generator_for, pool
from wsi_ats.sampling.draws import same_draw
from wsi_ats.sampling.jackknife import leave_one_out
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.statistics.novelty import Reference
from wsi_ats.stopwatch import Stopwatch
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

    def attend(self, slide: PreparedSlide) -> SlideAttention:
        """Attention over the slide's tissue cells, which tiles are drawn from."""

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
    if not isinstance(slide, Slide):
        some_path(
            "slide", slide, "give an open slide (wsi_ats.open_slide makes one of arrays), a path or a URL"
        )
    of_kind("reading", reading, Reading, "a Reading", "make one by wsi_ats.reading.Reading.of(tiles=64)")
    watch = Stopwatch()
    with watch("total"):
        with watch("open"):
            opened: AbstractContextManager[Slide] = (
                open_slide(slide, srgb=model.config.slide.srgb)
                if isinstance(slide, str | Path)
                else nullcontext(slide)
            )
        with opened as handle:
            with watch("open"):
                digest = handle.digest
            before = handle.bytes_read
            with watch("view"):
                prepared = prepare(handle, model.config, keep_open=True)
            prediction = predict_prepared(model, prepared, reading, watch)
            bytes_read = handle.bytes_read - before
    return replace(prediction.measured(bytes_read, watch.seconds), digest=digest)


@torch.inference_mode()
def predict_prepared(
    model: Model, slide: PreparedSlide, reading: Reading, watch: Stopwatch | None = None
) -> Prediction:
    """The prediction of a slide that is prepared already; bytes read and seconds are left to the caller.

    The model is in evaluation mode meanwhile, and as it was again after it, also after an error.
    """
    watch = watch or Stopwatch()
    with _evaluating(model):
        with watch("attention"):
            attention = model.attend(slide)
            plan = reading.plan(few=attention.exhausted_by(reading.shortest))
        vectors, rounds = TileVectors(model.embed), _Rounds(model)
        while more := plan.more(len(rounds), len(vectors), rounds.largest_stderr, attention.exceeds):
            with watch("attention"):
                numbers = range(len(rounds), len(rounds) + more)
                generators = [generator_for(reading.seed, slide.name, number) for number in numbers]
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
            unlike = model.reference.judge(description) if model.reference else None
    tissue, by_cell = attention.by_cell()
    return Prediction(
        slide=slide.name,
        results=results,
        grid=every.slide.view.grid,
        slide_size=slide.slide_size,
        mpp=slide.mpp,
        tissue=tissue,
        attention=by_cell,
        cells=every.cells,
        weights=every.draws.log_weights.double().exp().cpu().numpy(),
        tile_px=model.config.tile.px,
        tile_downsample=slide.tile_downsample,
        tiles_read=len(every.cells),
        rounds=len(rounds),
        bytes_read=0,
        seconds={},
        notes=(*slide.notes, *(unlike.notes if unlike else ())),
        view_shares=slide.view_shares,
        description=description,
        unlike=unlike,
    )


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
