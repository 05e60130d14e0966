"""Two levels of attention: regions opened one by one against everything worked out on whole views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.helpers import give_opinions
from wsi_ats import open_slide
from wsi_ats.attention.levels import TwoLevelAttention
from wsi_ats.build import build_model
from wsi_ats.cache import TileCache
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError, NoTissueError
from wsi_ats.geometry import Grid, Level, Size
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.lowres.regions import RegionGrid, TissueRule, coarse_frame
from wsi_ats.lowres.tissue import StainRule, stain_rule
from wsi_ats.lowres.view import LazyView
from wsi_ats.model import AttentionSampler
from wsi_ats.sampling import generator_for
from wsi_ats.synthetic.phantom import Phantom, write_phantom

SETTINGS = [
    *("view.downsample=8", "tile.downsample=2", "tile.px=32", "attention.stride=8", "sampling.tiles=5"),
    *("attention.levels=2", "regions.side=4", "tissue.min_object=9", "tissue.min_hole=9"),
]
PINK, GLASS = (200, 120, 170), (250, 250, 250)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    paths = [folder / f"slide_{i}.tif" for i in range(2)]
    for i, path in enumerate(paths):  # neither is a whole number of regions wide
        write_phantom(path, Phantom(size=1100 + 500 * i, decoys=0, lesion=True, seed=i))
    return paths


def model_with(*settings: str) -> AttentionSampler:
    """An untrained model with opinions on both levels."""
    model = build_model(load_config(None, [*SETTINGS, *settings]), ("normal", "tumour"))
    give_opinions(model)
    return model.eval()


def prepared_of(model: AttentionSampler, path: Path) -> PreparedSlide:
    with open_slide(path) as slide:
        return prepare(slide, model.config)


def nested(
    model: AttentionSampler, prepared: PreparedSlide, cache: TileCache | None = None
) -> TwoLevelAttention:
    model.cache = TileCache(0) if cache is None else cache
    attention = model.attend(prepared)
    assert isinstance(attention, TwoLevelAttention)
    return attention


def opened(model: AttentionSampler, prepared: PreparedSlide, regions: list[int]) -> TwoLevelAttention:
    """With these regions open, in this order."""
    attention = nested(model, prepared)
    for region in regions:
        attention._open([region])
    return attention


def by_cell(attention: TwoLevelAttention) -> dict[int, torch.Tensor]:
    return dict(zip(attention.slide.tissue.tolist(), attention.log_p, strict=True))


# -- the attention of cells


def whole_views(model: AttentionSampler, path: Path) -> dict[int, torch.Tensor]:
    """log a_i + log a_{j|i} of every tissue cell, from both views as a whole."""
    prepared = prepared_of(model, path)
    assert prepared.regions is not None
    assert model.region_attention is not None
    with open_slide(path) as slide:
        fine = prepared.regions.frame.load(slide)
    pixels = [torch.from_numpy(v.pixels).permute(2, 0, 1)[None].double() / 255 for v in (prepared.view, fine)]
    coarse_logits = model.region_attention(pixels[0])[0].reshape(-1)[prepared.tissue]
    log_a = torch.log_softmax(coarse_logits + torch.from_numpy(prepared.regions.area).log(), 0)
    s, k = model.config.attention.smoothing, len(log_a)
    log_a = ((1 - s) * log_a.exp() + s / k).log()
    fine_logits = model.attention(pixels[1])[0]
    found = {}
    for log_region, region in zip(log_a, prepared.tissue.tolist(), strict=True):
        row, col = (4 * n for n in divmod(region, prepared.view.grid.cols))
        block = fine.pixels[8 * row : 8 * row + 32, 8 * col : 8 * col + 32]
        mask = prepared.regions.tissue.mask(block).reshape(block.shape[0] // 8, 8, -1, 8).mean((1, 3))
        inside = torch.from_numpy(mask >= min(0.25, mask.max()))
        part = torch.softmax(fine_logits[row : row + 4, col : col + 4][inside], 0)
        log_part = ((1 - s) * part + s / len(part)).log() + log_region
        cells = [(row + int(r)) * fine.grid.cols + col + int(c) for r, c in inside.nonzero()]
        found |= zip(cells, log_part, strict=True)
    return found


def test_attention_and_gradients_of_both_networks_are_those_of_whole_views(paths: list[Path]) -> None:
    grads = []
    for path in paths:
        model = model_with("view.block=16").double()
        weights = np.random.default_rng(0).random(100_000)
        for expected in (True, False):
            prepared = prepared_of(model, path)
            found = (
                whole_views(model, path)
                if expected
                else by_cell(opened(model, prepared, [*range(len(prepared.tissue))]))
            )
            model.zero_grad()
            sum(weights[cell] * p.exp() + 0.01 * p for cell, p in found.items()).backward()
            networks = (model.attention, model.region_attention)
            values = torch.stack([found[cell] for cell in sorted(found)])
            grads.append(
                [sorted(found), values.detach(), *(p.grad for n in networks for p in n.parameters())]
            )
        mine, theirs = grads[-1], grads[-2]
        assert mine[0] == theirs[0]
        assert len(mine) > 7
        for a, b in zip(mine[1:], theirs[1:], strict=True):
            torch.testing.assert_close(a, b.clone(), rtol=1e-10, atol=1e-10)
        assert float(mine[1].exp().sum()) == pytest.approx(1, abs=1e-12)


def test_what_is_opened_before_and_after_does_not_matter(paths: list[Path]) -> None:
    model = model_with()
    prepared = prepared_of(model, paths[0])
    k = len(prepared.tissue)
    every = by_cell(opened(model, prepared, [*range(k)]))
    some = opened(model, prepared, [k - 1, 2, 0])
    assert some.exceeds(len(some.log_p))
    before = some.slide.tissue.copy()
    some._open([1])
    np.testing.assert_array_equal(some.slide.tissue[: len(before)], before)  # earlier draws stay right
    for cell, log_p in by_cell(some).items():
        torch.testing.assert_close(log_p, every[cell], rtol=0, atol=1e-6)


def test_draws_of_a_model_are_unbiased_for_the_sum_over_the_slide(paths: list[Path]) -> None:
    """With a value a cell for a feature; every outcome is enumerated in test_nested.py."""
    model = model_with()
    prepared = prepared_of(model, paths[1])
    cache = TileCache(1 << 26)
    value = np.random.default_rng(1).random(len(prepared.regions.frame.grid))
    whole = opened(model, prepared, [*range(len(prepared.tissue))])
    exact = float(whole.log_p.detach().exp().numpy() @ value[whole.slide.tissue])
    estimates = []
    with torch.no_grad():
        for seed in range(60):
            attention = nested(model, prepared, cache)
            drawn = attention.draw(6, "systematic", generator_for(seed, "x"))
            shares = (drawn.draws.log_weights + drawn.log_p[drawn.draws.cells]).exp().numpy()
            assert shares.sum() == pytest.approx(1, abs=1e-6)
            estimates.append(shares @ value[drawn.cells])
            assert len(attention.slide.tissue) < len(whole.slide.tissue)
    error = np.std(estimates) / len(estimates) ** 0.5
    assert abs(np.mean(estimates) - exact) < 4 * error < 0.1


def test_regions_are_read_once_where_there_is_memory(paths: list[Path]) -> None:
    model = model_with()
    prepared = prepared_of(model, paths[0])
    cache = TileCache(1 << 26)
    first = nested(model, prepared, cache)
    first.draw(5, "systematic", generator_for(0, "x"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LazyView, "read", None)  # a second reading would fail
        second = nested(model, prepared, cache)
        second.draw(5, "systematic", generator_for(0, "x"))
        second.log_p.sum().backward()
    torch.testing.assert_close(first.log_p, second.log_p)


# -- where regions and their tissue are


@hypothesis_settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 200_000),
    st.integers(1, 200_000),
    st.floats(1, 64),
    st.integers(1, 16),
    st.integers(1, 16),
    st.sampled_from([1, 2, 4]),
    st.integers(16, 1024),
)
def test_regions_are_whole_cells_of_the_fine_view(
    width: int, height: int, downsample: float, stride: int, side: int, shrink: int, px: int
) -> None:
    stride *= shrink
    fine = LazyView(
        Grid.covering(Size(width, height), (stride * downsample,) * 2), stride, (downsample, downsample)
    )
    coarse = coarse_frame(fine, side, shrink, px)
    assert coarse.grid.cell == pytest.approx((side * stride * downsample,) * 2)
    assert coarse.stride * coarse.downsample[0] == pytest.approx(coarse.grid.cell[0])
    assert max(coarse.shape) <= px or coarse.stride % 2
    rule = TissueRule(StainRule("saturation", np.zeros(1, bool)), 0, 0, 1.0)
    inside = RegionGrid(fine, side, coarse.grid.cols, rule, np.ones(1))
    for region in {0, len(coarse.grid) // 2, len(coarse.grid) - 1}:
        box = inside.cells(region)
        assert min(box.width, box.height) >= 1
        corner = fine.grid.corners(np.array([box.y * fine.grid.cols + box.x]))
        assert np.abs(corner - coarse.grid.corners(np.array([region]))).max() <= 1
    if len(coarse.grid) < 200:
        boxes = [inside.cells(region) for region in range(len(coarse.grid))]
        assert sum(box.width * box.height for box in boxes) == len(fine.grid)


def test_a_level_of_nearly_the_scale_is_not_taken_for_a_wide_view() -> None:
    """Half a per cent are 5 px at the end of 1024: the regions would lie elsewhere in the coarse view."""
    level = Level(1, Size(1000, 1000), (32.16, 32.16))
    narrow, wide = (LazyView(Grid(n, n, (512.0, 512.0)), 16, (32.0, 32.0)) for n in (4, 64))
    assert narrow._is(level)
    assert not wide._is(level)
    assert wide._is(Level(1, Size(1000, 1000), (32.01, 32.01)))


@pytest.mark.parametrize("px", [64, 128, 1024])
def test_the_coarse_view_has_no_more_pixels_than_allowed(paths: list[Path], px: int) -> None:
    model = model_with(f"regions.px={px}", "regions.shrink=2")
    prepared = prepared_of(model, paths[1])
    assert max(prepared.view.shape) <= px
    assert prepared.view.stride == {64: 8, 128: 16, 1024: 16}[px]
    prediction = model.predict(paths[1], tiles=8)
    assert prediction.attention.sum() == pytest.approx(1, abs=1e-5)


def inside_of(pixels: np.ndarray, min_fraction: float = 0.25) -> RegionGrid:
    """One region of 4 x 4 cells of 8 px."""
    view = np.concatenate([np.full((32, 32, 3), GLASS, np.uint8), np.full((32, 32, 3), PINK, np.uint8)])
    rule = TissueRule(stain_rule([view]), 0, 0, min_fraction)
    fine = LazyView(Grid(4, 4, (64.0, 64.0)), 8, (8.0, 8.0))
    return RegionGrid(fine, 4, 1, rule, np.ones(1))


def test_a_region_is_never_empty() -> None:
    pixels = np.full((32, 32, 3), GLASS, np.uint8)
    assert inside_of(pixels).tissue_of(0, pixels).tolist() == [*range(16)]  # nothing there: no cell is better
    pixels[9:11, 17:20] = PINK
    assert inside_of(pixels).tissue_of(0, pixels).tolist() == [6]  # the fullest
    pixels[24:32, 0:4] = PINK
    assert inside_of(pixels).tissue_of(0, pixels).tolist() == [12]
    pixels[:] = PINK
    assert inside_of(pixels).tissue_of(0, pixels).tolist() == [*range(16)]


def test_a_blank_slide_fails_as_no_tissue() -> None:
    white = np.full((512, 512, 3), 255, np.uint8)
    with open_slide(white, name="blank") as slide, pytest.raises(NoTissueError, match="blank"):
        model_with().predict(slide)


def test_a_region_must_be_whole_pixels_wide() -> None:
    with pytest.raises(ConfigError, match=r"regions\.shrink=5 does not divide the 32 view px"):
        model_with("regions.shrink=5")


# -- predictions


def test_a_prediction_covers_the_slide_and_repeats(paths: list[Path]) -> None:
    model = model_with()
    first, again, other = (model.predict(paths[1], tiles=12, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    np.testing.assert_array_equal(first.attention, again.attention)
    assert not np.array_equal(first.cells, other.cells)
    assert first.attention.sum() == pytest.approx(1, abs=1e-5)
    assert (np.diff(first.tissue) > 0).all()
    assert len(first.contributions) == len(first.cells) == first.tiles_read
    assert (first.stderr > 0).all()


def test_all_is_exact_and_more_tiles_come_closer(paths: list[Path]) -> None:
    model = model_with()
    exact = model.predict(paths[1], sampler="all")
    assert (exact.stderr == 0).all()
    assert exact.tiles_read == len(exact.tissue)
    many = model.predict(paths[1], tiles=10_000)
    np.testing.assert_allclose(many.probabilities, exact.probabilities, atol=1e-6)
    assert (many.stderr == 0).all()

    def error(tiles: int) -> float:
        answers = [model.predict(paths[1], tiles=tiles, seed=seed, repeats=1) for seed in range(6)]
        return float(np.sqrt(np.mean([(a.probabilities[1] - exact.probabilities[1]) ** 2 for a in answers])))

    assert error(40) < 0.6 * error(6)


def test_a_slide_exceeds_a_number_of_cells_and_opens_no_more_regions_than_that(paths: list[Path]) -> None:
    model = model_with()
    prepared = prepared_of(model, paths[1])
    regions, cells = len(prepared.tissue), len(model.predict(paths[1], sampler="all").tissue)
    assert regions < cells
    for n in (1, regions - 1, regions, cells - 1, cells, 10**6):
        attention = nested(model, prepared)
        assert attention.exceeds(n) == (cells > n)
        assert len(attention.log_p) == (0 if n < regions else cells)


@pytest.mark.parametrize("refined", ["true", "false"])
def test_a_budget_for_all_tiles_ends_exact_and_a_smaller_one_is_spent(
    paths: list[Path], refined: str
) -> None:
    """Of a slide of more regions than the shortest reading could open."""
    model = model_with(f"sampling.refined={refined}", "regions.side=1")
    exact = model.predict(paths[0], sampler="all")
    cells = len(exact.tissue)
    assert cells > 64
    hard = model.predict(paths[0], tiles=cells, tolerance=0.0)
    assert hard.tiles_read == cells
    assert (hard.stderr == 0).all()
    np.testing.assert_allclose(hard.probabilities, exact.probabilities, atol=1e-6)
    spent = model.predict(paths[0], tiles=cells - 1, tolerance=0.0)
    assert cells - 9 < spent.tiles_read < cells
    assert (spent.stderr > 0).all()


def test_a_looser_tolerance_reads_less_and_opens_less(paths: list[Path]) -> None:
    model = model_with()
    easy = model.predict(paths[1], tolerance=1e9, tiles=300)
    assert easy.tiles_read == 64
    reach = float(np.maximum(easy.high - easy.values, easy.values - easy.low).max())
    tight = model.predict(paths[1], tolerance=0.8 * reach, tiles=300)
    assert easy.tiles_read < tight.tiles_read <= 300
    assert (np.maximum(tight.high - tight.values, tight.values - tight.low) <= 0.8 * reach).all()
    assert easy.bytes_read < tight.bytes_read


def test_attention_of_regions_that_were_not_opened_is_spread_over_their_tissue(paths: list[Path]) -> None:
    model = model_with()
    prediction, prepared = model.predict(paths[1], tiles=4, repeats=1), prepared_of(model, paths[1])
    log_a = model.attend(prepared).log_a.exp().detach().numpy()
    row, col = np.divmod(prediction.tissue, prediction.grid.cols)
    region = row // 4 * prepared.view.grid.cols + col // 4
    flat = 0
    for position, mine in enumerate(prepared.tissue):
        values = prediction.attention[region == mine]
        assert values.sum() == pytest.approx(log_a[position], abs=1e-6)
        flat += len(values) > 1 and np.ptp(values) == 0
        if np.isin(prediction.cells, prediction.tissue[region == mine]).any():
            assert np.ptp(values) > 0
    assert flat >= len(prepared.tissue) - 4


def test_top_reads_the_best_cells_of_the_best_regions(paths: list[Path]) -> None:
    model = model_with()
    prediction = model.predict(paths[0], tiles=5, sampler="top")
    assert len(prediction.cells) == 5
    assert prediction.weights @ prediction.attention[prediction.drawn()] == pytest.approx(1, abs=1e-5)


def test_uniform_gives_cells_about_the_same_chance(paths: list[Path]) -> None:
    prediction = model_with("sampling.uniform=true").predict(paths[1], sampler="all")
    assert prediction.attention.max() < 4 * np.median(prediction.attention)


@pytest.mark.parametrize("refined", ["true", "false"])
def test_every_trainable_part_gets_a_gradient(paths: list[Path], refined: str) -> None:
    model = model_with(f"sampling.refined={refined}", "train.entropy=0.1").train()
    prepared = prepared_of(model, paths[0])
    (estimate,) = model([prepared], [generator_for(0, "x")])
    assert estimate.drawn.log_opened is not None
    estimate.logits[1].backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_a_uniform_draw_leaves_attention_alone(paths: list[Path]) -> None:
    model = model_with().train()
    attention = model.attend(prepared_of(model, paths[0]), uniform=True)
    drawn = attention.draw(5, "systematic", generator_for(0, "x"))
    (estimate,) = model.estimates([drawn], model.embed([drawn]))
    estimate.logits[1].backward()
    assert all(p.grad is None for n in (model.attention, model.region_attention) for p in n.parameters())


def test_less_is_read(paths: list[Path]) -> None:
    two, one = (model_with(f"attention.levels={n}") for n in (2, 1))
    read = [model.predict(paths[1], tiles=4, repeats=1).bytes_read for model in (two, one)]
    assert read[0] < 0.7 * read[1]
