"""What the page is made of: sections of texts, tables, plots and slides. All text is plain; the template escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    form: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    form: ClassVar[str] = "words"
    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    form: ClassVar[str] = "points"
    items: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """A table."""

    form: ClassVar[str] = "grid"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]] = ()
    """Shade of each cell but those of the first column, 0 to 1; none: no shades."""


@dataclass(frozen=True)
class Image:
    """A picture within the page: its data as a URL, and what it shows in words."""

    src: str
    alt: str


@dataclass(frozen=True)
class Plot:
    """A plot with its caption."""

    form: ClassVar[str] = "plot"
    image: Image
    caption: str


@dataclass(frozen=True)
class Plots:
    """Plots that stand beside each other where there is room."""

    form: ClassVar[str] = "plots"
    plots: Sequence[Plot]


@dataclass(frozen=True)
class SlideCard:
    """A slide or a patient: what was said of it, heatmaps of its slides and the tiles that decided most."""

    form: ClassVar[str] = "slide"
    name: str
    facts: Sequence[str]
    heatmaps: Sequence[Image] = ()
    tiles: Sequence[tuple[Image, str]] = ()
    """Tiles, each with a caption."""
    note: str = ""
    """Why a picture is missing."""


Block = Heading | Words | Points | Grid | Plot | Plots | SlideCard


@dataclass(frozen=True)
class Section:
    """A section of the page; `id` is its anchor."""

    id: str
    title: str
    blocks: Sequence[Block]
