"""Two statements of the scale: the better one holds, and the user is told of the other, whatever the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.field.test_images import store
from tests.support.tiffs import picture, write_aperio
from wsi_ats.errors import MissingMppError, SlideError
from wsi_ats.lowres.view import resolve_downsample
from wsi_ats.slides import open_slide
from wsi_ats.slides.scale import (
    PLAUSIBLE_MPP,
    Reading,
    expected_power,
    magnification_of,
    readings_of,
    scale_of,
)

WHOLE = picture(128, 192)
CM = {"resolutionunit": "CENTIMETER"}


def write(path: Path, **more: Any) -> Path:
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None, **more}
    tifffile.imwrite(path, WHOLE, **options)
    return path


def ome(path: Path, mpp: tuple[float, float] = (0.25, 0.25), unit: str = "µm", **more: Any) -> Path:
    metadata = {"axes": "YXS", "PhysicalSizeX": mpp[0], "PhysicalSizeY": mpp[1]}
    metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    return write(path, metadata=metadata, ome=True, **more)


@pytest.mark.parametrize("backend", ["tiff", "openslide"])
def test_what_the_format_says_beats_the_resolution_tags(backend: str, tmp_path: Path) -> None:
    """Also those of which OpenSlide makes its mpp: 40,000 per inch are written where per cm is meant."""
    path = ome(tmp_path / "a.ome.tif", resolution=(40_000, 40_000), resolutionunit="INCH")
    with open_slide(path, backend) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.635)
        assert (slide.mpp_xy, slide.mpp_source) == ((0.25, 0.25), "OME-XML PhysicalSizeX")
        assert slide.notes == ("tiff.XResolution says 0.635 x 0.635 um/px",)


def test_statements_that_agree_are_not_told(tmp_path: Path) -> None:
    with open_slide(ome(tmp_path / "a.ome.tif", resolution=(40_000, 40_000), **CM)) as slide:
        assert (slide.mpp, slide.notes) == (0.25, ())
    with open_slide(ome(tmp_path / "b.ome.tif", resolution=(72, 72), resolutionunit="INCH")) as slide:
        assert (slide.mpp, slide.notes) == (0.25, ()), "72 dpi is no statement of a microscope's"


def test_an_aperio_slide_against_its_tags(tmp_path: Path) -> None:
    text = "Aperio Image Library v12\r\n192x128|AppMag = 40|MPP = 0.5"
    with open_slide(write(tmp_path / "a.svs", description=text, resolution=(40_000, 40_000), **CM)) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "openslide.mpp-x")
        assert slide.notes == (
            "tiff.XResolution says 0.25 x 0.25 um/px",
            "0.5 um/px is far from the 0.25 of an objective of 40x",
        )
    with open_slide(write_aperio(tmp_path / "b.svs", [WHOLE])) as slide:
        assert slide.notes == ()


@pytest.mark.parametrize(("mpp", "said"), [(30.0, "30 x 30"), (250.0, "250 x 250"), (0.01, "0.01 x 0.01")])
def test_what_is_implausible_is_told_and_not_called_absent(mpp: float, said: str, tmp_path: Path) -> None:
    doubt = f"OME-XML PhysicalSizeX says {said} um/px, which is implausible (0.05 to 20 are believed)"
    with open_slide(ome(tmp_path / "a.ome.tif", (mpp, mpp))) as slide:
        assert (slide.mpp, slide.notes) == (None, (doubt,))
        with pytest.raises(MissingMppError) as caught:
            resolve_downsample(slide, mpp=0.5, downsample=None, setting="tile")
        assert doubt in caught.value.message
        assert "--mpp" in caught.value.remedy
        with pytest.raises(MissingMppError) as caught:
            slide.read_at_mpp((0, 0), (8, 8), 1.0)
        assert doubt in caught.value.message
    with open_slide(tmp_path / "a.ome.tif", default_mpp=0.5) as slide:
        assert (slide.mpp, slide.mpp_source, slide.notes) == (0.5, "given as default", (doubt,))
    with open_slide(tmp_path / "a.ome.tif", mpp=0.5) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "given")


def test_an_implausible_statement_of_the_format_is_told_beside_the_tags(tmp_path: Path) -> None:
    with open_slide(ome(tmp_path / "a.ome.tif", (250.0, 250.0), resolution=(40_000, 40_000), **CM)) as slide:
        assert (slide.mpp_xy, slide.mpp_source) == (pytest.approx((0.25, 0.25)), "tiff.XResolution")
        (note,) = slide.notes
        assert note.startswith("OME-XML PhysicalSizeX says 250 x 250 um/px, which is implausible")


def test_pixels_that_are_not_square_are_told(tmp_path: Path) -> None:
    with open_slide(ome(tmp_path / "a.ome.tif", (0.25, 0.5))) as slide:
        assert slide.mpp_xy == (0.25, 0.5)
        assert slide.notes == ("pixels are not square: OME-XML PhysicalSizeX says 0.25 x 0.5 um/px",)
    with open_slide(ome(tmp_path / "b.ome.tif", (0.25, 0.255))) as slide:
        assert slide.notes == ()


@pytest.mark.parametrize(
    ("power", "mpp", "told"),
    [
        (40, 0.25, False),
        (40, 0.16, False),
        (20, 0.346, False),
        (20, 0.25, True),
        (40, 0.5, True),
        (None, 2.0, False),
    ],
)
def test_the_objective_is_told_where_it_is_far_from_the_scale(
    power: float | None, mpp: float, told: bool
) -> None:
    scale = scale_of([Reading((mpp, mpp), "aperio.MPP")], power=power)
    assert scale.mpp == (mpp, mpp)
    assert bool(scale.notes) == told
    assert bool(scale_of([], given=(mpp, mpp), power=power).notes) == told


def test_a_camera_adaptor_is_not_held_against_a_slide() -> None:
    """MIRAX names the lens alone: 20x with an adaptor of 1.6x has 0.24 um/px."""
    properties = {"openslide.vendor": "mirax", "openslide.objective-power": "20", "openslide.mpp-x": "0.2425"}
    properties["openslide.mpp-y"] = "0.2425"
    assert magnification_of(properties)[0] == 20
    assert scale_of(readings_of(properties), power=expected_power(properties)).notes == ()
    properties["openslide.vendor"] = "aperio"
    assert len(scale_of(readings_of(properties), power=expected_power(properties)).notes) == 1


def test_the_xml_beside_a_store_against_its_scale(tmp_path: Path) -> None:
    root = store(tmp_path / "a.zarr", [(WHOLE[:64, :64], 4.0), (WHOLE, 0.5)], ["macro", "slide"])
    with open_slide(root) as slide:
        assert not any("OME-XML" in note for note in slide.notes)
    text = (root / "OME" / "METADATA.ome.xml").read_text()
    (root / "OME" / "METADATA.ome.xml").write_text(text.replace('"0.5"', '"0.25"'))
    with open_slide(root) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "ngff scale")
        assert "OME-XML PhysicalSizeX says 0.25 x 0.25 um/px" in slide.notes


readings = st.builds(
    Reading,
    st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)),
    st.sampled_from(["aperio.MPP", "OME-XML PhysicalSizeX", "ngff scale", "tiff.XResolution"]),
)


@given(st.lists(readings, max_size=4, unique_by=lambda reading: reading.source))
def test_no_statement_that_differs_is_passed_over(stated: list[Reading]) -> None:
    """By the definition: every one that is not the one that holds, differs by 5 % and is no resolution for print."""
    scale = scale_of(stated)
    plausible = [r for r in stated if all(PLAUSIBLE_MPP[0] <= v <= PLAUSIBLE_MPP[1] for v in r.mpp)]
    assert (scale.mpp, scale.source) == (
        (plausible[0].mpp, plausible[0].source) if plausible else (None, "none")
    )
    for reading in stated:
        ratio = np.divide(reading.mpp, scale.mpp or (1, 1))
        differs = max(ratio.max(), 1 / ratio.min()) > 1.05
        doubted = reading not in plausible and reading.source != "tiff.XResolution"
        if scale.mpp is None or doubted or (reading in plausible and differs):
            assert any(str(reading) in note for note in scale.notes)


def imagej(path: Path, unit: str, resolution: float, resolution_unit: int) -> Path:
    """A TIFF as ImageJ writes it: pixels a unit in the resolution tags, the unit in the description."""
    text = f"ImageJ=1.54f\nunit={unit}\nloop=false\n"
    tifffile.imwrite(
        path, np.full((64, 64, 3), 240, np.uint8), tile=(32, 32), photometric="rgb", metadata=None,
        description=text, resolution=(resolution, resolution), resolutionunit=resolution_unit,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("unit", ["micron", "um", "\\u00B5m", "microns"])
def test_the_unit_of_imagej_is_a_scale(unit: str, tmp_path: Path) -> None:
    with open_slide(imagej(tmp_path / "a.tif", unit, 2.0, 1)) as slide:
        assert slide.mpp_xy == pytest.approx((0.5, 0.5))
        assert "ImageJ" in slide.mpp_source


@pytest.mark.parametrize(("unit", "told"), [("pixel", "unit 'pixel' of ImageJ"), ("", "unit 'none'")])
def test_tags_in_no_unit_are_shown_where_the_scale_is_missed(unit: str, told: str, tmp_path: Path) -> None:
    with open_slide(imagej(tmp_path / "a.tif", unit, 2.0, 1)) as slide:
        assert slide.mpp is None
        with pytest.raises(MissingMppError) as caught:
            slide.read_at_mpp((0, 0), (8, 8), 1.0)
    assert "tiff.XResolution is 2 x 2" in caught.value.message
    assert told in caught.value.message
    with open_slide(imagej(tmp_path / "b.tif", unit, 1.0, 1)) as slide:
        assert not slide.notes  # as any writer has it that knows nothing


@pytest.mark.parametrize("wins", [True, False])
@pytest.mark.parametrize(
    ("mpp", "told"), [(5.0, True), (0.01, True), (0.25, False), (2.5, False), (0.1, False)]
)
def test_a_scale_that_no_slide_is_scanned_at_is_told(mpp: float, told: bool, wins: bool) -> None:
    scale = scale_of([], (mpp, mpp)) if wins else scale_of([], None, (mpp, mpp))
    assert any("implausible for a scanned slide" in note for note in scale.notes) == told


def test_the_doubt_goes_with_the_error_that_it_leads_to() -> None:
    pixels = np.full((64, 64, 3), 240, np.uint8)
    with open_slide(pixels, mpp=5.0) as slide, pytest.raises(SlideError) as caught:
        resolve_downsample(slide, mpp=0.5, downsample=None, setting="tile")
    assert "implausible for a scanned slide" in caught.value.message
    assert "2.54" in caught.value.remedy
