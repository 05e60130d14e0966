"""Slides composed of labelled tiles of real tissue: real pixels with a known answer.

A slide is a grid of tiles inside an irregular outline. Positive slides hold patches of tumour tiles, negative
ones patches of the same shape made of benign tiles from one group; every patch is of one group, so that
neither shape nor evenness tells them apart. All tiles of a slide are of its split.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from wsi_ats.errors import ConfigError
from wsi_ats.synthetic.outlines import Outline, around_cells, grow_patch, irregular, rasterise
from wsi_ats.synthetic.pyramid import write_pyramid
from wsi_ats.synthetic.stain import Stain
from wsi_ats.synthetic.truth import SlideTruth, mask

LABELS = ("benign", "tumour")
COLUMNS = ("file", "label", "group", "split")
MASK_STEP = 16
"""Level-0 px per pixel of the tumour mask's PNG."""
TISSUE_SHARE = 0.32
"""Share of the slide that the outline covers: about 330 of 32 x 32 tiles."""


@dataclass(frozen=True, eq=False)
class TileSet:
    """Labelled tiles, decoded once: `pixels` (n, side, side, 3) uint8 and what `tiles.csv` says of each."""

    pixels: UInt8[np.ndarray, "n side side 3"]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    splits: tuple[str, ...]

    @property
    def side(self) -> int:
        """Side of a tile in px."""
        return int(self.pixels.shape[1])

    def members(self, split: str, label: str) -> dict[str, Int[np.ndarray, " tiles"]]:
        """Indices of the tiles of one split and label, by group. Raises ConfigError where there are none."""
        groups: dict[str, list[int]] = {}
        for i, row in enumerate(zip(self.splits, self.labels, self.groups, strict=True)):
            if row[:2] == (split, label):
                groups.setdefault(row[2], []).append(i)
        if not groups:
            raise ConfigError(
                f"no tile has split {split!r} and label {label!r}; there are the splits "
                f"{sorted(set(self.splits))} and the labels {sorted(set(self.labels))}",
                remedy="ask for another split, or add such tiles to tiles.csv",
            )
        return {group: np.array(groups[group]) for group in sorted(groups)}


def load_tiles(folder: Path | str) -> TileSet:
    """Decode the tiles that `folder/tiles.csv` lists (columns file, label, group, split; others are ignored).

    Raises ConfigError where the table lacks a column, a label is unknown, or a tile is missing, unreadable or
    not a square of the first one's size.
    """
    table = Path(folder) / "tiles.csv"
    if not table.is_file():
        raise ConfigError(
            f"{table}: no such file", remedy=f"a CSV file with the columns {', '.join(COLUMNS)}"
        )
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not set(COLUMNS) <= set(rows[0]):
        found = ", ".join(rows[0]) if rows else "no rows"
        raise ConfigError(
            f"{table.name}: found {found}; it needs the columns {', '.join(COLUMNS)}",
            remedy="rename the columns, or add those that are missing",
        )
    unknown = sorted({row["label"] for row in rows} - set(LABELS))
    if unknown:
        raise ConfigError(
            f"{table.name}: labels {unknown}; only {list(LABELS)} are known",
            remedy="correct the labels in the table",
        )
    pixels = [_decode(table.parent / row["file"]) for row in rows]
    for row, tile in zip(rows, pixels, strict=True):
        if tile.shape != (len(pixels[0]), len(pixels[0]), 3):
            raise ConfigError(
                f"{row['file']}: {tile.shape[1]} x {tile.shape[0]} px; all tiles must be squares of one size",
                remedy="cut the tiles to squares of one size",
            )
    labels, groups, splits = (tuple(row[key] for row in rows) for key in ("label", "group", "split"))
    return TileSet(np.stack(pixels), labels, groups, splits)


def _decode(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ConfigError(
            f"tile {path.name} cannot be read: {error}",
            remedy="copy the tile again, or take it out of the table",
        ) from error


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Settings of a slide to compose of tiles.

    `size`: side of the square slide in px, or (width, height), multiples of the tile's side; `tumour`:
    whether patches are tumour or benign look-alikes; `fraction`: share of the tissue they cover; `patches`:
    how many share it; `jitter`: spread of stain and brightness between slides; `mpp`: nominal, since the
    source of the tiles may not document it. The same settings and tiles give the same bytes.
    """

    split: str
    tumour: bool
    fraction: float = 0.02
    patches: int = 1
    size: int | tuple[int, int] = 7168
    jitter: float | int = 1.2
    mpp: float | int = 0.5
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Size (width, height) of the slide in level-0 px."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def write_mosaic(path: Path | str, tiles: TileSet, settings: Mosaic) -> SlideTruth:
    """Write the slide as a pyramidal TIFF (levels 1, 4, 16) and return where its patches are.

    Tumour patches are the truth's lesions, benign ones its decoys; their outlines follow the tiles.
    """
    width, height = settings.shape
    if width % tiles.side or height % tiles.side or min(width, height) < 8 * tiles.side:
        raise ConfigError(
            f"mosaic of {width} x {height} px; it must be 8 or more whole tiles of {tiles.side} px a side",
            remedy="take a multiple of the side of a tile",
        )
    if not 0 < settings.fraction <= 0.2 or settings.patches < 1:
        raise ConfigError(
            f"fraction = {settings.fraction} must be in (0, 0.2] and patches = {settings.patches} at least 1",
            remedy="leave both away for the usual",
        )
    rng = np.random.default_rng((settings.seed, 3))
    plan = _plan(tiles, settings, rng)
    stain = Stain.jittered(rng, settings.jitter)
    write_pyramid(path, _bands(tiles, plan, stain), settings.shape, settings.mpp)
    return plan.truth


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which tile lies where: -1 where none does; `turns` in 0 to 7 picks one of the square's symmetries."""

    tile: Int[np.ndarray, "rows cols"]
    turns: Int[np.ndarray, "rows cols"]
    tissue: Outline
    truth: SlideTruth


def _plan(tiles: TileSet, settings: Mosaic, rng: np.random.Generator) -> _Plan:
    width, height = settings.shape
    side = tiles.side
    shape = (height // side, width // side)
    square = irregular(rng, (0.5, 0.5), TISSUE_SHARE, 0.12, points=256)
    tissue = np.clip(square, 0.02, 0.98) * (width, height)
    fine = rasterise(tissue, (shape[0] * 8, shape[1] * 8), (side / 8, side / 8))
    covered = fine.reshape(shape[0], 8, shape[1], 8).mean((1, 3))
    benign = np.concatenate(list(tiles.members(settings.split, "benign").values()))
    tile = np.where(covered > 0, rng.choice(benign, shape), -1)
    cells = max(settings.patches, round(settings.fraction * float(covered.sum())))
    free, outlines = covered == 1, []
    groups = tiles.members(settings.split, LABELS[settings.tumour])
    for number in range(settings.patches):
        count = (cells + number) // settings.patches
        patch = grow_patch(rng, free, count)
        tile[patch] = rng.choice(_one_group(groups, rng), int(patch.sum()))
        free &= ~_widened(patch)
        outlines.append(around_cells(patch) * side)
    placed = tuple(outlines)
    truth = SlideTruth(
        (width, height),
        settings.mpp,
        float(fine.mean()),
        lesions=placed if settings.tumour else (),
        decoys=() if settings.tumour else placed,
    )
    return _Plan(tile, rng.integers(0, 8, shape), tissue, truth)


def _one_group(
    groups: Mapping[str, Int[np.ndarray, " tiles"]], rng: np.random.Generator
) -> Int[np.ndarray, " tiles"]:
    """The tiles of one group, all being as likely; groups under three tiles only where there is no other."""
    enough = [members for members in groups.values() if len(members) >= 3] or list(groups.values())
    return enough[int(rng.integers(len(enough)))]


def _widened(cells: Bool[np.ndarray, "rows cols"]) -> Bool[np.ndarray, "rows cols"]:
    """The cells and their eight neighbours."""
    padded = np.pad(cells, 1)
    rows, cols = cells.shape
    return np.asarray(
        np.logical_or.reduce([padded[y : y + rows, x : x + cols] for y in range(3) for x in range(3)])
    )


def _bands(tiles: TileSet, plan: _Plan, stain: Stain) -> Iterator[UInt8[np.ndarray, "side width 3"]]:
    """The slide from top to bottom, a row of tiles at a time."""
    side = tiles.side
    rows, cols = plan.tile.shape
    glass = np.tile(stain.background(), (side, side, 1))
    for row in range(rows):
        band = np.empty((side, cols * side, 3), np.uint8)
        inside = rasterise(plan.tissue - (0.0, row * side), (side, cols * side), (1.0, 1.0))
        for col in range(cols):
            part = slice(col * side, (col + 1) * side)
            if plan.tile[row, col] < 0:
                band[:, part] = glass
                continue
            turned = _turned(tiles.pixels[plan.tile[row, col]], int(plan.turns[row, col]))
            band[:, part] = np.where(inside[:, part, None], stain.recolour(turned), glass)
        yield band


def _turned(tile: UInt8[np.ndarray, "side side 3"], turn: int) -> UInt8[np.ndarray, "side side 3"]:
    """One of the eight symmetries of the square; 0 leaves the tile as it is."""
    return np.asarray(np.rot90(tile if turn < 4 else tile[:, ::-1], turn % 4))


def write_cohort(
    folder: Path | str,
    tiles: TileSet,
    counts: Mapping[str, int],
    size: int | tuple[int, int] = 7168,
    seed: int = 0,
    on_slide: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Compose `counts[split]` slides a split, every other one with tumour; returns `manifest.csv`.

    Tumour (or its benign look-alike) covers 0.5 to 5 % of the tissue, evenly, in one patch or two. Beside each slide
    lie its truth as GeoJSON and a mask of the tumour (`_mask.png`, 1/16 of the size, 255 in tumour). The
    manifest has the columns slide, label, split, patch_fraction. `on_slide` is called with each finished slide.
    """
    folder = Path(folder)
    for split, count in counts.items():  # before anything is written
        for label in LABELS if count > 0 else ():
            tiles.members(split, label)
    folder.mkdir(parents=True, exist_ok=True)
    rows, number = [], 0
    for split, count in counts.items():
        for i in range(count):
            rng = np.random.default_rng((seed, number, 4))
            settings = Mosaic(
                split,
                tumour=i % 2 == 1,
                fraction=float(rng.uniform(0.005, 0.05)),
                patches=1 if rng.random() < 0.7 else 2,
                size=size,
                seed=int(rng.integers(1 << 40)),
            )
            path = folder / f"{split}_{i:03d}.tif"
            truth = write_mosaic(path, tiles, settings)
            _write_truth(path, truth)
            rows.append([path.name, LABELS[settings.tumour], split, f"{settings.fraction:.5f}"])
            number += 1
            on_slide(path)
    manifest = folder / "manifest.csv"
    _write_manifest(manifest, rows)
    return manifest


def _write_truth(slide: Path, truth: SlideTruth) -> None:
    truth.save(slide.with_suffix(".geojson"))
    shape = (-(-truth.size[1] // MASK_STEP), -(-truth.size[0] // MASK_STEP))
    tumour = mask(truth.lesions, shape, (MASK_STEP, MASK_STEP))
    Image.fromarray(tumour.view(np.uint8) * 255).save(slide.with_name(f"{slide.stem}_mask.png"))


def _write_manifest(path: Path, rows: list[list[str]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "label", "split", "patch_fraction"])
        writer.writerows(rows)
    temporary.replace(path)
