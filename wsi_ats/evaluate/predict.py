"""The slides of a manifest predicted by a model, once a seed of the draws, before they are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.run import Summary
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.errors import ConfigError
from wsi_ats.manifest.names import known
from wsi_ats.manifest.rows import split_named

RunBatch = Callable[[Sequence[SlideItem], Path, PredictSettings], Summary]
"""A function that predicts slides into a folder, as `run_batch` does."""


def predict_with_seeds(
    items: Sequence[SlideItem], out: Path, settings: PredictSettings, seeds: int, run: RunBatch
) -> list[Summary]:
    """Predict the slides into `out` and, with each further seed of the draws, into `out/seed-N`."""
    every = [PredictSettings(**{**asdict(settings), "seed": settings.seed + i}) for i in range(seeds)]
    return [run(items, out if not i else out / f"seed-{how.seed}", how) for i, how in enumerate(every)]


def of_split(items: Sequence[SlideItem], split: str | None) -> list[SlideItem]:
    """The slides of a split, as the column `split` of their manifest says; all where none is asked for. Raises
    `ConfigError` where there are none."""
    chosen = [item for item in items if split is None or split_named(_split(item)) == split]
    if not chosen:
        raise ConfigError(
            f"none of the {len(items)} slides is of split {split!r}", "name another --split, or leave it out"
        )
    kept = {item.id for item in chosen}
    return [item if item.source in kept else replace(item, twin="") for item in chosen]


def _split(item: SlideItem) -> str:
    return next((item.extra[name] for name in known(item.extra, ["split"])), "")
