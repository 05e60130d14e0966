"""Prediction: tiles of a slide are drawn, of a reading with a tolerance more and more of them until that is enough.

The drawn tiles are dealt out to rounds. What the answer would be without each of these gives its standard error and its
interval, from the drawing of tiles alone (`sampling/jackknife.py`, `tasks/spread.py`); how many tiles are drawn,
`reading.py` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from wsi_ats.estimator import Summary
from wsi_ats.head import Head
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading
from wsi_ats.reference import describe_slide
from wsi_ats.sampling import find_sampler, generator_for, pool
from wsi_ats.sampling.jackknife import loose, loose_pooled, without_each
from wsi_ats.sampling.unseen import with_unseen
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.statistics.novelty import Reference
from wsi_ats.stopwatch import Stopwatch
from wsi_ats.tasks.spread import Spread
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
        vectors = TileVectors(model.embed)
        look = _looked(model, attention, slide.name, reading, vectors, watch)
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
        rounds=look.rounds,
        bytes_read=0,
        seconds={},
        notes=(*slide.notes, *(unlike.notes if unlike else ())),
        view_shares=slide.view_shares,
        description=description,
        unlike=unlike,
    )


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
    name: str,
    reading: Reading,
    vectors: TileVectors,
    watch: Stopwatch,
) -> _Look:
    """The last look of a reading: at its only draw or, with a tolerance, at the first one that is enough."""
    draws = attention.draw_each(reading.sizes, reading.sampler, generator_for(reading.seed, name, 0))
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
            look = _look(model, drawn, vectors, reading, generator_for(reading.seed, name, n, "rounds"))
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
        shares = summary.shares * factors.to(summary.shares)
        if _sums_to_one(model, reading):
            shares = shares / shares.sum(1, keepdim=True)
        logits: Tensor = model.head(shares.to(features) @ features)
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
