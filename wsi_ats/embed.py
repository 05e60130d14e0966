"""Embedding: the drawn tiles are read, each once, and turned into vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from wsi_ats.attention.levels import Drawn
from wsi_ats.cache import Key, TileCache
from wsi_ats.features.fingerprint import fingerprint
from wsi_ats.lowres.prepare import PreparedSlide
from wsi_ats.sampling import Draws
from wsi_ats.stopwatch import WAITING, noted
from wsi_ats.tiles import read_tiles

TILES_AT_ONCE = 64
"""Tiles in one pass of the feature network at prediction: bounds memory with `all`, and is fixed so that a
prediction never depends on a batch size."""

Pixels = dict[int, UInt8[np.ndarray, "h w 3"]]
"""Pixels of drawn tiles by their place among all that were drawn."""
Augment = Callable[[Float[Tensor, "M 3 h w"]], Float[Tensor, "M 3 h w"]]


def tile_features(
    network: nn.Module,
    drawn: Sequence[Drawn],
    px: int,
    cache: TileCache,
    *,
    settings: str = "",
    half: bool = False,
    augment: Augment | None = None,
    moved: Float64[np.ndarray, "M 2"] | None = None,
    fetched: Callable[[], Pixels] | None = None,
) -> Float[Tensor, "M D"]:
    """Features (M, D) of all drawn tiles, slide after slide, in one pass of the network.

    px: side of a tile. cache: keeps the pixels or, where the network is frozen, its features; these also on disk.
    settings: what the network works by beside its weights. half: whether it computes in bfloat16. augment: changes the
    tiles, (M, 3, h, w) in [0, 1], before a network that learns sees them. moved: where such a network's tiles lie in
    their cells (`read_tiles`); these are not kept. fetched: gives pixels that `fetch` has read already. Raises
    `SlideError` where a slide cannot be read.
    """
    located = _located(drawn)
    device = drawn[0].log_p.device

    def read(positions: list[int]) -> UInt8[np.ndarray, "M h w 3"]:
        with noted(WAITING):
            known = fetched() if fetched is not None else {}
            rest = [position for position in positions if position not in known]
            if rest:
                known = known | dict(zip(rest, _read(located, rest, px, moved), strict=True))
            return np.stack([known[position] for position in positions])

    def features_of(tiles: Float[Tensor, "M 3 h w"]) -> Float[Tensor, "M D"]:
        # Of a network that learns also where training is in mixed precision; what is fixed is kept for others.
        mixed = torch.is_autocast_enabled(device.type) and not network.frozen
        dtype = torch.bfloat16 if half else torch.get_autocast_dtype(device.type)
        with torch.autocast(device.type, dtype, enabled=half or mixed):
            features: Tensor = network(tiles)
        return features.float()

    if network.frozen:
        names = _keys(located, network, px, settings, device)
        made = cache.get_or_make(
            names, lambda new: features_of(to_tensor(read(new), device)).detach().cpu().numpy()
        )
        return torch.from_numpy(made).to(device)
    pixels = (
        cache.get_or_make(_keys(located, network, px, settings, device), read)
        if moved is None
        else read([*range(len(located.cells))])
    )
    tiles = to_tensor(pixels, device)
    return features_of(tiles if augment is None else augment(tiles))


def fetch(
    network: nn.Module,
    drawn: Sequence[Drawn],
    px: int,
    cache: TileCache,
    *,
    settings: str = "",
    moved: Float64[np.ndarray, "M 2"] | None = None,
) -> Pixels:
    """Pixels of those drawn tiles that `tile_features` with the same arguments would read; any thread may.

    Raises `SlideError` where a slide cannot be read.
    """
    located = _located(drawn)
    every = [*range(len(located.cells))]
    if moved is None:
        every = cache.missing(_keys(located, network, px, settings, drawn[0].log_p.device))
    return dict(zip(every, _read(located, every, px, moved), strict=True))


def in_chunks(known: Drawn, cells: Int64[Tensor, " M"]) -> list[Drawn]:
    """Any M of the cells that `known` knows, TILES_AT_ONCE in one draw, to be read; their weights mean nothing."""
    return [known.of(Draws(part, torch.zeros(len(part)))) for part in torch.split(cells, TILES_AT_ONCE)]


class TileVectors:
    """Vectors of the tiles of one slide, each read once however often it is drawn.

    embed: reads what was drawn and makes its vectors. Cells are counted as in draws; there may come to be more.
    """

    def __init__(self, embed: Callable[[Sequence[Drawn]], list[Float[Tensor, "_ D"]]]) -> None:
        self._embed = embed
        self._rows: dict[int, int] = {}
        self._vectors: Tensor | None = None

    def __len__(self) -> int:
        """Number of tiles read so far."""
        return len(self._rows)

    def read(self, drawn: Sequence[Drawn]) -> None:
        """Read those of the drawn tiles that are not known yet, in ascending order, a fixed number at a time."""
        last = drawn[-1]  # cells come to be known in the course of draws: the last one knows them all
        cells = {cell for d in drawn for cell in d.draws.cells.tolist()}
        new = sorted(cells - self._rows.keys())
        if not new:
            return
        self._rows |= zip(new, range(len(self), len(self) + len(new)), strict=True)
        parts = in_chunks(last, torch.tensor(new, device=last.log_p.device))
        known = [] if self._vectors is None else [self._vectors]
        self._vectors = torch.cat([*known, *(self._embed([part])[0] for part in parts)])

    def of(self, drawn: Drawn) -> Float[Tensor, "N D"]:
        """Vectors (N, D) of drawn tiles that have been read, in the order of the draw."""
        assert self._vectors is not None
        return self._vectors[[self._rows[cell] for cell in drawn.draws.cells.tolist()]]


class _Located(NamedTuple):
    """Slides of what was drawn and, of each of M tiles, its slide by its place among them and its cell in it."""

    slides: list[PreparedSlide]
    owners: Int64[np.ndarray, " M"]
    cells: Int64[np.ndarray, " M"]


def _located(drawn: Sequence[Drawn]) -> _Located:
    slides: list[PreparedSlide] = []
    owners, cells = [], []
    for d in drawn:
        owner, cell = d.slide.locate(d.cells)
        owners.append(owner + len(slides))
        cells.append(cell)
        slides += d.slide.slides
    return _Located(slides, np.concatenate(owners), np.concatenate(cells))


def _keys(located: _Located, network: nn.Module, px: int, settings: str, device: torch.device) -> list[Key]:
    """Cache keys of the tiles: of their features where the network is frozen, else of their pixels."""
    frozen = bool(network.frozen)
    made_by = ("features", fingerprint(network, settings), device.type) if frozen else ("tiles",)
    slides = located.slides
    places = [(*made_by, slide.view.grid, slide.tile_downsample, px) for slide in slides]
    pairs = zip(located.owners.tolist(), located.cells.tolist(), strict=True)
    return [slides[owner].key(cell, *places[owner], stored=frozen) for owner, cell in pairs]


def _read(
    located: _Located, positions: list[int], px: int, moved: Float64[np.ndarray, "M 2"] | None
) -> UInt8[np.ndarray, "n h w 3"]:
    """Pixels of the tiles at `positions`; every slide is opened once."""
    owners, cells = located.owners[positions], located.cells[positions]
    out = np.empty((len(cells), px, px, 3), np.uint8)
    for owner in set(owners.tolist()):
        slide, mine = located.slides[owner], owners == owner
        with slide.open() as handle:
            places = None if moved is None else moved[positions][mine]
            out[mine] = read_tiles(handle, slide.view.grid, cells[mine], px, slide.tile_downsample, places)
    return out


def to_tensor(pixels: UInt8[np.ndarray, "M h w 3"], device: torch.device) -> Float[Tensor, "M 3 h w"]:
    """Tiles as feature networks take them, in [0, 1]."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
