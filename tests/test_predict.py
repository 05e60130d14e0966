"""Adaptive reading by a whole model: it stops where it may, reads nothing twice, and its answer is its tiles'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_model import model_with
from wsi_ats import open_slide, tiles
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.model import AttentionSampler
from wsi_ats.predict import predict_prepared
from wsi_ats.reading import Reading
from wsi_ats.sampling import generator_for, pool
from wsi_ats.synthetic.phantom import Phantom, write_phantom


@pytest.fixture(scope="module")
def model() -> AttentionSampler:
    return model_with()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_phantom(path, Phantom(size=1536, decoys=0, lesion=False, seed=2))
    return path


@pytest.fixture(scope="module")
def prepared(model: AttentionSampler, path: Path) -> PreparedSlide:
    with open_slide(path) as slide:
        return prepare(slide, model.config)


def test_where_any_spread_will_do_the_shortest_reading_is_made(
    model: AttentionSampler, prepared: PreparedSlide
) -> None:
    easy = predict_prepared(model, prepared, Reading.of(tolerance=1e9))
    fixed = predict_prepared(model, prepared, Reading.of(tiles=64, repeats=8))
    assert easy.rounds == fixed.rounds == 8
    for name in ("cells", "weights", "probabilities", "stderr", "contributions"):
        np.testing.assert_array_equal(getattr(easy, name), getattr(fixed, name))
    assert easy.tiles_read == len(easy.cells) <= 64


@pytest.mark.parametrize("budget", [20, 90])
def test_where_no_spread_will_do_the_budget_is_spent(
    model: AttentionSampler, prepared: PreparedSlide, budget: int
) -> None:
    hard = predict_prepared(model, prepared, Reading.of(tiles=budget, tolerance=0.0))
    assert budget - min(8, budget // 8) < hard.tiles_read <= budget < len(prepared.tissue)
    assert hard.stderr.max() > 0


def test_where_the_budget_is_enough_for_all_tiles_the_answer_is_exact(
    model: AttentionSampler, prepared: PreparedSlide
) -> None:
    exact = predict_prepared(model, prepared, Reading.of(sampler="all"))
    hard = predict_prepared(model, prepared, Reading.of(tiles=10**4, tolerance=0.0))
    assert hard.tiles_read == len(prepared.tissue)
    assert 8 < hard.rounds <= len(prepared.tissue) // 8
    assert (hard.weights == 1).all()
    assert (hard.stderr == 0).all()
    np.testing.assert_allclose(hard.probabilities, exact.probabilities, atol=1e-6)


def test_what_stops_early_is_within_the_tolerance_and_read_less(
    model: AttentionSampler, prepared: PreparedSlide
) -> None:
    shortest = predict_prepared(model, prepared, Reading.of(tolerance=1e9))
    tolerance = float(shortest.stderr.max()) * 0.9
    stopped = predict_prepared(model, prepared, Reading.of(tolerance=tolerance))
    assert shortest.rounds < stopped.rounds
    assert shortest.tiles_read < stopped.tiles_read < len(prepared.tissue)
    assert stopped.stderr.max() * (1 + (2 * (stopped.rounds - 1)) ** -0.5) <= tolerance


@pytest.mark.parametrize("refined", ["true", "false"])
def test_the_answer_is_that_of_all_its_rounds_pooled(path: Path, refined: str) -> None:
    """The rounds drawn again one by one, their tiles read at once."""
    model = model_with(f"sampling.refined={refined}")
    with open_slide(path) as slide, torch.no_grad():
        prepared = prepare(slide, model.config, keep_open=True)
        answer = predict_prepared(model, prepared, Reading.of(tiles=100, tolerance=0.0, seed=3))
        attention = model.attend(prepared)
        seeds = [generator_for(3, prepared.name, r) for r in range(answer.rounds)]
        rounds = [attention.draw(8, "systematic", generator) for generator in seeds]
        drawn = replace(rounds[-1], draws=pool([d.draws for d in rounds]))
        (pooled,) = model.estimates([drawn], model.embed([drawn]))
        parts = model.estimates(rounds, model.embed(rounds))
    np.testing.assert_array_equal(answer.cells, drawn.cells)
    np.testing.assert_allclose(answer.probabilities, pooled.logits.softmax(0).numpy(), atol=1e-6)
    if refined == "false":
        mean = torch.stack([part.summary.phi for part in parts]).mean(0)
        np.testing.assert_allclose(answer.probabilities, model.head(mean).softmax(0).detach(), atol=1e-6)


def test_no_tile_is_read_twice(model: AttentionSampler, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def read(slide: object, grid: object, cells: np.ndarray, *rest: object) -> np.ndarray:
        asked.extend(cells.tolist())
        return tiles.read_tiles(slide, grid, cells, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("wsi_ats.embed.read_tiles", read)
    prediction = model.predict(path, tiles=120, tolerance=0.0)
    assert prediction.rounds * 8 > prediction.tiles_read, "some tiles were drawn twice"
    assert sorted(asked) == sorted(prediction.cells.tolist())


def test_a_tolerance_for_what_is_not_random_is_refused(
    model: AttentionSampler, prepared: PreparedSlide
) -> None:
    with pytest.raises(ConfigError, match="top"):
        predict_prepared(model, prepared, Reading.of(sampler="top", tolerance=0.1))


def test_an_error_leaves_every_network_in_the_mode_that_it_was_in(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_with().train()
    model.attention.eval()
    before = {name: module.training for name, module in model.named_modules()}
    model.predict(path, tiles=8)
    assert {name: module.training for name, module in model.named_modules()} == before

    def fail(*_: object) -> np.ndarray:
        assert not any(module.training for module in model.modules())
        raise SlideError("gone")

    monkeypatch.setattr("wsi_ats.embed.read_tiles", fail)
    with pytest.raises(SlideError):
        model.predict(path, tiles=8)
    assert {name: module.training for name, module in model.named_modules()} == before
