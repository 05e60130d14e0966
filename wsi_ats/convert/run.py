"""Conversion of any slide to OME-Zarr: streamed block by block, so that memory does not grow with the slide.

Level 0 is read from the slide; each further level is made of the one before as it was written, by means of 2 x 2 px,
down to a thumbnail. A block is a file that is there whole or not at all, so a conversion that was stopped goes on
where it was. The image's metadata come last: before, no reader takes the folder for an image.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import UInt8

from wsi_ats.atomic import remove_temporaries
from wsi_ats.convert.extras import Labels, write_associated, write_labels
from wsi_ats.convert.jpeg import JpegTiles
from wsi_ats.convert.plan import Plan, Settings, plan, prepare
from wsi_ats.convert.verify import check, read_box, reduced
from wsi_ats.convert.zarr_write import ArrayPlan, Chunk, write_group, write_metadata
from wsi_ats.geometry import Box
from wsi_ats.output import OutputError, make_folder
from wsi_ats.slides.base import Slide
from wsi_ats.slides.omezarr.group import OURS
from wsi_ats.slides.omezarr.slide import ZarrAddress, ZarrSlide
from wsi_ats.slides.tiled import THREADS

STRIP = 512
"""Rows of a block that are made at a time from the level before: 24 MiB of it."""

Progress = Callable[[str, int, int], None]
"""A function that is called with what is being done, the pixels done, and those in all."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion."""

    path: Path
    levels: tuple[tuple[int, int], ...]
    """Size (width, height) of each level in px."""
    copied: int
    """Number of levels that hold the slide's own JPEG tiles."""
    written: int
    """Number of bytes written this time."""
    bad_tiles: tuple[tuple[int, int, int], ...] = ()
    """Tiles (level, column, row) of the slide that could not be read, were tolerated and are background now."""


def convert(
    slide: Slide,
    out: Path | str,
    settings: Settings | None = None,
    *,
    labels: Labels = MappingProxyType({}),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write a slide as OME-Zarr into the folder `out`, or go on where that was stopped.

    labels: masks that go along, in `labels/`; those of a conversion that is complete are added to it.
    overwrite: delete the Zarr store that is there.
    Raises ConfigError where `out` holds something else or cannot be made, or the slide has no JPEG tiles to copy;
    OutputError where it cannot be written; SlideError where the slide cannot be read, or does not read back as it was
    written.
    """
    settings = settings or Settings()
    jpeg = JpegTiles(slide) if settings.codec == "jpeg" else None
    todo = plan(slide, Path(out).absolute(), settings, jpeg.levels if jpeg else ())
    job = _Job(slide, todo, progress or (lambda *_: None))
    with _writing(todo.root):
        if prepare(todo, overwrite, labels):
            job.begin()
            job.levels(jpeg)
            extras = write_associated(slide, todo)
            written = job.reopened()
            with written:
                write_labels({name: make(written) for name, make in labels.items()}, todo)
                check(slide, written, todo, jpeg, job.say)
            job.finish(extras)
    if jpeg is not None:
        jpeg.close()
    sizes = tuple((level.size.width, level.size.height) for level in todo.pyramid.levels)
    return Conversion(todo.root, sizes, todo.copied, job.bytes, slide.bad_tiles)


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError.of(root, error.errno or errno.EIO) from error


@dataclass
class _Job:
    """A conversion under way."""

    slide: Slide
    plan: Plan
    progress: Progress
    bytes: int = 0
    done: int = 0

    def begin(self) -> None:
        """Metadata of the arrays, and what tells that the image is not complete."""
        root, fmt = self.plan.root, self.plan.settings.zarr_format
        make_folder(root)
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            remove_temporaries(folder)
        write_group(root, fmt, {OURS: {**self.plan.notes, "complete": False}})
        for array in self.plan.arrays:
            write_metadata(root, array)

    def finish(self, extras: Mapping[str, object]) -> None:
        """The image's metadata; from here on it is one."""
        notes = {**self.plan.notes, **extras, "complete": True}
        if self.slide.bad_tiles:
            notes["bad_tiles"] = [list(tile) for tile in self.slide.bad_tiles]
        write_group(self.plan.root, self.plan.settings.zarr_format, {**self.plan.attributes, OURS: notes})

    def say(self, what: str, done: int, total: int) -> None:
        """Tell how far it is."""
        self.progress(what, done, total)

    def reopened(self) -> ZarrSlide:
        """What was written so far, as a slide."""
        return ZarrSlide(ZarrAddress(str(self.plan.root), self.plan.slide), self.plan.group())

    def levels(self, jpeg: JpegTiles | None) -> None:
        """Write all levels, one after the other."""
        with ThreadPoolExecutor(THREADS) as pool, _Behind() as behind:
            for level, array in enumerate(self.plan.arrays):
                if jpeg is not None and level < self.plan.copied:
                    self._write(level, array, partial(_copied, jpeg, level, array), behind)
                elif level == 0:
                    pixels = partial(read_box, self.slide, 0)
                    self._write(level, array, partial(_encoded, array, pixels, pool), behind)
                else:
                    behind.wait()  # the level before must be there
                    with self.reopened() as written:
                        pixels = partial(_halved, written, level - 1)
                        self._write(level, array, partial(_encoded, array, pixels, pool), behind)

    def _write(
        self, level: int, array: ArrayPlan, chunks_of: Callable[[Box], Sequence[Chunk]], behind: _Behind
    ) -> None:
        """Write the blocks of a level that are not there yet."""
        total = self.plan.pixels
        for block in array.blocks():
            if not array.is_written(self.plan.root, block):
                chunks = chunks_of(block)
                self.bytes += sum(len(chunk) for chunk in chunks if chunk is not None)
                behind.do(partial(array.write, self.plan.root, block, chunks))
            self.done += block.width * block.height
            self.progress(f"level {level}", self.done, total)


class _Behind:
    """Writes one block while the next one is made: at most one waits."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def do(self, write: Callable[[], None]) -> None:
        """Begin a write when the one before is done. Raises what that one raised."""
        self.wait()
        self._last = self._pool.submit(write)

    def wait(self) -> None:
        """Until all is written. Raises OSError where it could not be."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown()


def _copied(jpeg: JpegTiles, level: int, array: ArrayPlan, block: Box) -> list[Chunk]:
    """The slide's own tiles as the chunks of a block."""
    return list(jpeg.chunks(level, array.chunks(block)))


def _encoded(
    array: ArrayPlan, pixels_of: Callable[[Box], np.ndarray], pool: ThreadPoolExecutor, block: Box
) -> list[Chunk]:
    """The chunks of a block, encoded in threads."""
    pixels = pixels_of(block)
    return list(pool.map(lambda chunk: array.encode(pixels, block, chunk), array.chunks(block)))


def _halved(finer: Slide, level: int, block: Box) -> UInt8[np.ndarray, "h w 3"]:
    """A block of the level that is half as fine as `level`, made in strips of it."""
    out = np.empty((block.height, block.width, 3), np.uint8)
    for top in range(0, block.height, STRIP):
        rows = min(STRIP, block.height - top)
        out[top : top + rows] = reduced(finer, level, Box(block.x, block.y + top, block.width, rows))
    return out
