"""`Slide`: what every slide offers, whatever it is stored in.

A backend opens its format and hands out pixels that lie inside a level (`_pixels`, or `_fill` where many boxes
at once are cheaper than each by itself). All else is here, once: the coordinates, the background around the
slide, threads, checks.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Int, UInt8

from wsi_ats.arguments import in_short, of_kind, positive_number, whole_number
from wsi_ats.errors import ConfigError, MissingMppError
from wsi_ats.geometry import MATCH, Box, Level, Pyramid, Region, Size
from wsi_ats.slides import resample
from wsi_ats.slides.associated import AssociatedImages
from wsi_ats.slides.colour import convert_all, to_srgb
from wsi_ats.stopwatch import DECODING, noted

if TYPE_CHECKING:
    from dask.array import Array

Whole = int | np.integer
Rgb = tuple[int, int, int]
WHITE: Rgb = (255, 255, 255)
TWO = "give two whole numbers, (x, y); round(...) makes one of another number"
TILE = (256, 256)
"""Width and height in px of tiles where a backend does not say."""


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """Options with which the user wants a slide opened; part of its address."""

    mpp: tuple[float, float] | None = None
    """Micrometres per level-0 px (x, y) that win over what the slide says; None: as the slide says."""
    default_mpp: tuple[float, float] | None = None
    """Micrometres per level-0 px (x, y) of a slide that does not say; without effect on one that does."""
    srgb: bool = False
    """Turn colours to sRGB by the slide's ICC profile, where it has one."""
    tolerate_bad_tiles: int = 0
    """Number of tiles that may be unreadable: they are background and are counted. The next one is an error."""


DEFAULTS = OpenOptions()
"""Options of a slide of which nothing is asked: as it describes itself."""


class SlideAddress(ABC):
    """Address of a slide: all that is needed to open it again, in another process or on another machine.

    Picklable and hashable.
    """

    name: str
    """The slide's name in messages and results."""
    options: OpenOptions = DEFAULTS
    """Options with which the slide is opened."""

    @abstractmethod
    def open(self) -> Slide:
        """Open the slide; it is a context manager. Raises SlideError where that fails."""

    def digest(self) -> str:
        """What the slide holds, in a text that copies have in common: a word for what was looked at, and its digest.

        Empty where that cannot be told from little.
        """
        return ""


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """Facts that a backend finds out when it opens a slide."""

    pyramid: Pyramid
    mpp_xy: tuple[float, float] | None
    mpp_source: str
    properties: Mapping[str, str]
    background: Rgb = WHITE
    associated_names: tuple[str, ...] = ()
    icc_profile: bytes | None = None
    """ICC profile of the pixels, where the slide has one."""
    notes: tuple[str, ...] = ()
    """Clauses on what the user should know of how the slide was understood: statements that contradict each other,
    images that were left out. They go with every answer."""


class Slide(ABC):
    """A slide: a pyramid of RGB levels. A context manager, safe to share by threads, pickled as its address.

    Positions (x, y) are in level-0 px, sizes (width, height) in px of the level, as OpenSlide has it. Pixels
    are RGB uint8. What lies beyond the slide or is transparent has the slide's background colour, else white.
    """

    backend: ClassVar[str]
    """Name of the backend."""
    backend_reason: str = ""
    """Reason why this backend reads the slide: the rule, never what happens to be installed."""
    threads: int = 1
    """Number of threads that `read_many` uses."""
    bounds: tuple[int, int, int, int] | None = None
    """Rectangle (x, y, width, height) in level-0 px that holds all there is, where the slide says; for people:
    positions are those of the whole slide."""

    def __init__(self, address: SlideAddress, facts: SlideFacts) -> None:
        self.address = address
        self.name = address.name
        self.pyramid = facts.pyramid
        self.mpp_xy = facts.mpp_xy
        self.mpp_source = facts.mpp_source
        self.properties: Mapping[str, str] = MappingProxyType(dict(facts.properties))
        self.background = facts.background
        self.icc_profile = facts.icc_profile
        self.notes = facts.notes
        """Clauses on how the slide was understood where its own statements leave a doubt, for people; often none."""
        profile = facts.icc_profile if address.options.srgb else None
        self._to_srgb = to_srgb(profile, self.name) if profile else None
        self._associated_names = facts.associated_names
        self._lock = threading.Lock()
        self._bytes_read = 0

    @property
    def size(self) -> tuple[int, int]:
        """Size (width, height) of level 0 in px."""
        return self.pyramid.size.width, self.pyramid.size.height

    @cached_property
    def digest(self) -> str:
        """What the slide holds, in a text that its copies have in common; empty where that is not known
        (`SlideAddress.digest`)."""
        return self.address.digest()

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels of the pyramid, finest first."""
        return self.pyramid.levels

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 px, mean of x and y; None where the slide does not say. Never guessed.

        `mpp_xy` has both; where they differ, `notes` and `repr` say so.
        """
        return None if self.mpp_xy is None else sum(self.mpp_xy) / 2

    @property
    def mpp_doubts(self) -> str:
        """What was said of the scale and is not believed, for messages on a slide without one: "; ..." or ""."""
        return "".join(f"; {note}" for note in self.notes if "um/px" in note)

    @property
    def associated_images(self) -> AssociatedImages:
        """Images beside the pyramid by name (label, macro, thumbnail, ...), (h, w, 3) uint8; read when asked for."""
        return AssociatedImages(self._associated_names, self._associated)

    @property
    def bad_tiles(self) -> tuple[tuple[int, int, int], ...]:
        """Tiles (level, column, row) met so far that could not be read and were tolerated."""
        return ()

    @property
    def bytes_read(self) -> int:
        """Bytes of RGB pixels decoded through this object so far: 3 for every pixel inside the slide."""
        return self._bytes_read

    def read(
        self, location: tuple[Whole, Whole], size: tuple[Whole, Whole], level: Whole = 0
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of one region, (h, w, 3) uint8.

        location: (x, y) of the corner in level-0 px, also outside the slide. The region starts at the level's
            pixel nearest to it, so that pixels are copied, never resampled.
        size: (width, height) in px of the level.
        Raises SlideError, with the coordinates, where the slide cannot be read, ConfigError where it has no such
        level.

        >>> from wsi_ats import open_slide
        >>> red = np.tile(np.arange(8, dtype=np.uint8)[None, :, None], (4, 1, 3))  # as many as x
        >>> slide = open_slide([red, red[::2, ::2]])
        >>> slide.read((2, 0), (3, 1)).tolist()[0]
        [[2, 2, 2], [3, 3, 3], [4, 4, 4]]
        >>> slide.read((2, 0), (3, 1), level=1)[0, :, 0].tolist()  # from level-0 x = 2, every second px
        [2, 4, 6]
        """
        x, y = _two("location", location)
        region = Region(x, y, _size(size), self._level(level).index)
        with _room(1, region.size):
            out = np.empty((region.size.height, region.size.width, 3), np.uint8)
        self._read_into([region], out[None])
        return out

    def read_many(
        self,
        xy: Int[np.ndarray, "N 2"],
        size: tuple[Whole, Whole],
        level: Whole = 0,
        out: UInt8[np.ndarray, "N h w 3"] | None = None,
    ) -> UInt8[np.ndarray, "N h w 3"]:
        """Pixels of N regions of one size, (N, h, w, 3) uint8, in the order of `xy` (level-0 px).

        out: an array to fill instead of a new one; it is returned. Raises as `read` does.

        >>> from wsi_ats import open_slide
        >>> slide = open_slide(np.tile(np.arange(8, dtype=np.uint8)[None, :, None], (4, 1, 3)))
        >>> tiles = slide.read_many(np.array([[0, 0], [5, 2]]), (3, 2))
        >>> tiles.shape, tiles[:, 0, :, 0].tolist()
        ((2, 2, 3, 3), [[0, 1, 2], [5, 6, 7]])
        """
        index, shape = self._level(level).index, _size(size)
        places = _places(xy)
        expected = (len(places), shape.height, shape.width, 3)
        if out is None:
            with _room(len(places), shape):
                out = np.empty(expected, np.uint8)
        of_kind("out", out, np.ndarray, "an array (N, h, w, 3) of uint8", "leave it away for a new one")
        if out.shape != expected:
            raise ConfigError(
                f"read_many: out has shape {out.shape}, the regions need {expected}",
                "give one of that shape, or leave it away for a new one",
            )
        self._read_into([Region(x, y, shape, index) for x, y in places], out)
        return out

    def read_at_mpp(
        self, location: tuple[Whole, Whole], size: tuple[Whole, Whole], mpp: float | int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels at `mpp` micrometres per pixel, resampled from the nearest finer level.

        location: (x, y) in level-0 px; size: (width, height) in px of the output.
        Raises MissingMppError where the slide does not know its mpp, ConfigError where `mpp` is finer.

        >>> from wsi_ats import open_slide
        >>> slide = open_slide(np.tile(np.arange(0, 80, 10, np.uint8)[None, :, None], (8, 1, 3)), mpp=0.25)
        >>> slide.read_at_mpp((2, 4), (2, 1), mpp=0.5)[0, :, 0].tolist()  # of 20 and 30, of 40 and 50
        [25, 45]
        """
        if self.mpp_xy is None:
            raise MissingMppError(
                f"slide {self.name!r} has no mpp{self.mpp_doubts}", "open it with open_slide(..., mpp=...)"
            )
        mpp = positive_number(
            "mpp", mpp, " of micrometres per pixel", "give the one to read at, 0.5 for example"
        )
        downsample = (mpp / self.mpp_xy[0], mpp / self.mpp_xy[1])
        if not min(downsample) >= 1 - MATCH:
            raise ConfigError(
                f"mpp={mpp} is finer than slide {self.name!r}, which has {self.mpp} um/px",
                f"ask for an mpp of at least {self.mpp}",
            )
        shape = _size(size)
        corner = np.asarray([_two("location", location)], np.float64)
        with _room(1, shape):
            boxes = resample.read_boxes(self, corner, (shape.width, shape.height), downsample)
        return np.asarray(boxes[0])

    def dask(self, level: Whole = 0, chunk: int | None = None) -> Array:
        """The level as a Dask array, (h, w, 3) uint8, cut along tiles; nothing is read before it is computed.

        chunk: length of a chunk's sides in px of the level, rounded up to whole tiles; about 8 MB by default.
        It works with every scheduler; workers open the slide by its address. See `wsi_ats.slides.lazy`.

        >>> from wsi_ats import open_slide
        >>> level = open_slide(np.full((600, 500, 3), 240, np.uint8)).dask(chunk=256)
        >>> level.chunks
        ((256, 256, 88), (256, 244), (3,))
        >>> float(level[:300].mean().compute(scheduler="synchronous"))
        240.0
        """
        from wsi_ats.slides.lazy import lazy_level

        return lazy_level(self, whole_number("level", level), chunk)

    def tile_size(self, level: Whole = 0) -> tuple[int, int]:
        """Size (width, height) in px of what is decoded at a time: the sizes at whose multiples it is best to cut."""
        return TILE

    @abstractmethod
    def close(self) -> None:
        """Release files. Reading afterwards is an error; what is known about the slide stays."""

    def _pixels(self, level: Level, x: int, y: int, size: Size) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels of a rectangle that lies inside `level`; x, y and size in px of the level."""
        raise NotImplementedError(f"{type(self).__name__} has neither _pixels nor _fill")

    def _fill(
        self, level: Level, boxes: Sequence[Box], targets: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> None:
        """Write the pixels of boxes that lie inside `level` to `targets`, arrays of the boxes' shapes."""

        def fill(box: Box, target: np.ndarray) -> None:
            with noted(DECODING):  # of a library that reads and decodes in one, both
                target[:] = self._pixels(level, box.x, box.y, Size(box.width, box.height))

        if self.threads == 1 or len(boxes) < 2:
            for box, target in zip(boxes, targets, strict=True):
                fill(box, target)
        else:
            # A pool a call: threads do not survive a fork, and starting them costs less than one tile.
            with ThreadPoolExecutor(min(self.threads, len(boxes))) as pool:
                list(pool.map(fill, boxes, targets))

    @abstractmethod
    def _associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """The associated image of that name."""

    def _level(self, index: Whole) -> Level:
        number = whole_number("level", index)
        if not 0 <= number < len(self.levels):
            raise ConfigError(
                f"level={index}: slide {self.name!r} has levels 0 to {len(self.levels) - 1}",
                "give one of these; read_at_mpp takes micrometres per pixel instead",
            )
        return self.levels[number]

    def _read_into(self, regions: Sequence[Region], out: UInt8[np.ndarray, "N h w 3"]) -> None:
        """Fill `out` with regions of one level: what lies inside from the slide, the rest with background."""
        if not regions:
            return
        level = self.levels[regions[0].level]
        boxes, targets = [], []
        for region, target in zip(regions, out, strict=True):
            x, y = level.pixel_at(region.x, region.y)
            left, right = max(x, 0), min(x + region.size.width, level.size.width)
            top, bottom = max(y, 0), min(y + region.size.height, level.size.height)
            inside = max(right - left, 0) * max(bottom - top, 0)
            if inside < region.size.width * region.size.height:
                target[:] = self.background
            if inside:
                boxes.append(Box(left, top, right - left, bottom - top))
                targets.append(target[top - y : bottom - y, left - x : right - x])
        if boxes:
            self._fill(level, boxes, targets)
            if self._to_srgb is not None:
                convert_all(self._to_srgb, targets, self.threads)
            with self._lock:
                self._bytes_read += sum(3 * box.width * box.height for box in boxes)

    def __reduce__(self) -> tuple[object, ...]:
        return self.address.open, ()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.size
        mpp = "mpp unknown"
        if self.mpp_xy is not None:
            sides = dict.fromkeys(f"{side:.4g}" for side in self.mpp_xy)
            mpp = f"{' x '.join(sides)} um/px"
        return (
            f"<Slide {self.name!r}: {width} x {height} px, {len(self.levels)} levels, {mpp}, {self.backend}>"
        )


def _size(size: tuple[Whole, Whole]) -> Size:
    return Size(*_two("size", size))


def _two(name: str, pair: tuple[Whole, Whole]) -> tuple[int, int]:
    """Two whole numbers, for x and y."""
    try:
        x, y = pair
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} is {in_short(pair)}; it must be two whole numbers, of x and of y", TWO
        ) from error
    return whole_number(name, x, remedy=TWO), whole_number(name, y, remedy=TWO)


def _places(xy: Int[np.ndarray, "N 2"]) -> list[tuple[int, int]]:
    """Corners (x, y) of regions."""
    try:
        return [_two("xy", tuple(pair)) for pair in np.asarray(xy).tolist()]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"xy is {in_short(xy)}; it must be an array (N, 2) of whole numbers", TWO
        ) from error


@contextmanager
def _room(regions: int, size: Size) -> Iterator[None]:
    """A block in which pixels of so many regions get their place. Raises `ConfigError` where there is no memory."""
    try:
        yield
    except (MemoryError, ValueError, OverflowError) as error:
        gigabytes = 3 * regions * size.width * size.height / 1e9
        raise ConfigError(
            f"size is ({size.width}, {size.height}): {regions} region(s) of it are {gigabytes:,.1f} GB of pixels, for "
            "which memory has no room",
            "read smaller regions or a coarser level; slide.dask(level) reads a level part by part",
        ) from error
