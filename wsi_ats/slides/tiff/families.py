"""Families of TIFF files: which images are the levels of a slide. Each has rules of its own, OpenSlide's.

Source: OpenSlide 4.0 (openslide-vendor-aperio.c, -generic-tiff.c, -philips-tiff.c), the OME-TIFF specification.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

from wsi_ats.slides.codecs import APERIO_YCBCR, JPEG, JPEG2000
from wsi_ats.slides.scale import parse_xml
from wsi_ats.slides.storage.opening import ByteRange, ByteSource
from wsi_ats.slides.tiff.index import Tag, TiffImage, TiffIndex, image_of, is_tiled
from wsi_ats.slides.tiff.properties import properties_of
from wsi_ats.slides.tiff.tags import Directory, Tiff, UnsupportedLayout

REDUCED = 1
"""Bit of the tag NewSubfileType: the image is a smaller version of another one."""
PHILIPS_SPACINGS = (
    "./Attribute[@Name='PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE']/Array"
    "/DataObject[@ObjectType='PixelDataRepresentation']/Attribute[@Name='DICOM_PIXEL_SPACING']"
)
APERIO_ASSOCIATED = {1: "label", 9: "macro"}
"""Names of associated images by NewSubfileType: the GT 450 does not describe them."""
OME_ASSOCIATED = ("label", "macro", "thumbnail")


def read_index(source: ByteSource) -> TiffIndex:
    """The index of a file. Raises UnsupportedLayout, with the reason, where it is not for the fast path; OSError."""
    tiff = Tiff(source)
    chain = tiff.directories()
    first = next(chain, None)
    if first is None:
        raise UnsupportedLayout("a TIFF without images")
    _refuse_others(first)
    pages = [first, *chain]
    description, profile = first.text(Tag.DESCRIPTION), first.raw(Tag.ICC_PROFILE) or None
    stamp, properties = source.stamp(), properties_of(first)
    if description.startswith("Aperio"):
        levels, named = _aperio(tiff, pages)
        return TiffIndex(stamp, "Aperio", levels, properties, named, profile)
    if first.text(Tag.SOFTWARE).startswith("Philips") and 'ObjectType="DPUfsImport"' in description:
        levels, named = _philips(tiff, pages, description)
        return TiffIndex(stamp, "Philips", levels, properties, named, profile)
    if "<OME" in description and (ome := parse_xml(description)) is not None:
        levels, named = _ome(source, tiff, pages, ome)
        return TiffIndex(stamp, "OME-TIFF", levels, properties, named, profile, note=_planes(ome))
    return TiffIndex(stamp, "generic TIFF", _generic(tiff, pages), properties, icc_profile=profile)


def _refuse_others(first: Directory) -> None:
    """Formats whose tiles do not simply make up the levels."""
    if Tag.NDPI in first:
        raise UnsupportedLayout("NDPI has no tiles")
    if first.text(Tag.SOFTWARE).startswith("MedScan"):
        raise UnsupportedLayout("Trestle's tiles overlap")
    if b"<iScan" in first.raw(Tag.XMP):
        raise UnsupportedLayout("Ventana's tiles overlap")
    if "http://www.leica-microsystems.com/scn/" in first.text(Tag.DESCRIPTION):
        raise UnsupportedLayout("Leica SCN has several areas")
    if not is_tiled(first):
        raise UnsupportedLayout("not tiled")


def _aperio(tiff: Tiff, pages: Sequence[Directory]) -> tuple[tuple[TiffImage, ...], dict[str, TiffImage]]:
    """All tiled images are levels; the second image is the thumbnail, the type of others says what they are."""
    levels = _descending(image_of(tiff, page) for page in pages if is_tiled(page))
    empty = sum(int((level.counts == 0).sum()) for level in levels)
    if empty:
        raise UnsupportedLayout(
            f"Aperio with {empty} empty tile(s), which OpenSlide fills from the level above"
        )
    named = {}
    for index, page in enumerate(pages):
        if not is_tiled(page):
            kind = APERIO_ASSOCIATED.get(page.whole(Tag.SUBFILE_TYPE), "")
            named["thumbnail" if index == 1 else kind] = page
    return levels, _readable(tiff, named)


def _generic(tiff: Tiff, pages: Sequence[Directory]) -> tuple[TiffImage, ...]:
    """The first image and all tiled ones that say they are reduced; the largest is level 0."""
    chosen = [p for p in pages if is_tiled(p) and (p is pages[0] or p.whole(Tag.SUBFILE_TYPE) & REDUCED)]
    images = [image_of(tiff, page) for page in chosen]
    return _descending(sorted(images, key=lambda image: -image.width))


def _philips(
    tiff: Tiff, pages: Sequence[Directory], description: str
) -> tuple[tuple[TiffImage, ...], dict[str, TiffImage]]:
    """All tiled images are levels, padded to whole tiles: their true sizes follow from their pixel spacings."""
    padded = _descending(image_of(tiff, page) for page in pages if is_tiled(page))
    spacings = _philips_spacings(description)
    if len(spacings) != len(padded):
        raise UnsupportedLayout(f"Philips with {len(spacings)} pixel spacings for {len(padded)} levels")
    levels = [padded[0]]
    for image, spacing in zip(padded[1:], spacings[1:], strict=True):
        ratios = [own / first for own, first in zip(spacing, spacings[0], strict=True)]
        downsample = math.floor(sum(ratios) / 2 + 0.5)
        if downsample < 1:
            raise UnsupportedLayout(
                f"Philips with a level of {ratios[0]:.3g} times the pixel spacing of level 0"
            )
        width, height = padded[0].width // downsample, padded[0].height // downsample
        if not (0 < width <= image.width and 0 < height <= image.height):
            raise UnsupportedLayout(
                f"Philips with a level of {width} x {height} px in {image.width} x {image.height} px"
            )
        levels.append(replace(image, width=width, height=height))
    others = [page for page in pages if not is_tiled(page)]
    named = {
        prefix.lower(): page
        for prefix in ("Label", "Macro")
        for page in others
        if page.text(Tag.DESCRIPTION).startswith(prefix)
    }
    return tuple(levels), _readable(tiff, named)


def _philips_spacings(description: str) -> list[tuple[float, float]]:
    """Distances of rows and of columns in mm, of each level of the slide's one image."""
    root = parse_xml(description)
    objects = (
        [] if root is None else root.findall("./Attribute[@Name='PIM_DP_SCANNED_IMAGES']/Array/DataObject")
    )
    slides = [each for each in objects if each.findtext("./Attribute[@Name='PIM_DP_IMAGE_TYPE']") == "WSI"]
    if len(slides) != 1:
        raise UnsupportedLayout(f"Philips with {len(slides)} slide images")
    spacings = []
    for attribute in slides[0].findall(PHILIPS_SPACINGS):
        numbers = re.findall(r'"([^"]*)"', attribute.text or "")
        try:
            rows, cols = (float(number) for number in numbers)
        except ValueError as error:
            raise UnsupportedLayout(f"Philips with a pixel spacing of {attribute.text!r}") from error
        if not (0 < rows < math.inf and 0 < cols < math.inf):
            raise UnsupportedLayout(f"Philips with a pixel spacing of {attribute.text!r}")
        spacings.append((rows, cols))
    return spacings


def _ome(
    source: ByteSource, tiff: Tiff, pages: Sequence[Directory], ome: ElementTree.Element
) -> tuple[tuple[TiffImage, ...], dict[str, TiffImage]]:
    """The first image; its levels are its SubIFDs, or reduced images behind it."""
    below = tiff.below(pages[0])
    images = [image_of(tiff, page) for page in (pages[0], *below)] if below else _generic(tiff, pages)
    levels = _descending(sorted((_true_colours(source, image) for image in images), key=lambda i: -i.width))
    named = {}
    for image in ome.findall("{*}Image")[1:]:
        name = next((known for known in OME_ASSOCIATED if known in image.get("Name", "").lower()), None)
        data = image.find("{*}Pixels/{*}TiffData")
        number = "" if data is None else data.get("IFD", "")
        if name and number.isdecimal() and 0 < int(number) < len(pages):
            named[name] = pages[int(number)]
    return levels, _readable(tiff, named)


def _true_colours(source: ByteSource, image: TiffImage) -> TiffImage:
    """Two habits of Bio-Formats: JPEG tiles of YCbCr where the TIFF says RGB; they have JFIF headers, which is YCbCr
    by definition. And Aperio's number for JPEG 2000 of YCbCr, where the tiles are ordinary JPEG 2000."""
    coding, stored = image.coding, image.counts.nonzero()[0]
    if coding.compression == APERIO_YCBCR:
        return replace(image, coding=coding._replace(compression=JPEG2000))
    if coding.compression != JPEG or coding.ycbcr or len(stored) == 0:
        return image
    head = source.read(ByteRange("", int(image.offsets[stored[0]]), 16))
    jfif = head[6:11] == b"JFIF\0"
    return replace(image, coding=coding._replace(ycbcr=True, jfif=True)) if jfif else image


def _planes(ome: ElementTree.Element) -> str:
    """What is left out of a stack of planes."""
    pixels = ome.find("{*}Image/{*}Pixels")
    sizes = [] if pixels is None else [pixels.get(f"Size{axis}", "1") for axis in "ZT"]
    planes = math.prod(int(size) for size in sizes if size.isdecimal())
    return f", the first of {planes} planes" if planes > 1 else ""


def _descending(images: Iterator[TiffImage] | Sequence[TiffImage]) -> tuple[TiffImage, ...]:
    """Levels, checked to go from the finest to the coarsest."""
    levels = tuple(images)
    for finer, coarser in pairwise(levels):
        if coarser.width > finer.width or coarser.height > finer.height:
            raise UnsupportedLayout("its levels are not sorted by size")
    return levels


def _readable(tiff: Tiff, pages: dict[str, Directory]) -> dict[str, TiffImage]:
    """Those of the associated images that are plain RGB."""
    images = {}
    for name, page in pages.items():
        try:
            images[name] = image_of(tiff, page, strips=not is_tiled(page))
        except UnsupportedLayout:
            continue
    return {name: image for name, image in images.items() if name}
