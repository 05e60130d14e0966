"""Pictures of what the settings in `[augment]` do, for the documentation.

    python benchmarks/augment_pictures.py SLIDE X Y

One tile of SLIDE, from level-0 position (X, Y), at 0.5 um/px, as six slides would have it by chance, a row a setting.
The picture goes to docs/augment.jpg.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import wsi_ats
from wsi_ats.config import AugmentSettings
from wsi_ats.geometry import Grid
from wsi_ats.tiles import read_tiles
from wsi_ats.train.augment import Augmentation, places

PX, SLIDES = 128, 6
ROWS = {
    "train.augment = true": (AugmentSettings(), True),
    "augment.stain = 0.05": (AugmentSettings(stain=0.05), False),
    "augment.stain = 0.2": (AugmentSettings(stain=0.2), False),
    'the same, with\nstain_vectors = "own"': (AugmentSettings(stain=0.2, stain_vectors="own"), False),
    "augment.light = 0.3": (AugmentSettings(light=0.3), False),
    "augment.blur = 2": (AugmentSettings(blur=2.0), False),
    "augment.place = 1": (AugmentSettings(place=1.0), False),
}
OUT = Path(__file__).parents[1] / "docs" / "augment.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path)
    parser.add_argument("x", type=int)
    parser.add_argument("y", type=int)
    how = parser.parse_args()
    with wsi_ats.open_slide(how.slide, default_mpp=0.5) as slide:
        side = PX * 0.5 / float(slide.mpp or 0.5)
        grid = Grid(int(how.y // side) + 2, int(how.x // side) + 2, (side, side))
        cells = np.full(SLIDES, len(grid) - 1 - grid.cols - 1)
        downsample = (side / PX, side / PX)
        plain = pixels_of(read_tiles(slide, grid, cells[:1], PX, downsample))
        pictures, names = [], [(number,) for number in range(SLIDES)]
        for settings, turn in ROWS.values():
            tiles = pixels_of(
                read_tiles(slide, grid, cells, PX, downsample, places(settings, [1] * SLIDES, 0, names))
            )
            augment = Augmentation(settings, [1] * SLIDES, 0, names, turn=turn)
            pictures.append(torch.cat([plain, augment(tiles)]))
    figure, axes = plt.subplots(len(ROWS), SLIDES + 1, figsize=(9.2, 9.8), squeeze=False)
    for row, (name, tiles) in enumerate(zip(ROWS, pictures, strict=True)):
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        for axis, tile in zip(axes[row], tiles, strict=True):
            axis.imshow(tile.permute(1, 2, 0).clamp(0, 1).numpy())
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_title("as it is", fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(OUT, dpi=90, pil_kwargs={"quality": 85})


def pixels_of(tiles: np.ndarray) -> torch.Tensor:
    """Tiles as networks take them."""
    return torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255


if __name__ == "__main__":
    main()
