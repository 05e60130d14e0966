"""Vectors of the tiles of one slide, each tile read once however often it is drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Describe = Callable[[Int[Tensor, " N"]], Float[Tensor, "N D"]]
"""Reads the tiles of cells and makes their vectors."""


class TileVectors:
    """What `describe` makes of the cells asked for so far. Cells are counted as in draws; there may come to be more."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._rows: dict[int, int] = {}
        self._vectors: Tensor | None = None

    def __len__(self) -> int:
        """Tiles read so far."""
        return len(self._rows)

    def read(self, cells: Int[Tensor, " M"]) -> None:
        """Read those of `cells` that are not known yet, in ascending order and all at once."""
        new = sorted(set(cells.tolist()) - self._rows.keys())
        if new:
            self._rows |= zip(new, range(len(self), len(self) + len(new)), strict=True)
            made = self._describe(torch.tensor(new, device=cells.device))
            self._vectors = made if self._vectors is None else torch.cat([self._vectors, made])

    def of(self, cells: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors (N, D) of cells that have been read."""
        assert self._vectors is not None
        return self._vectors[[self._rows[cell] for cell in cells.tolist()]]
