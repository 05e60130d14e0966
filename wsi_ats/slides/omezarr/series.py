"""Images of an OME-Zarr store: the largest is the slide, the others are associated images.

A group may hold several images (`multiscales`), and bioformats2raw stores each of a file's images in a group of its
own, with their OME-XML beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from wsi_ats.errors import SlideError
from wsi_ats.slides.omezarr.group import Group, groups_of, read_arrays
from wsi_ats.slides.omezarr.metadata import array_facts
from wsi_ats.slides.omezarr.ngff import Multiscale, count_multiscales, parse_multiscale
from wsi_ats.slides.storage.source import ByteRange, ByteSource

OME_XML = "OME/METADATA.ome.xml"
MAX_XML = 1 << 23
"""Most bytes of an OME-XML that are read."""


@dataclass(frozen=True, slots=True)
class Series:
    """An image of a store."""

    group: Group
    image: Multiscale
    number: int
    """Its place among the images of the store."""
    size: tuple[int, int] = (0, 0)
    """Width and height in px; 0 where only one image is there to choose."""


@dataclass(frozen=True, slots=True)
class Store:
    """What there is in a store."""

    slide: Series
    beside: tuple[Series, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """Clauses on the choice, where it is not obvious."""
    xml: str = ""
    """The OME-XML that stands beside the images, "" where there is none."""


def open_store(source: ByteSource, slide: str) -> Store:
    """The images of a store. Raises SlideError where there is none that can be read, OSError."""
    groups = groups_of(source, slide)
    found, errors = _found(groups, slide)
    if not found:
        raise errors[0]
    xml = _xml(source) if groups[0].prefix else ""
    if len(found) + len(errors) == 1:
        return Store(found[0], xml=xml)
    sized = [_sized(source, each, slide) for each in found]
    largest = max(sized, key=lambda each: each.size[0] * each.size[1])
    beside = tuple(each for each in sized if each is not largest)
    return Store(largest, beside, tuple(_told(largest, beside, len(errors))), xml)


def _found(groups: Sequence[Group], slide: str) -> tuple[list[Series], list[SlideError]]:
    """Images whose metadata can be read, and why others cannot."""
    found: list[Series] = []
    errors: list[SlideError] = []
    for group in groups:
        for place in range(max(count_multiscales(group.attributes), 1)):
            try:
                image = parse_multiscale(group.attributes, slide, place)
                found.append(Series(group, image, len(found) + len(errors)))
            except SlideError as error:
                errors.append(error)
    return found, errors


def _sized(source: ByteSource, series: Series, slide: str) -> Series:
    """The series with its size, 0 where its array cannot be read."""
    image = series.image
    try:
        (metadata,) = read_arrays(source, series.group, [image.datasets[0].path], slide)
        shape, _ = array_facts(metadata)
        sides = shape[image.index("x") or 0], shape[image.index("y") or 0]
    except (SlideError, KeyError, TypeError, ValueError, IndexError, OverflowError):
        sides = 0, 0
    return Series(series.group, image, series.number, sides)


def _told(slide: Series, beside: Sequence[Series], unread: int) -> Iterator[str]:
    own = f"image {slide.number + 1} of the store ({slide.size[0]} x {slide.size[1]} px)"
    unread += sum(other.size == (0, 0) for other in beside)
    alike = sum(other.size == slide.size for other in beside)
    if slide.number:
        yield f"the largest image of the store is read: {own}"
    if alike:
        yield f"{alike} more image(s) of the same size are beside {own}"
    if unread:
        yield f"{unread} more image(s) of the store cannot be read"


def _xml(source: ByteSource) -> str:
    try:
        content = source.read(ByteRange(OME_XML, 0, MAX_XML))
    except OSError:
        return ""
    return content.decode("utf-8", "replace") if len(content) < MAX_XML else ""
