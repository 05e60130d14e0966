"""A file of several images: the largest is the slide, with its own scale; smaller ones of its proportions are levels.

All others are associated images, whatever the file calls them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ome_zarr import multiscale, write_image
from tests.support.tiffs import edit_tag, picture, write_ome, write_philips, write_pyramid
from wsi_ats.errors import SlideError
from wsi_ats.geometry import ROUNDED, Pyramid
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide

WHOLE = picture(320, 320)
HALF, QUARTER = (np.ascontiguousarray(WHOLE[::n, ::n]) for n in (2, 4))
MACRO = picture(100, 130, 5)
"""Larger than a quarter of the slide, of other proportions."""
TILED: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "software": False}


def sizes_of(slide: Slide) -> list[tuple[int, int]]:
    return [(level.size.width, level.size.height) for level in slide.levels]


def assert_is(slide: Slide, levels: list[np.ndarray]) -> None:
    assert sizes_of(slide) == [(level.shape[1], level.shape[0]) for level in levels]
    for index, level in enumerate(levels):
        found = slide.read((0, 0), sizes_of(slide)[index], index)
        assert np.abs(found.astype(int) - level).max() == 0


# ---- TIFF


APERIO = "Aperio Image Library v10.0\r\n{} |AppMag = 20|MPP = 0.5000"


def svs(
    path: Path, order: str = "slide thumbnail half quarter macro", description: str = "Aperio\nmacro 130x100"
) -> Path:
    """An SVS whose macro image is tiled."""
    with tifffile.TiffWriter(path) as file:
        for what in order.split():
            match what:
                case "slide":
                    file.write(WHOLE, description=APERIO.format("320x320"), **TILED)
                case "thumbnail":
                    file.write(
                        picture(60, 60), description="Aperio thumbnail", photometric="rgb", metadata=None
                    )
                case "macro":
                    file.write(MACRO, subfiletype=9, description=description, **TILED)
                case _:
                    level = HALF if what == "half" else QUARTER
                    file.write(level, description=f"Aperio Image Library {what}", **TILED)
    return path


@pytest.mark.parametrize(
    "order",
    [
        "slide thumbnail half quarter macro",
        "slide thumbnail macro half quarter",
        "slide thumbnail half macro quarter",
    ],
)
@pytest.mark.parametrize("description", ["Aperio\nmacro 130x100", "Aperio"])
def test_a_tiled_macro_of_an_svs_is_no_level(order: str, description: str, tmp_path: Path) -> None:
    with open_slide(svs(tmp_path / "a.svs", order, description)) as slide:
        assert_is(slide, [WHOLE, HALF, QUARTER])
        assert slide.mpp == 0.5
        assert set(slide.associated_images) >= {"macro"}
        np.testing.assert_array_equal(slide.associated_images["macro"], MACRO)


@pytest.mark.parametrize("backend", [None, "openslide"])
def test_an_unnamed_image_of_other_proportions_is_no_level_either(
    backend: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(WHOLE, **TILED)
        for level in (HALF, MACRO, QUARTER[:60]):
            file.write(level, subfiletype=1, **TILED)
    with open_slide(path, backend) as slide:
        assert_is(slide, [WHOLE, HALF])
        assert any("image 3 (130 x 100 px)" in note and "no level of image 1" in note for note in slide.notes)
        np.testing.assert_array_equal(slide.associated_images["image 3"], MACRO)
        assert slide.associated_images["image 4"].shape == (60, 80, 3)


def test_levels_that_do_not_say_what_they_are_are_levels(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for level in (WHOLE, HALF, QUARTER):
            file.write(level, **TILED)
    with open_slide(tmp_path / "a.tif") as slide:
        assert_is(slide, [WHOLE, HALF, QUARTER])
        assert slide.backend == "tiff"
        assert slide.notes == ()


@pytest.mark.parametrize(
    ("side", "more", "before"),
    [
        (213, {}, False),  # two thirds
        (160, {"description": "overview"}, False),
        (160, {"subfiletype": 2}, False),
        (160, {}, True),
    ],
)
def test_others_that_do_not_say_what_they_are_are_none(
    side: int, more: dict[str, Any], before: bool, tmp_path: Path
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for level, says in [(WHOLE, {}), (picture(side, side), more)][:: -1 if before else 1]:
            file.write(level, **says, **TILED)
    with open_slide(tmp_path / "a.tif") as slide:
        assert_is(slide, [WHOLE])
        assert more.get("description") or any("no level of" in note for note in slide.notes)


def test_images_of_an_ome_tiff_that_could_be_levels_are_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        for level in (WHOLE, HALF):
            file.write(level, **{**TILED, "metadata": {"axes": "YXS"}})
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert_is(slide, [WHOLE])
        assert any("image 2 (160 x 160 px) could be levels of image 1" in note for note in slide.notes)


def test_a_mask_is_no_level(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(WHOLE, **TILED)
        file.write(HALF[..., 0], subfiletype=1, **{**TILED, "photometric": "minisblack"})
        file.write(255 - HALF, subfiletype=1, **TILED)
    edit_tag(tmp_path / "a.tif", 2, "NewSubfileType", 5)
    with open_slide(tmp_path / "a.tif") as slide:
        assert_is(slide, [WHOLE])


@pytest.mark.parametrize("flag", [0, 1])
def test_a_slide_behind_its_macro_is_found(flag: int, tmp_path: Path) -> None:
    """The scale is that of the image that is read."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        unit = {"resolutionunit": "CENTIMETER"}
        file.write(MACRO, resolution=(2500, 2500), description="macro", **unit, **TILED)
        file.write(WHOLE, resolution=(20_000, 20_000), subfiletype=flag, **unit, **TILED)
        file.write(HALF, resolution=(10_000, 10_000), subfiletype=1, **unit, **TILED)
    with open_slide(tmp_path / "a.tif") as slide:
        assert_is(slide, [WHOLE, HALF])
        assert slide.mpp_xy == pytest.approx((0.5, 0.5))
        assert slide.notes == ("the largest image of the file is read: image 2 (320 x 320 px)",)
        np.testing.assert_array_equal(slide.associated_images["macro"], MACRO)


def test_openslide_is_not_let_take_another_image(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(MACRO, **TILED)
        file.write(WHOLE, **TILED)
    with pytest.raises(
        SlideError, match=r"OpenSlide reads 130 x 100 px of it instead of image 2 \(320 x 320 px\)"
    ):
        open_slide(tmp_path / "a.tif", "openslide")


def test_a_larger_image_in_strips_is_not_passed_over(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(MACRO, **TILED)
        file.write(WHOLE, photometric="rgb", metadata=None)
    with pytest.raises(SlideError, match=r"image 2 \(320 x 320 px\), the largest, is stored in strips"):
        open_slide(tmp_path / "a.tif")


def ome(path: Path, images: list[tuple[np.ndarray, str, float]], **more: Any) -> Path:
    with tifffile.TiffWriter(path, ome=True) as file:
        for pixels, name, mpp in images:
            options = {**TILED, **more}
            options["metadata"] = {"axes": "YXS", "Name": name, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            file.write(pixels, **options)
    return path


@pytest.mark.parametrize("names", [("macro", "slide"), ("", ""), ("slide", "macrophage label study")])
def test_the_largest_image_of_an_ome_tiff_is_read_with_its_own_scale(
    names: tuple[str, str], tmp_path: Path
) -> None:
    path = ome(tmp_path / "a.ome.tif", [(MACRO, names[0], 4.0), (WHOLE, names[1], 0.5)])
    with open_slide(path) as slide:
        assert_is(slide, [WHOLE])
        assert (slide.mpp, slide.mpp_source) == (0.5, "OME-XML PhysicalSizeX")
        assert any("the largest image of the file is read: image 2" in note for note in slide.notes)
        np.testing.assert_array_equal(slide.associated_images[names[0] or "image 1"], MACRO)
    with open_slide(ome(tmp_path / "b.ome.tif", [(WHOLE, "slide", 0.5), (MACRO, "macro", 4.0)])) as slide:
        assert_is(slide, [WHOLE])
        assert (slide.mpp, slide.notes) == (0.5, ())
        np.testing.assert_array_equal(slide.associated_images["macro"], MACRO)


def test_an_image_named_macro_is_no_slide_however_large(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", [(HALF, "field 1", 0.5), (WHOLE, "Macro image", 4.0)])
    with open_slide(path) as slide:
        assert_is(slide, [HALF])
        assert slide.mpp == 0.5


def test_of_images_of_one_size_the_scale_is_that_of_the_one_that_is_read(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", [(HALF, "a", 4.0), (WHOLE, "b", 0.5), (255 - WHOLE, "c", 2.0)])
    with open_slide(path) as slide:
        assert_is(slide, [WHOLE])
        assert slide.mpp == 0.5


def test_an_xml_that_speaks_of_another_size_is_told(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", [(WHOLE, "a", 0.5)])
    content = path.read_bytes()
    assert content.count(b'SizeX="320"') == 1
    path.write_bytes(content.replace(b'SizeX="320"', b'SizeX="640"'))
    with open_slide(path) as slide:
        assert any("OME-XML says 640 x 320 px of image 1" in note for note in slide.notes)


def test_a_subifd_of_other_proportions_is_no_level(tmp_path: Path) -> None:
    with open_slide(write_ome(tmp_path / "a.ome.tif", [WHOLE, HALF, MACRO, QUARTER], "deflate")) as slide:
        assert_is(slide, [WHOLE, HALF, QUARTER])
        assert any("1 smaller image(s) left out" in note for note in slide.notes)


@pytest.mark.parametrize(("uuid", "here"), [("urn:a", True), ("urn:b", False)])
def test_pixels_in_another_file_are_not_sought_in_this_one(uuid: str, here: bool, tmp_path: Path) -> None:
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:a"><Image><Pixels SizeX="320" '
        f'SizeY="320" SizeC="3"><TiffData IFD="0"><UUID>{uuid}</UUID></TiffData></Pixels></Image></OME>'
    )
    path = write_pyramid(tmp_path / "a.ome.tif", [WHOLE], "deflate", description=xml)
    if here:
        with open_slide(path) as slide:
            assert_is(slide, [WHOLE])
        return
    with pytest.raises(SlideError, match="names no image that is in this file"):
        open_slide(path)


def test_levels_of_philips_are_padded_and_stay_levels(tmp_path: Path) -> None:
    write_philips(tmp_path / "a.tiff", picture(448, 640))
    with open_slide(tmp_path / "a.tiff") as slide:
        assert sizes_of(slide) == [(640, 448), (320, 224), (160, 112)]
        assert slide.notes == ()


# ---- OME-Zarr


def store(root: Path, images: list[tuple[np.ndarray, float]], names: list[str] | None = None) -> Path:
    """What bioformats2raw makes of a file of several images."""
    zarr.create_group(root, zarr_format=2, attributes={"bioformats2raw.layout": 3})
    for number, (pixels, mpp) in enumerate(images):
        levels = [pixels, np.ascontiguousarray(pixels[::2, ::2])]
        write_image(root, levels, "tczyx", {"c": 1}, 2, mpp, inside=str(number))
    if names is not None:
        (root / "OME").mkdir()
        texts = [
            f'<Image Name="{name}"><Pixels SizeX="{pixels.shape[1]}" SizeY="{pixels.shape[0]}" '
            f'PhysicalSizeX="{mpp}" PhysicalSizeY="{mpp}"/></Image>'
            for name, (pixels, mpp) in zip(names, images, strict=True)
        ]
        (root / "OME" / "METADATA.ome.xml").write_text(f"<OME>{''.join(texts)}</OME>")
    return root


def test_the_largest_image_of_a_store_is_read(tmp_path: Path) -> None:
    root = store(tmp_path / "a.zarr", [(MACRO, 4.0), (WHOLE, 0.5)], ["macro image", "slide"])
    with open_slide(root) as slide:
        assert_is(slide, [WHOLE, HALF])
        assert slide.mpp == 0.5
        assert slide.notes == ("the largest image of the store is read: image 2 of the store (320 x 320 px)",)
        np.testing.assert_array_equal(slide.associated_images["macro image"], MACRO)
    with open_slide(store(tmp_path / "b.zarr", [(WHOLE, 0.5), (MACRO, 4.0)])) as slide:
        assert_is(slide, [WHOLE, HALF])
        assert slide.notes == ()


def test_the_largest_of_several_multiscales_is_read(tmp_path: Path) -> None:
    root = write_image(tmp_path / "a.zarr", [WHOLE, HALF])
    group = zarr.open_group(root, mode="a")
    small = np.ascontiguousarray(MACRO.transpose(2, 0, 1))
    group.create_array("macro", shape=small.shape, dtype=small.dtype)[...] = small
    (own,) = group.attrs["ome"]["multiscales"]
    other = multiscale("cyx", [(4.0, 4.0)])
    other["datasets"][0]["path"], other["name"] = "macro", "macro"
    for order in ([own, other], [other, own]):
        group.attrs["ome"] = {"version": "0.5", "multiscales": order}
        with open_slide(root) as slide:
            assert_is(slide, [WHOLE, HALF])
            assert slide.mpp == 0.25
            np.testing.assert_array_equal(slide.associated_images["macro"], MACRO)


@pytest.mark.parametrize("other", [MACRO, WHOLE])
def test_an_array_of_other_proportions_or_the_same_size_is_no_level(
    other: np.ndarray, tmp_path: Path
) -> None:
    with open_slide(write_image(tmp_path / "a.zarr", [WHOLE, other, HALF])) as slide:
        assert_is(slide, [WHOLE, HALF])
        assert any("level(s) 1 left out" in note for note in slide.notes)


def test_scales_that_contradict_the_sizes_are_told(tmp_path: Path) -> None:
    root = write_image(tmp_path / "a.zarr", [WHOLE, HALF])
    group = zarr.open_group(root, mode="a")
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale("cyx", [(0.25, 0.25), (0.25, 0.25)])]}
    with open_slide(root) as slide:
        assert slide.levels[1].downsample == (2, 2)
        assert slide.notes == ("the scales of its levels contradict their sizes, which are taken",)


def test_stains_in_a_store_are_no_colours(tmp_path: Path) -> None:
    root = write_image(tmp_path / "a.zarr", [WHOLE])
    group = zarr.open_group(root, mode="a")
    channels = [
        {"label": label, "color": colour}
        for label, colour in zip(("DAPI", "FITC", "Cy5"), ("0000FF",) * 3, strict=True)
    ]
    group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": channels}}
    with pytest.raises(
        SlideError, match=r"three channels \(DAPI, FITC, Cy5\) that are not red, green and blue"
    ):
        open_slide(root)


# ---- the rule


sides = st.integers(64, 200_000)
roundings: list[Callable[[float], int]] = [math.floor, math.ceil, round]


@given(sides, sides, st.lists(st.tuples(st.integers(2, 4), st.sampled_from(roundings)), max_size=6))
def test_halved_and_rounded_again_and_again_it_stays_a_level(
    width: int, height: int, steps: list[tuple[int, Callable[[float], int]]]
) -> None:
    sizes = [(width, height)]
    for factor, rounding in steps:
        sizes.append((max(rounding(sizes[-1][0] / factor), 1), max(rounding(sizes[-1][1] / factor), 1)))
    distinct = list(dict.fromkeys(sizes))
    assert Pyramid.fitting(distinct) == list(range(len(distinct)))


@given(sides, sides, st.integers(1, 5000), st.integers(1, 5000))
def test_what_fits_no_downsample_is_no_level(width: int, height: int, w: int, h: int) -> None:
    """Against trying a hundred thousand downsamples."""
    downsamples = np.geomspace(1, 2 * max(width / w, height / h, 1), 100_000)
    off = np.maximum(abs(width / downsamples - w), abs(height / downsamples - h))
    fits = Pyramid.fitting([(width, height), (w, h)]) == [0, 1]
    smaller = w <= width and h <= height and (w, h) != (width, height)
    if not smaller or off.min() > ROUNDED + 1:
        assert not fits
    elif off.min() < ROUNDED - 1:
        assert fits
