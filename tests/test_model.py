"""The whole model against what it promises: order, batch and repetition do not change an answer, `all` is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.helpers import give_opinions
from wsi_ats import load_model, open_slide
from wsi_ats.attention.networks import ConvAttention, DeepAttention, PaperAttention, WideAttention
from wsi_ats.build import build_model
from wsi_ats.cache import TileCache
from wsi_ats.config import load_config
from wsi_ats.errors import MissingMppError, NoTissueError
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.model import AttentionSampler
from wsi_ats.sampling import generator_for
from wsi_ats.synthetic.phantom import Phantom, write_phantom
from wsi_ats.train.augment import turned
from wsi_ats.train.standardise import fit_standardisation

SETTINGS = ["view.downsample=8", "tile.downsample=2", "tile.px=32", "attention.stride=8", "sampling.tiles=5"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    paths = [folder / f"slide_{i}.tif" for i in range(3)]
    for i, path in enumerate(paths):
        write_phantom(path, Phantom(size=768 + 256 * i, decoys=0, lesion=False, seed=i))
    return paths


def model_with(*settings: str) -> AttentionSampler:
    """An untrained model whose attention, scores and head are not flat."""
    model = build_model(load_config(None, [*SETTINGS, *settings]), ("normal", "tumour"))
    give_opinions(model)
    return model.eval()


@pytest.mark.parametrize(
    ("network", "kind"), [("paper", PaperAttention), ("wide", WideAttention), ("deep", DeepAttention)]
)
def test_the_attention_network_is_the_one_asked_for(network: str, kind: type[ConvAttention]) -> None:
    model = model_with(f"attention.network={network}", "attention.levels=2")
    assert (type(model.attention), type(model.region_attention)) == (kind, kind)


def all_prepared(model: AttentionSampler, paths: list[Path]) -> list[PreparedSlide]:
    prepared_slides = []
    for path in paths:
        with open_slide(path) as slide:
            prepared_slides.append(prepare(slide, model.config))
    return prepared_slides


@pytest.mark.parametrize("refined", ["true", "false"])
def test_a_slide_gets_the_same_estimate_alone_and_in_any_batch(paths: list[Path], refined: str) -> None:
    model = model_with(f"sampling.refined={refined}")
    prepared_slides = all_prepared(model, paths)

    def logits(order: list[int]) -> dict[int, torch.Tensor]:
        chosen = [prepared_slides[i] for i in order]
        estimates = model(chosen, [generator_for(0, prepared.name) for prepared in chosen])
        return {i: estimate.logits for i, estimate in zip(order, estimates, strict=True)}

    together = logits([0, 1, 2])
    backwards = logits([2, 1, 0])
    for i in range(3):
        torch.testing.assert_close(together[i], backwards[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(together[i], logits([i])[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("refined", ["true", "false"])
def test_all_is_attention_mil_over_every_tile(paths: list[Path], refined: str) -> None:
    model = model_with(f"sampling.refined={refined}")
    prediction = model.predict(paths[0], sampler="all")
    with open_slide(paths[0]) as slide, torch.no_grad():
        prepared = prepare(slide, model.config)
        log_a = model.attend(prepared).log_p
        tiles = []
        for cell in prepared.tissue:  # one tile at a time, placed by hand
            row, column = divmod(int(cell), prepared.view.grid.cols)
            x, y = (column + 0.5) * 64 - 32, (row + 0.5) * 64 - 32
            pixels = slide.read((int(x), int(y)), (64, 64)).reshape(32, 2, 32, 2, 3).astype(np.float64)
            tiles.append(pixels.mean((1, 3)))
        batch = torch.tensor(np.stack(tiles)).permute(0, 3, 1, 2).float() / 255
        vectors = model.standardise(model.features(batch))
        target = log_a + model.score(vectors) if model.score is not None else log_a
        summary = torch.softmax(target, 0) @ vectors
        expected = torch.softmax(model.head(summary), 0)
    assert prediction.tiles_read == len(prepared.tissue)
    # The oracle averages 2 x 2 px, the reader resamples with a triangle filter: tiles differ a little.
    np.testing.assert_allclose(prediction.probabilities, expected.numpy(), atol=2e-2)
    assert (prediction.stderr == 0).all()


def test_a_prediction_repeats_and_depends_on_the_seed(paths: list[Path]) -> None:
    model = model_with()
    first, again, other = (model.predict(paths[2], tiles=12, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    np.testing.assert_array_equal(first.cells, again.cells)
    assert not np.array_equal(first.cells, other.cells)


def test_reading_more_tiles_comes_closer_to_the_exact_answer(paths: list[Path]) -> None:
    model = model_with()
    exact = model.predict(paths[2], sampler="all").probabilities[1]

    def error(tiles: int) -> float:
        answers = [model.predict(paths[2], tiles=tiles, seed=seed, repeats=1) for seed in range(12)]
        return float(np.sqrt(np.mean([(a.probabilities[1] - exact) ** 2 for a in answers])))

    assert error(48) < 0.6 * error(6)


def test_the_standard_error_is_the_size_of_the_error(paths: list[Path]) -> None:
    model = model_with("sampling.refined=false", "sampling.sampler=multinomial")
    answers = [
        model.predict(paths[2], tiles=32, sampler="multinomial", seed=seed, repeats=8) for seed in range(40)
    ]
    spread = np.std([a.probabilities[1] for a in answers])
    claimed = np.sqrt(np.mean([a.stderr[1] ** 2 for a in answers]))
    assert 0.6 < claimed / spread < 1.7


def test_one_round_has_no_standard_error(paths: list[Path]) -> None:
    assert np.isnan(model_with().predict(paths[2], tiles=8, repeats=1).stderr).all()


def test_contributions_add_up_to_the_logits(paths: list[Path]) -> None:
    model = model_with()
    prediction = model.predict(paths[1], tiles=16)
    logits = prediction.contributions.sum(0) + model.head.linear.bias.detach().numpy()
    answer = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(answer, prediction.probabilities, atol=1e-5)


def test_memory_changes_no_answer_and_spares_reading(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for frozen in ("true", "false"):
        model = model_with(f"features.frozen={frozen}")
        prepared = all_prepared(model, paths[2:])[0]
        bare = model([prepared], [generator_for(0, "x")])[0].logits
        model.cache = TileCache(1 << 26)
        first = model([prepared], [generator_for(0, "x")])[0].logits
        monkeypatch.setattr("wsi_ats.embed.read_tiles", None)  # a second reading would fail
        second = model([prepared], [generator_for(0, "x")])[0].logits
        monkeypatch.undo()
        torch.testing.assert_close(bare, first)
        torch.testing.assert_close(bare, second)


def test_models_that_share_a_cache_answer_as_alone(paths: list[Path]) -> None:
    """Of one model's features, and of tiles of another size, nothing reaches the other."""
    shared = TileCache(1 << 26)
    for settings in (
        ["train.seed=0"],
        ["train.seed=1"],
        ["tile.px=48"],
        ["tile.downsample=3"],
        ["features.width=8"],
    ):
        for frozen in ("true", "false"):
            model = model_with(f"features.frozen={frozen}", *settings)
            alone = model.predict(paths[1], tiles=8)
            model.cache = shared
            for _ in range(2):
                together = model.predict(paths[1], tiles=8)
                np.testing.assert_array_equal(together.cells, alone.cells)
                np.testing.assert_allclose(together.probabilities, alone.probabilities, rtol=0, atol=1e-6)


def test_a_frozen_network_whose_weights_change_is_another(paths: list[Path]) -> None:
    model = model_with("features.frozen=true")
    model.cache = TileCache(1 << 26)
    model.predict(paths[0], tiles=8)
    with torch.no_grad():
        for parameter in model.features.parameters():
            parameter += 0.1
    kept = model.predict(paths[0], tiles=8)
    model.cache = TileCache(0)
    np.testing.assert_array_equal(kept.probabilities, model.predict(paths[0], tiles=8).probabilities)


def test_every_trainable_part_gets_a_gradient(paths: list[Path]) -> None:
    model = model_with().train()
    prepared = all_prepared(model, paths[:1])[0]
    model([prepared], [generator_for(0, "x")])[0].logits[1].backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_uniform_ignores_the_view(paths: list[Path]) -> None:
    model = model_with("sampling.uniform=true")
    prediction = model.predict(paths[1], tiles=8)
    assert np.ptp(prediction.attention) < 1e-7


def test_a_uniform_draw_leaves_attention_alone(paths: list[Path]) -> None:
    model = model_with().train()
    with torch.no_grad():  # an opinion that a uniform draw must not ask for
        next(iter(model.attention.head.parameters())).normal_()
    prepared = all_prepared(model, paths[1:2])[0]
    drawn = model.attend(prepared, uniform=True).draw(5, "systematic", generator_for(0, "x"))
    (estimate,) = model.estimates([drawn], model.embed([drawn]))
    assert float(drawn.log_p.max() - drawn.log_p.min()) == 0
    estimate.logits[1].backward()
    assert all(parameter.grad is None for parameter in model.attention.parameters())


def test_standardisation_takes_the_common_part_off(paths: list[Path]) -> None:
    model = model_with()
    prepared_slides = all_prepared(model, paths)
    before = _mean_cosine(model, prepared_slides)
    fit_standardisation(model, prepared_slides, seed=0)
    assert _mean_cosine(model, prepared_slides) < 0.3 < before


def _mean_cosine(model: AttentionSampler, prepared_slides: list[PreparedSlide]) -> float:
    with torch.no_grad():
        estimates = model(prepared_slides, [generator_for(9, prepared.name) for prepared in prepared_slides])
    vectors = torch.cat([estimate.features for estimate in estimates])
    return float((vectors @ vectors.T).mean())


def test_turning_gives_the_eight_symmetries_of_the_square() -> None:
    tile = torch.arange(12.0).reshape(1, 3, 2, 2)
    out = turned(tile.expand(400, 3, 2, 2), torch.arange(400) % 8)
    assert len({tuple(t.flatten().tolist()) for t in out}) == 8
    assert out.sort(dim=-1).values.sum() == tile.sum() * 400


def test_a_slide_without_mpp_fails_with_its_remedies(paths: list[Path]) -> None:
    model = build_model(load_config(), ("a", "b"))
    white = np.full((512, 512, 3), 255, np.uint8)
    with open_slide(white) as slide, pytest.raises(MissingMppError, match="micrometres per pixel") as caught:
        model.predict(slide)
    for remedy in ("mpp", "--mpp", "downsample"):
        assert remedy in caught.value.remedy


def test_a_blank_slide_fails_as_no_tissue() -> None:
    white = np.full((512, 512, 3), 255, np.uint8)
    with open_slide(white, name="blank") as slide, pytest.raises(NoTissueError, match="blank"):
        model_with().predict(slide)


def test_loading_gives_the_model_that_was_saved(tmp_path: Path, paths: list[Path]) -> None:
    from wsi_ats.model_folder import save_model

    model = model_with()
    fit_standardisation(model, all_prepared(model, paths), seed=0)
    save_model(model, tmp_path / "model", "card")
    loaded = load_model(tmp_path / "model")
    first, second = (m.predict(paths[0], tiles=8) for m in (model, loaded))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert len(loaded.hash) == 16


BLOCKS = ["view.whole=0", "view.block=16"]
"""No view in memory, and blocks of two cells a side."""


def test_a_view_in_blocks_changes_no_prediction(paths: list[Path]) -> None:
    whole, blocks = model_with(), model_with(*BLOCKS)
    for path in paths:
        first, second = (model.predict(path, tiles=12) for model in (whole, blocks))
        np.testing.assert_array_equal(first.tissue, second.tissue)
        np.testing.assert_array_equal(first.cells, second.cells)
        np.testing.assert_allclose(first.attention, second.attention, rtol=3e-5, atol=1e-6)  # float32
        np.testing.assert_allclose(first.probabilities, second.probabilities, rtol=0, atol=1e-5)
        again = blocks.predict(path, tiles=12)
        np.testing.assert_array_equal(again.probabilities, second.probabilities)


@pytest.mark.parametrize("refined", ["true", "false"])
def test_a_view_in_blocks_changes_no_gradient(paths: list[Path], refined: str) -> None:
    setting = f"sampling.refined={refined}"
    found = []
    for model in (model_with(setting), model_with(setting, *BLOCKS)):
        model.double()
        prepared_slides = all_prepared(model, paths)
        log_p = [model.attend(prepared).log_p for prepared in prepared_slides]
        (sum((p.exp() * p).sum() for p in log_p) + log_p[0][0]).backward()
        found.append([p.grad.clone() for p in model.attention.parameters() if p.grad is not None])
    assert len(found[0]) > 2
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_a_scene_whose_view_stays_on_the_slide_is_small_and_trains(paths: list[Path]) -> None:
    model = model_with(*BLOCKS).train()
    prepared_slides = all_prepared(model, paths[:2])  # the slides are closed by now
    assert all(prepared.nbytes == 16 * len(prepared.tissue) for prepared in prepared_slides)
    estimates = model(prepared_slides, [generator_for(0, prepared.name) for prepared in prepared_slides])
    sum(estimate.logits[1] for estimate in estimates).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
