"""Scale of a slide: micrometres per level-0 pixel (mpp), from whatever scanners and converters write.

The sources, in the order in which they are believed; the first plausible one is taken:

1. `openslide.mpp-x` and `-y`, what OpenSlide makes of the vendor's fields; not where it made them of resolution tags;
2. the vendor's fields themselves: Aperio, Philips, MIRAX, Ventana, Sakura, DICOM, Hamamatsu;
3. the text of `tiff.ImageDescription`: Aperio's `|MPP = 0.4990|`, OME-XML (or the property `ome.xml`), Philips XML,
   the unit in which ImageJ has written the resolution tags;
4. the resolution tags of a TIFF, which any program may have written for print.

Values that no slide has are passed over and nothing is ever guessed: where no source is left, there is no mpp. Whatever
contradicts the scale that holds is told in notes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from wsi_ats.geometry import Pair

Properties = Mapping[str, str]

PLAUSIBLE_MPP = (0.05, 20.0)
"""Bounds of an mpp that is believed. What is coarser is a resolution for print (1200 to 72 dpi are 21 to 353 um/px) or
a placeholder; overview images do have 20 to 100 um/px, but they are no slides, and no tile is read so coarsely."""
SCANNED_MPP = (0.05, 2.5)
"""Bounds of the mpp that slides are scanned at (60x and oil to 4x); what is believed beyond is told."""
DISAGREE = 0.05
"""Share by which two sources, or the two sides of a pixel, may differ before the user is told."""
FIELD = 10.0
"""Micrometres per px, times the power of the objective, as scanners have it: 0.25 at 40x, 0.5 at 20x."""
FAR = 1.7
"""Factor by which the scale may differ from what the power of the objective makes expect."""
OME_IMAGE = "ome.image"
"""Property: place of the image that is read among those of its OME-XML."""

TIFF_UNITS = {"inch": 25400.0, "centimeter": 10000.0}
"""Micrometres per unit of the resolution tags."""
OME_UNITS = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""Micrometres per unit of OME-XML. The first two look alike: U+00B5, as the schema has it, and U+03BC."""

DESCRIPTION = "tiff.ImageDescription"
PHILIPS = "DICOM_PIXEL_SPACING"
DICOM = "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing"
MIRAX = "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_"
IMAGEJ = re.compile(r"^unit=(.*)$", re.M)
IMAGEJ_UNITS = {"micron": "um", "microns": "um", "micrometer": "um", "micrometre": "um"}
"""Names that ImageJ has for a micrometre."""
APERIO = re.compile(r"\|\s*(MPP|AppMag)\s*=\s*([^|]*)")


class Reading(NamedTuple):
    """The scale that one source states."""

    mpp: tuple[float, float]
    """Micrometres per level-0 px (x, y)."""
    source: str

    def __str__(self) -> str:
        return f"{self.source} says {self.mpp[0]:.4g} x {self.mpp[1]:.4g} um/px"


class Scale(NamedTuple):
    """The scale of a slide that holds."""

    mpp: Pair | None
    """Micrometres per level-0 px (x, y); None where nobody says."""
    source: str
    """Source of it: "given", "given as default", a statement of the slide, or "none"."""
    notes: tuple[str, ...] = ()
    """Clauses on what was said otherwise, or was not believed."""


def scale_of(
    readings: Sequence[Reading],
    given: Pair | None = None,
    default: Pair | None = None,
    power: float | int | None = None,
    unread: Sequence[str] = (),
) -> Scale:
    """The scale that holds: the one that was given, else the best statement of the slide, else the default.

    readings: what the slide states, best first. given, default: micrometres per level-0 px (x, y), from the user.
    power: of the objective, where the slide says it; it is no scale, and only told where it contradicts one.
    unread: clauses on what else it says (`unread_of`), told where there is no scale.

    >>> stated = [Reading((0.5, 0.5), "aperio.MPP"), Reading((0.25, 0.25), "tiff.XResolution")]
    >>> scale_of(stated, default=(1.0, 1.0))
    Scale(mpp=(0.5, 0.5), source='aperio.MPP', notes=('tiff.XResolution says 0.25 x 0.25 um/px',))
    >>> scale_of(stated[:1], given=(0.25, 0.25)).notes
    ('mpp 0.25 x 0.25 was given, aperio.MPP says 0.5 x 0.5 um/px',)
    >>> scale_of([Reading((0.5, 0.5), "aperio.MPP")], power=40).notes
    ('0.5 um/px is far from the 0.25 of an objective of 40x',)
    """
    believed = [reading for reading in readings if _is_plausible(reading)]
    if given is not None:
        differing = [str(r) for r in believed if _differ(r.mpp, given)]
        start = f"mpp {given[0]:.4g} x {given[1]:.4g} was given"
        conflict = (f"{start}, {'; '.join(differing)}",) if differing else ()
        told = (*conflict, *_oblong(Reading((float(given[0]), float(given[1])), "the given mpp")))
        return Scale(given, "given", (*told, *_coarse(given), *_unlikely(given, power)))
    if believed:
        best = believed[0]
        told = tuple(str(r) for r in believed if _differ(r.mpp, best.mpp))
        doubted = tuple(_doubt(r) for r in readings if not _is_plausible(r) and r.source != TAGS)
        told += doubted + _oblong(best) + _coarse(best.mpp) + _unlikely(best.mpp, power)
        return Scale(best.mpp, best.source, told)
    doubted = tuple(map(_doubt, readings))
    if default is None:
        return Scale(None, "none", doubted + tuple(unread))
    return Scale(default, "given as default", doubted + _coarse(default) + _unlikely(default, power))


def _doubt(reading: Reading) -> str:
    return f"{reading}, which is implausible ({PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g} are believed)"


def _oblong(reading: Reading) -> tuple[str, ...]:
    x, y = reading.mpp
    return (f"pixels are not square: {reading}",) if _differ((x, x), (y, y)) else ()


def _coarse(mpp: Pair) -> tuple[str, ...]:
    """A clause where the scale is none that slides are scanned at."""
    if all(SCANNED_MPP[0] <= side <= SCANNED_MPP[1] for side in mpp):
        return ()
    low, high = SCANNED_MPP
    return (
        f"{mpp[0]:.4g} x {mpp[1]:.4g} um/px is implausible for a scanned slide ({low:g} to {high:g}): perhaps that of "
        "a smaller level, of another unit, or of inches taken for centimetres",
    )


def _unlikely(mpp: Pair, power: float | int | None) -> tuple[str, ...]:
    """A clause where the power of the objective makes expect quite another scale."""
    if power is None:
        return ()
    own, expected = (mpp[0] + mpp[1]) / 2, FIELD / power
    if max(own, expected) <= FAR * min(own, expected):
        return ()
    return (f"{own:.4g} um/px is far from the {expected:.4g} of an objective of {power:g}x",)


def readings_of(properties: Properties) -> list[Reading]:
    """What each source says, best first, plausible or not; those that say nothing are left out.

    properties: a slide's, named as OpenSlide names them; OME-XML under `ome.xml` or `tiff.ImageDescription`.
    """
    found = ((source, read(properties)) for source, read in SOURCES)
    return [Reading(mpp, source) for source, mpp in found if all(mpp)]


def unread_of(properties: Properties) -> tuple[str, ...]:
    """Clauses on resolution tags that state no scale, since their unit is none."""
    tags = [properties.get(f"tiff.{axis}Resolution", "") for axis in "XY"]
    x, y = map(_positive, tags)
    if not (x and y) or (x, y) == (1.0, 1.0) or all(_tags(properties)) or all(_imagej(properties)):
        return ()
    unit = properties.get("tiff.ResolutionUnit", "unknown")
    of_imagej = _imagej_unit(properties)
    known = f"unit {unit!r}" + (f", unit {of_imagej!r} of ImageJ" if of_imagej else "")
    return (f"tiff.XResolution is {x:.4g} x {y:.4g} ({known}), which says nothing in um/px",)


def magnification_of(properties: Properties) -> tuple[float | None, str]:
    """Power of the objective and the source that says so; (None, "none") where the slide does not.

    For people only: it says little of the size of a pixel, which also depends on the camera.
    """
    for name in (
        "openslide.objective-power",
        "aperio.AppMag",
        "hamamatsu.SourceLens",
        "ventana.Magnification",
    ):
        if power := _positive(properties.get(name)):
            return power, name
    if power := _aperio(properties, "AppMag"):
        return power, f"{DESCRIPTION}: AppMag"
    root = _ome_root(properties)
    objectives = [] if root is None else root.findall("{*}Instrument/{*}Objective")
    powers = {_positive(o.get("NominalMagnification")) for o in objectives} - {0.0}
    if len(powers) == 1:  # of several objectives it would take more to know which was used
        return powers.pop(), "OME-XML NominalMagnification"
    return None, "none"


def expected_power(properties: Properties) -> float | None:
    """Power of the objective where the size of a pixel goes with it; MIRAX leaves out what the camera adds to it."""
    return None if properties.get("openslide.vendor") == "mirax" else magnification_of(properties)[0]


def parse_xml(text: str) -> ElementTree.Element | None:
    """The root of an XML text; None where it is no XML, or declares a document type or entities.

    Such declarations can make a parser expand a small text to gigabytes, and no slide needs one.
    """
    if not text.lstrip("\ufeff \t\r\n").startswith("<") or re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.I):
        return None
    try:
        return ElementTree.fromstring(text.strip("\ufeff \t\r\n\0"))
    except (ElementTree.ParseError, ValueError):
        return None


def _is_plausible(reading: Reading) -> bool:
    return all(PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1] for value in reading.mpp)


def _differ(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return any(max(a, b) > (1 + DISAGREE) * min(a, b) for a, b in zip(one, other, strict=True))


def _field(x: str, y: str, unit: float = 1.0) -> Callable[[Properties], tuple[float, float]]:
    """Reads two properties, in `unit` micrometres."""
    return lambda properties: (unit * _positive(properties.get(x)), unit * _positive(properties.get(y)))


def _tags(properties: Properties) -> tuple[float, float]:
    unit = TIFF_UNITS.get(properties.get("tiff.ResolutionUnit", ""), 0.0)
    x, y = (_positive(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    return (unit / x, unit / y) if x and y else (0.0, 0.0)


def _imagej(properties: Properties) -> tuple[float, float]:
    """Resolution tags in the unit that ImageJ writes into the description."""
    unit = OME_UNITS.get(_imagej_unit(properties), 0.0)
    x, y = (_positive(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    return (unit / x, unit / y) if x and y else (0.0, 0.0)


def _imagej_unit(properties: Properties) -> str:
    """`ImageJ=1.54f\nunit=micron\n...`: the unit, named as OME-XML has it where it is of length; "" for none."""
    text = properties.get(DESCRIPTION, "")
    found = IMAGEJ.search(text) if text.startswith("ImageJ=") else None
    unit = found[1].strip().replace("\\u00B5", "µ") if found else ""
    return IMAGEJ_UNITS.get(unit.lower(), unit)


def _hamamatsu(properties: Properties) -> tuple[float, float]:
    """Size of the slide in nanometres, by its size in pixels."""
    spans = (_positive(properties.get(f"hamamatsu.Physical{side}")) for side in ("Width", "Height"))
    sides = (_positive(properties.get(f"openslide.level[0].{side}")) for side in ("width", "height"))
    x, y = (span / side / 1000 if side else 0.0 for span, side in zip(spans, sides, strict=True))
    return x, y


def _aperio_text(properties: Properties) -> tuple[float, float]:
    mpp = _aperio(properties, "MPP")
    return mpp, mpp


def _aperio(properties: Properties, key: str) -> float:
    """A number of an Aperio description: `Aperio Image Library ...|AppMag = 20|MPP = 0.4990|...`."""
    pairs = dict(APERIO.findall(properties.get(DESCRIPTION, "")))
    return _positive(pairs.get(key))


def _ome_root(properties: Properties) -> ElementTree.Element | None:
    text = properties.get("ome.xml") or properties.get(DESCRIPTION, "")
    return parse_xml(text) if "<OME" in text or ":OME" in text else None


def _ome(properties: Properties) -> tuple[float, float]:
    """Of the image that is read; where that is not known, of the one of its size, else of the largest."""
    root = _ome_root(properties)
    images = [] if root is None else root.findall("{*}Image")
    chosen = properties.get(OME_IMAGE, "")
    if chosen.isdecimal():
        images = images[int(chosen) : int(chosen) + 1]
    pixels = [each for image in images if (each := image.find("{*}Pixels")) is not None]
    if not pixels:
        return 0.0, 0.0
    size = [properties.get(f"openslide.level[0].{side}", "") for side in ("width", "height")]
    largest = max(pixels, key=lambda each: _positive(each.get("SizeX")) * _positive(each.get("SizeY")))
    own = next((each for each in pixels if [each.get("SizeX"), each.get("SizeY")] == size), largest)
    x, y = (
        _positive(own.get(f"PhysicalSize{axis}"))
        * OME_UNITS.get(own.get(f"PhysicalSize{axis}Unit", "µm"), 0.0)
        for axis in "XY"
    )
    return x, y


def _philips_field(properties: Properties) -> tuple[float, float]:
    return _spacing(properties.get(f"philips.{PHILIPS}", ""))


def _philips_text(properties: Properties) -> tuple[float, float]:
    """Of the slide's own image; else of its finest representation."""
    text = properties.get(DESCRIPTION, "")
    root = parse_xml(text) if PHILIPS in text else None
    for image in [] if root is None else root.iter("DataObject"):
        if _attributes(image).get("PIM_DP_IMAGE_TYPE") != "WSI":
            continue
        if own := _attributes(image).get(PHILIPS):
            return _spacing(own)
        levels = (_attributes(part).get(PHILIPS, "") for part in image.iter("DataObject"))
        spacings = [spacing for spacing in map(_spacing, levels) if all(spacing)]
        return min(spacings, default=(0.0, 0.0))
    return 0.0, 0.0


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    """Philips writes its values as children: <Attribute Name="...">value</Attribute>."""
    return {child.get("Name", ""): (child.text or "").strip() for child in element.findall("Attribute")}


def _spacing(text: str) -> tuple[float, float]:
    """`"0.000226891" "0.000226907"`: millimetres between rows (y), then between columns (x)."""
    values = [1000 * _positive(part.strip('"')) for part in text.split()]
    return (values[1], values[0]) if len(values) == 2 else (0.0, 0.0)


def _positive(text: str | None) -> float:
    """The number, or 0 where there is none: scanners write "", "0" and "N/A" for unknown, some a decimal comma."""
    try:
        value = float((text or "0").strip().replace(",", "."))
    except ValueError:
        return 0.0
    return value if 0 < value < float("inf") else 0.0


def _openslide(properties: Properties) -> tuple[float, float]:
    """What OpenSlide makes of the vendor's fields; of a generic TIFF it is the resolution tags, which come last."""
    if properties.get("openslide.vendor") == "generic-tiff":
        return 0.0, 0.0
    return _field("openslide.mpp-x", "openslide.mpp-y")(properties)


TAGS = "tiff.XResolution"
"""Source that is no statement of a microscope's: any program may write the resolution of a print there."""
SOURCES: tuple[tuple[str, Callable[[Properties], tuple[float, float]]], ...] = (
    ("openslide.mpp-x", _openslide),
    ("aperio.MPP", _field("aperio.MPP", "aperio.MPP")),
    (f"philips.{PHILIPS}", _philips_field),
    (f"{MIRAX}X", _field(f"{MIRAX}X", f"{MIRAX}Y")),
    ("ventana.ScanRes", _field("ventana.ScanRes", "ventana.ScanRes")),
    ("sakura.ResolutionMmPerPix", _field("sakura.ResolutionMmPerPix", "sakura.ResolutionMmPerPix", 1e3)),
    (f"{DICOM}[1]", _field(f"{DICOM}[1]", f"{DICOM}[0]", 1e3)),  # of rows (y) first, then of columns
    ("hamamatsu.PhysicalWidth", _hamamatsu),
    (f"{DESCRIPTION}: MPP", _aperio_text),
    ("OME-XML PhysicalSizeX", _ome),
    (f"{DESCRIPTION}: {PHILIPS}", _philips_text),
    (f"{DESCRIPTION}: unit of ImageJ", _imagej),
    (TAGS, _tags),
)
"""Each source by its name and how it is read: micrometres per px (x, y), 0 where it does not say."""
