"""A few small labelled slides and settings small enough to train on them in seconds."""

from __future__ import annotations

from pathlib import Path

from wsi_ats.config import Config, load_config
from wsi_ats.synthetic.phantom import Phantom, write_phantom

SETTINGS = (
    "view.downsample=16",
    "tile.downsample=2",
    "tile.px=32",
    "attention.stride=4",
    "attention.width=4",
    "features.width=8",
    "sampling.tiles=6",
    "train.epochs=3",
    "train.batch=2",
    "train.val_tiles=8",
)


def settings(*more: str) -> Config:
    return load_config(None, [*SETTINGS, *more])


def write_cohort(folder: Path, train: int = 6, val: int = 4, test: int = 3, size: int = 768) -> Path:
    """Slides, every second one with a lesion, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["slide,label,split"]
    for split, count in {"train": train, "val": val, "test": test}.items():
        for i in range(count):
            name, lesion = f"{split}_{i}.tif", i % 2 == 1
            seed = len(lines)
            write_phantom(
                folder / name, Phantom(size=size, decoys=0, lesion=lesion, lesion_fraction=0.05, seed=seed)
            )
            lines.append(f"{name},{('normal', 'tumour')[lesion]},{split}")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest
