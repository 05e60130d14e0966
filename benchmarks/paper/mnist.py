"""Megapixel MNIST (ICML 2019): five digits on a large black picture, three of them of the picture's class.

A picture follows from (seed, split, index) alone and is made when it is asked for; nothing is written. Digits do not
overlap one another; `noise` patches of scribbled lines may lie over them. Digits of training pictures come from MNIST's
training set, those of test pictures from its test set.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from paper.pictures import Picture

from wsi_ats.errors import ConfigError

PX = 28
"""Side of a digit and of a noise patch."""
PATTERNS = 50
"""Noise patches to choose from."""


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in the IDX format (Y. LeCun), gzipped: 0, 0, type 8, dimensions; their sizes; the data."""
    if not path.is_file():
        raise ConfigError(
            f"no MNIST file {path}", "pass the folder that holds MNIST's four gzipped IDX files"
        )
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ConfigError(f"{path} does not start as an IDX file of bytes does", "use MNIST's own files")
    sizes = np.frombuffer(data, ">u4", data[3], 4).tolist()
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * len(sizes))
    if len(values) != np.prod(sizes):
        raise ConfigError(f"{path} holds {len(values)} bytes and says {sizes}", "download the file again")
    return values.reshape(sizes)


def scribbles(rng: np.random.Generator) -> np.ndarray:
    """(PATTERNS, 28, 28): two straight lines each, at slopes of up to 72 degrees, some mirrored, in uneven white."""
    slopes = np.tan(rng.random(PATTERNS) * np.pi / 2.5)
    lines = np.zeros((PATTERNS, PX, PX), bool)
    for line, slope in zip(lines, slopes, strict=True):
        along = np.linspace(0, min(27.49, 27.49 / slope), 2 * PX)
        line[np.round(along).astype(int), np.round(slope * along).astype(int)] = True
    second = rng.permutation(lines)
    for axis in (1, 2):
        mirrored = rng.random(PATTERNS) < 0.33
        second[mirrored] = np.flip(second[mirrored], axis)
    white = 0.8 + 0.2 * rng.random(lines.shape)
    return (255 * white * (lines | second)).astype(np.uint8)


class MegapixelMNIST:
    """`count` pictures of `side` x `side` px, (side, side, 1) uint8."""

    classes = 10
    channels = 1
    background = 0
    levels = (0.5, 0.75)
    """Black is zero to the networks, as it was to the published ones."""

    def __init__(
        self, folder: Path, *, train: bool, count: int, side: int = 1500, noise: int = 50, seed: int = 0
    ) -> None:
        name = "train" if train else "t10k"
        self.digits = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
        self.of_class = [np.flatnonzero(labels == c) for c in range(self.classes)]
        self.of_others = [np.flatnonzero(labels != c) for c in range(self.classes)]
        self.count, self.side, self.noise = count, side, noise
        self.key = (seed, int(train))
        self.patterns = scribbles(np.random.default_rng(self.key))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Picture:
        rng = np.random.default_rng((*self.key, index))
        label = int(rng.integers(self.classes))
        chosen = np.concatenate([rng.choice(self.of_class[label], 3), rng.choice(self.of_others[label], 2)])
        patches = np.concatenate(
            [self.digits[chosen], self.patterns[rng.integers(PATTERNS, size=self.noise)]]
        )
        scattered = rng.integers(PX, self.side - 2 * PX + 1, (self.noise, 2))
        corners = np.concatenate([self._apart(rng, len(chosen)), scattered])
        canvas = np.zeros((self.side, self.side, 1), np.uint8)
        for patch, (x, y) in zip(patches, corners, strict=True):
            canvas[y : y + PX, x : x + PX, 0] = patch
        return Picture(canvas, label, corners, PX)

    def _apart(self, rng: np.random.Generator, count: int) -> np.ndarray:
        corners = np.empty((0, 2), int)
        while len(corners) < count:
            corner = rng.integers(self.side - PX + 1, size=2)
            if not (np.abs(corners - corner) < PX).all(1).any():
                corners = np.concatenate([corners, corner[None]])
        return corners
