"""Levels that show another picture than level 0, or none: refused when a slide is prepared, with the level's number."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.field.test_pen import section
from tests.support.helpers import shared_data
from tests.support.tiffs import write_pyramid
from wsi_ats.config import load_config
from wsi_ats.errors import NoTissueError, SlideError
from wsi_ats.lowres.prepare import prepare
from wsi_ats.lowres.same_picture import check_levels
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide

DOWN = 8
# Not in the middle: turned and mirrored tissue that is round would lie on itself.
FULL = np.asarray(
    Image.fromarray(np.roll(section(side=200)[0], (25, -20), (0, 1))).resize(
        (1600, 1600), Image.Resampling.BICUBIC
    )
)


def shrunk(pixels: np.ndarray, by: int) -> np.ndarray:
    size = pixels.shape[1] // by, pixels.shape[0] // by
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def filtered(kind: ImageFilter.Filter) -> Callable[[np.ndarray], np.ndarray]:
    return lambda level: np.asarray(Image.fromarray(level).filter(kind))


def jpeg(level: np.ndarray) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(level).save(file, "JPEG", quality=25)
    return np.asarray(Image.open(file))


SMALL = shrunk(FULL, DOWN)
OTHERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upside down": lambda level: np.ascontiguousarray(level[::-1]),
    "mirrored": lambda level: np.ascontiguousarray(level[:, ::-1]),
    "half a turn": lambda level: np.ascontiguousarray(level[::-1, ::-1]),
    "another slide": lambda level: shrunk(section(side=2 * len(level), seed=9)[0], 2),
    "white": lambda level: np.full_like(level, 255),
    "glass": lambda level: np.full_like(level, 240),
}
SAME: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda level: level,
    "sharpened": filtered(ImageFilter.UnsharpMask(2, 200, 0)),
    "blurred": filtered(ImageFilter.GaussianBlur(1)),
    "compressed": jpeg,
    "picked": lambda level: np.ascontiguousarray(FULL[DOWN // 2 :: DOWN, DOWN // 2 :: DOWN]),
    "a pixel beside it": lambda level: np.roll(level, (1, 1), (0, 1)),
    "darker": lambda level: (level * 0.6).astype(np.uint8),
}


def prepare_at(slide: Slide, view: int, *settings: str) -> None:
    base = [
        f"view.downsample={view}",
        "tile.downsample=1",
        "attention.stride=8",
        "tile.px=16",
        "tissue.min_object=16",
    ]
    prepare(slide, load_config(overrides=[*base, *settings]))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("levels", [1, 2])
def test_a_level_of_another_picture_is_refused(name: str, levels: int, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [FULL, OTHERS[name](SMALL)], "deflate")
    two = ["attention.levels=2", "attention.network=wide", "regions.side=2", "regions.shrink=2"]
    with open_slide(path) as slide, pytest.raises(SlideError) as caught:
        prepare_at(slide, DOWN, *(two if levels == 2 else []))
    assert "'a.tif': level 1 (200 x 200 px) shows another picture than level 0" in caught.value.message
    assert "transparent" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("name", SAME)
def test_a_level_made_in_another_way_is_the_same_picture(name: str) -> None:
    with open_slide([FULL, SAME[name](SMALL)]) as slide:
        prepare_at(slide, DOWN)


def test_the_level_of_the_tiles_is_looked_at_too() -> None:
    half = np.ascontiguousarray(shrunk(FULL, 2)[::-1])
    with open_slide([FULL, half, SMALL]) as slide:
        prepare_at(slide, DOWN)  # which reads nothing of it
        with pytest.raises(SlideError, match=r"level 1 .* shows another picture than level 0"):
            prepare_at(slide, DOWN, "tile.downsample=2")


def test_what_has_no_texture_has_no_say() -> None:
    blank = np.full((1600, 1600, 3), 240, np.uint8)
    with open_slide([blank, shrunk(blank, DOWN) + np.uint8(10)]) as slide, pytest.raises(NoTissueError):
        prepare_at(slide, DOWN)


def test_it_costs_a_few_tiles_of_the_finer_level() -> None:
    with open_slide([FULL, SMALL]) as slide:
        centres = np.asarray([[500.0, 600.0], [800.0, 800.0], [900.0, 700.0], [700.0, 1000.0]])
        check_levels(slide, [(DOWN, DOWN), (1, 1)], centres)
        assert 0 < slide.bytes_read <= 4 * 3 * (256 * 256 + 16 * 16)


def test_damage_is_passed_over(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [FULL, SMALL], "deflate")
    with open_slide(path, "tiff") as slide:
        image = slide.address.index.levels[0]  # type: ignore[attr-defined]
    with path.open("r+b") as file:
        for offset in image.offsets.tolist():
            file.seek(offset)
            file.write(b"\xff" * 8)
    with open_slide(path, "tiff", tolerate_bad_tiles=10_000) as slide:
        prepare_at(slide, DOWN)


def test_real_levels_are_the_same_picture() -> None:
    path = shared_data("slides/hamamatsu-fluorescence/dapi.ndpi")
    with open_slide(path, "openslide") as slide:
        centres = np.stack(np.meshgrid(*(np.linspace(0, side, 9)[1:-1] for side in slide.size)), 2).reshape(
            -1, 2
        )
        for level in slide.levels[1:]:
            check_levels(slide, [level.downsample], centres)
        check_levels(slide, [level.downsample for level in slide.levels], np.empty((0, 2)))
