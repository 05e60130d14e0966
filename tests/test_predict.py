"""Adaptive reading by a whole model: it stops where it may, reads nothing twice, and its answer is its tiles'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_model import model_with
from wsi_ats import open_slide, tiles
from wsi_ats.errors import ConfigError
from wsi_ats.lowres.prepare import Scene, look
from wsi_ats.model import AttentionSampler, generator_for
from wsi_ats.sampling import pool
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
def scene(model: AttentionSampler, path: Path) -> Scene:
    with open_slide(path) as slide:
        return look(slide, model.config)


def test_where_any_spread_will_do_the_shortest_reading_is_made(model: AttentionSampler, scene: Scene) -> None:
    easy = model.predict_scene(scene, tolerance=1e9)
    fixed = model.predict_scene(scene, tiles=64, repeats=8)
    assert easy.rounds == fixed.rounds == 8
    for name in ("cells", "weights", "probabilities", "stderr", "contributions"):
        np.testing.assert_array_equal(getattr(easy, name), getattr(fixed, name))
    assert easy.tiles_read == len(easy.cells) <= 64


@pytest.mark.parametrize("budget", [20, 90])
def test_where_no_spread_will_do_the_budget_is_spent(
    model: AttentionSampler, scene: Scene, budget: int
) -> None:
    hard = model.predict_scene(scene, tiles=budget, tolerance=0.0)
    assert budget - min(8, budget // 8) < hard.tiles_read <= budget < len(scene.tissue)
    assert hard.stderr.max() > 0


def test_where_the_budget_is_enough_for_all_tiles_the_answer_is_exact(
    model: AttentionSampler, scene: Scene
) -> None:
    exact = model.predict_scene(scene, sampler="all")
    hard = model.predict_scene(scene, tiles=10**4, tolerance=0.0)
    assert hard.tiles_read == len(scene.tissue)
    assert 8 < hard.rounds <= len(scene.tissue) // 8
    assert (hard.weights == 1).all()
    assert (hard.stderr == 0).all()
    np.testing.assert_allclose(hard.probabilities, exact.probabilities, atol=1e-6)


def test_what_stops_early_is_within_the_tolerance_and_read_less(
    model: AttentionSampler, scene: Scene
) -> None:
    shortest = model.predict_scene(scene, tolerance=1e9)
    tolerance = float(shortest.stderr.max()) * 0.9
    stopped = model.predict_scene(scene, tolerance=tolerance)
    assert shortest.rounds < stopped.rounds
    assert shortest.tiles_read < stopped.tiles_read < len(scene.tissue)
    assert stopped.stderr.max() * (1 + (2 * (stopped.rounds - 1)) ** -0.5) <= tolerance


@pytest.mark.parametrize("refined", ["true", "false"])
def test_the_answer_is_that_of_all_its_rounds_pooled(path: Path, refined: str) -> None:
    """The rounds drawn again one by one, their tiles read at once."""
    model = model_with(f"sampling.refined={refined}")
    with open_slide(path) as slide, torch.no_grad():
        scene = look(slide, model.config, keep_open=True)
        answer = model.predict_scene(scene, tiles=100, tolerance=0.0, seed=3)
        proposal = model.propose(scene)
        log_p = proposal.log_p
        seeds = [generator_for(3, scene.name, r) for r in range(answer.rounds)]
        rounds = [proposal.draw(8, "systematic", generator) for generator in seeds]
        vectors = [model.describe([scene], [d])[0] for d in rounds]
        drawn = pool(rounds)
        pooled = model.conclude(log_p, drawn, model.describe([scene], [drawn])[0])
        parts = [model.conclude(log_p, d, v) for d, v in zip(rounds, vectors, strict=True)]
    np.testing.assert_array_equal(answer.cells, scene.tissue[drawn.cells.numpy()])
    np.testing.assert_allclose(answer.probabilities, pooled.logits.softmax(0).numpy(), atol=1e-6)
    if refined == "false":
        mean = torch.stack([part.summary for part in parts]).mean(0)
        np.testing.assert_allclose(answer.probabilities, model.head(mean).softmax(0).detach(), atol=1e-6)


def test_no_tile_is_read_twice(model: AttentionSampler, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def read(slide: object, grid: object, cells: np.ndarray, *rest: object) -> np.ndarray:
        asked.extend(cells.tolist())
        return tiles.read_tiles(slide, grid, cells, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("wsi_ats.model.read_tiles", read)
    prediction = model.predict(path, tiles=120, tolerance=0.0)
    assert prediction.rounds * 8 > prediction.tiles_read, "some tiles were drawn twice"
    assert sorted(asked) == sorted(prediction.cells.tolist())


def test_a_tolerance_for_what_is_not_random_is_refused(model: AttentionSampler, scene: Scene) -> None:
    with pytest.raises(ConfigError, match="top"):
        model.predict_scene(scene, sampler="top", tolerance=0.1)
