"""Tiles of the next step, read while this one computes.

Which tiles a step needs follows from the attention, which the step before it has still to change. So the next step's
tiles are drawn with the attention of this one, and read in a thread meanwhile. The step then averages them under its
own attention: the weights of a draw belong to the attention that made it, and the estimate stays unbiased
(`estimator.py`). The first step of an epoch draws with its own attention, so that an interrupted run goes on as it
would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from wsi_ats.attention.levels import Drawn, SlideAttention
from wsi_ats.embed import Pixels
from wsi_ats.sampling import Draws
from wsi_ats.train.data import Example


class Batch(list[Example]):
    """The examples of a step, and those of the one after it, if that is of the same epoch."""

    def __init__(self, examples: Sequence[Example], after: Sequence[Example] = ()) -> None:
        super().__init__(examples)
        self.after = list(after)


class LookingAhead(DataLoader[Example]):
    """A loader whose batches know the one after them."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        before: list[Example] | None = None
        batches: Iterator[Any] = super().__iter__()
        for batch in batches:
            if before is not None:
                yield Batch(before, batch)
            before = batch
        if before is not None:
            yield Batch(before)


@dataclass(frozen=True, eq=False)
class _Ahead:
    step: tuple[int, int]
    draws: list[Draws]
    pixels: Future[Pixels]


class ReadAhead:
    """What was drawn for the next step, and its tiles, which a thread reads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._ahead: _Ahead | None = None

    def begin(self, step: tuple[int, int], draws: list[Draws], read: Callable[[], Pixels]) -> None:
        """Let the thread `read` what was drawn for a step, (epoch, number of the batch)."""
        self._ahead = _Ahead(step, draws, self._pool.submit(read))

    def take(
        self, step: tuple[int, int], attention: Sequence[SlideAttention]
    ) -> tuple[list[Drawn], Callable[[], Pixels]] | None:
        """What was drawn for a step, under the attention that it has now, and what waits for its pixels; None where
        nothing was drawn for it ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.step != step:
            return None
        drawn = [Drawn(a.slide, a.log_p, draws) for a, draws in zip(attention, ahead.draws, strict=True)]
        return drawn, ahead.pixels.result
