"""A prediction depends on the model, the slide and the seed, and on nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.cohort import settings
from wsi_ats import load_model
from wsi_ats.batch.cluster import local_cluster
from wsi_ats.batch.inputs import find_slides
from wsi_ats.batch.run import run_batch
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.batch.store import SlideStore, read_prediction
from wsi_ats.build import build_model
from wsi_ats.cache import TileCache
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import save_model
from wsi_ats.predict import predict_prepared
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading
from wsi_ats.statistics.novelty import Description
from wsi_ats.tasks.answer import TaskResult, TaskSpec
from wsi_ats.tasks.make import as_tasks
from wsi_ats.tasks.ordinal import Ordinal

MEASURED = ("seconds", "bytes_read")
"""What may differ: times, and the bytes, which depend on what was read before (a memory)."""


@pytest.fixture(scope="module", params=["small-resnet", "paper"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with arbitrary weights that no answer is flat with."""
    tasks = [*as_tasks(("normal", "tumour")), Ordinal(TaskSpec("grade", "ordinal", ("1", "2", "3")))]
    model = build_model(settings(f"features.network={request.param}"), tasks)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    folder = tmp_path_factory.mktemp("model") / request.param
    save_model(model, folder, "a card")
    return folder


@pytest.fixture
def model(folder: Path) -> AttentionSampler:
    return load_model(folder)


@pytest.fixture(scope="module")
def slides(cohort: Path) -> list[Path]:
    return sorted(cohort.parent.glob("t*.tif"))[:5]


def names_of(value: Prediction | TaskResult | Description) -> list[str]:
    return [field.name for field in fields(value)]


def differences(one: Prediction, other: Prediction, tolerance: float = 0.0) -> Iterator[str]:
    """Names of what differs between two predictions."""
    pairs = [
        (one, other, name) for name in names_of(one) if name not in (*MEASURED, "results", "description")
    ]
    for answers in zip(one.results, other.results, strict=True):
        pairs += [(*answers, name) for name in names_of(answers[0])]
    if one.description is not None and other.description is not None:
        pairs += [(one.description, other.description, name) for name in names_of(one.description)]
    for owner, twin, name in pairs:
        mine, theirs = getattr(owner, name), getattr(twin, name)
        if isinstance(mine, np.ndarray) and mine.dtype.kind == "f":
            same = mine.shape == theirs.shape and np.allclose(mine, theirs, rtol=0, atol=tolerance)
        else:
            same = np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs
        if not same:
            yield name


@pytest.mark.parametrize("at_once", [1, 5, 1000])
@pytest.mark.parametrize("sampler", ["systematic", "all"])
def test_the_batch_of_tiles_changes_nothing(
    model: AttentionSampler, slides: list[Path], monkeypatch: pytest.MonkeyPatch, at_once: int, sampler: str
) -> None:
    usual = model.predict(slides[0], tiles=13, sampler=sampler)
    monkeypatch.setattr("wsi_ats.embed.TILES_AT_ONCE", at_once)
    # Sums over a batch of another size may be added up in another order.
    assert [*differences(usual, model.predict(slides[0], tiles=13, sampler=sampler), 2e-6)] == []
    assert len(np.unique(usual.probabilities)) == 2, "a flat answer would not show a difference"


@pytest.mark.parametrize("tolerance", [None, 1e-4])
def test_the_order_of_slides_changes_nothing(
    model: AttentionSampler, slides: list[Path], tolerance: float | None
) -> None:
    forward = {path: model.predict(path, tiles=13, seed=4, tolerance=tolerance) for path in slides}
    for path in reversed(slides):
        again = model.predict(path, tiles=13, seed=4, tolerance=tolerance)
        assert [*differences(forward[path], again)] == []


def test_random_numbers_drawn_elsewhere_change_nothing(model: AttentionSampler, slides: list[Path]) -> None:
    first = model.predict(slides[0], tiles=13)
    state = torch.get_rng_state()
    torch.rand(100)
    drawn = torch.get_rng_state()
    assert [*differences(first, model.predict(slides[0], tiles=13))] == []
    assert torch.equal(torch.get_rng_state(), drawn), "a prediction draws from no generator but its own"
    torch.set_rng_state(state)


def test_a_model_that_was_loaded_again_is_the_same(
    folder: Path, model: AttentionSampler, slides: list[Path]
) -> None:
    assert [*differences(model.predict(slides[0]), load_model(folder).predict(slides[0]))] == []


def test_the_place_of_a_slide_changes_nothing(
    model: AttentionSampler, slides: list[Path], tmp_path: Path
) -> None:
    """The draw depends on the name of the file: it is the same wherever the folder is mounted."""
    moved = Path(shutil.copy(slides[0], tmp_path / slides[0].name))
    assert [*differences(model.predict(slides[0], tiles=13), model.predict(moved, tiles=13))] == []
    renamed = Path(shutil.copy(slides[0], tmp_path / "other.tif"))
    assert "cells" in differences(model.predict(slides[0], tiles=13), model.predict(renamed, tiles=13))


def test_what_a_memory_holds_changes_nothing(model: AttentionSampler, slides: list[Path]) -> None:
    from wsi_ats import open_slide
    from wsi_ats.lowres.prepare import prepare

    with open_slide(slides[0]) as slide:
        prepared = prepare(slide, model.config)
    reading = Reading.of(tiles=13)
    bare = predict_prepared(model, prepared, reading)
    model.cache = TileCache(1 << 26)
    predict_prepared(model, prepared, Reading.of(tiles=40, seed=9))
    assert [*differences(bare, predict_prepared(model, prepared, reading), 2e-6)] == []
    assert len(model.cache) > 0


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_more_than_the_last_digit(
    model: AttentionSampler, slides: list[Path], threads: int
) -> None:
    one = model.predict(slides[0], tiles=13)
    try:
        torch.set_num_threads(threads)
        more = model.predict(slides[0], tiles=13)
    finally:
        torch.set_num_threads(1)
    assert [*differences(one, more, 2e-6)] == []


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["small-resnet"], indirect=True)
def test_the_number_of_workers_changes_nothing(
    folder: Path,
    model: AttentionSampler,
    slides: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsi_ats.batch.cluster.cores", lambda: 2)  # a thread a worker, as in this process
    items = find_slides(slides)
    how = PredictSettings(tiles=13, tolerance=1e-4, heatmap=False)
    assert run_batch(items, tmp_path / "none", how, model=folder).ok
    with local_cluster(2) as client:
        assert run_batch(items[::-1], tmp_path / "two", how, client, model=folder).ok
    for item, path in zip(items, slides, strict=True):
        direct = model.predict(path, tiles=13, tolerance=1e-4)
        for out in ("none", "two"):
            stored = read_prediction(SlideStore(tmp_path / out, item.id).folder)
            # attention.h5 keeps drawn cells in ascending order.
            order = np.argsort(direct.cells)
            assert stored.rounds == direct.rounds
            assert np.array_equal(stored.cells, direct.cells[order])
            assert np.array_equal(stored.weights, direct.weights[order])
            assert np.array_equal(stored.contributions, direct.contributions[order])
            assert np.array_equal(stored.attention, direct.attention)
            assert np.array_equal(stored.probabilities, direct.probabilities)
            assert np.array_equal(stored.stderr, direct.stderr, equal_nan=True)
