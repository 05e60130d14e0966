"""`prepare`, a slide made ready for the model: its low-resolution view, its tissue and its attention grid.

With two levels of attention (`attention.levels`) that view is the coarse one and its cells are regions; the fine view
is then read for the regions that are drawn (`lowres/regions.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import Float64, Int64

from wsi_ats.cache import Key
from wsi_ats.config import Config
from wsi_ats.errors import ConfigError, NoTissueError, SlideError
from wsi_ats.lowres.regions import RegionGrid, coarse_frame, find_regions
from wsi_ats.lowres.same_picture import blank_places, check_levels
from wsi_ats.lowres.stain_normalisation import StainTable, make_stain_table
from wsi_ats.lowres.tissue import Tissue, count_colours, find_tissue
from wsi_ats.lowres.tones import NAMES, tones_of
from wsi_ats.lowres.view import LazyView, Read, View, frame_view, resolve_downsample
from wsi_ats.slides.base import Slide, SlideAddress


@dataclass(frozen=True)
class PreparedSlide:
    """A slide prepared for the model: a view with its tissue cells, and the way back to full-resolution pixels.

    It holds no file open unless it was made with `keep_open`, so thousands can be kept while training.
    """

    address: SlideAddress
    name: str
    slide_size: tuple[int, int]
    """Size (width, height) of the slide in level-0 px."""
    mpp: tuple[float, float] | None
    """Micrometres per level-0 px (x, y); None where the slide does not say."""
    view: View | LazyView
    """The low-resolution view; a large one is not kept in memory: it is read again whenever it is needed."""
    tissue: Int64[np.ndarray, " K"]
    """Flat grid indices of the K tissue cells, ascending; draws index into this."""
    order: Int64[np.ndarray, " K"]
    """Permutation of 0..K-1 along a Hilbert curve: neighbours in it are neighbours on the slide."""
    tile_downsample: tuple[float, float]
    """Downsample of the tiles: level-0 px per tile px (x, y)."""
    stain_table: StainTable | None = None
    """Stain table, what the attention network sees of each grey level; None: level / 255."""
    slide: Slide | None = None
    """The open slide, where it was prepared with `keep_open`."""
    regions: RegionGrid | None = None
    """Grid inside the cells, which are then regions, with two levels of attention; None with one."""
    content: str = ""
    """Digest of what is in the slide (`slides/content.py`), wherever it lies: for what is kept of it on disk. Empty
    where nothing is to be kept."""
    notes: tuple[str, ...] = ()
    """Clauses on what the user should know of how the slide was understood: the slide's own, its
    levels', and the tissue's."""
    view_shares: Mapping[str, float] = field(default_factory=dict)
    """Shares of tissue, glass, pen, black and blank in the view; they sum to 1."""
    tones: Float64[np.ndarray, " T"] = field(default_factory=lambda: np.zeros(len(NAMES)))
    """Tones of the view (`lowres/tones.py`), by which slides are compared."""
    bad_tiles: set[tuple[int, int, int]] = field(default_factory=set, compare=False)
    """Tiles (level, column, row) met so far that could not be read and were tolerated."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its slides: its own."""
        return (self.name,)

    @property
    def slides(self) -> tuple[PreparedSlide, ...]:
        """Itself, as the one of its slides (`PreparedPatient` has several)."""
        return (self,)

    @property
    def first_cells(self) -> Int64[np.ndarray, " 1"]:
        """The first cell of the grid of each of its slides."""
        return np.zeros(1, np.int64)

    def locate(
        self, cells: Int64[np.ndarray, " N"]
    ) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
        """Which of the `slides` each cell is of, and its flat index in the grid of that one."""
        return np.zeros(len(cells), np.int64), cells

    def with_cells(self, cells: Int64[np.ndarray, " K"]) -> PreparedSlide:
        """The slide with these tissue cells."""
        return replace(self, tissue=cells, order=self.view.grid.hilbert_order(cells))

    @property
    def fine(self) -> PreparedSlide:
        """With two levels of attention, the slide on the grid of the fine view, of which no cell is known yet."""
        assert self.regions is not None
        none = np.empty(0, np.int64)
        return replace(self, view=self.regions.frame, tissue=none, order=none, regions=None)

    @property
    def nbytes(self) -> int:
        """Bytes of arrays that the prepared slide holds."""
        regions = self.regions.nbytes if self.regions is not None else 0
        return self.view.nbytes + self.tissue.nbytes + self.order.nbytes + regions

    def key(self, item: Hashable, *made_by: Hashable, stored: bool = False) -> Key:
        """Cache key of array `item` of those that `made_by` makes of this slide; `stored`: a store may keep it."""
        stored_as = f"{self.content} {self.address.options} {made_by}" if stored and self.content else ""
        return Key((self.address, *made_by), item, stored_as)

    @contextmanager
    def view_reader(self) -> Iterator[Read]:
        """A context that reads boxes of the view, from memory or from the slide, open for the length of the block."""
        if isinstance(self.view, View):
            yield self.view.crop
            return
        with self.open() as slide:
            yield partial(self.view.read, slide)

    @contextmanager
    def open(self) -> Iterator[Slide]:
        """The slide: the one that is open already, or one opened for the length of the block.

        An error of reading it in the block leaves with the slide's address, also where it has more bad tiles by now
        than are tolerated, all times together that it was open.
        """
        with self.address.open() if self.slide is None else nullcontext(self.slide) as slide:
            try:
                yield slide
                self._count_bad_tiles(slide)
            except SlideError as error:
                error.address = self.address
                raise

    def _count_bad_tiles(self, slide: Slide) -> None:
        self.bad_tiles.update(slide.bad_tiles)
        tolerated = self.address.options.tolerate_bad_tiles
        if len(self.bad_tiles) > tolerated:
            raise SlideError(
                f"slide {self.name!r}: {len(self.bad_tiles)} tiles cannot be read, {tolerated} are tolerated",
                "copy it again from its source, or allow more such tiles (--tolerate-bad-tiles)",
            )


def prepare(slide: Slide, config: Config, *, keep_open: bool = False) -> PreparedSlide:
    """The slide prepared for the model: its view is read, its tissue found, the attention grid laid.

    Raises `ConfigError` where the slide was opened for other colours than the settings have, `MissingMppError` where
    a setting is in mpp and the slide has none, `NoTissueError` on an empty mask and `SlideError` where pixels cannot
    be read, or where a level that is read shows another picture than level 0 or none, be it in a part. With `keep_open`
    tiles are read from this very handle.

    >>> from wsi_ats import open_slide
    >>> from wsi_ats.config import load_config
    >>> pixels = np.full((512, 768, 3), 240, np.uint8)
    >>> pixels[128:384, 128:640] = 170, 90, 160  # stained tissue on glass
    >>> config = load_config(overrides=["view.downsample=8", "tile.downsample=1", "attention.stride=16"])
    >>> prepared = prepare(open_slide(pixels), config)
    >>> prepared.view.grid, prepared.tissue.tolist()
    (Grid(rows=4, cols=6, cell=(128.0, 128.0)), [7, 8, 9, 10, 13, 14, 15, 16])
    """
    _check_colours(slide, config)
    tile = resolve_downsample(slide, mpp=config.tile.mpp, downsample=config.tile.downsample, setting="tile")
    coarse = resolve_downsample(slide, mpp=config.view.mpp, downsample=config.view.downsample, setting="view")
    frame = frame_view(slide, coarse, config.attention.stride)
    scales = {frame.downsample, tile}
    try:
        view, tissue, regions = (_one_level if config.attention.levels == 1 else _two_levels)(
            slide, frame, config
        )
    except NoTissueError:
        check_levels(slide, scales, np.empty((0, 2)))
        raise
    order = view.grid.hilbert_order(tissue.cells)
    levels = check_levels(
        slide, scales | {view.downsample}, view.grid.centres(tissue.cells[order]), blank_places(view)
    )
    return PreparedSlide(
        address=slide.address,
        name=slide.name,
        slide_size=slide.size,
        mpp=slide.mpp_xy,
        view=view,
        tissue=tissue.cells,
        order=order,
        tile_downsample=tile,
        stain_table=make_stain_table(tissue.colours) if config.view.normalise else None,
        slide=slide if keep_open else None,
        regions=regions,
        notes=(*slide.notes, *levels, *tissue.notes),
        view_shares=tissue.shares.as_dict(),
        tones=tones_of(tissue),
        bad_tiles=set(slide.bad_tiles),
    )


def _one_level(slide: Slide, frame: LazyView, config: Config) -> tuple[View | LazyView, Tissue, None]:
    small = frame.shape[0] * frame.shape[1] <= config.view.whole**2
    view = frame.load(slide) if small else frame
    read = view.crop if isinstance(view, View) else partial(view.read, slide)
    tissue = find_tissue(
        view, name=slide.name, read=read, background=slide.background, **config.tissue.model_dump()
    )
    return view, tissue, None


def _two_levels(slide: Slide, frame: LazyView, config: Config) -> tuple[View, Tissue, RegionGrid]:
    how = config.regions
    view = coarse_frame(frame, how.side, how.shrink, how.px).load(slide)
    cells, regions = find_regions(
        view, frame, how.side, name=slide.name, background=slide.background, **config.tissue.model_dump()
    )
    stain = regions.tissue.stain
    colours = count_colours(view.pixels, stain.mask(view.pixels))
    return view, Tissue(cells, colours, regions.shares, stain.light), regions


def _check_colours(slide: Slide, config: Config) -> None:
    wanted, has = config.slide.srgb, slide.address.options.srgb
    if slide.icc_profile is not None and wanted != has:
        raise ConfigError(
            f"slide {slide.name!r} has an ICC profile and was opened with srgb={has}; slide.srgb is {wanted}",
            f"open it with open_slide(..., srgb={wanted})",
        )
