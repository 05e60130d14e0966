"""Random changes of tiles, each against plain numpy; what is drawn, and what a run that was interrupted draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from skimage.color import rgb_from_hed

from tests.support.cohort import settings
from tests.support.training import assert_same_weights, silent
from wsi_ats import open_slide
from wsi_ats.config import AugmentSettings, load_config
from wsi_ats.errors import ConfigError
from wsi_ats.geometry import Grid
from wsi_ats.manifest import Row
from wsi_ats.sampling import generator_for
from wsi_ats.tiles import read_tiles
from wsi_ats.train.augment import REACH, Augmentation, blurred, density_of, places, relit, restained
from wsi_ats.train.macenko import stain_vectors
from wsi_ats.train.run import train

ALL = AugmentSettings(stain=0.2, light=0.3, blur=2.0, place=1.0)
AB: list[tuple[int | str, ...]] = [(0, "a.tif"), (0, "b.tif")]
"""Epoch and name of two slides."""


def tiles(n: int, px: int = 9) -> torch.Tensor:
    return torch.rand(n, 3, px, px, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05


def test_stain_is_changed_in_optical_density() -> None:
    before, rng = tiles(3), np.random.default_rng(0)
    factors, offsets = rng.uniform(0.8, 1.2, (3, 3)), rng.uniform(-0.1, 0.1, (3, 3))
    after = restained(before, torch.tensor(factors).float(), torch.tensor(offsets).float()).numpy()
    for tile in range(3):
        for y in range(9):
            for x in range(9):
                amounts = np.linalg.solve(rgb_from_hed.T, -np.log10(before[tile, :, y, x].double().numpy()))
                density = rgb_from_hed.T @ (amounts * factors[tile] + offsets[tile])
                expected = np.clip(10**-density, 0, 1)
                np.testing.assert_allclose(after[tile, :, y, x], expected, atol=1e-4)


TURNED = np.array([[0.55, 0.75, 0.37], [0.15, 0.90, 0.41]])
"""Haematoxylin and eosin of another laboratory."""


def stained(vectors: np.ndarray, px: int = 64, seed: int = 0) -> torch.Tensor:
    """A tile (1, 3, px, px) of glass, of each stain alone and of both, with a camera's noise."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2.0, 0.3, (px * px, 2)) * rng.integers(0, 2, (px * px, 2))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    light = np.clip(10 ** -(amounts @ unit) + rng.normal(0, 0.002, (px * px, 3)), 0, 1)
    return torch.tensor(light.T.reshape(1, 3, px, px)).float()


@pytest.mark.parametrize("vectors", [TURNED, rgb_from_hed[:2]], ids=["another", "usual"])
def test_the_stain_vectors_of_a_slide_are_found(vectors: np.ndarray) -> None:
    usual = torch.tensor(rgb_from_hed).float()
    found = stain_vectors(density_of(stained(vectors))[0].reshape(3, -1).T, usual).double().numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    angles = np.degrees(np.arccos((found[:2] * unit).sum(1).clip(-1, 1)))
    assert angles.max() < 3
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found[:2] @ found[2], 0, atol=1e-6)


@pytest.mark.parametrize("what", ["glass", "few", "one stain", "black"])
def test_where_they_cannot_be_told_the_usual_ones_are_taken(what: str) -> None:
    one = TURNED * np.array([[1.0], [0.0]]) + np.array([[0.0], [1.0]]) * TURNED[:1]
    tile = {
        "glass": torch.ones(1, 3, 64, 64),
        "few": stained(TURNED, px=16),
        "one stain": stained(one),
        "black": torch.zeros(1, 3, 64, 64),
    }[what]
    usual = torch.tensor(rgb_from_hed).float()
    assert torch.equal(stain_vectors(density_of(tile)[0].reshape(3, -1).T, usual), usual)


def test_each_slide_is_changed_along_its_own_stains() -> None:
    own, usual = stained(TURNED, seed=1), stained(rgb_from_hed[:2], seed=2)
    before = torch.cat([own, own, usual])
    how = AugmentSettings(stain=0.3, stain_vectors="own")
    after = Augmentation(how, [2, 1], 0, AB, turn=False)(before)
    assert torch.equal(after[0], after[1])
    assert bool(after.isfinite().all())
    drawn = [torch.rand(8, generator=generator_for(0, "augment", *name)) for name in AB]
    both = 2 * torch.stack(drawn) - 1
    both[:, [2, 5]] = 0  # what is neither stain stays
    for tile, slide in ((0, 0), (2, 1)):
        vectors = stain_vectors(density_of(before[[tile]])[0].reshape(3, -1).T, torch.eye(3))[None]
        expected = restained(before[[tile]], 1 + 0.3 * both[[slide], :3], 0.3 * both[[slide], 3:6], vectors)
        torch.testing.assert_close(after[[tile]], expected, atol=2e-3, rtol=0)
    plain = Augmentation(AugmentSettings(stain=0.3), [2, 1], 0, AB, turn=False)(before)
    assert not torch.allclose(after[0], plain[0], atol=1e-3)


def test_haematoxylin_alone_leaves_eosin_as_it_is() -> None:
    only_eosin = torch.tensor(10 ** -(0.4 * rgb_from_hed[1])).float().reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    more = restained(only_eosin, torch.tensor([[3.0, 1.0, 1.0]]), torch.zeros(1, 3))
    torch.testing.assert_close(more, only_eosin.clone(), atol=1e-5, rtol=0)


def test_light_multiplies_and_white_is_the_end() -> None:
    before = tiles(2)
    after = relit(before, torch.tensor([0.5, 1.5])).numpy()
    np.testing.assert_allclose(after[0], 0.5 * before[0].numpy())
    np.testing.assert_allclose(after[1], np.minimum(1.5 * before[1].numpy(), 1))


@pytest.mark.parametrize("px", [9, 32])
def test_blur_is_a_gaussian_of_each_tile_s_own_width(px: int) -> None:
    before, sigmas = tiles(3, px), [0.0, 0.7, 2.5]
    after = blurred(before, torch.tensor(sigmas)).numpy()
    np.testing.assert_array_equal(after[0], before[0].numpy())
    for tile in (1, 2):
        reach = min(int(np.ceil(REACH * sigmas[tile])), px - 1)
        expected = before[tile].double().numpy()
        for axis in (1, 2):
            expected = gaussian_filter1d(expected, sigmas[tile], axis, mode="mirror", radius=reach)
        np.testing.assert_allclose(after[tile], expected, atol=1e-5)


def test_strength_nought_changes_nothing() -> None:
    before = tiles(5)
    same = Augmentation(AugmentSettings(), [2, 3], 0, AB, turn=False)(before)
    assert torch.equal(same, before)
    assert places(AugmentSettings(), [2, 3], 0, AB) is None


@pytest.mark.parametrize("name", ["stain", "light", "blur"])
def test_a_slide_s_tiles_change_alike_and_slides_apart(name: str) -> None:
    before = tiles(1).expand(4, 3, 9, 9)
    how = AugmentSettings(**{name: 2.0 if name == "blur" else 0.3})
    after = Augmentation(how, [2, 2], 1, AB, turn=False)(before)
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[2], after[3])
    assert not torch.allclose(after[0], after[2], atol=1e-3)
    assert not torch.allclose(after[0], before[0], atol=1e-3)
    assert (after.min() >= 0, after.max() <= 1) == (True, True)


def test_seed_epoch_and_slide_say_what_is_drawn() -> None:
    before = tiles(4)
    first = Augmentation(ALL, [4], 0, [(1, "a.tif")], turn=True)(before)
    assert torch.equal(first, Augmentation(ALL, [4], 0, [(1, "a.tif")], turn=True)(before))
    there = places(ALL, [9], 0, [(1, "a.tif")])
    assert there is not None
    assert (there == places(ALL, [9], 0, [(1, "a.tif")])).all()  # type: ignore[union-attr]
    for seed, name in ((1, (1, "a.tif")), (0, (2, "a.tif")), (0, (1, "b.tif"))):
        assert not torch.equal(first, Augmentation(ALL, [4], seed, [name], turn=True)(before))
        assert (there != places(ALL, [9], seed, [name])).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("vectors", ["usual", "own"])
def test_a_slide_is_changed_alike_whatever_else_is_in_its_batch(vectors: str) -> None:
    before = tiles(5)
    how = ALL.model_copy(update={"stain_vectors": vectors})
    both = Augmentation(how, [2, 3], 0, AB, turn=True)(before)
    torch.testing.assert_close(both[:2], Augmentation(how, [2], 0, AB[:1], turn=True)(before[:2]))
    torch.testing.assert_close(both[2:], Augmentation(how, [3], 0, AB[1:], turn=True)(before[2:]))
    moved = places(ALL, [2, 3], 0, AB)
    assert moved is not None
    np.testing.assert_array_equal(moved[2:], places(ALL, [3], 0, AB[1:]))


def test_one_setting_does_not_change_what_another_draws() -> None:
    before = tiles(2)
    both = Augmentation(AugmentSettings(stain=0.2, light=0.2), [2], 0, AB[:1], turn=False)(before)
    stain = Augmentation(AugmentSettings(stain=0.2), [2], 0, AB[:1], turn=False)(before)
    light = Augmentation(AugmentSettings(light=0.2), [2], 0, AB[:1], turn=False)(stain)
    assert torch.equal(both, light)


def test_places_fill_the_cell_evenly() -> None:
    found = places(AugmentSettings(place=0.5), [1000, 3000], 0, AB)
    assert found is not None
    assert (found.min() >= -0.25, found.max() <= 0.25) == (True, True)
    np.testing.assert_allclose(np.quantile(found, [0, 0.25, 0.5, 1]), [-0.25, -0.125, 0, 0.25], atol=0.01)


def test_a_tile_that_moves_shows_what_lies_there() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    slide, grid = open_slide(pixels), Grid(2, 3, (100, 100))
    cells, moved = np.array([0, 4, 4]), np.array([[0.0, 0.0], [0.25, -0.1], [-0.5, 0.5]])
    found = read_tiles(slide, grid, cells, 40, (1.0, 1.0), moved)
    for tile, (x, y) in zip(found, ((50, 50), (175, 140), (100, 200)), strict=True):
        np.testing.assert_array_equal(tile, slide.read((x - 20, y - 20), (40, 40)))
    still = read_tiles(slide, grid, cells, 40, (1.0, 1.0), np.zeros((3, 2)))
    np.testing.assert_array_equal(still, read_tiles(slide, grid, cells, 40, (1.0, 1.0)))


def test_frozen_features_are_not_augmented() -> None:
    with pytest.raises(
        ConfigError, match=r"stain = 0.1, augment.blur = 1, but network 'mobilenet-v1' is fixed"
    ):
        load_config(overrides=["features.network=mobilenet-v1", "augment.stain=0.1", "augment.blur=1.0"])


def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(rows: list[Row], tmp_path: Path) -> None:
    config = settings("augment.stain=0.1", "augment.light=0.1", "augment.blur=1.0", "augment.place=1.0")

    def stop(line: str) -> None:
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    train(rows, config, tmp_path / "whole", say=silent)
    with pytest.raises(KeyboardInterrupt):
        train(rows, config, tmp_path / "parts", say=stop)
    train(rows, config, tmp_path / "parts", say=silent)
    train(rows, settings(), tmp_path / "plain", say=silent)
    name = "model/model.safetensors"
    assert_same_weights(tmp_path / "whole" / name, tmp_path / "parts" / name)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "whole" / name, tmp_path / "plain" / name)
