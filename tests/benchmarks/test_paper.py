"""The training of benchmarks/paper: tiles and views, every tile at once, one step of every method and preset."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmarks.test_paper_data import colon, mnist, signs  # noqa: F401
from wsi_ats.errors import ConfigError
from wsi_ats.estimator import expectation
from wsi_ats.features.standardise import Standardise
from wsi_ats.sampling import Draws, des_raj

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


def test_tiles_are_cut_where_they_lie() -> None:
    tiles_of = importlib.import_module("paper.pictures").tiles_of
    padded = np.full((2, 220, 230, 3), 9, np.uint8)
    padded[:, 100:120, 100:130] = np.random.default_rng(0).integers(256, size=(2, 20, 30, 3))
    corners = np.array([[0, 0], [-3, 5], [25, 15], [-9, -9], [40, 3], [3, -40], [7, 12], [1, 2]])
    expected = [padded[i // 4, 100 + y : 108 + y, 100 + x : 108 + x] for i, (x, y) in enumerate(corners)]
    found = tiles_of(torch.from_numpy(padded), torch.from_numpy(corners).view(2, 4, 2), 8, 100)
    assert np.array_equal(found.flatten(0, 1), np.stack(expected))


def test_a_view_is_the_mean_of_its_cells() -> None:
    module = importlib.import_module("paper.pictures")
    scale = module.Scale(20, 30, 0.2, 10, step=2)
    picture = np.random.default_rng(0).integers(256, size=(20, 30, 1), dtype=np.uint8)
    canvas = np.zeros((1, *scale.canvas, 1), np.uint8)
    canvas[0, 12:-12, 12:-12] = picture
    view = module.views_of(torch.from_numpy(canvas), scale)
    assert view[0, 0].numpy() == pytest.approx(picture.reshape(4, 5, 6, 5).mean((1, 3)), rel=1e-5)
    corners = scale.corners.reshape(4, 6, 2)
    assert not (corners % 2).any()
    centres = corners + 5 - (np.stack(np.meshgrid(np.arange(6), np.arange(4)), -1) + 0.5) * 5
    assert np.abs(centres).max() <= 1.5


def test_kept_pictures_are_those_that_were_made(mnist: Path, colon: Path) -> None:  # noqa: F811
    batches, mnist_, colon_ = (importlib.import_module(f"paper.{m}") for m in ("batches", "mnist", "colon"))
    scale, cpu = importlib.import_module("paper.pictures").Scale(60, 60, 0.2, 30, step=2), torch.device("cpu")
    digits = mnist_.MegapixelMNIST(mnist, train=True, count=7, side=120, noise=3)
    for pictures, size in ((digits, 120), (colon_.ColonCancer(colon_.picture_folders(colon)), 60)):
        scale = replace(scale, height=size, width=size)
        made, kept = batches.Made(pictures, scale, cpu, 0), batches.Kept(pictures, scale, cpu)
        order = [3, 0, 6, 1, 4]
        assert len(made) == len(kept) == len(pictures)
        for a, b in zip(made.of(order, 2), kept.of(order, 2), strict=True):
            for name in ("pixels", "views", "labels", "squares"):
                torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)
            assert a.square == b.square
        picture = pictures[order[-1]].pixels
        assert np.array_equal(
            b.pixels[0, scale.margin : -scale.margin, scale.margin : -scale.margin], picture
        )


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
    """A run on 8 pictures of 120 px with views of 24 px: 576 cells."""
    train, pictures, mnist_ = (importlib.import_module(f"paper.{m}") for m in ("train", "pictures", "mnist"))
    settings = {"epochs": 2, "batch": 4, "tiles": 5, "lr": 1e-2, "lr_attention": 1e-2, "keep": True} | changes
    method = settings.pop("method", "plain")
    sets = [mnist_.MegapixelMNIST(data, train=t, count=8, side=120, noise=1) for t in (True, False)]
    scale = pictures.Scale(120, 120, 0.2, 30, step=2)
    return train.Run(*sets, scale, train.Settings(**settings), method, 0, "cpu")


def some(run: Any, count: int) -> Any:
    return next(run.train.of(range(count), count))


def test_every_tile_at_once_is_every_tile_read(mnist: Path) -> None:  # noqa: F811
    run = small(mnist, method="full soft attention")
    batch = some(run, 2)
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
    with pytest.raises(ConfigError, match="squares"):
        run.model.every(replace(some(run, 1), squares=None))


@pytest.mark.parametrize("method", ["reference estimator", "plain", "refined", "full soft attention"])
def test_every_method_learns_a_batch_by_heart(method: str, mnist: Path) -> None:  # noqa: F811
    run = small(mnist, method=method)
    batch, generator = some(run, 4), torch.Generator().manual_seed(0)
    before = run.model.attention.body[4].weight.clone()
    losses = [float(run.step(batch, generator)) for _ in range(12)]
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
def test_the_paper_s_settings_take_a_step(
    task: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets, train = (importlib.import_module(f"paper.{m}") for m in ("presets", "train"))
    preset = presets.PRESETS[task, "paper"]
    settings = replace(preset.settings, batch=2, workers=0, keep=False)
    pictures = preset.pictures(request.getfixturevalue(task), 0)
    scale = preset.scale if task != "colon" else replace(preset.scale, height=60, width=60)
    monkeypatch.setattr(train, "SETTLE", 4)
    run = train.Run(*pictures, scale, settings, "refined", 0, "cpu")
    assert torch.isfinite(run.step(some(run, 2), torch.Generator()))
    assert isinstance(run.model.standardise, Standardise)


def test_rates_fall_to_nothing_over_the_epochs(mnist: Path) -> None:  # noqa: F811
    run = small(mnist, fall=True, parts=2)
    rates = []
    run.step, step = (
        lambda *x: rates.append([g["lr"] for g in run.optimizer.param_groups]) or step(*x),
        run.step,
    )
    for _ in range(run.settings.tests):
        run.one_part()
    assert np.array(rates) == pytest.approx(
        1e-2 * (0.5 + 0.5 * np.cos(np.pi * np.arange(4) / 4))[:, None].repeat(2, 1)
    )


def a_job(work: Path, **changes: Any) -> Any:
    run, train = (importlib.import_module(f"paper.{m}") for m in ("run", "train"))
    fields = {"method": "plain", "seed": 0, "settings": train.Settings(), "data": work} | changes
    return run.Job("mnist", "small", work=work, device="cpu", **fields)


def test_results_grow_by_an_epoch_and_replace_what_was_lost(tmp_path: Path) -> None:
    run = importlib.import_module("paper.run")
    one, two = a_job(tmp_path), a_job(tmp_path, seed=1)
    bare = a_job(tmp_path, settings=replace(one.settings, standardise=False))
    path = tmp_path / "results.json"
    run.merge([one], path)
    for epoch, error in ((1, 0.9), (2, 0.8), (3, 0.7), (2, 0.6)):
        run.add(one, {"epoch": epoch, "test_error": error})
    run.add(two, {"epoch": 1, "test_error": 0.5})
    run.add(bare, {"epoch": 1, "test_error": 0.4})
    run.merge([one, two], path)
    run.merge([bare], path)
    runs = json.loads(path.read_text())["runs"]
    assert [x["test_error"] for x in runs["plain"]["0"]] == [0.9, 0.6]
    assert len(runs["plain"]["1"]) == 1
    assert runs["plain, bare"]["0"][0]["test_error"] == 0.4


def test_settings_that_are_given_replace_the_preset_s() -> None:
    run, presets = (importlib.import_module(f"paper.{m}") for m in ("run", "presets"))
    preset = presets.PRESETS["mnist", "small"].settings
    assert run.changed(preset, {"epochs": 7, "lr": None, "task": "mnist"}) == replace(preset, epochs=7)


def test_a_job_stops_in_time_and_goes_on(
    mnist: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, presets, pictures = (importlib.import_module(f"paper.{m}") for m in ("run", "presets", "pictures"))
    scale = pictures.Scale(120, 120, 0.2, 30, step=2)
    settings = importlib.import_module("paper.train").Settings(epochs=2, parts=2, batch=4, keep=True)
    tiny = presets.Preset(presets.megapixel_mnist(8, 4, 120, 0), scale, settings)
    monkeypatch.setitem(presets.PRESETS, ("mnist", "small"), tiny)
    job = a_job(tmp_path, data=mnist, settings=settings)
    run.train(job, time.time() - 1)
    assert not job.kept.exists()
    clock = iter([0.0, 0.0, 0.0, 6.0, 6.0])  # begun, may go on, a part: 6 s, may not
    monkeypatch.setattr(run.time, "time", lambda: next(clock))
    run.train(job, 10.0)
    assert [x["epoch"] for x in json.loads(job.kept.read_text())["lines"]] == [0.5]
    monkeypatch.undo()
    monkeypatch.setitem(presets.PRESETS, ("mnist", "small"), tiny)
    run.train(job, time.time() + 600)
    assert [x["epoch"] for x in json.loads(job.kept.read_text())["lines"]] == [0.5, 1, 1.5, 2]


def test_runs_side_by_side_are_put_together_and_their_errors_are_told(tmp_path: Path) -> None:
    run = importlib.import_module("paper.run")
    jobs = [a_job(tmp_path / "work", seed=seed) for seed in range(2)]
    run.add(jobs[1], {"epoch": 1, "test_error": 0.5})
    with pytest.raises(SystemExit, match="2 of 2 runs failed: plain"):  # there is no MNIST in that folder
        run.run_all(jobs, 2, time.time() + 600, tmp_path / "results.json")
    assert list(json.loads((tmp_path / "results.json").read_text())["runs"]["plain"]) == ["1"]


def test_the_report_tells_when_an_error_was_reached(tmp_path: Path) -> None:
    report = importlib.import_module("paper.report")
    errors = {
        "plain, bare": {"0": [0.9]},
        "plain": {"0": [0.9, 0.4, 0.04], "1": [0.5, 0.6]},
        "refined": {"0": [0.8]},
    }
    runs = {
        method: {
            seed: [
                {"epoch": i + 1, "test_error": e, "seconds": 3.0, "cpu_seconds": 2.0, "entropy": 9.2}
                for i, e in enumerate(each)
            ]
            for seed, each in seeds.items()
        }
        for method, seeds in errors.items()
    }
    rows = report.table({"runs": runs}).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| plain", "| refined", "| plain, bare"]
    assert rows[2] == (
        "| plain | 3, 2 | 0.040, 0.600 | 0.040, 0.500 | 2, 1 | 3, - | 3, - | 3, - | 6, 3 | 9, - | 9, - | 9, - "
        "| 3.0, 3.0 | 2.0, 2.0 | 9.2, 9.2 |"
    )
    assert report.seconds(runs["plain"]["0"]) == [3.0, 6.0, 9.0]
    report.curves({"runs": runs}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
