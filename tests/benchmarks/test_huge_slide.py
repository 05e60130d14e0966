"""The slides of benchmarks/memory.py: small files that readers take for slides of any size."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import openslide
import pytest

from wsi_ats.slides import open_slide

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def huge() -> ModuleType:
    spec = importlib.util.spec_from_file_location("huge_slide", ROOT / "benchmarks" / "huge_slide.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def path(huge: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    patch = pytest.MonkeyPatch()
    patch.setattr(huge, "PERIOD", 1024)
    try:
        return Path(huge.write_huge(tmp_path_factory.mktemp("huge") / "huge.tif", 51_200))
    finally:
        patch.undo()


def test_openslide_takes_it_for_a_pyramid(path: Path) -> None:
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((51_200,) * 2, (12_800,) * 2, (3200,) * 2, (800,) * 2)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25, rel=1e-6)
    assert path.stat().st_size < 2e6


def test_every_reader_sees_the_same_repeated_picture(path: Path) -> None:
    with openslide.OpenSlide(path) as reference, open_slide(path) as slide:
        for level, period in enumerate((1024, 256, 256, 256)):  # a tile where the picture is smaller than one
            scale = 4**level
            here, there = ((x * scale, 100 * scale) for x in (40, 40 + period))
            first, second = (slide.read(xy, (300, 200), level) for xy in (here, there))
            expected = np.asarray(reference.read_region(here, level, (300, 200)).convert("RGB"))
            assert np.array_equal(first, second)
            assert np.array_equal(first, expected)
            assert first.std() > 5, "a picture, not a plain colour"


def test_levels_show_the_same_place(path: Path) -> None:
    with open_slide(path) as slide:
        fine = slide.read((8192, 4096), (1024, 1024), 0).reshape(64, 16, 64, 16, 3).mean((1, 3))
        coarse = slide.read((8192, 4096), (64, 64), 2).astype(float)
    assert np.abs(fine - coarse).mean() < 6  # JPEG
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.95


def test_the_memory_that_is_in_use_hardly_grows() -> None:
    """The claim of the results that are in the repository: at most 5 % from 20,000 to 200,000 px."""
    runs = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())["runs"]
    for task in ("step", "predict"):
        peaks = {
            run["px"]: run["peak_mb"]
            for run in runs
            if (run["task"], run["allocator"]) == (task, "returns what is freed")
        }
        assert sorted(peaks) == [20_000, 60_000, 120_000, 200_000]
        assert max(peaks.values()) <= 1.05 * peaks[20_000]
