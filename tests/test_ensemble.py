"""Several models as one against the slow and obvious: each member by itself, on all tiles and on many draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import SmallRun
from tests.support.cohort import settings
from wsi_ats import load_model, open_slide
from wsi_ats.attention.networks import ConvAttention
from wsi_ats.build import build_model
from wsi_ats.config import Config
from wsi_ats.ensemble import Ensemble
from wsi_ats.errors import ConfigError
from wsi_ats.features.scratch import SmallResNet
from wsi_ats.lowres.prepare import prepare
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import save_model
from wsi_ats.predict import predict_prepared
from wsi_ats.reading import Reading
from wsi_ats.tiles import read_tiles

TWO_LEVELS = ("attention.levels=2", "regions.side=4", "regions.shrink=2", "regions.tiles=3")
KINDS: dict[str, tuple[str, ...]] = {
    "refined": (),
    "plain": ("sampling.refined=false",),
    "two levels": TWO_LEVELS,
}


@pytest.fixture(params=KINDS)
def config(request: pytest.FixtureRequest) -> Config:
    return settings("train.members=3", *KINDS[request.param])


def opinionated(config: Config) -> Ensemble:
    """An ensemble whose members tell tiles apart, each in its way."""
    ensemble = build_model(config, ("normal", "tumour")).eval()
    assert isinstance(ensemble, Ensemble)
    for seed, member in enumerate(ensemble.members):
        torch.manual_seed(seed)
        torch.nn.init.normal_(member.head.linear.weight, std=0.4)
        torch.nn.init.normal_(member.head.linear.bias, std=0.4)
        if member.score is not None:
            torch.nn.init.normal_(member.score.out.weight, std=0.5)
        for network in filter(None, (member.attention, member.region_attention)):
            sharpen(network)
    return ensemble


def sharpen(network: ConvAttention) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.6)


def outputs_of(model: AttentionSampler | Ensemble, slide: Path, **how: object) -> np.ndarray:
    outputs = model.predict(slide, **how).results[0].outputs  # type: ignore[arg-type]
    assert outputs is not None
    return outputs


def test_of_all_tiles_the_answer_is_the_mean_of_the_members(config: Config, small_run: SmallRun) -> None:
    ensemble, slide = opinionated(config), small_run.slides[1]
    exact = ensemble.predict(slide, sampler="all")
    alone = [member.predict(slide, sampler="all") for member in ensemble.members]
    mean = np.mean([one.results[0].outputs for one in alone], axis=0)
    assert exact.results[0].outputs == pytest.approx(mean, abs=1e-5)
    assert np.ptp([one.results[0].outputs for one in alone], axis=0).max() > 0.02
    assert exact.attention == pytest.approx(np.mean([one.attention for one in alone], axis=0), abs=1e-7)
    contributions = np.mean([one.results[0].contributions for one in alone], axis=0)
    assert exact.results[0].contributions == pytest.approx(contributions, abs=1e-6)
    assert (exact.results[0].stderr == 0).all()


def test_a_draw_is_right_on_average_for_every_member(config: Config, small_run: SmallRun) -> None:
    """The weights of the joint draw leave each member's own attention unbiased: sum of w_i a_i x_i is that of all x."""
    ensemble = opinionated(config)
    with open_slide(small_run.slides[1]) as handle, torch.inference_mode():
        slide = prepare(handle, config, keep_open=True)
        attention = ensemble.attend(slide)
        attention.exceeds(10**9)  # with two levels, opens every region
        whole = attention.all()
        assert whole.log_each is not None
        marks = torch.randn(len(whole.log_p), 5, generator=torch.Generator().manual_seed(0)).double()
        every = whole.log_each.double().exp() @ marks
        draws = [attention.draw(8, "systematic", torch.Generator().manual_seed(i)) for i in range(400)]
        found = []
        for drawn in draws:
            cells = drawn.draws.cells
            assert drawn.log_each is not None
            shares = (drawn.log_each[:, cells].double() + drawn.draws.log_weights).exp()
            found.append(shares @ marks[cells])
    each = torch.stack(found)
    off = (each.mean(0) - every).abs() / (each.std(0) / len(each) ** 0.5)
    assert off.max() < 4.5
    assert each.std(0).min() > 1e-3  # the draws differ


def test_rounds_tell_how_far_the_draw_is_off(small_run: SmallRun) -> None:
    ensemble, slide = opinionated(settings("train.members=3")), small_run.slides[1]
    exact = ensemble.predict(slide, sampler="all").probabilities[1]
    drawn = [ensemble.predict(slide, tiles=12, seed=seed) for seed in range(60)]
    off = np.array([p.probabilities[1] - exact for p in drawn])
    told = np.sqrt(np.mean([p.results[0].stderr[1] ** 2 for p in drawn]))
    assert 0.5 < np.sqrt(np.mean(off**2)) / told < 2
    inside = [p.results[0].low[1] <= exact <= p.results[0].high[1] for p in drawn]  # type: ignore[index]
    assert np.mean(inside) > 0.85


@pytest.mark.parametrize("frozen", [True, False])
def test_every_tile_is_read_once_for_all_members(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    ensemble = opinionated(settings("train.members=3", f"features.frozen={str(frozen).lower()}"))
    read: list[int] = []
    looked: list[int] = []
    forward = SmallResNet.forward

    def reading(*args: object) -> object:
        read.extend(args[2].tolist())  # type: ignore[attr-defined]
        return read_tiles(*args)  # type: ignore[arg-type]

    def looking(network: SmallResNet, tiles: torch.Tensor) -> torch.Tensor:
        looked.append(len(tiles))
        return forward(network, tiles)

    monkeypatch.setattr("wsi_ats.embed.read_tiles", reading)
    monkeypatch.setattr(SmallResNet, "forward", looking)
    prediction = ensemble.predict(small_run.slides[1], tiles=10)
    assert sorted(read) == sorted(prediction.cells.tolist())
    assert sum(looked) == prediction.tiles_read * (1 if frozen else 3)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_saved_ensemble_answers_alike_and_holds_shared_weights_once(
    small_run: SmallRun, tmp_path: Path, frozen: bool
) -> None:
    ensemble = opinionated(settings("train.members=3", f"features.frozen={str(frozen).lower()}"))
    save_model(ensemble, tmp_path / "model", "a card")
    again, slide = load_model(tmp_path / "model"), small_run.slides[1]
    assert isinstance(again, Ensemble)
    assert outputs_of(again, slide, tiles=10).tolist() == outputs_of(ensemble, slide, tiles=10).tolist()
    names = ensemble.weights()
    assert any(name.startswith("members.1.features.") for name in names) != frozen
    assert {id(member.features) for member in again.members} == (
        {id(again.features)} if frozen else {id(member.features) for member in again.members}
    )


def test_all_slides_of_a_patient_answer_as_one(small_run: SmallRun) -> None:
    ensemble = opinionated(settings("train.members=2"))
    exact = ensemble.predict(small_run.slides, sampler="all")
    alone = [member.predict(small_run.slides, sampler="all") for member in ensemble.members]
    mean = np.mean([one.results[0].outputs for one in alone], axis=0)
    assert exact.results[0].outputs == pytest.approx(mean, abs=1e-5)


def test_models_of_other_seeds_have_no_member_in_common() -> None:
    models = [settings("train.members=3", f"train.seed={seed}") for seed in range(4)]
    seeds = [model.of_member(number).train.seed for model in models for number in range(3)]
    assert seeds == list(range(12))


def test_each_member_is_the_model_of_its_seed() -> None:
    three = build_model(settings("train.members=3", "train.seed=5"), ("normal", "tumour"))
    one = build_model(settings("train.seed=16"), ("normal", "tumour"))
    assert isinstance(three, Ensemble)
    first, second, third = three.members
    same = {name: value.tolist() for name, value in one.state_dict().items()}
    assert {name: value.tolist() for name, value in second.state_dict().items()} == same
    assert {name: value.tolist() for name, value in first.state_dict().items()} != same
    assert third.config.train.seed == 17
    assert third.config.train.members == 1


def test_one_model_is_no_ensemble() -> None:
    config = settings()
    model = build_model(config, ("normal", "tumour"))
    assert isinstance(model, AttentionSampler)
    with pytest.raises(ConfigError, match="an ensemble of one model"):
        Ensemble(config, [model])


def test_a_prepared_slide_is_read_until_the_interval_is_short_enough(small_run: SmallRun) -> None:
    ensemble = opinionated(settings("train.members=2"))
    with open_slide(small_run.slides[1]) as handle:
        slide = prepare(handle, ensemble.config, keep_open=True)
        prediction = predict_prepared(ensemble, slide, Reading.of(None, "systematic", 0, None, 0.01))
    interval = prediction.results[0].interval(1)
    value = prediction.probabilities[1]
    assert interval is None or max(interval[1] - value, value - interval[0]) <= 0.01
