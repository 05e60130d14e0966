"""A bounded memory of arrays that are met again: tiles and frozen features in later epochs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock

import numpy as np
from jaxtyping import Shaped


class Memory:
    """Least-recently-used store of equal-shaped rows, bounded in bytes; thread-safe.

    `Memory(0)` remembers nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._rows: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def recall(
        self, keys: Sequence[Hashable], make: Callable[[list[int]], Shaped[np.ndarray, "M ..."]]
    ) -> Shaped[np.ndarray, "N ..."]:
        """Rows of `keys`, stacked in their order; `make(positions)` computes those not remembered, in one call.

        `make` gets the positions in `keys` of the missing rows (each distinct key once) and returns their rows.
        """
        found: dict[Hashable, np.ndarray] = {}
        missing: dict[Hashable, int] = {}
        with self._lock:
            for position, key in enumerate(keys):
                if key in self._rows:
                    self._rows.move_to_end(key)
                    found[key] = self._rows[key]
                else:
                    missing.setdefault(key, position)
        if missing:
            made = make(list(missing.values()))
            # A copy each: a view would keep the whole stack alive after most of its rows are forgotten.
            fresh = {key: row.copy() for key, row in zip(missing, made, strict=True)}
            found.update(fresh)
            self._remember(fresh)
        return np.stack([found[key] for key in keys])

    def _remember(self, rows: dict[Hashable, np.ndarray]) -> None:
        with self._lock:
            for key, row in rows.items():
                if key not in self._rows and row.nbytes <= self.max_bytes:
                    self._rows[key] = row
                    self.bytes += row.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._rows.popitem(last=False)[1].nbytes
