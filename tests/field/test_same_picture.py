"""Levels that show another picture than level 0, or none, be it in a part, or other colours: refused when a slide is
prepared, with the level's number, or told."""

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
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.lowres.same_picture import check_levels
from wsi_ats.lowres.survey import survey
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
Change = Callable[[np.ndarray], np.ndarray]
OTHERS: dict[str, Change] = {
    "upside down": lambda level: np.ascontiguousarray(level[::-1]),
    "mirrored": lambda level: np.ascontiguousarray(level[:, ::-1]),
    "half a turn": lambda level: np.ascontiguousarray(level[::-1, ::-1]),
    "another slide": lambda level: shrunk(section(side=2 * len(level), seed=9)[0], 2),
    "white": lambda level: np.full_like(level, 255),
    "glass": lambda level: np.full_like(level, 240),
    "inverted": lambda level: 255 - level,
}
SAME: dict[str, Change] = {
    "mean": lambda level: level,
    "sharpened": filtered(ImageFilter.UnsharpMask(2, 200, 0)),
    "blurred": filtered(ImageFilter.GaussianBlur(1)),
    "compressed": jpeg,
    "picked": lambda level: np.ascontiguousarray(FULL[DOWN // 2 :: DOWN, DOWN // 2 :: DOWN]),
    "a pixel beside it": lambda level: np.roll(level, (1, 1), (0, 1)),
}


def in_a_part(change: Change, *, rows: float = 1, cols: float = 1) -> Change:
    """A change of the level's upper rows and left columns, shares of it, alone."""

    def changed(level: np.ndarray) -> np.ndarray:
        level, high, wide = level.copy(), round(rows * len(level)), round(cols * len(level))
        level[:high, :wide] = change(level)[:high, :wide]
        return level

    return changed


def blank(*colour: int) -> Change:
    return lambda level: np.broadcast_to(np.uint8(colour), level.shape)


IN_A_PART: dict[str, Change] = {
    "half white": in_a_part(blank(255), rows=0.5),
    "half black": in_a_part(blank(0), cols=0.5),
    "half of the glass's colour": in_a_part(blank(243, 242, 241), rows=0.5),
    "half pink": in_a_part(blank(210, 160, 200), cols=0.5),
    "a quarter white": in_a_part(blank(255), rows=0.55, cols=0.55),
    "all but a quarter white": lambda level: np.where(
        np.mgrid[:200, :200].min(0)[..., None] < 110, 255, level
    ),
    "half of another part": in_a_part(lambda level: np.roll(level, (30, 20), (0, 1)), rows=0.5),
    "half mirrored": in_a_part(lambda level: level[:, ::-1], rows=0.5),
    "half upside down": in_a_part(lambda level: level[::-1], cols=0.5),
}
RECOLOURED: dict[str, Change] = {
    "darker": lambda level: level * 0.6,
    "dimmer": lambda level: level * 0.85,
    "gamma": lambda level: 255 * (level / 255) ** 1.8,
    "brighter": lambda level: 255 * (level / 255) ** 0.5,
    "tinted": lambda level: level * (1, 0.65, 1),
    "half of it tinted": in_a_part(lambda level: level * (1, 0.65, 1), cols=0.5),
    "another stain": lambda level: 255 * (level / 255) ** (0.4, 1, 1.6),
}


def prepare_at(slide: Slide, view: int, *settings: str) -> PreparedSlide:
    base = [
        f"view.downsample={view}",
        "tile.downsample=1",
        "attention.stride=8",
        "tile.px=16",
        "tissue.min_object=16",
    ]
    return prepare(slide, load_config(overrides=[*base, *settings]))


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
        assert not prepare_at(slide, DOWN).notes


@pytest.mark.parametrize("name", IN_A_PART)
def test_a_level_of_another_picture_in_a_part_is_refused(name: str) -> None:
    level = np.ascontiguousarray(IN_A_PART[name](SMALL), np.uint8)
    with open_slide([FULL, level]) as slide, pytest.raises(SlideError) as caught:
        prepare_at(slide, DOWN)
    reasons = (
        "is blank where level 0 is not",
        "in a part another picture than level 0",
        "another picture than level 0",
    )
    assert any(
        f"level 1 (200 x 200 px) {verb}{reason}" in caught.value.message
        for verb in ("", "shows ")
        for reason in reasons
    )
    assert caught.value.remedy


def test_a_finest_level_that_is_blank_in_a_part_is_refused() -> None:
    full = in_a_part(blank(255), rows=0.5)(FULL)
    with (
        open_slide([full, SMALL]) as slide,
        pytest.raises(SlideError, match="shows in a part another picture"),
    ):
        prepare_at(slide, DOWN)


def test_a_few_tiles_that_a_level_lacks_are_told() -> None:
    level = SMALL.copy()
    level[96:136, 72:120] = 255
    with open_slide([FULL, level]) as slide:
        (note,) = prepare_at(slide, DOWN).notes
    assert "level 1 (200 x 200 px) is blank where level 0 is not: at " in note


def test_what_is_blank_in_all_levels_is_no_fault() -> None:
    full, level = (in_a_part(blank(255), rows=0.5)(pixels) for pixels in (FULL, SMALL))
    with open_slide([full, level]) as slide:
        assert not prepare_at(slide, DOWN).notes


@pytest.mark.parametrize("order", ["BGR", "GRB", "GBR"])
def test_a_level_with_its_colours_in_another_order_is_refused(order: str) -> None:
    level = np.ascontiguousarray(SMALL[..., ["RGB".index(colour) for colour in order]])
    with open_slide([FULL, level]) as slide, pytest.raises(SlideError) as caught:
        prepare_at(slide, DOWN)
    assert f"has its colours in another order than level 0: {order} for RGB" in caught.value.message


@pytest.mark.parametrize("name", RECOLOURED)
def test_other_colours_are_told(name: str) -> None:
    level = np.asarray(RECOLOURED[name](SMALL)).clip(0, 255).astype(np.uint8)
    with open_slide([FULL, level]) as slide:
        notes = prepare_at(slide, DOWN).notes
    (note,) = (note for note in notes if "colours" in note and "level" in note)
    assert note.startswith("level 1 (200 x 200 px) has other colours than level 0 at ")
    assert note.count("(") == 3, "both mean colours"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("half white", "no model reads this slide: "),
        ("tinted", "has other colours than level 0"),
        ("mean", ""),
    ],
)
def test_info_says_it_too(name: str, words: str) -> None:
    level = np.asarray((IN_A_PART | RECOLOURED | SAME)[name](SMALL)).clip(0, 255).astype(np.uint8)
    with open_slide([FULL, level], mpp=1.0) as slide:
        found = survey(slide)
    assert found is not None
    assert [note for note in found.notes if "level 1" in note] == list(found.levels)
    assert all(words in note for note in found.levels) if words else not found.levels
    assert bool(found.levels) is bool(words)


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
        assert 0 < slide.bytes_read <= 5 * 3 * (256 * 256 + 16 * 16)


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
