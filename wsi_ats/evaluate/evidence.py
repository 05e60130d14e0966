"""Evidence figures of a model on slides: every tissue tile is read once, and nothing of it is kept but its outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from wsi_ats.atomic import write_atomic
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.embed import in_chunks
from wsi_ats.errors import ConfigError, Failure, SlideError
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.output import writing
from wsi_ats.sampling import generator_for
from wsi_ats.shown import cell, counted, csv_bytes
from wsi_ats.slide_model import SlideModel
from wsi_ats.slides import open_slide
from wsi_ats.statistics.evidence import ORDERS, SUFFICIENT, Evidence, Tiles, cohort_curve, evidence_of
from wsi_ats.tasks.answer import TaskSpec, number_cell

FIGURES, SLIDES, FAILURES = "evidence.json", "evidence.csv", "evidence_failures.csv"
"""Names of what is written."""
COLUMNS = (
    *(
        "slide",
        "patient",
        "prediction",
        "probability",
        "tissue_tiles",
        "minimal_tiles",
        "minimal_tiles_random",
    ),
    *("kept_area", "kept_area_random", "removed_area", "removed_area_random"),
)
"""Columns of evidence.csv."""


@dataclass(frozen=True, eq=False)
class SlideEvidence:
    """The evidence for the answer of a slide."""

    slide: str
    patient: str
    prediction: str
    """The answer from all tiles in a word."""
    evidence: Evidence


@torch.inference_mode()
def tiles_of(model: SlideModel, slide: PreparedSlide) -> Tiles:
    """What each tissue tile of a slide counts for, and what it says alone; the vectors of 64 tiles at a time are kept.

    Raises `SlideError` where the slide cannot be read.
    """
    every = model.attend(slide).all()
    log_shares, outputs = [], []
    for part in in_chunks(every, every.draws.cells):
        (features,) = model.embed([part])
        summary = model.estimate(part, features)
        # Of refined attention the shares sum to 1 in each part, and its mass says what the part counts for.
        log_share = summary.shares.double().log() + summary.log_mass.double().unsqueeze(-1)
        log_shares.append(log_share.reshape(-1, len(features)).cpu())
        alone = model.head.by_member(features).double()
        outputs.append(alone.reshape(-1, *alone.shape[-2:]).cpu())
    return Tiles(torch.cat(log_shares, 1).numpy(), torch.cat(outputs, 1).numpy())


def slide_evidence(
    model: SlideModel, slide: PreparedSlide, *, seed: int = 0, orders: int = ORDERS
) -> tuple[str, Evidence]:
    """The answer of a slide from all its tiles in a word, and the evidence for it.

    Raises `ConfigError` where the main task has no probabilities, `SlideError` where the slide cannot be read.
    """
    spec = refuse_numbers(model)
    tiles = tiles_of(model, slide)
    whole = _values(model, tiles.of_first(tiles.by_attention())[-1:])[0]
    said = spec.text(whole)
    answer = spec.names.index(said) if said in spec.names else int(np.argmax(whole[: len(spec.names)]))

    def sureness(outputs: Float64[np.ndarray, "P O"]) -> Float64[np.ndarray, " P"]:
        return _values(model, outputs)[:, answer]

    rng = np.random.default_rng(generator_for(seed, slide.name).initial_seed())
    return said, evidence_of(tiles, sureness, rng, orders)


def evidence(
    model: SlideModel,
    items: Sequence[SlideItem],
    *,
    mpp: float | None = None,
    override_mpp: float | None = None,
    seed: int = 0,
    orders: int = ORDERS,
    say: Callable[[str], object] = print,
) -> tuple[list[SlideEvidence], list[Failure]]:
    """The evidence in each slide, and the slides that failed; every file once.

    mpp, override_mpp: micrometres per pixel of slides that do not say, and instead of what they say. Raises
    `ConfigError` where the main task has no probabilities.
    """
    refuse_numbers(model)
    found, failures = [], []
    for item in (item for item in items if not item.twin):
        scale = override_mpp if item.mpp is None else item.mpp
        try:
            if item.trouble:
                raise SlideError(f"slide {item.id}: {item.trouble}", remedy=item.hint)
            with open_slide(item.path, mpp=scale, default_mpp=mpp, srgb=model.srgb) as handle:
                prepared = prepare(handle, model.config, keep_open=True)
                said, mine = slide_evidence(model, prepared, seed=seed, orders=orders)
        except SlideError as error:
            failures.append(Failure(item.id, "tiles", " ".join(error.message.split()), error.remedy or ""))
            say(f"{cell(item.id)}: failed: {failures[-1].error}")
            continue
        found.append(SlideEvidence(item.id, item.patient, said, mine))
        enough = f"{mine.minimal} of" if mine.minimal else "not even all"
        say(f"{cell(item.id)}: {said} {mine.sure:.3f}; sufficient: {enough} {counted(len(mine), 'tile')}")
    return found, failures


def refuse_numbers(model: SlideModel) -> TaskSpec:
    """The spec of the main task. Raises `ConfigError` where its answer is a number."""
    spec = model.specs[0]
    if not spec.names:
        raise ConfigError(
            f"task {spec.name!r} is of kind {spec.kind}: evidence is for an answer that has a probability",
            remedy="use a model of classes, labels or grades",
        )
    return spec


def write_evidence(
    found: Sequence[SlideEvidence], failures: Sequence[Failure], out: Path, facts: dict[str, Any]
) -> None:
    """Write evidence.csv, a row a slide, evidence.json, the curves of all of them, and evidence_failures.csv.

    facts: what evidence.json says of the model and the reading beside them.
    """
    figures = {
        "format": 1,
        **facts,
        "sufficient": SUFFICIENT,
        "slides": len(found),
        "curve": cohort_curve([each.evidence for each in found]) if found else [],
    }
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        header = ["slide", "stage", "error", "remedy"]
        write_atomic(out / FAILURES, csv_bytes(header, (asdict(f).values() for f in failures)))
        write_atomic(out / SLIDES, csv_bytes(COLUMNS, map(_row, found)))
        write_atomic(out / FIGURES, (json.dumps(figures, indent=1, allow_nan=False) + "\n").encode())


def _row(each: SlideEvidence) -> Iterator[object]:
    mine = each.evidence
    yield from (each.slide, each.patient, each.prediction, number_cell(mine.sure), len(mine), mine.minimal)
    yield number_cell(mine.minimal_at_random)
    for course in (mine.kept, mine.removed):
        yield number_cell(course.area)
        yield number_cell(float(course.random_areas.mean()))


@torch.inference_mode()
def _values(model: SlideModel, outputs: Float64[np.ndarray, "P O"]) -> Float64[np.ndarray, "P V"]:
    """Values of the main task, of outputs of all tasks."""
    task = next(iter(model.tasks))
    mine = torch.from_numpy(np.ascontiguousarray(outputs[:, : task.outputs]))
    device = next(model.parameters()).device
    values: Float64[np.ndarray, "P V"] = task.values(mine.to(device)).double().cpu().numpy()
    return values
