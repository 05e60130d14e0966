"""Tiles read ahead: drawn with an earlier attention, averaged under the one of the step, unbiased, and in time."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.cohort import settings
from tests.support.enumeration import outcomes
from tests.support.training import assert_same_weights, silent, table
from tests.train.test_stages import seconds_of
from tests.train.test_train import with_damaged_tiles
from wsi_ats.attention.levels import SlideAttention
from wsi_ats.build import build_model
from wsi_ats.config import Config
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row
from wsi_ats.sampling import Draws
from wsi_ats.slides.tiff.slide import TiffSlide
from wsi_ats.tasks.make import as_tasks
from wsi_ats.train.ahead import Batch, LookingAhead, ReadAhead
from wsi_ats.train.augment import places
from wsi_ats.train.data import Examples
from wsi_ats.train.module import TrainingModule
from wsi_ats.train.run import train

AHEAD = "train.read_ahead=true"


def module_and_batches(rows: list[Row], config: Config) -> tuple[TrainingModule, list[Batch]]:
    torch.manual_seed(0)
    module = TrainingModule(build_model(config, as_tasks(["normal", "tumour"])))
    module.log = lambda *_, **__: None  # there is no trainer
    examples = Examples([r for r in rows if r.split == "train"], ["normal", "tumour"], config, 1 << 30)
    return module, list(LookingAhead(examples, 2, collate_fn=list))


def move_attention(module: TrainingModule) -> None:
    """As steps of training do, and far."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.model.attention.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_a_loader_that_knows_the_next_batch(rows: list[Row]) -> None:
    _, batches = module_and_batches(rows, settings())
    assert [len(batch) for batch in batches] == [2, 2, 2]
    slides = [[example.slides for example in batch] for batch in batches]
    assert [[example.slides for example in batch.after] for batch in batches] == [*slides[1:], []]


@pytest.mark.parametrize("sampler", ["systematic", "priority"])
def test_reuse_of_an_earlier_attention_is_unbiased(rows: list[Row], sampler: str) -> None:
    """Over every draw that the earlier attention can make, the mean of what the step computes is the summary under the
    attention of the step, and its gradient is that of the summary."""
    torch.manual_seed(0)
    earlier = torch.log_softmax(torch.randn(6, dtype=torch.float64), 0)
    logits = (2 * torch.randn(6, dtype=torch.float64)).requires_grad_()
    features = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(3, dtype=torch.float64)
    model = build_model(
        settings("sampling.refined=false", "sampling.centre=false"), as_tasks(["normal", "tumour"])
    )

    _, batches = module_and_batches(rows, settings())
    slide = batches[0][0].prepared  # of which nothing but the number of a drawn cell is asked

    def reused(draws: Draws) -> torch.Tensor:
        reader = ReadAhead()
        reader.begin((0, 1), [draws], dict)
        taken = reader.take((0, 1), [SlideAttention(slide, torch.log_softmax(logits, 0))])
        assert taken is not None
        (drawn,), _ = taken
        return model.estimate(drawn, features[drawn.draws.cells]).phi

    chances, draws = outcomes(sampler, earlier, 3)
    each = [reused(Draws(c, w)) for c, w in zip(draws.cells, draws.log_weights, strict=True)]
    mean = (chances[:, None] * torch.stack(each)).sum(0)
    exact = torch.softmax(logits, 0) @ features
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-9)
    theirs = torch.autograd.grad(mean @ direction, [logits, features])
    torch.testing.assert_close(
        theirs, torch.autograd.grad(exact @ direction, [logits, features]), rtol=0, atol=1e-9
    )
    # The draws of the step's own attention have other weights, which would not do.
    _, own = outcomes(sampler, torch.log_softmax(logits, 0).detach(), 3)
    assert not torch.allclose(own.log_weights[:1], draws.log_weights[:1])


def test_a_step_takes_the_draw_of_the_step_before_under_its_own_attention(rows: list[Row]) -> None:
    config = settings(AHEAD, "train.warm_up=0")
    module, batches = module_and_batches(rows, config)
    module.training_step(batches[0], 0)
    before = [module.model.attend(example.prepared) for example in batches[1]]
    generators = module._generators(batches[1], 1)
    how = config.sampling
    expected = [a.draw(how.tiles, how.sampler, g) for a, g in zip(before, generators, strict=True)]
    move_attention(module)
    drawn, fetched = module._draw(batches[1], module._generators(batches[1], 1), 1)
    assert fetched is not None
    assert len(fetched()) == sum(len(d.draws) for d in drawn)
    for mine, then, example in zip(drawn, expected, batches[1], strict=True):
        assert torch.equal(mine.draws.cells, then.draws.cells)
        assert torch.equal(mine.draws.log_weights, then.draws.log_weights)
        assert torch.equal(mine.log_p, module.model.attend(example.prepared).log_p)
        assert not torch.allclose(mine.log_p, then.log_p)
        assert mine.log_p.requires_grad
    _, fetched = module._draw(batches[1], module._generators(batches[1], 1), 1)
    assert fetched is None, "once"


def test_tiles_read_ahead_are_the_tiles(rows: list[Row]) -> None:
    """Also those that move in their cells, and where some are remembered."""
    for more in ([], ["augment.place=0.5"], ["features.frozen=true"]):
        module, batches = module_and_batches(rows, settings(AHEAD, *more))
        module.model.cache.max_bytes = 1 << 20
        module.training_step(batches[0], 0)
        drawn, fetched = module._draw(batches[1], module._generators(batches[1], 1), 1)
        how, counts = module.model.config.augment, [len(d.draws) for d in drawn]
        moved = places(how, counts, module.settings.seed, module._names(batches[1], 1))
        with torch.no_grad():
            ahead = module.model.embed(drawn, None, moved, fetched)
            module.model.cache = type(module.model.cache)(0)
            plain = module.model.embed(drawn, None, moved)
        for one, other in zip(ahead, plain, strict=True):
            torch.testing.assert_close(one, other)


def test_the_networks_wait_less(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, backward = TiffSlide._decode, TrainingModule.backward

    def slow_decode(self: TiffSlide, *arguments: object) -> object:
        time.sleep(0.03)
        return decode(self, *arguments)

    def slow_backward(self: TrainingModule, *arguments: object) -> None:
        time.sleep(1.0)  # networks that take a GPU's time
        backward(self, *arguments)

    monkeypatch.setattr(TiffSlide, "_decode", slow_decode)
    monkeypatch.setattr(TrainingModule, "backward", slow_backward)
    monkeypatch.setattr(TrainingModule, "validation_step", lambda *_: None)
    monkeypatch.setattr(TrainingModule, "on_validation_epoch_end", lambda self: self.log("val_score", 0.0))
    few = [row for row in rows if row.split == "train" or row.slide in ("val_0.tif", "val_1.tif")]
    waits = {}
    for ahead in ("false", "true"):
        out = tmp_path / ahead
        train(
            few,
            settings("train.epochs=1", f"train.read_ahead={ahead}", "features.frozen=true"),
            out,
            say=silent,
        )
        waits[ahead] = seconds_of(out)["waiting"]
    # Of three steps the first one waits.
    assert waits["true"] < 0.6 * waits["false"]


def test_an_interrupted_run_goes_on_as_it_would_have(rows: list[Row], tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch 1/2"):
            raise KeyboardInterrupt

    config = settings("train.epochs=2", AHEAD)
    train(rows, config, tmp_path / "whole", say=silent)
    with pytest.raises(KeyboardInterrupt):
        train(rows, config, tmp_path / "parts", say=stop)
    train(rows, config, tmp_path / "parts", say=silent)
    model = "model/model.safetensors"
    assert_same_weights(tmp_path / "whole" / model, tmp_path / "parts" / model)


def test_a_damaged_tile_that_a_thread_meets_is_of_its_slide(rows: list[Row], tmp_path: Path) -> None:
    bad = replace(rows[1], slide="damaged", path=with_damaged_tiles(rows[1].path, tmp_path / "damaged.tif"))
    config = settings("train.epochs=1", AHEAD)
    train([*rows[:1], bad, *rows[1:]], config, tmp_path / "run", say=silent)
    (failure,) = table(tmp_path / "run" / "failures.csv")
    assert (failure["slide"], failure["stage"]) == ("damaged", "tiles")


def test_two_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.read_ahead is true and attention\.levels is 2"):
        settings(AHEAD, "attention.levels=2")
