"""Families of TIFF files: which images are the levels of a slide, and which are others. Each has rules of its own.

One rule holds for all: the largest image is the slide, and its levels are smaller images of its proportions. What does
not fit is an associated image, never a level, whatever the file says.
Source: OpenSlide 4.0 (openslide-vendor-aperio.c, -generic-tiff.c, -philips-tiff.c), the OME-TIFF specification.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree

from wsi_ats.geometry import is_shrunk
from wsi_ats.slides.channels import BRIGHT_FIELD, Channel, are_rgb, named
from wsi_ats.slides.codecs import APERIO_YCBCR, JPEG, JPEG2000, said_colours
from wsi_ats.slides.ome import OmeImage, ome_images
from wsi_ats.slides.scale import OME_IMAGE, parse_xml
from wsi_ats.slides.storage.opening import ByteRange, ByteSource
from wsi_ats.slides.tiff.index import Tag, TiffImage, TiffIndex, image_of
from wsi_ats.slides.tiff.pictures import (
    RETILE,
    Picture,
    check_orientation,
    check_pixels,
    fits_file,
    largest,
    levels_of,
    name_in,
    picture_of,
)
from wsi_ats.slides.tiff.properties import properties_of
from wsi_ats.slides.tiff.tags import Directory, Refused, Tiff, UnsupportedLayout

REDUCED, MASK = 1, 4
"""Bits of the tag NewSubfileType: the image is a smaller version of another one; it is a mask of one."""
PHILIPS_SPACINGS = (
    "./Attribute[@Name='PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE']/Array"
    "/DataObject[@ObjectType='PixelDataRepresentation']/Attribute[@Name='DICOM_PIXEL_SPACING']"
)
APERIO_ASSOCIATED = {1: "label", 9: "macro"}
"""Names of associated images by NewSubfileType: the GT 450 does not describe them."""
BESIDE = re.compile("(label|macro|thumbnail|overview)( image)?", re.I)
"""Names of images of an OME-XML that are no slide, however large."""
HEAD = 1024
"""Bytes of a JPEG in which it says what its colours are."""
MANY = 3
"""Images that are left out and named one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What the images of a file are to each other."""

    family: str
    levels: tuple[Picture, ...]
    """The slide and its levels, finest first."""
    others: Mapping[str, Picture] = field(default_factory=dict)
    """All other images by name."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """What the tags say of the slide."""
    notes: tuple[str, ...] = ()
    """Clauses on the choice, where it is not obvious."""
    hint: str = ""
    """Anything else there is to say of how the slide is read."""

    @property
    def is_first(self) -> bool:
        """Whether the slide is the first image, whose tags other readers go by."""
        return self.levels[0].number == 0


def read_index(source: ByteSource) -> TiffIndex:
    """The index of a file.

    Raises UnsupportedLayout, with the reason, where it is not for the fast path, Refused where it is for none; OSError.
    """
    tiff = Tiff(source)
    contents = contents_of(tiff)
    levels = [_true_colours(source, image_of(tiff, *level.directories)) for level in contents.levels]
    if contents.family == "Philips":
        levels = _true_sizes(levels, contents)
    elif contents.family == "Aperio":
        _refuse_empty_tiles(levels)
    elif contents.family == "OME-TIFF":
        levels = [_ordinary_jpeg2000(level) for level in levels]
    # Of OME-TIFF it is the rule: Bio-Formats writes it so.
    recoloured = contents.family != "OME-TIFF" and any(level.coding.recoloured for level in levels)
    told = ("the TIFF and its JPEG tiles say different colours (RGB, YCbCr); the tiles are believed",)
    return TiffIndex(
        source.stamp(),
        contents.family,
        tuple(levels),
        contents.properties,
        _readable(tiff, contents.others),
        contents.levels[0].directory.raw(Tag.ICC_PROFILE) or None,
        contents.hint,
        first_page=contents.is_first,
        # A server is not asked for all that again: OpenSlide never gets what lies there.
        sound=source.remote or all(fits_file(tiff, page) for page in tiff.directories()),
        notes=contents.notes + (told if recoloured else ()),
    )


def contents_of(tiff: Tiff) -> Contents:
    """The levels and other images of a file, by its tags alone.

    Raises UnsupportedLayout, with the reason, for families that OpenSlide reads, Refused for files that none may read.
    """
    pictures = [picture_of(tiff, page, number) for number, page in enumerate(tiff.directories())]
    if not any(picture.width and picture.height for picture in pictures):
        raise Refused("it is a TIFF without images")
    first = pictures[0].directory
    _leave_others(tiff, pictures)
    description = first.text(Tag.DESCRIPTION)
    if description.startswith("Aperio"):
        contents = _aperio(pictures)
    elif first.text(Tag.SOFTWARE).startswith("Philips") and 'ObjectType="DPUfsImport"' in description:
        contents = _philips(pictures)
    elif "<OME" in description and (ome := parse_xml(description)) is not None:
        contents = _ome(tiff, pictures, ome)
    else:
        contents = _generic(pictures)
    for level in contents.levels:
        check_pixels(level)
    return contents


def _leave_others(tiff: Tiff, pictures: Sequence[Picture]) -> None:
    """Formats whose tiles do not simply make up the levels."""
    if tiff.ndpi:
        raise UnsupportedLayout("NDPI has no tiles")
    reason = _other_vendor(pictures[0].directory)
    if reason:
        for picture in pictures:
            if picture.tiled:
                check_orientation(picture)
        raise UnsupportedLayout(reason)


def _other_vendor(first: Directory) -> str:
    """Why OpenSlide reads the file of another vendor; "" where there is nothing of one."""
    if first.text(Tag.SOFTWARE).startswith("MedScan"):
        return "Trestle's tiles overlap"
    if b"<iScan" in first.raw(Tag.XMP):
        return "Ventana's tiles overlap"
    if "http://www.leica-microsystems.com/scn/" in first.text(Tag.DESCRIPTION):
        return "Leica SCN has several areas"
    return ""


def _aperio(pictures: Sequence[Picture]) -> Contents:
    """Tiled images are levels unless they say otherwise; the second image is the thumbnail."""
    names = {picture.number: _aperio_name(picture) for picture in pictures}
    tiled = [picture for picture in pictures if picture.tiled and not names[picture.number]]
    main = largest(_tiled(tiled, pictures))
    return _contents("Aperio", main, tiled, pictures, names)


def _aperio_name(picture: Picture) -> str:
    """Name of an associated image: the second line of its description, else its type."""
    lines = picture.directory.text(Tag.DESCRIPTION)[:1000].splitlines()
    words = lines[1].split() if len(lines) > 1 else []
    if words and words[0].lower() in APERIO_ASSOCIATED.values():
        return words[0].lower()
    kind = APERIO_ASSOCIATED.get(picture.directory.whole(Tag.SUBFILE_TYPE), "")
    if picture.tiled:  # writers of pyramids mark their levels as reduced, which is the label's number
        return kind if kind == "macro" else ""
    return "thumbnail" if picture.number == 1 else kind


def _generic(pictures: Sequence[Picture]) -> Contents:
    """Tiled images that say they are reduced are levels of the largest one; so are those behind it that say nothing of
    themselves and are smaller by a whole number."""
    main = largest(_tiled([picture for picture in pictures if picture.tiled], pictures))
    names = {picture.number: _generic_name(picture) for picture in pictures if picture is not main}
    striped = largest([main, *(each for each in pictures if not each.tiled and not names[each.number])])
    if not striped.tiled:
        raise Refused(f"its {striped}, the largest, is stored in strips, not in tiles", RETILE)
    candidates = [
        picture
        for picture in pictures
        if picture.tiled
        and (_is_reduced(picture) or (not names.get(picture.number) and _is_shrunk(picture, main)))
    ]
    return _contents("generic TIFF", main, candidates, pictures, names)


def _is_reduced(picture: Picture) -> bool:
    """Whether an image says that it is a smaller version of another one."""
    return picture.directory.whole(Tag.SUBFILE_TYPE) & (REDUCED | MASK) == REDUCED


def _is_shrunk(picture: Picture, main: Picture) -> bool:
    """Whether an image that says nothing of itself is behind the main one, and smaller by a whole number."""
    says = picture.directory.whole(Tag.SUBFILE_TYPE)
    return says == 0 and picture.number > main.number and is_shrunk(main.size, picture.size)


def _generic_name(picture: Picture) -> str:
    return name_in(" ".join(map(picture.directory.text, (Tag.PAGE_NAME, Tag.DESCRIPTION))))


def _philips(pictures: Sequence[Picture]) -> Contents:
    """All tiled images that are not named are levels, padded to whole tiles."""
    names = {
        picture.number: prefix.lower()
        for picture in pictures
        for prefix in ("Label", "Macro")
        if picture.directory.text(Tag.DESCRIPTION).startswith(prefix)
    }
    tiled = [picture for picture in pictures if picture.tiled and picture.number not in names]
    levels = tuple(sorted(_tiled(tiled, pictures), key=lambda level: -level.width * level.height))
    return Contents(
        "Philips",
        levels,
        {names[picture.number]: picture for picture in pictures if picture.number in names},
        properties_of(levels[0].directory),
    )


def _contents(
    family: str,
    main: Picture,
    candidates: Sequence[Picture],
    pictures: Sequence[Picture],
    names: Mapping[int, str],
) -> Contents:
    levels = levels_of(main, candidates)
    taken = {level.number for level in levels}
    others = [picture for picture in pictures if picture.number not in taken]
    return Contents(
        family,
        levels,
        _by_name((names.get(other.number, ""), other) for other in others),
        properties_of(main.directory),
        tuple(_told(main, [other for other in others if other.tiled and not names.get(other.number)])),
    )


def _told(main: Picture, left_out: Sequence[Picture]) -> Iterator[str]:
    """Clauses on the choice of the image, where there was one."""
    if main.number:
        yield f"the largest image of the file is read: {main}"
    alike = [other for other in left_out if other.size == main.size]
    if alike:
        yield f"{len(alike)} more image(s) of {main.width} x {main.height} px, perhaps focal planes, are left out"
    others = [other for other in left_out if other not in alike]
    if others:
        more = f" and {len(others) - MANY} more" if len(others) > MANY else ""
        yield f"{', '.join(map(str, others[:MANY]))}{more} left out: no level of {main}"


def _tiled(tiled: Sequence[Picture], pictures: Sequence[Picture]) -> Sequence[Picture]:
    """The tiled images. Raises Refused where there are none."""
    if not tiled:
        raise Refused(f"its {largest(pictures)} is stored in strips, not in tiles", RETILE)
    return tiled


def _by_name(pictures: Iterable[tuple[str, Picture]]) -> dict[str, Picture]:
    """Images by their names, each name once; those without one are counted."""
    found: dict[str, Picture] = {}
    for name, picture in pictures:
        name = name or f"image {picture.number + 1}"
        found[name if name not in found else f"{name} {picture.number + 1}"] = picture
    return found


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


def _true_sizes(padded: Sequence[TiffImage], contents: Contents) -> list[TiffImage]:
    """The levels of a Philips TIFF without their padding: their true sizes follow from their pixel spacings."""
    spacings = _philips_spacings(contents.properties.get("tiff.ImageDescription", ""))
    if len(spacings) != len(padded):
        raise UnsupportedLayout(f"Philips with {len(spacings)} pixel spacings for {len(padded)} levels")
    levels = [padded[0]]
    for image, spacing in zip(padded[1:], spacings[1:], strict=True):
        ratios = [own / first for own, first in zip(spacing, spacings[0], strict=True)]
        downsample = math.floor(min(sum(ratios) / 2, 1e9) + 0.5)
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
    return levels


def _ome(tiff: Tiff, pictures: Sequence[Picture], root: ElementTree.Element) -> Contents:
    """The largest image; its levels are its SubIFDs, or reduced images behind it."""
    images = [image for image in ome_images(root) if image.pages and max(image.pages) < len(pictures)]
    if not images:
        raise Refused(
            "its OME-XML names no image that is in this file",
            "give the file that holds the pixels, or copy the files of the set into one folder and convert them",
        )
    chosen = max(images, key=lambda image: _pixels(pictures[image.pages[0]], image))
    page = pictures[chosen.pages[0]]
    if not page.tiled:
        raise Refused(f"its {page} is stored in strips, not in tiles", RETILE)
    main = _of_planes(page, chosen, pictures)
    below = [_below(tiff, page) for page in main.directories]
    reduced = [] if any(below) else _behind(page, images, pictures)
    taken = {level.number for level in reduced}
    others = {image.pages[0]: image for image in images if image is not chosen}
    levels = levels_of(main, [*_together(below), *reduced])
    return Contents(
        "OME-TIFF",
        levels,
        _by_name(
            (name_in(image.name) or image.name, pictures[number])
            for number, image in others.items()
            if number not in taken
        ),
        properties_of(main.directory)
        | {"tiff.ImageDescription": pictures[0].directory.text(Tag.DESCRIPTION)}
        | {OME_IMAGE: str(chosen.number)},
        (
            *_told_of_ome(main, chosen, len(levels) - 1, [*_together(below), *reduced]),
            *_told_alike(main, [pictures[number] for number in others if number not in taken]),
        ),
        f", the first of {chosen.z * chosen.t} planes" if chosen.z * chosen.t > 1 else "",
    )


def _pixels(picture: Picture, image: OmeImage) -> int:
    """Pixels of an image that may be the slide."""
    return 0 if BESIDE.fullmatch(image.name.strip()) else picture.width * picture.height


def _of_planes(page: Picture, image: OmeImage, pictures: Sequence[Picture]) -> Picture:
    """The image, of the three planes that are its colours if it is stored so. Raises Refused where they are others."""
    if page.directory.whole(Tag.SAMPLES, 1) != 1:
        return page
    planes = [pictures[number] for number in image.pages]
    if not are_rgb(image.channels or [Channel()] * len(planes)) or len(planes) != 3:
        raise Refused(f"it has {len(planes)} channel(s) of one value{named(image.channels)}", BRIGHT_FIELD)
    if any(plane.size != page.size or plane.kind != page.kind or not plane.tiled for plane in planes):
        raise Refused("its three planes are not stored in the same way", "write it again as RGB")
    return replace(page, directories=tuple(plane.directory for plane in planes))


def _below(tiff: Tiff, page: Directory) -> list[Picture]:
    """The images of a directory's SubIFDs."""
    found = [picture_of(tiff, directory, -1) for directory in tiff.below(page)]
    return [picture for picture in found if picture.tiled]


def _together(planes: Sequence[Sequence[Picture]]) -> list[Picture]:
    """Levels of one directory, or of three that are the planes of one image."""
    return [
        replace(level[0], directories=tuple(plane.directory for plane in level))
        for level in zip(*planes, strict=False)
    ]


def _behind(page: Picture, images: Sequence[OmeImage], pictures: Sequence[Picture]) -> list[Picture]:
    """Reduced images between that of a page and the next one that the XML names."""
    starts = {number for image in images for number in image.pages}
    found = []
    for picture in pictures[page.number + 1 :]:
        if picture.number in starts:
            break
        if picture.tiled and _is_reduced(picture):
            found.append(picture)
    return found


def _told_of_ome(main: Picture, image: OmeImage, levels: int, candidates: Sequence[Picture]) -> Iterator[str]:
    if main.number:
        yield f"the largest image of the file is read: {main}{f' {image.name!r}' if image.name else ''}"
    if len(main.directories) > 1:
        yield "its three one-channel planes are read as red, green and blue"
    stacks = [
        f"{count} {what}"
        for count, what in ((image.z, "focal planes"), (image.t, "time points"))
        if count > 1
    ]
    if stacks:
        yield f"the first of {' and of '.join(stacks)} is read"
    if any(abs(own - said) > 1 for own, said in zip(main.size, image.size, strict=True)):
        yield f"OME-XML says {image.size[0]} x {image.size[1]} px of {main}, so its scale may be of another image"
    if levels < len(candidates):
        yield f"{len(candidates) - levels} smaller image(s) left out: no level of {main}"


def _told_alike(main: Picture, others: Sequence[Picture]) -> Iterator[str]:
    """A clause on images that could be levels and that the XML has as images of their own."""
    alike = [other for other in others if other.tiled and is_shrunk(main.size, other.size)]
    if alike:
        yield (
            f"{', '.join(map(str, alike[:MANY]))} could be levels of {main}, but are images of their own by the "
            "OME-XML: left out"
        )


def _refuse_empty_tiles(levels: Sequence[TiffImage]) -> None:
    empty = sum(int((level.counts == 0).sum()) for level in levels)
    if empty:
        raise UnsupportedLayout(
            f"Aperio with {empty} empty tile(s), which OpenSlide fills from the level above"
        )


def _true_colours(source: ByteSource, image: TiffImage) -> TiffImage:
    """The image in the colours that its JPEG tiles say they have, where the TIFF says others: Bio-Formats calls YCbCr
    RGB."""
    coding, stored = image.coding, image.counts.nonzero()[0]
    if coding.compression != JPEG or coding.grey or len(stored) == 0:
        return image
    place = int(stored[0])
    head = source.read(ByteRange("", int(image.offsets[place]), min(HEAD, int(image.counts[place]))))
    said = said_colours(head)
    if not said or (said == "YCbCr") == coding.ycbcr:
        return image
    return replace(image, coding=coding._replace(ycbcr=not coding.ycbcr, recoloured=True))


def _ordinary_jpeg2000(image: TiffImage) -> TiffImage:
    """Bio-Formats has Aperio's number for JPEG 2000 of YCbCr, where the tiles are ordinary ones."""
    coding = image.coding
    aperio = coding.compression == APERIO_YCBCR
    return replace(image, coding=coding._replace(compression=JPEG2000)) if aperio else image


def _readable(tiff: Tiff, others: Mapping[str, Picture]) -> dict[str, TiffImage]:
    """Those of the associated images that are plain RGB."""
    images = {}
    for name, picture in others.items():
        try:
            images[name] = image_of(tiff, *picture.directories, strips=not picture.tiled)
        except (UnsupportedLayout, Refused):
            continue
    return images
