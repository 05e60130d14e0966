"""Checks of an installation: each says what it found and what to do where that is not enough."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wsi_ats.errors import WsiAtsError

PACKAGES = (
    "wsi-ats",
    "torch",
    "pytorch-lightning",
    "numpy",
    "scikit-image",
    "openslide-python",
    "openslide-bin",
    "dask",
)


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def checks() -> Iterator[Check]:
    """Results of all checks, the quick ones first."""
    yield Check("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        yield _package(package)
    yield Check("cores", True, str(os.cpu_count()))
    yield _device()
    yield _openslide()
    yield _window()
    yield _round_trip()


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "not installed", f"pip install {name}")


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("device", True, f"CUDA, {torch.cuda.get_device_name(0)}")
    return Check("device", True, f"CPU, {torch.get_num_threads()} threads (no CUDA device)")


def _openslide() -> Check:
    try:
        import openslide
    except (ImportError, OSError) as error:
        return Check("OpenSlide library", False, str(error), "pip install openslide-bin")
    return Check("OpenSlide library", True, openslide.__library_version__)


def _window() -> Check:
    """Optional: tiles have the same pixels without it."""
    from wsi_ats.slides.window import compiled

    return Check("windowed JPEG decode", True, compiled().state)


def _round_trip() -> Check:
    """Write a small slide, open it, read it, find its tissue."""
    from wsi_ats.lowres.tissue import find_tissue
    from wsi_ats.lowres.view import read_view
    from wsi_ats.slides import open_slide
    from wsi_ats.synthetic.phantom import Phantom, write_phantom

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "doctor.tif"
        try:
            write_phantom(path, Phantom(size=1024, decoys=0))
            with open_slide(path) as slide:
                view = read_view(slide, (16.0, 16.0), 8)
                cells = find_tissue(view, name=slide.name).cells
        except (WsiAtsError, OSError) as error:
            return Check(
                "slide written and read back",
                False,
                str(error),
                "is the temporary folder writable and not full?",
            )
    return Check("slide written and read back", True, f"{len(cells)} tissue cells found")
