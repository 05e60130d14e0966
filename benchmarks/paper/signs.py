"""Scenes like those of the paper's speed limits: which sign stands, small, somewhere in a large picture? Or none?

A folder of pictures of signs, one sub-folder a class, is cut by sign (not by scene) into those to train and those to
test on. A scene is a smooth backdrop with blocks in it, and one sign, scaled to 3 to 10 % of the scene's height: near
and far. As many scenes as of each class have no sign. A scene follows from (seed, split, index) alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from paper.pictures import Picture
from PIL import Image

from wsi_ats.errors import ConfigError

SIZES = (0.03, 0.10)
BLOCKS = 12
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif")


class SignScenes:
    """`count` scenes (height, width, 3) uint8; the label is the place of the sign's sub-folder; the last: none."""

    channels = 3
    background = 128
    levels = (0.0, 1.0)

    def __init__(
        self, folder: Path, *, train: bool, count: int, height: int = 960, width: int = 1280, seed: int = 0
    ) -> None:
        self.signs = [_part(files, train) for files in signs_of(folder).values()]
        self.classes = len(self.signs) + 1
        self.count, self.height, self.width = count, height, width
        self.key = (seed, int(train))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Picture:
        rng = np.random.default_rng((*self.key, index))
        label = int(rng.integers(self.classes))
        prepared = self._backdrop(rng)
        if label < len(self.signs):
            sign = self.signs[label][rng.integers(len(self.signs[label]))]
            self._plant(prepared, sign, rng)
        return Picture(np.array(prepared), label)

    def _backdrop(self, rng: np.random.Generator) -> Image.Image:
        size = (self.width, self.height)
        coarse = rng.integers(60, 200, (6, 8, 3), dtype=np.uint8)
        prepared = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        for _ in range(BLOCKS):
            width, height = rng.integers(self.height * SIZES[0], self.height * SIZES[1] + 1, 2).tolist()
            x, y = (
                int(rng.integers(full - part + 1)) for full, part in zip(size, (width, height), strict=True)
            )
            prepared.paste(tuple(rng.integers(0, 256, 3).tolist()), (x, y, x + width, y + height))
        return prepared

    def _plant(self, prepared: Image.Image, path: Path, rng: np.random.Generator) -> None:
        side = int(rng.integers(self.height * SIZES[0], self.height * SIZES[1] + 1))
        with Image.open(path) as image:
            sign = image.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
        x, y = int(rng.integers(self.width - side + 1)), int(rng.integers(self.height - side + 1))
        prepared.paste(sign, (x, y), sign)


def signs_of(folder: Path) -> dict[str, list[Path]]:
    """Files of each class; every class needs at least two, one to train and one to test on."""
    classes = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    found = {p.name: sorted(f for f in p.iterdir() if f.suffix.lower() in SUFFIXES) for p in classes}
    short = [name for name, files in found.items() if len(files) < 2]
    if not found or short:
        what = f"class {short[0]!r} has fewer than 2 pictures" if short else "no sub-folders"
        raise ConfigError(
            f"signs in {folder}: {what}", "pass a folder with one sub-folder of pictures a class"
        )
    return found


def _part(files: list[Path], train: bool) -> list[Path]:
    """Every fifth file, at least one, is for the test."""
    return [f for i, f in enumerate(files) if (i % 5 == 0) != train]
