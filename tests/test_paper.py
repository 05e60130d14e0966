"""The training of benchmarks/paper: tiles and views, every tile at once, one step of every method and preset."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_paper_data import colon, mnist, signs  # noqa: F401
from wsi_ats.estimator import expectation
from wsi_ats.sampling import Draws, des_raj
from wsi_ats.standardise import Standardise

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


def test_tiles_are_cut_where_they_lie() -> None:
    tiles_of = importlib.import_module("paper.pictures").tiles_of
    picture = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    corners = np.array([[0, 0], [-3, 5], [25, 15], [-9, -9], [40, 3], [3, -40], [7, 12]])
    padded = np.full((220, 230, 3), 9, np.uint8)
    padded[100:120, 100:130] = picture
    expected = [padded[100 + y : 108 + y, 100 + x : 108 + x] for x, y in corners]
    assert np.array_equal(tiles_of(picture, corners, 8, 9), np.stack(expected))


def test_a_view_is_the_mean_of_its_cells() -> None:
    module = importlib.import_module("paper.pictures")
    scale = module.Scale(20, 30, 0.2, 10, step=2)
    picture = np.random.default_rng(0).integers(256, size=(20, 30, 1), dtype=np.uint8)
    view = module.view_of(picture, scale.grid)
    assert view[0].numpy() == pytest.approx(picture.reshape(4, 5, 6, 5).mean((1, 3)), rel=1e-5)
    corners = scale.corners.reshape(4, 6, 2)
    assert not (corners % 2).any()
    centres = corners + 5 - (np.stack(np.meshgrid(np.arange(6), np.arange(4)), -1) + 0.5) * 5
    assert np.abs(centres).max() <= 1.5


def test_the_published_estimate_is_right_and_its_attention_gradient_is_not() -> None:
    module = importlib.import_module("published")
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(5, generator=generator, dtype=torch.float64)).requires_grad_()
    features = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, generator=generator, dtype=torch.float64)
    log_p = torch.log_softmax(logits, 0)
    a = log_p.detach().exp()
    mean = torch.zeros((), dtype=torch.float64)
    value = 0.0
    for first, second in permutations(range(5), 2):
        chance = float(a[first] * a[second] / (1 - a[first]))
        draws: Draws = des_raj(log_p.detach(), torch.tensor([first, second]))
        phi = v @ module.published_expectation(log_p, draws, features[draws.cells])
        value += chance * float(phi.detach())
        mean = mean + chance * phi
    of_logits, of_features = torch.autograd.grad(mean, [logits, features], retain_graph=True)
    exact = torch.autograd.grad(v @ (log_p.exp() @ features), [logits, features])
    assert value == pytest.approx(float(v @ (a @ features.detach())), abs=1e-12)
    assert of_features.numpy() == pytest.approx(exact[1].numpy(), abs=1e-12)
    assert float((of_logits - exact[0]).norm() / exact[0].norm()) > 0.1


def small(data: Path, **changes: Any) -> Any:
    """A run on pictures of 120 px with views of 24 px: 576 cells."""
    train, pictures, mnist_ = (importlib.import_module(f"paper.{m}") for m in ("train", "pictures", "mnist"))
    settings = {"epochs": 2, "batch": 4, "tiles": 5, "lr": 1e-2, "lr_attention": 1e-2} | changes
    method = settings.pop("method", "plain")
    sets = [mnist_.MegapixelMNIST(data, train=t, count=8, side=120, noise=1) for t in (True, False)]
    scale = pictures.Scale(120, 120, 0.2, 30, step=2)
    return train.Run(*sets, scale, train.Settings(**settings), method, 0, "cpu")


def test_every_tile_at_once_is_every_tile_read(mnist: Path) -> None:  # noqa: F811
    run = small(mnist, method="full soft attention")
    batch = [run.train[i] for i in range(2)]
    model = run.model
    k = len(model.scale.grid)
    with torch.no_grad():
        every = model.every(batch)
        read = model.read(batch, torch.arange(k).expand(2, k)).flatten(0, 1)
        found = every.features[-1].repeat(2 * k, 1)
        found[every.cells] = every.features[:-1]
        assert len(every.cells) > k, "there is something to see"
        assert (read != read[0]).any(1).sum() > k / 2
        torch.testing.assert_close(found, read, rtol=0, atol=1e-5)
        log_p = torch.log_softmax(torch.randn(2, k, dtype=torch.float64), 1)
        cells = Draws(torch.arange(k).expand(2, k), torch.zeros(2, k, dtype=torch.float64))
        exact = expectation(log_p, cells, found.double().view(2, k, -1))
        found = every.expectation(log_p, every.features.double())
        assert found.numpy() == pytest.approx(exact.numpy(), abs=1e-12)


def test_every_tile_needs_to_know_where_things_lie(mnist: Path) -> None:  # noqa: F811
    run = small(mnist, method="full soft attention")
    batch = [run.train[0]]
    batch[0] = replace(batch[0], picture=replace(batch[0].picture, squares=None))
    with pytest.raises(importlib.import_module("wsi_ats.errors").ConfigError, match="squares"):
        run.model.every(batch)


@pytest.mark.parametrize("method", ["reference estimator", "plain", "refined", "full soft attention"])
def test_every_method_learns_a_batch_by_heart(method: str, mnist: Path) -> None:  # noqa: F811
    run = small(mnist, method=method)
    batch = [run.train[i] for i in range(4)]
    before = run.model.attention.body[4].weight.clone()
    losses = [run.step(batch) for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
    assert not torch.equal(before, run.model.attention.body[4].weight)
    assert 0 <= run.test_error()["test_error"] <= 1


def test_a_run_that_was_stopped_ends_as_one_that_was_not(mnist: Path, tmp_path: Path) -> None:  # noqa: F811
    whole, first, second = (small(mnist, method="refined") for _ in range(3))
    expected = [whole.one_part() for _ in range(2)]
    first.one_part()
    first.save(tmp_path / "run.pt")
    second.load(tmp_path / "run.pt")
    line = second.one_part()
    for key in ("epoch", "loss", "test_error", "entropy"):
        assert line[key] == expected[1][key]


@pytest.mark.parametrize("task", ["mnist", "colon", "signs"])
def test_the_paper_s_settings_take_a_step(task: str, request: pytest.FixtureRequest) -> None:
    presets, train = (importlib.import_module(f"paper.{m}") for m in ("presets", "train"))
    preset = presets.PRESETS[task, "paper"]
    settings = replace(preset.settings, batch=2, workers=0)
    pictures = preset.pictures(request.getfixturevalue(task), 0)
    scale = preset.scale if task != "colon" else replace(preset.scale, height=60, width=60)
    run = train.Run(*pictures, scale, settings, "refined", 0, "cpu")
    assert torch.isfinite(torch.tensor(run.step([run.train[0], run.train[1]])))
    assert isinstance(run.model.standardise, Standardise)


def test_results_grow_by_an_epoch_and_replace_what_was_lost(tmp_path: Path) -> None:
    run, presets = (importlib.import_module(f"paper.{m}") for m in ("run", "presets"))
    preset = run.changed(presets.PRESETS["mnist", "small"], {"epochs": 7, "lr": None, "task": "mnist"})
    assert preset.settings.epochs == 7
    path = tmp_path / "results.json"
    for epoch, error in ((1, 0.9), (2, 0.8), (3, 0.7), (2, 0.6)):
        run.add(path, preset, "plain", 0, {"epoch": epoch, "test_error": error})
    run.add(path, preset, "plain", 1, {"epoch": 1, "test_error": 0.5})
    lines = json.loads(path.read_text())["runs"]["plain"]
    assert [x["test_error"] for x in lines["0"]] == [0.9, 0.6]
    assert len(lines["1"]) == 1


def test_the_report_tells_when_an_error_was_reached(tmp_path: Path) -> None:
    report = importlib.import_module("paper.report")
    errors = {"plain": {"0": [0.9, 0.4, 0.04], "1": [0.5, 0.6]}, "refined": {"0": [0.8]}}
    runs = {
        method: {
            seed: [
                {"epoch": i + 1, "test_error": e, "cpu_seconds": 2.0, "entropy": 9.2}
                for i, e in enumerate(each)
            ]
            for seed, each in seeds.items()
        }
        for method, seeds in errors.items()
    }
    rows = report.table({"runs": runs}).splitlines()
    assert (
        rows[2]
        == "| plain | 3, 2 | 0.040, 0.600 | 0.040, 0.500 | 2, 1 | 3, - | 3, - | 3, - | 2, 2 | 9.2, 9.2 |"
    )
    assert report.seconds(runs["plain"]["0"]) == [2.0, 4.0, 6.0]
    report.curves({"runs": runs}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
