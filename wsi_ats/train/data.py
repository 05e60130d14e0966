"""Slides as training data: each is prepared once, those that cannot be used are set aside and named.

Where the rows are of patients, an example is all slides of one; it is set aside as a whole where one of them cannot be
used: that might be the one with the tumour."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64
from torch.utils.data import Dataset, Sampler

from wsi_ats.config import Config
from wsi_ats.errors import Failure, MissingMppError, NoTissueError, SlideError, WsiAtsError
from wsi_ats.lowres.patient import Prepared, prepared_patient
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.manifest import Row
from wsi_ats.sampling import generator_for
from wsi_ats.shown import shown
from wsi_ats.slides import SlideAddress, open_slide
from wsi_ats.slides.content import content_of
from wsi_ats.stopwatch import WAITING, Stopwatch, noted
from wsi_ats.tasks.make import as_tasks
from wsi_ats.tasks.task import Task
from wsi_ats.train.processes import ALONE, Processes
from wsi_ats.train.targets import Targets, target_of, targets_of

BadTiles = dict[str, set[tuple[int, int, int]]]
"""Tiles (level, column, row) by slide, met so far, that could not be read and were tolerated."""
_STAGES = {NoTissueError: "tissue", MissingMppError: "mpp"}
"""Stages by which what users can mend is told apart, whatever was under way."""
TILES = "tiles"
"""Stage of slides that could be prepared but not read where they were drawn."""


@dataclass(frozen=True)
class Example:
    """A slide, or a patient, to learn from."""

    prepared: Prepared
    targets: Targets
    slides: tuple[str, ...]
    """Ids of its slides, which its draws depend on."""

    @property
    def label(self) -> int:
        """Index of the slide's class, where the main task is one of classes."""
        return int(self.targets[0][0])


class Examples(Dataset[Example]):
    """Slides with targets. Views are kept while they fit into `max_bytes` and read again each epoch
    where they do not. `stored`: a store keeps what frozen networks make of them, by their content."""

    def __init__(
        self,
        rows: Sequence[Row],
        tasks: Sequence[Task] | Sequence[str],
        config: Config,
        max_bytes: int,
        bad_tiles: BadTiles | None = None,
        *,
        stored: bool = False,
    ) -> None:
        self.rows = list(rows)
        self._tasks = as_tasks(tasks)
        self._config = _for_preparing(config)
        self._room = max_bytes
        self._stored = stored
        self._kept: dict[str, PreparedSlide] = {}
        self._addresses: dict[str, SlideAddress] = {}
        self._bad_tiles = {} if bad_tiles is None else bad_tiles

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        with noted(WAITING):
            prepared = prepared_patient([self.prepared(slide) for slide in row.of_slides])
        return Example(prepared, target_of(self._tasks, row), tuple(slide.slide for slide in row.of_slides))

    @property
    def targets(self) -> list[Float64[np.ndarray, "n _"]]:
        """Targets of all slides, one array a task."""
        return targets_of(self._tasks, self.rows)

    def prepared(self, row: Row) -> PreparedSlide:
        """The prepared slide of a row of one, remembered or read. Raises SlideError where it cannot be read."""
        if row.slide in self._kept:
            return self._kept[row.slide]
        prepared = prepare_row(row, self._config)
        if self._stored:
            prepared = replace(prepared, content=content_of(row.path))
        # One set for all times that the slide is looked at: the tolerated number is of the whole run.
        bad = self._bad_tiles.setdefault(row.slide, set())
        bad |= prepared.bad_tiles
        prepared = replace(prepared, bad_tiles=bad)
        self._addresses[row.slide] = prepared.address
        if prepared.nbytes <= self._room:
            self._room -= prepared.nbytes
            self._kept[row.slide] = prepared
        return prepared

    def inspect(
        self, on_slide: Callable[[], object], threads: int = 4, processes: Processes = ALONE
    ) -> list[Failure]:
        """Prepare every slide, drop those that cannot be used from the rows, return why. Processes share them out, and
        all know of every slide in the end."""

        def attempt(row: Row) -> Failure | None:
            for slide in row.of_slides:
                try:
                    self.prepared(slide)
                except Exception as error:  # noqa: BLE001 (whatever is wrong with one slide must not stop the others)
                    return _as_of(row, failure_of(slide, error))
            return None

        mine: list[Failure | None] = []
        with ThreadPoolExecutor(threads) as pool:
            for outcome in pool.map(attempt, processes.share(self.rows)):
                mine.append(outcome)
                on_slide()
        outcomes = processes.in_order(processes.gather(mine))
        for addresses in processes.gather(self._addresses):
            self._addresses |= addresses
        self.rows = [row for row, failure in zip(self.rows, outcomes, strict=True) if failure is None]
        return [failure for failure in outcomes if failure is not None]

    def failure(self, row: Row, error: SlideError) -> Failure:
        """The failure of a row that was prepared and then could not be read; of a patient it names the slide."""
        pairs = ((slide, self._addresses.get(slide.slide)) for slide in row.of_slides)
        mine = next((slide for slide, address in pairs if address and address == error.address), None)
        return failure_of(row, error) if mine is None else _as_of(row, failure_of(mine, error))

    def set_aside(self, error: SlideError) -> Failure | None:
        """Drop the slide whose pixels `error` is about and return why; None where it is none of these."""
        for row in self.rows if error.address is not None else ():
            for slide in row.of_slides:
                if self._addresses.get(slide.slide) == error.address:
                    self.rows.remove(row)
                    return _as_of(row, Failure(slide.slide, TILES, error.message, error.remedy))
        return None


def pool_bad_tiles(bad_tiles: BadTiles, processes: Processes) -> None:
    """Let each process know the tiles that any of them has met. The sets stay the same: prepared slides hold them."""
    for theirs in processes.gather({slide: tiles for slide, tiles in bad_tiles.items() if tiles}):
        for slide, tiles in theirs.items():
            bad_tiles.setdefault(slide, set()).update(tiles)


class Shuffled(Sampler[int]):
    """A sampler of every example once an epoch or, with `chances` of each, of as many drawn with replacement, in an
    order that depends on (seed, epoch) alone.

    A run that goes on after an interruption then sees what it would have seen.
    """

    def __init__(
        self, examples: Sized, seed: int, chances: Float64[torch.Tensor, " n"] | None = None
    ) -> None:
        self._examples, self._seed, self._chances = examples, seed, chances
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch; called by Lightning when one begins."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[int]:
        generator = generator_for(self._seed, "order", self._epoch)
        if self._chances is None:
            yield from torch.randperm(len(self), generator=generator).tolist()
        else:
            yield from torch.multinomial(self._chances, len(self), True, generator=generator).tolist()


class Batches(Sampler[list[int]]):
    """The part of a process in the batches that all take together: so many times `batch` examples of `order` a step, of
    which this one has every `processes.count`-th. It has none in a last batch with fewer examples than processes."""

    def __init__(self, order: Sampler[int], batch: int, processes: Processes = ALONE) -> None:
        self.sampler = order  # which Lightning tells the epoch
        self._size = batch * processes.count
        self._processes = processes

    def __len__(self) -> int:
        return -(-len(self.sampler) // self._size)  # type: ignore[arg-type]  # it has a length

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        for start in range(0, len(order), self._size):
            yield [*self._processes.share(order[start : start + self._size])]


def failure_of(row: Row, error: Exception) -> Failure:
    """The failure of a slide that cannot be used: where and why, in words."""
    if isinstance(error, WsiAtsError):
        known = (name for kind, name in _STAGES.items() if isinstance(error, kind))
        stage = next(known, getattr(error, "stage", "open"))
        missing = bool(row.hint) and not os.path.lexists(row.path)
        return Failure(row.slide, stage, error.message, row.hint if missing else error.remedy)
    message = shown(" ".join(f"{type(error).__name__}: {error}".split()))
    return Failure(row.slide, getattr(error, "stage", "open"), message, "")


def _as_of(row: Row, failure: Failure) -> Failure:
    """The failure of a slide as that of its row: a patient fails as a whole, and the slide is named."""
    if not row.slides:
        return failure
    remedy = f"{failure.remedy}; or leave out its row, and the patient is one without it".removeprefix(
        "; or "
    )
    return replace(failure, slide=row.slide, error=f"slide {failure.slide}: {failure.error}", remedy=remedy)


def _for_preparing(config: Config) -> Config:
    """Of a view before fixed layers the model remembers what these make of it; the pixels would only take room."""
    if not config.attention.keeps_channels:
        return config
    return config.model_copy(update={"view": config.view.model_copy(update={"whole": 0})})


def prepare_row(row: Row, config: Config) -> PreparedSlide:
    """The prepared slide of a row, which is opened and closed. Raises SlideError where it cannot be read."""
    watch = Stopwatch()
    with watch("open"):
        srgb, tolerated = config.slide.srgb, config.train.tolerate_bad_tiles
        slide = open_slide(
            row.path, mpp=row.mpp, default_mpp=row.default_mpp, srgb=srgb, tolerate_bad_tiles=tolerated
        )
    with slide, watch("view"):
        return prepare(slide, config)
