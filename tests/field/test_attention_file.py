"""attention.h5 as TRIDENT's readers open it: `coords`, and everything else from the attributes of that dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_prediction import ATTRIBUTES_OF_COORDS, make_prediction
from wsi_ats.batch.attention_file import encode_attention
from wsi_ats.prediction import Prediction

WRITTEN_BY_TRIDENT = {
    "patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap", "name",
    "savetodir", "level0_width", "level0_height",
}  # fmt: skip


def read_as_trident_does(path: Path) -> tuple[dict[str, object], np.ndarray]:
    """Attributes and coordinates, the file itself not asked for any attribute."""
    with h5py.File(path, "r") as file:
        return dict(file["coords"].attrs), file["coords"][:]


def attributes_of(prediction: Prediction) -> tuple[dict[str, object], np.ndarray]:
    with TemporaryDirectory() as folder:
        (Path(folder) / "attention.h5").write_bytes(encode_attention(prediction))
        return read_as_trident_does(Path(folder) / "attention.h5")


def test_coords_has_every_attribute_that_trident_writes() -> None:
    attrs, coords = attributes_of(make_prediction((1000, 700), 100.0))
    assert attrs == ATTRIBUTES_OF_COORDS
    assert set(attrs) == WRITTEN_BY_TRIDENT
    assert coords.dtype == np.int64
    assert coords.shape == (len(make_prediction((1000, 700), 100.0).tissue), 2)


def test_the_file_has_them_too(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(encode_attention(make_prediction()))
    with h5py.File(tmp_path / "a.h5") as file:
        assert {key: file.attrs[key] for key in WRITTEN_BY_TRIDENT} == dict(file["coords"].attrs)


@settings(max_examples=60, deadline=None)
@given(
    mpp=st.floats(0.1, 1.2),
    tile_mpp=st.floats(0.1, 4.0),
    tile_px=st.sampled_from([64, 224, 256, 512]),
)
def test_the_patches_that_trident_cuts_are_the_tiles_that_were_read(
    mpp: float, tile_mpp: float, tile_px: int
) -> None:
    downsample = max(1.0, tile_mpp / mpp)
    prediction = replace(
        make_prediction(mpp=(mpp, mpp)), tile_px=tile_px, tile_downsample=(downsample, downsample)
    )
    attrs, _ = attributes_of(prediction)
    # Its patcher: the ratio of pixel sizes, each 10 / magnification.
    ratio = (10 / float(attrs["target_magnification"])) / (10 / float(attrs["level0_magnification"]))
    assert round(attrs["patch_size"] * ratio) == attrs["patch_size_level0"] == round(tile_px * downsample)


@pytest.mark.parametrize(
    ("mpp", "downsample", "level0", "target"),
    [
        (0.25, 2.0, 40.0, 20.0),
        (0.5, 2.0, 20.0, 10.0),
        (0.2527, 2.0, 40.0, 20.0),  # nominal, as the field counts
        (0.2527, 0.5 / 0.2527, 40.0, pytest.approx(40 * 0.2527 / 0.5)),  # a tile of 507 px is not one of 512
    ],
)
def test_magnifications_are_nominal_where_that_changes_no_tile(
    mpp: float, downsample: float, level0: float, target: float
) -> None:
    prediction = replace(
        make_prediction(mpp=(mpp, mpp)), tile_px=256, tile_downsample=(downsample, downsample)
    )
    attrs, _ = attributes_of(prediction)
    assert (attrs["level0_magnification"], attrs["target_magnification"]) == (level0, target)
