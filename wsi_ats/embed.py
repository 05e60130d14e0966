"""Embedding: the drawn tiles are read, each once, and turned into vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from wsi_ats.attention.levels import Drawn
from wsi_ats.cache import Key, TileCache
from wsi_ats.features.fingerprint import fingerprint
from wsi_ats.lowres.prepare import PreparedSlide
from wsi_ats.sampling import Draws
from wsi_ats.tiles import read_tiles

TILES_AT_ONCE = 64
"""Tiles in one pass of the feature network at prediction: bounds memory with `all`, and is fixed so that a
prediction never depends on a batch size."""

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
) -> Float[Tensor, "M D"]:
    """Features (M, D) of all drawn tiles, slide after slide, in one pass of the network.

    px: side of a tile. cache: keeps the pixels or, where the network is frozen, its features; these also on disk.
    settings: what the network works by beside its weights. half: whether it computes in bfloat16. augment: changes the
    tiles, (M, 3, h, w) in [0, 1], before a network that learns sees them. moved: where such a network's tiles lie in
    their cells (`read_tiles`); these are not kept. Raises `SlideError` where a slide cannot be read.
    """
    slides, owners, cells = _located(drawn)
    device = drawn[0].log_p.device

    def read(positions: list[int]) -> UInt8[np.ndarray, "M h w 3"]:
        return _read(
            slides, owners[positions], cells[positions], px, None if moved is None else moved[positions]
        )

    def keys(*made_by: str, stored: bool) -> list[Key]:
        places = [(*made_by, slide.view.grid, slide.tile_downsample, px) for slide in slides]
        pairs = zip(owners.tolist(), cells.tolist(), strict=True)
        return [slides[owner].key(cell, *places[owner], stored=stored) for owner, cell in pairs]

    def features_of(tiles: Float[Tensor, "M 3 h w"]) -> Float[Tensor, "M D"]:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            features: Tensor = network(tiles)
        return features.float()

    if network.frozen:
        names = keys("features", fingerprint(network, settings), device.type, stored=True)
        made = cache.get_or_make(
            names, lambda new: features_of(to_tensor(read(new), device)).detach().cpu().numpy()
        )
        return torch.from_numpy(made).to(device)
    pixels = (
        cache.get_or_make(keys("tiles", stored=False), read) if moved is None else read([*range(len(cells))])
    )
    tiles = to_tensor(pixels, device)
    return features_of(tiles if augment is None else augment(tiles))


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


def _located(
    drawn: Sequence[Drawn],
) -> tuple[list[PreparedSlide], Int64[np.ndarray, " M"], Int64[np.ndarray, " M"]]:
    """All slides of what was drawn, the one of each of M tiles by its place among them, and the tile's cell in it."""
    slides: list[PreparedSlide] = []
    owners, cells = [], []
    for d in drawn:
        owner, cell = d.slide.locate(d.cells)
        owners.append(owner + len(slides))
        cells.append(cell)
        slides += d.slide.slides
    return slides, np.concatenate(owners), np.concatenate(cells)


def _read(
    slides: Sequence[PreparedSlide],
    owners: Int64[np.ndarray, " M"],
    cells: Int64[np.ndarray, " M"],
    px: int,
    moved: Float64[np.ndarray, "M 2"] | None,
) -> UInt8[np.ndarray, "M h w 3"]:
    """Pixels of M cells, each of the slide at its place in `owners`; every slide is opened once."""
    out = np.empty((len(cells), px, px, 3), np.uint8)
    for owner in set(owners.tolist()):
        slide, mine = slides[owner], owners == owner
        with slide.open() as handle:
            places = None if moved is None else moved[mine]
            out[mine] = read_tiles(handle, slide.view.grid, cells[mine], px, slide.tile_downsample, places)
    return out


def to_tensor(pixels: UInt8[np.ndarray, "M h w 3"], device: torch.device) -> Float[Tensor, "M 3 h w"]:
    """Tiles as feature networks take them, in [0, 1]."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
