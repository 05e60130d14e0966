"""Channels that are stored one by one: are they red, green and blue, or the stains of a fluorescence image?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

RGB_WORDS = (("r", "red"), ("g", "green"), ("b", "blue"))
RGB_COLOURS = ("ff0000", "00ff00", "0000ff")
UNNAMED = re.compile(r"|(image|channel|ch|c)?[ :_-]*\d+(:\d+)*|.*(bright|rgb).*")
"""Names that writers make up where they know none ("Channel 0", "Channel:0:1", "1"), and those of bright-field."""
BRIGHT_FIELD = "a bright-field image in RGB is needed: fluorescence and grey images are not read"


class Channel(NamedTuple):
    """A channel as its metadata describes it."""

    name: str = ""
    colour: str = ""
    """Colour RRGGBB in which it is shown, "" where none is said; white stands for none."""
    fluorescent: bool = False
    """Whether a dye, a wavelength or the kind of contrast is said."""


def are_rgb(channels: Sequence[Channel]) -> bool:
    """Whether three planes may be put together as red, green and blue: nothing that is said of them is against it.

    >>> are_rgb([Channel("Channel 0"), Channel("Channel 1"), Channel("Channel 2")])
    True
    >>> are_rgb([Channel("DAPI"), Channel("FITC"), Channel("Cy5")])
    False
    """
    return len(channels) == 3 and all(
        _may_be(channel, words, colour)
        for channel, words, colour in zip(channels, RGB_WORDS, RGB_COLOURS, strict=True)
    )


def named(channels: Sequence[Channel]) -> str:
    """The names of channels, for messages; "" where none has one.

    >>> named([Channel("DAPI"), Channel("FITC")])
    ' (DAPI, FITC)'
    """
    names = [channel.name for channel in channels[:8] if not UNNAMED.fullmatch(channel.name.strip().lower())]
    return f" ({', '.join(names)})" if names else ""


def _may_be(channel: Channel, words: tuple[str, str], colour: str) -> bool:
    name = channel.name.strip().lower()
    if channel.fluorescent:
        return False
    if name in words:
        return True
    return bool(UNNAMED.fullmatch(name)) and channel.colour.lower() in ("", "ffffff", colour)
