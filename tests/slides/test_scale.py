"""Where the size of a pixel comes from, on texts as scanners write them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.support.helpers import shared_data
from tests.support.strategies import noise
from wsi_ats.slides import open_slide
from wsi_ats.slides.scale import magnification_of, parse_xml, readings_of, scale_of

OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
 <Instrument ID="I:0"><Objective ID="O:0" NominalMagnification="40.0"/></Instrument>
 <Image ID="Image:0"><Pixels ID="Pixels:0" SizeX="600" SizeY="400" PhysicalSizeX="30" PhysicalSizeY="30"/></Image>
 <Image ID="Image:1"><Pixels ID="Pixels:1" SizeX="6000" SizeY="4000" {sizes}/></Image>
</OME>"""
PHILIPS = """<?xml version="1.0" encoding="UTF-8" ?>
<DataObject ObjectType="DPUfsImport"><Attribute Name="PIM_DP_SCANNED_IMAGES"><Array>
 <DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">MACROIMAGE</Attribute>
  <Attribute Name="DICOM_PIXEL_SPACING">&quot;0.03&quot; &quot;0.03&quot;</Attribute></DataObject>
 <DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>
  {own}<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>
   <DataObject><Attribute Name="DICOM_PIXEL_SPACING">&quot;0.0005&quot; &quot;0.0006&quot;</Attribute></DataObject>
   <DataObject><Attribute Name="DICOM_PIXEL_SPACING">&quot;0.00025&quot; &quot;0.0003&quot;</Attribute></DataObject>
  </Array></Attribute></DataObject>
</Array></Attribute></DataObject>"""
OWN = '<Attribute Name="DICOM_PIXEL_SPACING">"0.00022" "0.00024"</Attribute>'
APERIO = (
    "Aperio Image Library v11.2.1\n46000x32914 [42673,5576 2220x2967] (240x240) JPEG/RGB Q=30;"
    "|AppMag = 20|StripeWidth = 2040|MPP = 0.4990|Left = 25.691574"
)
DICOM = "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing"


def ome(sizes: str) -> str:
    return OME.format(sizes=sizes)


def mpp_of(properties: dict[str, str]) -> tuple[tuple[float, float] | None, str]:
    scale = scale_of(readings_of(properties))
    return scale.mpp, scale.source


def notes_of(properties: dict[str, str], given: tuple[float, float] | None = None) -> tuple[str, ...]:
    return scale_of(readings_of(properties), given).notes


def tags(x: str, y: str, unit: str) -> dict[str, str]:
    return {"tiff.XResolution": x, "tiff.YResolution": y, "tiff.ResolutionUnit": unit}


def description(text: str) -> dict[str, str]:
    return {"tiff.ImageDescription": text}


NONE = (None, "none")
IN_UM = ome('PhysicalSizeX="0.25" PhysicalSizeY="0.3"')


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}, (0.25, 0.26), "openslide.mpp-x"),
        ({"aperio.MPP": "0.4990"}, (0.499, 0.499), "aperio.MPP"),
        ({"aperio.MPP": "0,4990"}, (0.499, 0.499), "aperio.MPP"),
        (
            {"philips.DICOM_PIXEL_SPACING": '"0.000226" "0.000251"'},
            (0.251, 0.226),
            "philips.DICOM_PIXEL_SPACING",
        ),
        ({"ventana.ScanRes": "0.25"}, (0.25, 0.25), "ventana.ScanRes"),
        ({"sakura.ResolutionMmPerPix": "0.0005"}, (0.5, 0.5), "sakura.ResolutionMmPerPix"),
        ({f"{DICOM}[0]": "0.00025", f"{DICOM}[1]": "0.0005"}, (0.5, 0.25), f"{DICOM}[1]"),
        (
            {
                "hamamatsu.PhysicalWidth": "460000",
                "hamamatsu.PhysicalHeight": "690000",
                "openslide.level[0].width": "2000",
                "openslide.level[0].height": "1500",
            },
            (0.23, 0.46),
            "hamamatsu.PhysicalWidth",
        ),
        (description(APERIO), (0.499, 0.499), "tiff.ImageDescription: MPP"),
        (description(IN_UM), (0.25, 0.3), "OME-XML PhysicalSizeX"),
        ({"ome.xml": IN_UM}, (0.25, 0.3), "OME-XML PhysicalSizeX"),
        (description(PHILIPS.format(own=OWN)), (0.24, 0.22), "tiff.ImageDescription: DICOM_PIXEL_SPACING"),
        (description(PHILIPS.format(own="")), (0.3, 0.25), "tiff.ImageDescription: DICOM_PIXEL_SPACING"),
        (tags("40000", "20000", "centimeter"), (0.25, 0.5), "tiff.XResolution"),
        (tags("50800", "50800", "inch"), (0.5, 0.5), "tiff.XResolution"),
    ],
)
def test_every_source_is_read_and_named(
    properties: dict[str, str], mpp: tuple[float, float], source: str
) -> None:
    found, named = mpp_of(properties)
    assert found == pytest.approx(mpp, rel=1e-9)
    assert named == source


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"openslide.mpp-x": "0.25"},
        {"openslide.mpp-x": "0", "openslide.mpp-y": "0"},
        {"openslide.mpp-x": "nan", "openslide.mpp-y": "N/A"},
        {"openslide.mpp-x": "352.78", "openslide.mpp-y": "352.78"},  # of a 72 dpi tag
        {"aperio.MPP": ""},
        {"hamamatsu.PhysicalWidth": "460000", "hamamatsu.PhysicalHeight": "690000"},
        {"philips.DICOM_PIXEL_SPACING": '"0.000226"'},
        tags("72", "72", "inch"),
        tags("600", "600", "inch"),
        tags("1", "1", "none"),
        tags("40000", "", "centimeter"),
        description("Aperio Image Library|MPP = unknown|"),
        description("a slide without MPP = 0.5"),
        description(ome('PhysicalSizeX="0.25"')),
        description(ome('PhysicalSizeX="2" PhysicalSizeXUnit="pixel" PhysicalSizeY="2"')),
        description(ome('PhysicalSizeX="250" PhysicalSizeY="250"')),
        description(IN_UM[:-9]),  # cut short
        description("<OME/>"),
        description(PHILIPS.replace("WSI", "LABELIMAGE")),
        {"ome.xml": "OME, but no XML"},
    ],
    ids=repr,
)
def test_what_does_not_say_is_passed_over(properties: dict[str, str]) -> None:
    assert mpp_of(properties) == NONE


@pytest.mark.parametrize(
    ("size", "unit"),
    [("0.25", "µm"), ("0.25", "\u03bcm"), ("250", "nm"), ("0.00025", "mm"), ("0.000025", "cm")],
)
def test_units_of_ome_xml(size: str, unit: str) -> None:
    sizes = f'PhysicalSizeX="{size}" PhysicalSizeXUnit="{unit}" PhysicalSizeY="0.5"'
    assert mpp_of({"ome.xml": ome(sizes)})[0] == pytest.approx((0.25, 0.5), rel=1e-9)


def test_the_first_plausible_source_wins_and_the_others_are_told() -> None:
    properties = {
        "openslide.vendor": "generic-tiff",  # whose mpp OpenSlide takes from the tags
        "openslide.mpp-x": "0.25",
        "openslide.mpp-y": "0.5",
        **description(APERIO),
        "ome.xml": ome('PhysicalSizeX="0.51" PhysicalSizeY="0.51"'),  # within 5 % of 0.499
        **tags("40000", "20000", "centimeter"),
    }
    assert mpp_of(properties) == ((0.499, 0.499), "tiff.ImageDescription: MPP")
    assert notes_of(properties) == ("tiff.XResolution says 0.25 x 0.5 um/px",)
    assert notes_of(properties, (0.25, 0.5)) == (
        "mpp 0.25 x 0.5 was given, tiff.ImageDescription: MPP says 0.499 x 0.499 um/px; "
        "OME-XML PhysicalSizeX says 0.51 x 0.51 um/px",
        "pixels are not square: the given mpp says 0.25 x 0.5 um/px",
    )
    assert notes_of(description(APERIO)) == ()


def test_a_default_is_for_slides_that_do_not_say() -> None:
    says = readings_of(description(APERIO))
    assert scale_of(says, default=(0.25, 0.25)) == ((0.499, 0.499), "tiff.ImageDescription: MPP", ())
    assert scale_of([], default=(0.25, 0.25)) == ((0.25, 0.25), "given as default", ())
    assert scale_of(says, given=(0.5, 0.5), default=(0.25, 0.25)) == ((0.5, 0.5), "given", ())


def test_a_slide_without_mpp_tells_what_was_passed_over() -> None:
    assert notes_of(tags("72", "72", "inch")) == (
        "tiff.XResolution says 352.8 x 352.8 um/px, which is implausible (0.05 to 20 are believed)",
    )
    assert notes_of({}) == ()


@pytest.mark.parametrize(
    ("properties", "power", "source"),
    [
        ({"openslide.objective-power": "40", "aperio.AppMag": "20"}, 40.0, "openslide.objective-power"),
        ({"aperio.AppMag": "20"}, 20.0, "aperio.AppMag"),
        (description(APERIO), 20.0, "tiff.ImageDescription: AppMag"),
        (description(IN_UM), 40.0, "OME-XML NominalMagnification"),
        (
            description(
                IN_UM.replace("</Instrument>", '<Objective NominalMagnification="10"/></Instrument>')
            ),
            *NONE,
        ),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.25"}, *NONE),
    ],
)
def test_magnification_is_what_the_slide_says(
    properties: dict[str, str], power: float | None, source: str
) -> None:
    assert magnification_of(properties) == (power, source)


# ---- XML


def test_a_billion_laughs_are_refused_at_once() -> None:
    lol = '<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    bomb = f'<?xml version="1.0"?><!DOCTYPE OME [{lol}]><OME>&j;</OME>'
    start = time.perf_counter()
    assert parse_xml(bomb) is None
    assert mpp_of({"ome.xml": bomb}) == NONE
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain text",
        "<a>",
        '<!DOCTYPE a SYSTEM "file:///etc/hostname"><a/>',
        "<!doctype a><a/>",
        '<a><!ENTITY b "c"></a>',
        "<a>\0</a>",
    ],
)
def test_what_is_no_plain_xml_has_no_root(text: str) -> None:
    assert parse_xml(text) is None


def test_plain_xml_has_a_root() -> None:
    root = parse_xml('\ufeff<?xml version="1.0" encoding="UTF-8"?><a b="\u00b5"/>\0')
    assert root is not None
    assert (root.tag, root.get("b")) == ("a", "\u00b5")


# ---- slides


def test_a_slide_with_pixels_that_are_not_square_is_read_as_squares(tmp_path: Path) -> None:
    """A white square of 64 x 64 um on black: 256 x 128 px of 0.25 x 0.5 um, 64 x 64 px when read at 1 um."""
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[64:192, 128:384] = 255
    path = tmp_path / "oblong.tif"
    tifffile.imwrite(
        path, pixels, tile=(64, 64), photometric="rgb", resolution=(40000, 20000), resolutionunit="CENTIMETER"
    )
    expected = np.zeros((128, 128, 3), int)
    expected[32:96, 32:96] = 255
    with open_slide(path) as slide:
        assert slide.mpp_xy == pytest.approx((0.25, 0.5))
        read = slide.read_at_mpp((0, 0), (128, 128), 1).astype(int)
    sharp = np.ones(
        (128, 128), bool
    )  # all but what the filter blends: edges, and the border with the background
    sharp[30:98, 30:98] = False
    sharp[34:94, 34:94] = True
    sharp[[0, -1]] = sharp[:, [0, -1]] = False
    assert np.array_equal(read[sharp], expected[sharp])
    assert read[2:-2, 2:-2].sum() == pytest.approx(expected.sum(), rel=0.01)


def test_a_resolution_for_print_is_no_scale(tmp_path: Path) -> None:
    path = tmp_path / "print.tif"
    tifffile.imwrite(
        path, noise(128, 128), tile=(64, 64), photometric="rgb", resolution=(72, 72), resolutionunit="INCH"
    )
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == NONE


def test_real_ome_tiff_texts() -> None:
    for name, expected in (("OS-2-ndpi", 0.2270972430394695), ("OS-2-vsi", 0.34605325860336383)):
        with tifffile.TiffFile(shared_data(f"slides/ometiff/{name}.ome.tif")) as file:
            properties = description(str(file.pages.first.description))
        found, source = mpp_of(properties)
        assert source == "OME-XML PhysicalSizeX"
        assert found is not None
        assert found[0] == expected
