"""Frozen features outlive the run: another seed, fold or head reads no tile that was read before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.features.test_mobilenet import random_weights
from tests.support.cohort import settings, write_cohort
from tests.support.training import assert_same_weights, silent
from wsi_ats import embed
from wsi_ats.cache import TileCache
from wsi_ats.config import Config, load_config
from wsi_ats.errors import ConfigError
from wsi_ats.features.store import FeatureStore
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.train import frozen
from wsi_ats.train.run import train


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return read_manifest(write_cohort(tmp_path / "slides", train=4, val=2, test=0, size=512))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cells whose tiles are read from slides."""
    cells: list[int] = []
    real = embed.read_tiles

    def counted(slide: object, grid: object, asked: np.ndarray, *rest: object) -> np.ndarray:
        cells.extend(asked.tolist())
        return real(slide, grid, asked, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(embed, "read_tiles", counted)
    return cells


def config(*more: str) -> Config:
    return settings("features.frozen=true", "features.network=paper", "train.epochs=2", *more)


def folder_of(run: Path) -> Path:
    return run.parent / frozen.FOLDER


def test_the_same_run_again_reads_no_tile_and_ends_with_the_same_weights(
    rows: list[Row], read: list[int], tmp_path: Path
) -> None:
    train(rows, config(), tmp_path / "first", say=silent)
    assert read
    assert folder_of(tmp_path / "first").is_dir()
    read.clear()
    said: list[str] = []
    train(rows, config(), tmp_path / "second", say=said.append)
    assert read == []
    assert_same_weights(*(tmp_path / run / "model" / "model.safetensors" for run in ("first", "second")))
    (line,) = [line for line in said if line.startswith("frozen features")]
    assert " 0 made" in line


def test_another_seed_and_another_fold_read_no_tile_where_all_were_embedded(
    rows: list[Row], read: list[int], tmp_path: Path
) -> None:
    train(rows, config("train.embed_all=true", "train.cache_mb=0"), tmp_path / "first", say=silent)
    assert len(read) > 100
    read.clear()
    # The features of a network from scratch follow from the seed: it is the order and the draws that are others here.
    swapped = [replace(row, split={"train": "val", "val": "train"}[row.split]) for row in rows]
    train(swapped, config("train.cache_mb=0"), tmp_path / "fold", say=silent)
    train(rows, config("sampling.tiles=11", "head.scale=2.0"), tmp_path / "head", say=silent)
    assert read == []


@pytest.mark.parametrize("levels", [1, 2])
def test_all_means_every_tissue_tile(rows: list[Row], read: list[int], tmp_path: Path, levels: int) -> None:
    how = config("train.embed_all=true", f"attention.levels={levels}", "regions.side=2", "train.epochs=1")
    train(rows, how, tmp_path / "first", say=silent)
    read.clear()
    train(
        rows,
        config("sampling.sampler=all", f"attention.levels={levels}", "regions.side=2"),
        tmp_path / "all",
        say=silent,
    )
    assert read == []


def test_what_the_features_depend_on_is_part_of_their_name(
    rows: list[Row], read: list[int], tmp_path: Path
) -> None:
    train(rows, config(), tmp_path / "first", say=silent)
    for i, other in enumerate(
        ("train.seed=1", "tile.px=40", "tile.downsample=4", "features.network=small-resnet")
    ):
        read.clear()
        train(rows, config(other), tmp_path / f"other{i}", say=silent)
        assert read, other


def test_a_slide_that_changed_is_read_again_and_a_copy_is_not(
    rows: list[Row], read: list[int], tmp_path: Path
) -> None:
    train(rows, config(), tmp_path / "first", say=silent)
    moved = tmp_path / "elsewhere"
    (tmp_path / "slides").rename(moved)
    rows = read_manifest(moved / "manifest.csv")
    read.clear()
    train(rows, config(), tmp_path / "moved", say=silent)
    assert read == []
    write_cohort(moved, train=4, val=2, test=0, size=640)
    train(read_manifest(moved / "manifest.csv"), config(), tmp_path / "changed", say=silent)
    assert read


def test_the_channels_of_a_pretrained_attention_network_are_kept_too(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.npz"
    np.savez(weights, **random_weights())
    looks = ["attention.network=mobilenet-v1", f"attention.weights={weights}", "attention.layer=conv_pw_2"]
    train(rows, settings(*looks, "train.epochs=1"), tmp_path / "first", say=silent)
    monkeypatch.setattr("wsi_ats.attention.attend.cell_channels", None)  # a second look would fail
    train(rows, settings(*looks, "train.epochs=2", "train.seed=1"), tmp_path / "second", say=silent)


@pytest.mark.parametrize("how", ["train.disk_mb=0", "train.tolerate_bad_tiles=1", "features.frozen=false"])
def test_nothing_is_kept_where_it_is_not_wanted_or_would_hide_damage(
    rows: list[Row], tmp_path: Path, how: str
) -> None:
    train(rows, config(how, "train.epochs=1"), tmp_path / "run", say=silent)
    assert not folder_of(tmp_path / "run").exists()


def test_nor_in_a_store_that_is_given_where_damage_is_tolerated(rows: list[Row], tmp_path: Path) -> None:
    given = TileCache(1 << 26, FeatureStore(tmp_path / "given", 1 << 30))
    how = config("train.tolerate_bad_tiles=1", "train.epochs=1")
    train(rows, how, tmp_path / "run", say=silent, cache=given)
    assert not [*(tmp_path / "given").rglob("*.rows")]


def test_features_that_change_cannot_be_made_beforehand() -> None:
    with pytest.raises(ConfigError, match=r"train\.embed_all is true, but network 'small-resnet' is trained"):
        load_config(None, ["train.embed_all=true"])
