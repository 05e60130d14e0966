"""A stand-in for a trained model: instant, deterministic, importable in worker processes, and it logs what it
does.

Slides misbehave by name: `*explode*` raises, `*crash*` ends the process as a segmentation fault would.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

from wsi_ats.batch.inputs import SlideItem, slide_id
from wsi_ats.errors import ModelError, NoTissueError
from wsi_ats.geometry import Grid, Size
from wsi_ats.prediction import PatientPrediction, Prediction
from wsi_ats.reading import Reading
from wsi_ats.shown import printable
from wsi_ats.slides.base import Slide
from wsi_ats.tasks.answer import TaskResult, TaskSpec

CELL = 32


class FakeModel:
    """Attention is darkness; the probability is the mean darkness of the drawn cells."""

    specs = (TaskSpec("label", "classes", ("normal", "tumour")),)
    srgb = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hash = (folder / "hash.txt").read_text().strip()
        self.delay = float((folder / "delay.txt").read_text())

    def read(self, slide: Slide | Sequence[Slide], reading: Reading) -> Prediction | PatientPrediction:
        if not isinstance(slide, Slide):
            return of_patient([self.read(one, reading) for one in slide])
        with (self.folder / "log.txt").open("a") as log:
            log.write(f"{printable(slide.name)} {os.getpid()}\n")
        if "explode" in slide.name:
            raise RuntimeError("a bug, says\nthe fake model")
        if "crash" in slide.name:
            os._exit(11)
        time.sleep(self.delay)
        return predict(slide, reading.tiles, reading.seed)


def of_patient(parts: Sequence[Prediction]) -> PatientPrediction:
    """Of the slides' answers the mean."""
    values = np.mean([part.values for part in parts], axis=0)
    cells = sum(len(part.tissue) for part in parts)
    return PatientPrediction(
        slides=tuple(
            replace(part, results=(replace(part.main, values=values),), patient_cells=cells) for part in parts
        ),
        rounds=1,
        bytes_read=sum(part.bytes_read for part in parts),
        seconds={"tiles": 0.001, "total": 0.002},
        given=tuple(range(len(parts))),
    )


def load(folder: Path, device: str) -> FakeModel:
    if not (folder / "hash.txt").exists():
        raise ModelError(f"{folder} holds no fake model")
    return FakeModel(folder)


def predict(slide: Slide, tiles: int, seed: int) -> Prediction:
    before = slide.bytes_read
    pixels = slide.read((0, 0), slide.size).astype(np.float64)
    grid = Grid.covering(Size(*slide.size), (CELL, CELL))
    corners = grid.corners(np.arange(len(grid)))
    darkness = np.array([255 - pixels[y : y + CELL, x : x + CELL].mean() for x, y in corners])
    tissue = np.flatnonzero(darkness > 10).astype(np.int64)
    if len(tissue) == 0:
        raise NoTissueError(f"slide {slide.name}: no cell is dark", remedy="give a slide with tissue")
    attention = (darkness[tissue] / darkness[tissue].sum()).astype(np.float32)
    rng = np.random.default_rng([seed, zlib.crc32(os.fsencode(slide.name))])
    cells = np.sort(rng.choice(tissue, min(tiles, len(tissue)), replace=False))
    share = float(darkness[cells].mean() / 255)
    contributions = np.stack([-darkness[cells], darkness[cells]], axis=1).astype(np.float32)
    return Prediction(
        slide=slide.name,
        results=(
            TaskResult(
                FakeModel.specs[0], np.array([1 - share, share]), np.array([0.01, np.nan]), contributions
            ),
        ),
        grid=grid,
        slide_size=slide.size,
        mpp=slide.mpp_xy,
        tissue=tissue,
        attention=attention,
        cells=cells,
        weights=np.full(len(cells), len(tissue) / len(cells)),
        tile_px=CELL,
        tile_downsample=(1.0, 1.0),
        tiles_read=len(cells),
        rounds=1,
        bytes_read=slide.bytes_read - before,
        seconds={"tiles": 0.001, "total": 0.002},
    )


def make_model(folder: Path, hash: str = "abc", delay: float = 0.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hash.txt").write_text(hash)
    (folder / "delay.txt").write_text(str(delay))
    return folder


def calls(folder: Path) -> list[str]:
    """Names of the slides that were predicted, in order, by any process."""
    log = folder / "log.txt"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def make_slide(path: Path, seed: int = 0, size: tuple[int, int] = (256, 192), blank: bool = False) -> Path:
    """A small tiled TIFF of noise with a dark corner that OpenSlide opens, at 0.5 um/px."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    if not blank:
        pixels[: size[1] // 2] = rng.integers(60, 200, (size[1] // 2, size[0], 3))
    resolution = (20_000, 20_000)
    tifffile.imwrite(
        path, pixels, tile=(64, 64), photometric="rgb", resolution=resolution, resolutionunit="CENTIMETER"
    )
    return path


def items(*paths: Path) -> list[SlideItem]:
    return [SlideItem(slide_id(path.name), path) for path in paths]
