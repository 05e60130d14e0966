"""The paper's experiments: their data, scales and settings.

As published ("paper"), small for two cores, and, of Megapixel MNIST, as many pictures as in the paper at the small size
("middle").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paper.colon import ColonCancer
from paper.mnist import MegapixelMNIST
from paper.pictures import Pictures, Scale
from paper.signs import SignScenes
from paper.train import Settings

Split = tuple[Pictures, Pictures]


@dataclass(frozen=True)
class Preset:
    """`pictures(folder, seed)` gives those to train and to test on."""

    pictures: Callable[[Path, int], Split]
    scale: Scale
    settings: Settings


def megapixel_mnist(train: int, test: int, side: int, noise: int) -> Callable[[Path, int], Split]:
    def pictures(folder: Path, seed: int) -> Split:
        return (
            MegapixelMNIST(folder, train=True, count=train, side=side, noise=noise, seed=seed),
            MegapixelMNIST(folder, train=False, count=test, side=side, noise=noise, seed=seed),
        )

    return pictures


def colon(folder: Path, seed: int) -> Split:
    return ColonCancer.folds(folder, seed % 10, 10)


def signs(train: int, test: int, height: int, width: int) -> Callable[[Path, int], Split]:
    def pictures(folder: Path, seed: int) -> Split:
        return (
            SignScenes(folder, train=True, count=train, height=height, width=width, seed=seed),
            SignScenes(folder, train=False, count=test, height=height, width=width, seed=seed),
        )

    return pictures


PRESETS = {
    ("mnist", "paper"): Preset(
        megapixel_mnist(5000, 1000, 1500, 50), Scale(1500, 1500, 0.12, 50), Settings(keep=True)
    ),
    ("mnist", "middle"): Preset(
        megapixel_mnist(5000, 1000, 500, 0),
        Scale(500, 500, 0.2, 50, step=2),
        Settings(epochs=20, batch=32, lr=2e-3, lr_attention=1e-2, parts=2, fall=True, keep=True),
    ),
    ("mnist", "small"): Preset(
        megapixel_mnist(2000, 500, 500, 0),
        Scale(500, 500, 0.2, 50, step=2),
        Settings(epochs=8, batch=32, lr=2e-3, lr_attention=1e-2, keep=True),
    ),
    ("colon", "paper"): Preset(colon, Scale(500, 500, 0.2, 27), Settings(batch=5, workers=4)),
    ("colon", "small"): Preset(
        colon, Scale(500, 500, 0.2, 27, step=2), Settings(epochs=40, batch=5, lr=2e-3, lr_attention=1e-2)
    ),
    ("signs", "paper"): Preset(
        signs(5000, 1000, 960, 1280), Scale(960, 1280, 0.3, 100), Settings(batch=32, tiles=5, workers=8)
    ),
    ("signs", "small"): Preset(
        signs(500, 200, 480, 640),
        Scale(480, 640, 0.3, 50, step=2),
        Settings(epochs=20, batch=16, tiles=5, lr=2e-3, lr_attention=1e-2),
    ),
}
