"""Colon cancer (ICML 2019, after M. Ilse et al., ICML 2018): does a picture of colon tissue hold an epithelial nucleus?

Reads CRCHistoPhenotypes_2016_04_28 (K. Sirinukunwattana et al., IEEE TMI 2016) as it is unpacked: one hundred H&E
pictures of 500 x 500 px, Classification/imgN/imgN.bmp, with the nuclei of each class in imgN_<class>.mat, an array
`detection` (n, 2) of positions in px. It is not part of this project; ask its authors for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from paper.pictures import Picture
from PIL import Image
from scipy.io import loadmat

from wsi_ats.errors import ConfigError

CLASSES = ("epithelial", "fibroblast", "inflammatory", "others")


class ColonCancer:
    """Pictures (500, 500, 3) uint8; label 1 where there is at least one epithelial nucleus."""

    classes = 2
    channels = 3
    background = 255
    levels = (0.0, 1.0)

    def __init__(self, names: Sequence[Path]) -> None:
        self.names = list(names)

    @classmethod
    def folds(cls, folder: Path, fold: int, of: int = 10, seed: int = 0) -> tuple[ColonCancer, ColonCancer]:
        """Pictures to train on and the `fold`-th of `of` parts to test on, every picture in one part."""
        if not 0 <= fold < of:
            raise ConfigError(f"fold {fold} of {of}", f"choose one of 0 to {of - 1}")
        names = np.array(picture_folders(folder))
        part = np.random.default_rng(seed).permutation(len(names)) % of
        return cls(names[part != fold].tolist()), cls(names[part == fold].tolist())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Picture:
        folder = self.names[index]
        with Image.open(folder / f"{folder.name}.bmp") as image:
            pixels = np.array(image.convert("RGB"))
        return Picture(pixels, int(len(nuclei(folder, "epithelial")) > 0))


def picture_folders(folder: Path) -> list[Path]:
    """The folders of the pictures, in the order of their numbers."""
    found = [p for p in (folder / "Classification").glob("img*") if (p / f"{p.name}.bmp").is_file()]
    if not found:
        raise ConfigError(
            f"no picture Classification/imgN/imgN.bmp in {folder}",
            "pass the folder CRCHistoPhenotypes_2016_04_28 as it was unpacked",
        )
    return sorted(found, key=lambda p: int(re.sub(r"\D", "", p.name)))


def nuclei(folder: Path, name: str) -> np.ndarray:
    """Positions (n, 2) x and y, px, of the nuclei of a class."""
    path = folder / f"{folder.name}_{name}.mat"
    if name not in CLASSES or not path.is_file():
        raise ConfigError(f"no nuclei of class {name!r}: {path}", f"the classes are {', '.join(CLASSES)}")
    positions = np.asarray(loadmat(path, variable_names=["detection"])["detection"], float)
    return positions.reshape(-1, 2)
