"""Scenes: damaged tiles are counted over all times that the slide is opened, colours are those of the settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.profiles import icc_profile
from tests.support.tiffs import damage, picture, write_pyramid
from wsi_ats.config import Config, load_config
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.lowres.prepare import prepare
from wsi_ats.slides import open_slide

PLAIN = ("view.downsample=8", "tile.downsample=1", "tile.px=32", "attention.stride=2")


def config(*more: str) -> Config:
    return load_config(None, [*PLAIN, "tissue.min_fraction=0.01", *more])


def pyramid(path: Path, **more: object) -> Path:
    whole = picture(256, 320)
    return write_pyramid(path, [whole, np.ascontiguousarray(whole[::8, ::8])], "deflate", **more)


def test_bad_tiles_are_counted_over_all_times_that_a_slide_is_opened(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.tif")
    for tile in (6, 7, 8):  # columns 1 to 3 of row 1
        damage(path, 0, tile, lambda data: bytes(len(data)))
    with open_slide(path, tolerate_bad_tiles=2) as slide:
        prepared = prepare(slide, config())
    for col in (1, 2, 1):
        with prepared.open() as slide:
            slide.read((64 * col, 64), (64, 64))
    assert prepared.bad_tiles == {(0, 1, 1), (0, 2, 1)}
    with (
        pytest.raises(SlideError, match=r"slide 'a\.tif': 3 tiles cannot be read, 2 are tolerated") as caught,
        prepared.open() as slide,
    ):
        slide.read((64 * 3, 64), (64, 64))
    assert caught.value.address == prepared.address


def test_a_slide_that_was_opened_for_other_colours_than_the_models_is_refused(tmp_path: Path) -> None:
    path, plain = pyramid(tmp_path / "a.tif", iccprofile=icc_profile()), pyramid(tmp_path / "b.tif")
    srgb = config("slide.srgb=true")
    with open_slide(path) as slide:
        assert prepare(slide, config()).name == "a.tif"
        with pytest.raises(ConfigError, match=r"opened with srgb=False; slide\.srgb is True"):
            prepare(slide, srgb)
    with open_slide(path, srgb=True) as slide:
        assert prepare(slide, srgb).name == "a.tif"
        with pytest.raises(ConfigError, match=r"opened with srgb=True; slide\.srgb is False"):
            prepare(slide, config())
    with open_slide(plain) as slide:  # nothing to convert, so nothing to be wrong
        assert prepare(slide, srgb).name == "b.tif"
