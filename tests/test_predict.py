"""Adaptive reading by a whole model: it stops where it may, reads nothing twice, and its answer is its tiles'."""

from __future__ import annotations

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
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading
from wsi_ats.sampling import Draws, generator_for, normalised, pool
from wsi_ats.sampling.jackknife import loose, without_each
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


@pytest.mark.parametrize("tiles", [32, 64])
def test_as_many_tiles_are_read_as_are_asked_for(
    model: AttentionSampler, prepared: PreparedSlide, tiles: int
) -> None:
    answer = predict_prepared(model, prepared, Reading.of(tiles=tiles))
    assert answer.tiles_read == len(np.unique(answer.cells)) == tiles < len(prepared.tissue)
    assert answer.rounds == 16
    assert (answer.stderr > 0).all()
    assert (answer.low < answer.probabilities).all()
    assert (answer.probabilities < answer.high).all()


def test_where_any_spread_will_do_the_shortest_reading_is_made(
    model: AttentionSampler, prepared: PreparedSlide
) -> None:
    easy = predict_prepared(model, prepared, Reading.of(tolerance=1e9))
    assert easy.tiles_read == len(easy.cells) == 64


@pytest.mark.parametrize("budget", [20, 90])
def test_where_no_spread_will_do_the_budget_is_spent(
    model: AttentionSampler, prepared: PreparedSlide, budget: int
) -> None:
    hard = predict_prepared(model, prepared, Reading.of(tiles=budget, tolerance=0.0))
    assert hard.tiles_read == budget < len(prepared.tissue)
    assert hard.stderr.max() > 0


def test_where_the_budget_is_enough_for_all_tiles_the_answer_is_exact(
    model: AttentionSampler, prepared: PreparedSlide
) -> None:
    exact = predict_prepared(model, prepared, Reading.of(sampler="all"))
    hard = predict_prepared(model, prepared, Reading.of(tiles=10**4, tolerance=0.0))
    assert hard.tiles_read == len(prepared.tissue)
    assert (hard.weights == 1).all()
    assert (hard.stderr == 0).all()
    np.testing.assert_array_equal(hard.low, hard.probabilities)
    np.testing.assert_array_equal(hard.high, hard.probabilities)
    np.testing.assert_allclose(hard.probabilities, exact.probabilities, atol=1e-6)


def test_what_stops_early_is_within_the_tolerance_and_read_less(
    model: AttentionSampler, prepared: PreparedSlide
) -> None:
    def reach(prediction: Prediction) -> float:
        return float(
            max((prediction.high - prediction.values).max(), (prediction.values - prediction.low).max())
        )

    shortest = predict_prepared(model, prepared, Reading.of(tolerance=1e9))
    stopped = predict_prepared(model, prepared, Reading.of(tolerance=reach(shortest) * 0.8))
    assert shortest.tiles_read < stopped.tiles_read < len(prepared.tissue)
    assert reach(stopped) <= reach(shortest) * 0.8
    assert set(shortest.cells) <= set(stopped.cells), "what was read is not given up"


@pytest.mark.parametrize("refined", ["true", "false"])
@pytest.mark.parametrize("sampler", ["systematic", "gumbel"])
def test_the_answer_is_that_of_its_draw_and_the_error_that_of_its_rounds(
    path: Path, refined: str, sampler: str
) -> None:
    """The draw made again, its rounds left out one by one."""
    model = model_with(f"sampling.refined={refined}")
    with open_slide(path) as slide, torch.no_grad():
        prepared = prepare(slide, model.config, keep_open=True)
        answer = predict_prepared(model, prepared, Reading.of(tiles=40, sampler=sampler, repeats=5, seed=3))
        drawn = model.attend(prepared).draw(40, sampler, generator_for(3, prepared.name, 0))
        draws = pool([drawn.draws])
        part = loose(drawn.log_p, draws, chances=sampler == "systematic")
        factors = without_each(draws, part, 5, generator=generator_for(3, prepared.name, 40, "rounds"))
        without = [Draws(draws.cells, draws.log_weights + each.log()) for each in factors]
        if refined == "false":  # what a round loses the others have: shares sum to 1 as in every draw
            without = [normalised(drawn.log_p.double(), each) for each in without]
        every = [drawn.of(each) for each in (draws, *without)]
        outputs = [
            model.estimates([d], model.embed([d]))[0].logits.double().softmax(0).numpy() for d in every
        ]
    np.testing.assert_array_equal(answer.cells, np.sort(drawn.cells))
    np.testing.assert_allclose(answer.probabilities, outputs[0], atol=1e-6)
    expected = np.std(outputs[1:], axis=0, ddof=1) * 4 / 5**0.5
    np.testing.assert_allclose(answer.stderr, expected, rtol=1e-4, atol=1e-7)


def test_no_tile_is_read_twice(model: AttentionSampler, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def read(slide: object, grid: object, cells: np.ndarray, *rest: object) -> np.ndarray:
        asked.extend(cells.tolist())
        return tiles.read_tiles(slide, grid, cells, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("wsi_ats.embed.read_tiles", read)
    prediction = model.predict(path, tiles=120, tolerance=0.0)
    assert prediction.tiles_read == 120, "after a draw of 64 and one of 96"
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
