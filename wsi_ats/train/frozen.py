"""Frozen features: what frozen networks make of the slides, kept on disk beside the run for every later one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from wsi_ats.cache import TileCache
from wsi_ats.config import Config
from wsi_ats.embed import in_chunks
from wsi_ats.features.store import FeatureStore
from wsi_ats.model import AttentionSampler
from wsi_ats.train.data import Examples
from wsi_ats.train.epoch_checkpoint import Say
from wsi_ats.train.processes import ALONE, Processes

FOLDER = "frozen-features"
"""Name of the folder, beside the run's, so that all runs of a study share it."""
TELL = 4
"""Number of times that progress is told."""


def may_be_stored(config: Config) -> bool:
    """Whether anything is frozen and no damaged tile is tolerated: those are to be met, and counted, in every run."""
    frozen = config.features.is_frozen or config.attention.keeps_channels
    return frozen and not config.train.tolerate_bad_tiles


def cache_for(config: Config, out: Path, say: Say) -> TileCache:
    """A cache of `train.cache_mb`, in front of a store beside `out` where anything may be stored."""
    how = config.train
    stored = may_be_stored(config) and how.disk_mb
    store = FeatureStore(out.absolute().parent / FOLDER, how.disk_mb << 20, say) if stored else None
    return TileCache(how.cache_mb << 20, store)


@torch.no_grad()
def embed_all(
    model: AttentionSampler, sets: Sequence[Examples], say: Say, processes: Processes = ALONE
) -> None:
    """Make the frozen features of every tissue tile, a fixed number at a time, where they are not kept already.

    Processes share out the slides where a store keeps the features; what each keeps in memory, no other one sees.
    Raises `SlideError` where a tile cannot be read.
    """
    examples = [(some, i) for some in sets for i in range(len(some))]
    if model.cache.store is not None:
        examples = [*processes.share(examples)]
    for done, (some, i) in enumerate(examples, 1):
        attention = model.attend(some[i].prepared, uniform=True)
        attention.exceeds(sys.maxsize)  # with two levels, opens every region
        every = attention.all()
        for part in in_chunks(every, every.draws.cells):
            model.raw_features([part])
        if done % max(1, len(examples) // TELL) == 0:
            say(f"features of all tissue tiles: {done} of {len(examples)} slides")
    processes.gather(None)


def tell_store(cache: TileCache, say: Say, processes: Processes = ALONE) -> None:
    """Say what the store spared, and where it is."""
    if not isinstance(cache.store, FeatureStore):
        return
    counts = processes.gather((cache.store.hits, cache.store.misses))
    if cache.store.folder.is_dir():
        found, made = (sum(numbers) for numbers in zip(*counts, strict=True))
        say(f"frozen features: {found} found in {cache.store.folder}, {made} made")
