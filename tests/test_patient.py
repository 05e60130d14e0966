"""One answer a patient, against what it promises: a patient is the union of the tissue of all slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.enumeration import outcomes
from tests.support.helpers import give_opinions
from wsi_ats import PatientPrediction, open_slide
from wsi_ats.attention.blockwise import cell_logits
from wsi_ats.build import build_model
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError
from wsi_ats.heatmap.style import HeatmapStyle
from wsi_ats.lowres.patient import PreparedPatient
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.model import AttentionSampler
from wsi_ats.sampling import Draws, generator_for
from wsi_ats.synthetic.phantom import Phantom, write_phantom
from wsi_ats.tiles import read_tiles

SETTINGS = ["view.downsample=8", "tile.downsample=2", "tile.px=32", "attention.stride=8"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Slides of a patient, of different sizes."""
    folder = tmp_path_factory.mktemp("slides")
    paths = [folder / f"slide_{i}.tif" for i in range(3)]
    for i, path in enumerate(paths):
        write_phantom(path, Phantom(size=512 + 128 * i, decoys=0, lesion=i == 1, seed=i))
    return paths


def model_with(*settings: str) -> AttentionSampler:
    """An untrained model whose attention, scores and head are not flat."""
    model = build_model(load_config(None, [*SETTINGS, *settings]), ("normal", "tumour"))
    give_opinions(model)
    return model.eval()


def all_prepared(model: AttentionSampler, paths: Sequence[Path]) -> list[PreparedSlide]:
    slides = []
    for path in paths:
        with open_slide(path) as slide:
            slides.append(prepare(slide, model.config))
    return slides


def logits_of(model: AttentionSampler, slide: PreparedSlide) -> torch.Tensor:
    """Logits of the cells, or of the regions, of one slide."""
    network = model.attention if slide.regions is None else model.region_attention
    assert network is not None
    if slide.regions is not None:
        network = network.at(slide.view.stride)
    logits = cell_logits(network, slide.view_reader, slide.view.grid, slide.tissue, 512, slide.stain_table)
    return logits if slide.regions is None else logits + torch.from_numpy(slide.regions.area).log().to(logits)


def same(one: PatientPrediction, other: PatientPrediction) -> None:
    np.testing.assert_array_equal(one.values, other.values)
    for name in ("stderr", "low", "high"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    by_name = ({part.slide: part for part in prediction.slides} for prediction in (one, other))
    for (name, a), (other_name, b) in zip(*(sorted(parts.items()) for parts in by_name), strict=True):
        assert name == other_name
        np.testing.assert_array_equal(a.cells, b.cells)
        np.testing.assert_array_equal(a.attention, b.attention)


@pytest.mark.parametrize("refined", ["true", "false"])
@torch.no_grad()
def test_all_tiles_answer_as_the_union_of_the_tiles_does(paths: list[Path], refined: str) -> None:
    model = model_with(f"sampling.refined={refined}", "attention.smoothing=0")
    prediction = model.predict(paths, sampler="all")
    slides = all_prepared(model, paths)
    log_a = torch.log_softmax(torch.cat([logits_of(model, slide) for slide in slides]), 0)
    tiles = []
    for slide in slides:
        with slide.open() as handle:
            tiles.append(read_tiles(handle, slide.view.grid, slide.tissue, 32, slide.tile_downsample))
    batch = torch.from_numpy(np.concatenate(tiles)).permute(0, 3, 1, 2).float() / 255
    vectors = model.standardise(model.features(batch))
    target = log_a if model.score is None else log_a + model.score(vectors)
    dense = torch.softmax(model.head(torch.softmax(target, 0) @ vectors), 0)
    np.testing.assert_allclose(prediction.probabilities, dense.numpy(), atol=1e-5)
    assert prediction.tiles_read == sum(len(slide.tissue) for slide in slides)
    assert (prediction.stderr == 0).all()
    attention = np.concatenate([slide.attention for slide in prediction.slides])
    np.testing.assert_allclose(attention, log_a.exp().numpy(), atol=1e-6)


@torch.no_grad()
def test_with_two_levels_a_slide_has_the_share_that_its_regions_have_of_all(paths: list[Path]) -> None:
    two = ("attention.levels=2", "regions.side=2", "regions.shrink=2")
    model = model_with("sampling.refined=false", "attention.smoothing=0", *two)
    prediction = model.predict(paths, sampler="all")
    slides = all_prepared(model, paths)
    logits = [logits_of(model, slide) for slide in slides]
    everything = torch.cat(logits).logsumexp(0)
    shares = [float((part.logsumexp(0) - everything).exp()) for part in logits]
    phi = torch.zeros(model.head.dim)
    for share, slide, part in zip(shares, slides, prediction.slides, strict=True):
        alone = model.attend(slide)
        assert not alone.exceeds(10**9)  # opens all regions
        cells, attention = alone.by_cell()
        np.testing.assert_array_equal(part.tissue, cells)
        np.testing.assert_allclose(part.attention, share * attention, rtol=1e-3, atol=1e-7)
        every = alone.all()
        phi += share * model.estimate(every, model.embed([every])[0]).phi
    np.testing.assert_allclose(prediction.probabilities, torch.softmax(model.head(phi), 0).numpy(), atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("reading", [{"tiles": 12}, {"tiles": 40, "tolerance": 0.01}])
def test_one_slide_a_patient_is_that_slide(paths: list[Path], levels: int, reading: dict[str, float]) -> None:
    model = model_with(f"attention.levels={levels}")
    slide, patient = model.predict(paths[2], **reading), model.predict([paths[2]], **reading)
    for name in ("cells", "weights", "attention", "values", "stderr", "low", "high", "contributions"):
        np.testing.assert_array_equal(getattr(patient.slides[0], name), getattr(slide, name))
    for name in ("values", "stderr", "low", "high"):
        np.testing.assert_array_equal(getattr(patient, name), getattr(slide, name))
    assert (patient.tiles_read, patient.bytes_read) == (slide.tiles_read, slide.bytes_read)


@pytest.mark.parametrize("levels", [1, 2])
def test_the_order_of_the_slides_does_not_matter(paths: list[Path], levels: int) -> None:
    model = model_with(f"attention.levels={levels}", "regions.side=2", "regions.shrink=2")
    first = model.predict(paths, tiles=16)
    other = model.predict([paths[2], paths[0], paths[1]], tiles=16)
    same(first, other)
    for i, part in zip((2, 0, 1), other.slides, strict=True):  # they come back as they were given
        assert (part.slide, part.digest) == (paths[i].name, first.slides[i].digest)
    assert first.bytes_read == other.bytes_read == sum(part.bytes_read for part in other.slides)
    assert first.tiles_read == 16 if levels == 1 else first.tiles_read <= 16


@pytest.mark.parametrize("levels", [1, 2])
def test_a_patient_has_an_interval_and_a_budget_as_a_slide_has(paths: list[Path], levels: int) -> None:
    model = model_with(f"attention.levels={levels}", "regions.side=2", "regions.shrink=2")
    exact = model.predict(paths, sampler="all")
    assert reach(exact) == 0
    drawn = model.predict(paths, tiles=24)
    assert drawn.low is not None
    assert drawn.high is not None
    assert ((drawn.low < drawn.values) & (drawn.values < drawn.high)).all()
    assert ((drawn.low <= exact.values) & (exact.values <= drawn.high)).all()
    assert drawn.tiles_read == 24
    assert 1 < drawn.rounds <= 16
    shortest = model.predict(paths, tiles=96, tolerance=1e9)
    stopped = model.predict(paths, tiles=96, tolerance=reach(shortest) * 0.8)
    assert shortest.tiles_read == 48  # half the budget at first, and more where it must be surer
    assert 48 < stopped.tiles_read <= 96


def reach(prediction: PatientPrediction) -> float:
    """How far the interval reaches from the answer."""
    assert prediction.low is not None
    assert prediction.high is not None
    return float(np.maximum(prediction.high - prediction.values, prediction.values - prediction.low).max())


@pytest.mark.parametrize("sampler", ["systematic", "gumbel"])
@torch.no_grad()
def test_draws_from_a_patient_are_unbiased(paths: list[Path], sampler: str) -> None:
    model = model_with("sampling.refined=false", "attention.smoothing=0")
    slides = [
        slide.with_cells(slide.tissue[:n])
        for slide, n in zip(all_prepared(model, paths), (1, 3, 2), strict=True)
    ]
    patient = PreparedPatient.of(slides)
    log_p = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(0)
    attention = model.attend(patient)
    attention.log_p = log_p
    every = attention.all()
    vectors = model.embed([every])[0].double()
    exact = log_p.exp() @ vectors
    chances, draws = outcomes(sampler, log_p, 3, patient.order)
    mean = torch.zeros_like(exact)
    for chance, cells, log_weights in zip(chances, draws.cells, draws.log_weights, strict=True):
        drawn = every.of(Draws(cells, log_weights))
        mean += chance * model.estimate(drawn, model.embed([drawn])[0].double()).phi
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-6)


def test_a_batch_of_patients_and_slides_learns_as_each_alone(paths: list[Path]) -> None:
    model = model_with("sampling.tiles=5")
    slides = all_prepared(model, paths)
    batch = [PreparedPatient.of(slides[:2]), slides[2]]

    def gradient(which: Sequence[int]) -> torch.Tensor:
        model.zero_grad()
        estimates = model([batch[i] for i in which], [generator_for(0, i) for i in which])
        torch.stack([estimate.logits for estimate in estimates]).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    together = gradient([0, 1])
    torch.testing.assert_close(together, gradient([0]) + gradient([1]), rtol=1e-3, atol=1e-4)


def test_slides_that_hold_the_same_count_once(paths: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "again.tif"
    copy.write_bytes(paths[1].read_bytes())
    model = model_with()
    once, twice = model.predict(paths[:2], tiles=8), model.predict([paths[1], copy, paths[0]], tiles=8)
    same(once, twice)
    assert (once.given, twice.given) == ((0, 1), (0, 2))
    assert twice.notes[0] == "again.tif holds the same as slide_1.tif, which is read once"


def test_a_patient_without_slides_is_refused() -> None:
    with pytest.raises(ConfigError, match="a patient has no slides"):
        model_with().predict([])


def test_pictures_of_a_patient_share_one_scale(paths: list[Path]) -> None:
    prediction = model_with().predict(paths, tiles=4)  # so few that a slide may have none
    pictures = prediction.heatmaps([open_slide(path) for path in paths], HeatmapStyle(size=100))
    (style,) = {picture.style for picture in pictures}
    assert style.limits is not None
    highest = max(float(part.relative_attention.max()) for part in prediction.slides)
    assert style.limits[1] == pytest.approx(max(10, highest))
    assert style.contribution_limit == pytest.approx(
        max(abs(prediction.contributions[:, prediction.top]).max(), 1 / prediction.tiles_read)
    )
    words = [text.get_text() for text in pictures[0].figure().texts]
    share = f"this slide has {prediction.slides[0].attention.sum():.0%} of the attention"
    assert any(share in text or text.endswith("…") for text in words)
    assert all(picture.encode().startswith(b"\x89PNG") for picture in pictures)
    with pytest.raises(ConfigError, match="0 slides are given, and the prediction is of 3"):
        prediction.heatmaps([])
    mean = np.average(
        [part.relative_attention.mean() for part in prediction.slides],
        weights=[len(p.tissue) for p in prediction.slides],
    )
    assert mean == pytest.approx(1, abs=1e-4)  # 1x is the mean over all slides
