"""Properties of a TIFF, named and written as OpenSlide has them, for files that OpenSlide does not open."""

from __future__ import annotations

from wsi_ats.slides.tiff.index import Tag
from wsi_ats.slides.tiff.tags import Directory

TEXTS = {
    "ImageDescription": 270,
    "Make": 271,
    "Model": 272,
    "Software": 305,
    "DateTime": 306,
    "Artist": 315,
    "HostComputer": 316,
    "Copyright": 33432,
    "DocumentName": 269,
}
NUMBERS = {"XResolution": 282, "YResolution": 283, "XPosition": 286, "YPosition": 287}
UNITS = {1: "none", 2: "inch", 3: "centimeter"}


def properties_of(page: Directory) -> dict[str, str]:
    """Properties in the tags of a slide's first image, and in its description if it is Aperio's."""
    found = {f"tiff.{name}": page.text(tag) for name, tag in TEXTS.items()}
    for name, tag in NUMBERS.items():
        values = page.numbers(tag)
        found[f"tiff.{name}"] = f"{float(values[0]):.17g}" if len(values) else ""
    found["tiff.ResolutionUnit"] = UNITS.get(page.whole(Tag.RESOLUTION_UNIT, 2), "unknown")
    return {name: text for name, text in found.items() if text} | _aperio(found["tiff.ImageDescription"])


def _aperio(description: str) -> dict[str, str]:
    """`Aperio Image Library ...|AppMag = 20|MPP = 0.4990|...`: the first part is a heading."""
    if not description.startswith("Aperio"):
        return {}
    pairs = (part.partition("=") for part in description.split("|")[1:])
    found = {f"aperio.{name.strip()}": value.strip() for name, _, value in pairs}
    copies = {"AppMag": ("objective-power",), "MPP": ("mpp-x", "mpp-y")}
    for name, targets in copies.items():
        if f"aperio.{name}" in found:
            found |= {f"openslide.{target}": found[f"aperio.{name}"] for target in targets}
    return {"openslide.vendor": "aperio", **found}
