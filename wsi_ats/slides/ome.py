"""OME-XML: the images of a file, which planes they are made of, and where those lie in a TIFF.

Source: the OME data model 2016-06 and the OME-TIFF specification (TiffData).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from wsi_ats.slides.channels import Channel

MAX_CHANNELS = 256
"""Most channels of which the planes are looked up."""


class OmeImage(NamedTuple):
    """An image as OME-XML describes it."""

    number: int
    """Its place among the images of the XML."""
    name: str
    size: tuple[int, int]
    """Width and height in px."""
    z: int
    t: int
    """Focal planes and time points."""
    channels: tuple[Channel, ...]
    pages: tuple[int, ...]
    """Places in the chain of the TIFF's directories of the first focal plane and time point: one a channel, or one
    of all channels. Empty where they are in another file."""


def ome_images(root: ElementTree.Element) -> list[OmeImage]:
    """The images of an OME-XML, in its order. Numbers that are none count as 1."""
    images, following = [], 0
    for number, image in enumerate(root.findall("{*}Image")):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            continue
        stack = _Stack(pixels)
        runs = list(_runs(pixels, stack, following, root.get("UUID", "")))
        following = max([following, *(run.page + run.length for run in runs)])
        pages = (_page(runs, stack.place(channel)) for channel in range(stack.channels))
        images.append(
            OmeImage(
                number,
                image.get("Name", ""),
                (_whole(pixels, "SizeX"), _whole(pixels, "SizeY")),
                _whole(pixels, "SizeZ"),
                _whole(pixels, "SizeT"),
                tuple(map(_channel, pixels.findall("{*}Channel"))),
                tuple(itertools.takewhile(lambda page: page >= 0, pages)),
            )
        )
    return images


class _Stack:
    """The planes of an image in the order in which they are stored."""

    def __init__(self, pixels: ElementTree.Element) -> None:
        order = [axis for axis in pixels.get("DimensionOrder", "") if axis in "CZT"]
        self.order = order if sorted(order) == ["C", "T", "Z"] else ["C", "Z", "T"]
        self.sides = {axis: _whole(pixels, f"Size{axis}") for axis in "CZT"}
        # A channel of red, green and blue together is one plane.
        self.sides["C"] = min(len(pixels.findall("{*}Channel")) or self.sides["C"], self.sides["C"])
        self.channels = min(self.sides["C"], MAX_CHANNELS)
        self.planes = math.prod(self.sides.values())

    def place(self, channel: int, z: int = 0, t: int = 0) -> int:
        """Number of a plane; the first axis runs fastest."""
        at, number, step = {"C": channel, "Z": z, "T": t}, 0, 1
        for axis in self.order:
            number += step * at[axis]
            step *= self.sides[axis]
        return number


class _Run(NamedTuple):
    """Planes that lie one behind the other: the first of them, the page it is, and how many there are."""

    plane: int
    page: int
    length: int


def _runs(pixels: ElementTree.Element, stack: _Stack, first: int, uuid: str) -> Iterator[_Run]:
    """Where the planes of an image lie in this file.

    first: page of the first plane where nothing is said. uuid: of this file.
    """
    data = pixels.findall("{*}TiffData")
    if not data:
        yield _Run(0, first, stack.planes)
    for each in data:
        other = each.find("{*}UUID")
        if other is not None and uuid and (other.text or "").strip() != uuid:
            continue
        plane = stack.place(*(_whole(each, f"First{axis}", 0) for axis in "CZT"))
        count = _whole(each, "PlaneCount", 1 if "IFD" in each.attrib else stack.planes)
        yield _Run(plane, _whole(each, "IFD", 0), count)


def _page(runs: list[_Run], plane: int) -> int:
    """The page of a plane, -1 where it is in another file."""
    return next((run.page + plane - run.plane for run in runs if 0 <= plane - run.plane < run.length), -1)


def _channel(element: ElementTree.Element) -> Channel:
    fluorescent = any(element.get(key) for key in ("Fluor", "EmissionWavelength")) or (
        element.get("ContrastMethod") == "Fluorescence"
    )
    name = element.get("Name") or element.get("Fluor") or ""
    return Channel(name, _colour(element.get("Color", "")), fluorescent)


def _colour(text: str) -> str:
    """RRGGBB of a colour that is written as a signed 32-bit number RRGGBBAA."""
    try:
        return f"{int(text[:12]) & 0xFFFFFFFF:08x}"[:6]
    except ValueError:
        return ""


def _whole(element: ElementTree.Element, key: str, default: int = 1) -> int:
    """A number of an attribute, of at most nine digits."""
    text = element.get(key, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else default
