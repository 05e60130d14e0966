"""A bounded cache of arrays that are met again: pixels of tiles and regions, and what frozen networks make of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from wsi_ats.stopwatch import WAITING, noted


class Key(NamedTuple):
    """Name of an array in a cache: number `item` of those that `made_by` made.

    `made_by` holds all else that the array depends on: the slide and its grid, the size of a tile, the fingerprint of
    the network. An array is then the same whoever asks for it, also where several models share a cache.
    """

    made_by: Hashable
    item: Hashable
    stored_as: str = ""
    """`made_by` in words that mean the same in another process, for arrays that a store keeps; empty: not stored."""


@runtime_checkable
class Store(Protocol):
    """A place where arrays outlive the process (`wsi_ats.features.store`)."""

    def get(self, made_by: str, items: Sequence[int]) -> dict[int, np.ndarray]:
        """Rows of those of `items` that are there, by item."""

    def put(self, made_by: str, rows: dict[int, np.ndarray]) -> None:
        """Keep `rows`, arrays by item, of what `made_by` made."""


class TileCache:
    """Least-recently-used arrays, bounded in bytes, in front of a store on disk where there is one; thread-safe.

    `TileCache(0)` keeps nothing. A copy, by pickle or deepcopy, starts empty.

    >>> cache = TileCache(1 << 20)
    >>> keys = [Key("squares", item) for item in (3, 4, 3)]
    >>> cache.get_or_make(keys, lambda positions: np.array([[keys[i].item ** 2] for i in positions])).ravel()
    array([ 9, 16,  9])
    >>> len(cache)
    2
    """

    def __init__(self, max_bytes: int, store: Store | None = None) -> None:
        self.max_bytes = max_bytes
        self.store = store
        self.bytes = 0
        self._rows: OrderedDict[tuple[Hashable, Hashable], np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return TileCache, (self.max_bytes, self.store)

    def get_or_make(
        self, keys: Sequence[Key], make: Callable[[list[int]], Shaped[np.ndarray, "M ..."]]
    ) -> Shaped[np.ndarray, "N ..."]:
        """Arrays of `keys`, stacked in their order; `make(positions)` computes those that are not there, in one call.

        `make` gets the positions in `keys` of the missing arrays (each distinct key once) and returns them stacked.
        """
        found = self._kept(keys)
        missing: dict[tuple[Hashable, Hashable], int] = {}
        for position, key in enumerate(keys):
            if key[:2] not in found:
                missing.setdefault(key[:2], position)
        stored = self._stored([keys[position] for position in missing.values()])
        made = [position for name, position in missing.items() if name not in stored]
        # A copy each: a view would keep the whole stack alive after most of its rows are forgotten.
        rows = [row.copy() for row in make(made)] if made else []
        fresh = {keys[position][:2]: row for position, row in zip(made, rows, strict=True)}
        self._store([keys[position] for position in made], rows)
        self._keep(stored | fresh)
        found |= stored | fresh
        return np.stack([found[key[:2]] for key in keys])

    def missing(self, keys: Sequence[Key]) -> list[int]:
        """Positions of those keys whose arrays `get_or_make` would have made, each distinct one once. What the store
        has is in memory from now on, as long as there is room."""
        found = self._kept(keys)
        missing = {
            key[:2]: position for position, key in reversed([*enumerate(keys)]) if key[:2] not in found
        }
        stored = self._stored([keys[position] for position in missing.values()])
        self._keep(stored)
        return sorted(position for name, position in missing.items() if name not in stored)

    def _kept(self, keys: Sequence[Key]) -> dict[tuple[Hashable, Hashable], np.ndarray]:
        found = {}
        with self._lock:
            for key in keys:
                if key[:2] in self._rows:
                    self._rows.move_to_end(key[:2])
                    found[key[:2]] = self._rows[key[:2]]
        return found

    def _keep(self, rows: dict[tuple[Hashable, Hashable], np.ndarray]) -> None:
        with self._lock:
            for key, row in rows.items():
                if key not in self._rows and row.nbytes <= self.max_bytes:
                    self._rows[key] = row
                    self.bytes += row.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._rows.popitem(last=False)[1].nbytes

    def _stored(self, keys: Sequence[Key]) -> dict[tuple[Hashable, Hashable], np.ndarray]:
        """What the store has of `keys`."""
        found: dict[tuple[Hashable, Hashable], np.ndarray] = {}
        for name, mine in self._by_name(keys).items():
            with noted(WAITING):
                rows = self.store.get(name, [_number(key) for key in mine]) if self.store else {}
            found |= {key[:2]: rows[_number(key)] for key in mine if _number(key) in rows}
        return found

    def _store(self, keys: Sequence[Key], rows: Sequence[np.ndarray]) -> None:
        made = {key[:2]: row for key, row in zip(keys, rows, strict=True)}
        for name, mine in self._by_name(keys).items():
            if self.store:
                self.store.put(name, {_number(key): made[key[:2]] for key in mine})

    def _by_name(self, keys: Sequence[Key]) -> dict[str, list[Key]]:
        """The keys that a store is for, by what made them."""
        groups: dict[str, list[Key]] = {}
        for key in keys if self.store else ():
            if key.stored_as:
                groups.setdefault(key.stored_as, []).append(key)
        return groups


def _number(key: Key) -> int:
    assert isinstance(key.item, int)
    return key.item
