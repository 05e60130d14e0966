"""Mosaics: every pixel comes from a tile of the right split, label and group, and the truth says where."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.helpers import shared_data
from wsi_ats.errors import ConfigError
from wsi_ats.geometry import Grid, Size
from wsi_ats.synthetic.mosaic import Mosaic, TileSet, _plan, _turned, load_tiles, write_cohort, write_mosaic
from wsi_ats.synthetic.stain import EOSIN, HAEMATOXYLIN, Stain
from wsi_ats.synthetic.truth import SlideTruth, fraction_in_cells, lesion_fraction_in_cells, mask

SIDE = 32
PIPELINE = Path(__file__).resolve().parents[2] / "pipelines" / "mosaic_slides.py"


def flat_tiles() -> TileSet:
    """Plain tiles, four groups of three for each split and label; tumour is blue, benign pink; no two alike."""
    rows = [
        (split, label, f"{split}-{label}-{group}")
        for split in ("train", "val")
        for label in ("benign", "tumour")
        for group in range(4)
        for _ in range(3)
    ]
    pixels = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
    for i, (_, label, _) in enumerate(rows):
        pixels[i] = (220, 130 + i, 170) if label == "benign" else (90, 60 + i, 170)
    splits, labels, groups = zip(*rows, strict=True)
    return TileSet(pixels, labels, groups, splits)


def write_folder(folder: Path, tiles: TileSet) -> Path:
    """The tiles as PNG files with their table."""
    folder.mkdir()
    with (folder / "tiles.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "source_cluster", "group", "split"])
        for i, pixels in enumerate(tiles.pixels):
            Image.fromarray(pixels).save(folder / f"{i}.png")
            writer.writerow([f"{i}.png", tiles.labels[i], "x", tiles.groups[i], tiles.splits[i]])
    return folder


def level_of(path: Path, level: int = 0) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))


@given(
    seed=st.integers(0, 100_000),
    split=st.sampled_from(["train", "val"]),
    tumour=st.booleans(),
    fraction=st.floats(0.005, 0.05),
    patches=st.integers(1, 2),
)
@settings(deadline=None, max_examples=25)
def test_plans_use_tiles_of_the_split_and_patches_of_one_group(
    seed: int, split: str, tumour: bool, fraction: float, patches: int
) -> None:
    tiles = flat_tiles()
    settings_ = Mosaic(split, tumour, fraction, patches, size=32 * SIDE, seed=seed)
    plan = _plan(tiles, settings_, np.random.default_rng(seed))
    used = plan.tile[plan.tile >= 0]
    assert {tiles.splits[i] for i in used} == {split}
    grid = Grid.covering(Size(32 * SIDE, 32 * SIDE), (float(SIDE), float(SIDE)))
    outlines = plan.truth.lesions if tumour else plan.truth.decoys
    assert len(outlines) == patches
    assert (plan.truth.decoys if tumour else plan.truth.lesions) == ()
    covered = np.zeros(32 * 32, bool)
    for outline in outlines:
        share = fraction_in_cells((outline,), grid)
        assert set(share) <= {0.0, 1.0}  # whole cells
        assert len({tiles.groups[i] for i in plan.tile.ravel()[share == 1]}) == 1
        assert not covered[share == 1].any()
        covered |= share == 1
    assert {tiles.labels[i] for i in plan.tile.ravel()[covered]} == {"tumour" if tumour else "benign"}
    assert {tiles.labels[i] for i in plan.tile.ravel()[~covered & (plan.tile.ravel() >= 0)]} == {"benign"}
    tissue_cells = plan.truth.tissue_fraction * 32 * 32
    assert 250 < tissue_cells < 400
    assert covered.sum() == max(patches, round(fraction * tissue_cells))


def test_the_slide_shows_the_plan(tmp_path: Path) -> None:
    """Without jitter the pixels are the tiles' own; the truth lies on the tumour; outside is glass."""
    tiles = flat_tiles()
    settings_ = Mosaic("train", True, 0.05, size=16 * SIDE, jitter=0.0, seed=4)
    truth = write_mosaic(tmp_path / "slide.tif", tiles, settings_)
    pixels = level_of(tmp_path / "slide.tif").astype(int)
    assert pixels.shape == (16 * SIDE, 16 * SIDE, 3)
    glass = np.array(Stain.jittered(np.random.default_rng(0), 0.0).white)
    plan = _plan(tiles, settings_, np.random.default_rng((4, 3)))
    tumour = mask(truth.lesions, pixels.shape[:2], (1, 1))
    assert tumour.sum() == SIDE * SIDE * round(0.05 * truth.tissue_fraction * 16 * 16)
    explained = []
    for row in range(16):
        for col in range(16):
            centre = pixels[row * SIDE + 8 : row * SIDE + 24, col * SIDE + 8 : col * SIDE + 24].reshape(-1, 3)
            index = plan.tile[row, col]
            own = tiles.pixels[index, 0, 0] * glass / 255 if index >= 0 else glass
            is_own = np.abs(centre - own).max(1) < 12
            is_glass = np.abs(centre - glass).max(1) < 12
            explained.append((is_own | is_glass).mean())
            if tumour[row * SIDE + 16, col * SIDE + 16]:
                assert is_own.all()
    assert np.mean(explained) > 0.97  # JPEG blurs the outline


def test_mosaics_repeat_with_their_seed(tmp_path: Path) -> None:
    tiles = flat_tiles()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_mosaic(tmp_path / f"{name}.tif", tiles, Mosaic("val", False, size=8 * SIDE, seed=seed))
    a, b, c = ((tmp_path / f"{name}.tif").read_bytes() for name in "abc")
    assert a == b != c


def test_the_eight_turns_are_the_symmetries_of_the_square() -> None:
    tile = np.random.default_rng(0).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    turned = [_turned(tile, turn) for turn in range(8)]
    assert (turned[0] == tile).all()
    assert len({t.tobytes() for t in turned}) == 8
    for t in turned:
        assert sorted(map(tuple, t.reshape(-1, 3).tolist())) == sorted(
            map(tuple, tile.reshape(-1, 3).tolist())
        )
        assert {tuple(t[0, 0]), tuple(t[-1, -1])} in (
            {tuple(tile[0, 0]), tuple(tile[-1, -1])},
            {tuple(tile[0, -1]), tuple(tile[-1, 0])},
        )


def test_a_cohort_has_slides_truth_masks_and_manifest(tmp_path: Path) -> None:
    tiles = load_tiles(write_folder(tmp_path / "tiles", flat_tiles()))
    done: list[Path] = []
    manifest = write_cohort(
        tmp_path / "out", tiles, {"train": 3, "val": 2}, 16 * SIDE, seed=9, on_slide=done.append
    )
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] == [path.name for path in done]
    assert [row["label"] for row in rows] == ["benign", "tumour", "benign", "benign", "tumour"]
    assert [row["split"] for row in rows] == ["train"] * 3 + ["val"] * 2
    for row, path in zip(rows, done, strict=True):
        truth = SlideTruth.load(path.with_suffix(".geojson"))
        drawn = np.asarray(Image.open(path.with_name(f"{path.stem}_mask.png")))
        assert drawn.shape == (SIDE, SIDE)
        grid = Grid.covering(Size(16 * SIDE, 16 * SIDE), (16.0, 16.0))
        assert (drawn.ravel() == 255 * lesion_fraction_in_cells(truth, grid)).all()
        assert drawn.any() == (row["label"] == "tumour")
        assert len(truth.lesions) + len(truth.decoys) in (1, 2)
        assert 0.005 <= float(row["patch_fraction"]) <= 0.05
        with openslide.OpenSlide(path) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == 0.5
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def test_the_pipeline_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "tiles", flat_tiles())
    arguments = ["--tiles", folder, "--out", tmp_path / "out", "--train", 1, "--val", 1, "--size", 8 * SIDE]
    monkeypatch.setattr(sys, "argv", ["mosaic_slides.py", *map(str, arguments)])
    runpy.run_path(str(PIPELINE), run_name="__main__")
    assert {"train_000.tif", "val_000.tif", "manifest.csv"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert "2 slides" in capsys.readouterr().out


def test_a_split_or_label_without_tiles_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    tiles = flat_tiles()
    with pytest.raises(ConfigError, match=r"split 'test' and label 'benign'.*\['train', 'val'\]"):
        write_cohort(tmp_path / "out", tiles, {"train": 1, "test": 1}, 8 * SIDE)
    keep = [i for i in range(len(tiles.labels)) if (tiles.splits[i], tiles.labels[i]) != ("val", "tumour")]
    fewer = TileSet(
        tiles.pixels[keep],
        *(tuple(values[i] for i in keep) for values in (tiles.labels, tiles.groups, tiles.splits)),
    )
    with pytest.raises(ConfigError, match="split 'val' and label 'tumour'"):
        write_cohort(tmp_path / "out", fewer, {"train": 1, "val": 1}, 8 * SIDE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 8 * SIDE + 1}, "whole tiles of 32 px"),
        ({"size": 7 * SIDE}, "8 or more"),
        ({"fraction": 0.0}, r"fraction = 0\.0"),
        ({"patches": 0}, "patches = 0"),
        ({"patches": 40, "fraction": 0.2, "size": 8 * SIDE}, "no room for a patch"),
    ],
)
def test_impossible_mosaics_are_named(tmp_path: Path, arguments: dict[str, int], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        write_mosaic(tmp_path / "a.tif", flat_tiles(), Mosaic("train", True, **arguments))


def break_table(folder: Path, how: str) -> None:
    table = folder / "tiles.csv"
    text = table.read_text()
    if how == "absent":
        table.unlink()
    elif how == "column":
        table.write_text(text.replace("group", "grp", 1))
    elif how == "empty":
        table.write_text("")
    elif how == "label":
        table.write_text(text.replace("tumour", "cancer"))
    elif how == "missing":
        (folder / "3.png").unlink()
    elif how == "garbage":
        (folder / "3.png").write_bytes(b"not a picture")
    elif how == "size":
        Image.new("RGB", (SIDE, SIDE + 1)).save(folder / "3.png")


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("absent", "no such file"),
        ("column", "needs the columns file, label, group, split"),
        ("empty", "no rows"),
        ("label", "'cancer'"),
        ("missing", r"3\.png cannot be read"),
        ("garbage", r"3\.png cannot be read"),
        ("size", r"3\.png: 32 x 33 px"),
    ],
)
def test_broken_tile_folders_are_named(tmp_path: Path, how: str, match: str) -> None:
    folder = write_folder(tmp_path / "tiles", flat_tiles())
    break_table(folder, how)
    with pytest.raises(ConfigError, match=match):
        load_tiles(folder)


def test_recolouring_is_the_identity_for_the_reference_and_keeps_glass_white() -> None:
    pixels = np.random.default_rng(0).integers(20, 256, (40, 50, 3), dtype=np.uint8)
    same = Stain(white=(255.0, 255.0, 255.0)).recolour(pixels)
    assert np.abs(same.astype(int) - pixels).max() <= 1
    stain = Stain.jittered(np.random.default_rng(1), 1.2)
    glass = stain.recolour(np.full((2, 2, 3), 255, np.uint8))
    assert np.abs(glass.astype(int) - stain.background()).max() <= 1


def test_recolouring_scales_each_stain_alone() -> None:
    """A pixel of pure haematoxylin under twice the haematoxylin: twice the density, whatever the eosin does."""
    for vector, strengths in ((HAEMATOXYLIN, (2.0, 0.3)), (EOSIN, (0.3, 2.0))):
        once = np.rint(255 * 10 ** (-0.4 * np.array(vector))).astype(np.uint8)
        twice = 255 * 10 ** (-0.8 * np.array(vector))
        got = Stain(strengths=strengths, white=(255.0, 255.0, 255.0)).recolour(once[None, None])
        assert np.abs(got[0, 0] - twice).max() <= 2


def test_real_tiles_make_a_slide(tmp_path: Path) -> None:
    folder = shared_data("colon-tiles")
    chosen = tmp_path / "tiles"
    chosen.mkdir()
    with (folder / "tiles.csv").open() as file:
        rows = [row for i, row in enumerate(csv.DictReader(file)) if i % 24 == 0]
    for row in rows:
        row["file"] = str(folder / row["file"])
    with (chosen / "tiles.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    tiles = load_tiles(chosen)
    assert tiles.side == 224
    assert {"train", "val"} == set(tiles.splits)
    truth = write_mosaic(tmp_path / "slide.tif", tiles, Mosaic("train", True, 0.05, size=224 * 10, seed=1))
    view = level_of(tmp_path / "slide.tif", 2).astype(int)
    coloured = np.ptp(view, axis=2) > 25
    assert coloured.mean() == pytest.approx(truth.tissue_fraction, rel=0.25)
    assert mask(truth.lesions, view.shape[:2], (16, 16)).mean() == pytest.approx(
        0.05 * truth.tissue_fraction, rel=0.4
    )
