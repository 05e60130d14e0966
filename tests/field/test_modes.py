"""Modes of files: others of the group read what the umask lets them, models too."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import TRAINING, options, run
from wsi_ats import load_model
from wsi_ats.errors import ModelError
from wsi_ats.model_folder import CARD, SETTINGS, WEIGHTS

NOBODY = 65534


@pytest.fixture
def open_to_all(trained: Path) -> Iterator[Path]:
    """A model folder outside pytest's own, which nobody else may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(shutil.copytree(trained / "model", Path(folder) / "model"))


@contextmanager
def nobody() -> Iterator[None]:
    """As a user whom permissions bind: root reads everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def modes(folder: Path) -> dict[str, int]:
    """Permissions of all files and folders in `folder`, by their paths."""
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


@pytest.mark.parametrize("umask", [0o022, 0o027], ids=oct)
def test_all_that_is_written_has_the_mode_that_the_umask_gives(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(umask)
    try:
        run("train", cohort, "--out", "out/run", *TRAINING, *options("train.epochs=1"))
        slide = cohort.parent / "test_1.tif"
        run("predict", "out/run/model", slide, "--out", "out/answers", "--tiles", "4", "--workers", "0")
        run("heatmap", "out/run/model", slide, "--out", "out/map.png", "--tiles", "4")
        run("convert", slide, "out/slide.ome.zarr")
    finally:
        os.umask(before)
    found = modes(tmp_path / "out")
    assert {
        "run/model/model.safetensors",
        "run/checkpoints/best.ckpt",
        "answers/predictions.csv",
    } <= found.keys()
    expected = {path: (0o777 if (tmp_path / "out" / path).is_dir() else 0o666) & ~umask for path in found}
    assert found == expected


@pytest.mark.parametrize("name", [SETTINGS, WEIGHTS])
def test_a_model_that_may_not_be_read_is_a_model(open_to_all: Path, name: str) -> None:
    (open_to_all / name).chmod(0)
    with nobody(), pytest.raises(ModelError, match="may not be read: permission denied") as caught:
        load_model(open_to_all)
    assert str(open_to_all / name) in caught.value.message
    assert "chmod" in caught.value.remedy


def test_a_model_folder_is_written_with_its_settings_last(trained: Path) -> None:
    """A folder that was left half-written is no model."""
    times = [(trained / "model" / name).stat().st_mtime_ns for name in (WEIGHTS, CARD, SETTINGS)]
    assert times == sorted(times)
