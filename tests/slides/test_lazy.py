"""Levels as Dask arrays: the same pixels as `read`, a graph without pixels, slides opened where they are read."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ome_zarr import write_image
from tests.support.strategies import noise, pyramids, write_tiff
from wsi_ats.batch.cluster import local_cluster
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.geometry import Pyramid
from wsi_ats.slides import lazy, open_slide
from wsi_ats.slides.base import Slide, SlideAddress, SlideFacts, Whole
from wsi_ats.slides.lazy import lazy_level
from wsi_ats.slides.memory import MemoryAddress, MemorySlide
from wsi_ats.slides.tiled import TiledSlide, Tiling


class Cut(MemorySlide):
    """Arrays that claim to be stored as tiles of 7 x 5 px."""

    def tile_size(self, level: Whole = 0) -> tuple[int, int]:
        return 7, 5


@dataclass(frozen=True)
class HugeAddress(SlideAddress):
    """A slide of any size with nothing in it, and an address that remembers something large."""

    width: int
    name: str = "huge"
    index: bytes | None = field(default=None, compare=False)

    def open(self) -> Huge:
        return Huge(self)


class Huge(Slide):
    backend = "huge"

    def __init__(self, address: HugeAddress) -> None:
        sizes = [(address.width, address.width), (address.width // 3, address.width // 3)]
        super().__init__(address, SlideFacts(Pyramid.of_sizes(sizes), None, "none", {}))

    def close(self) -> None:
        pass

    def _associated(self, name: str) -> np.ndarray:
        raise KeyError(name)


@pytest.fixture(scope="module")
def tiff(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    levels = [noise(301, 467), noise(100, 155, 1), noise(33, 52, 2)]
    return write_tiff(tmp_path_factory.mktemp("lazy") / "a.tif", levels, mpp=0.5), levels


@settings(max_examples=50, deadline=None)
@given(pyramids(), st.integers(1, 30), st.sampled_from(["synchronous", "threads"]))
def test_values_are_those_of_the_slide_at_every_level(
    levels: list[np.ndarray], chunk: int, scheduler: str
) -> None:
    slide = Cut(MemoryAddress(tuple(levels)))
    for index, level in enumerate(levels):
        array = lazy_level(slide, index, chunk)
        assert array.shape == level.shape
        assert array.dtype == np.uint8
        assert np.array_equal(array.compute(scheduler=scheduler), level)


@given(st.integers(1, 60), st.integers(1, 200), st.integers(1, 200))
def test_chunks_are_whole_tiles(chunk: int, width: int, height: int) -> None:
    slide = Cut(MemoryAddress((np.zeros((height, width, 3), np.uint8),)))
    down, across, channels = lazy_level(slide, 0, chunk).chunks
    assert (sum(down), sum(across), channels) == (height, width, (3,))
    for lengths, tile in ((down, 5), (across, 7)):
        assert set(lengths[:-1]) <= {-(-chunk // tile) * tile}
        assert 0 < lengths[-1] <= -(-chunk // tile) * tile


@pytest.mark.parametrize("tile", [(256, 256), (240, 240), (1024, 512), (60_000, 1), (8192, 8192), (16, 4096)])
def test_a_chunk_has_about_8_mb(tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Huge, "tile_size", lambda self, level=0: tile)
    (height, *_), (width, *_), _ = lazy_level(HugeAddress(100_000).open()).chunks
    assert width % tile[0] == height % tile[1] == 0
    size = 3 * width * height
    one = 3 * tile[0] * tile[1]
    assert size == one or lazy.CHUNK_BYTES / 3 < size <= lazy.CHUNK_BYTES


def test_a_region_reads_its_own_chunks_only(tiff: tuple[Path, list[np.ndarray]]) -> None:
    path, levels = tiff
    read: list[tuple[int, int]] = []
    with open_slide(path, backend="openslide") as slide:
        kind = type(slide)

        def watched(
            self: Slide, location: tuple[int, int], size: tuple[int, int], level: int = 0
        ) -> np.ndarray:
            read.append(location)
            return Slide.read(self, location, size, level)

        array = slide.dask(0, chunk=256)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "read", watched)
            part = array[260:300, 10:20].compute(scheduler="synchronous")
    assert np.array_equal(part, levels[0][260:300, 10:20])
    assert read == [(0, 256)]


def test_every_level_of_a_file(tiff: tuple[Path, list[np.ndarray]]) -> None:
    path, levels = tiff
    with open_slide(path) as slide:
        for index, level in enumerate(levels):
            assert np.array_equal(slide.dask(index, chunk=1).compute(), level)
            assert np.array_equal(slide.dask(index).compute(scheduler="synchronous"), level)


def test_a_tiled_slide_tells_its_tiles() -> None:
    class Tiles(TiledSlide):
        backend = "tiles"

        def _tiling(self, level: object) -> Tiling:
            return Tiling(48, 32, 1, 1)

    Tiles.__abstractmethods__ = frozenset()
    slide = Tiles(HugeAddress(100), SlideFacts(Pyramid.of_sizes([(40, 30)]), None, "none", {}))  # type: ignore[abstract]
    assert slide.tile_size() == (48, 32)
    with pytest.raises(ConfigError, match="level=1"):
        slide.tile_size(1)


def test_the_graph_is_small_and_does_not_grow_with_the_slide() -> None:
    small, large = (HugeAddress(width, index=bytes(10**6)).open().dask() for width in (1_000, 300_000))
    assert large.npartitions > 30_000
    assert len(pickle.dumps(small)) < 3_000
    # The lengths of the chunks along both axes, 2 or 3 bytes each; not one for every chunk.
    assert len(pickle.dumps(large)) < 3_000 + 3 * sum(len(lengths) for lengths in large.chunks)
    (ready,) = dask.optimize(large[:20_000, :20_000])
    tasks = dict(ready.__dask_graph__())
    assert len(pickle.dumps(tasks)) < 1_000 * len(tasks), "the address is not shared"


def test_the_graph_of_an_ome_zarr_has_its_path_and_no_pixels(tmp_path: Path) -> None:
    pixels = noise(2000, 2000)
    with open_slide(write_image(tmp_path / "a.ome.zarr", [pixels], chunk={"y": 500, "x": 500})) as slide:
        array = slide.dask(chunk=500)
    (ready,) = dask.optimize(array)
    assert array.npartitions == 16
    assert len(pickle.dumps(dict(ready.__dask_graph__()))) < 20_000


def test_an_array_is_in_the_graph_once() -> None:
    slide = open_slide(noise(1000, 1000))
    array = slide.dask(chunk=256)
    (ready,) = dask.optimize(array)
    assert array.npartitions == 16
    assert len(pickle.dumps(dict(ready.__dask_graph__()))) < 1.1 * 3 * 1000 * 1000


def test_the_same_level_has_the_same_name(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0]) as one, open_slide(tiff[0]) as other:
        assert one.dask(1).name == other.dask(1).name == pickle.loads(pickle.dumps(one)).dask(1).name  # noqa: S301
        assert len({one.dask(0).name, one.dask(1).name, one.dask(0, chunk=64).name}) == 3
    with open_slide(tiff[0], mpp=0.3) as scaled:
        assert scaled.dask(1).name != one.dask(1).name


def test_wrong_arguments_are_named(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0]) as slide:
        with pytest.raises(ConfigError, match=r"level=3: slide 'a\.tif' has levels 0 to 2"):
            slide.dask(3)
        with pytest.raises(ConfigError, match="level=-1"):
            slide.dask(-1)
        with pytest.raises(ConfigError, match="chunk is 0"):
            slide.dask(0, chunk=0)


def test_a_slide_that_changed_is_an_error(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", [noise(80, 90)])
    with open_slide(path) as slide:
        array = slide.dask()
    write_tiff(path, [noise(80, 91)])
    with pytest.raises(SlideError, match=r"level 0 no longer has 90 x 80 px"):
        array.compute(scheduler="synchronous")
    with open_slide(write_tiff(tmp_path / "b.tif", [noise(80, 90)])) as gone:
        array = gone.dask()
    (tmp_path / "b.tif").unlink()
    with pytest.raises(SlideError, match="cannot be opened"):
        array.compute(scheduler="synchronous")


@pytest.mark.slow
def test_worker_processes_open_the_slide_themselves(tiff: tuple[Path, list[np.ndarray]]) -> None:
    path, levels = tiff
    copy = write_image(path.with_suffix(".ome.zarr"), levels)
    with local_cluster(2) as client, open_slide(path) as slide, open_slide(copy) as copied:
        arrays = [handle.dask(index, chunk=64) for handle in (slide, copied) for index in range(3)]
        for array, level in zip(client.gather(client.compute(arrays)), levels * 2, strict=True):
            assert np.array_equal(array, level)
        mean = client.compute(da.mean(arrays[0])).result()
        assert mean == pytest.approx(levels[0].mean())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_open_slides_survive_a_fork(tiff: tuple[Path, list[np.ndarray]]) -> None:
    path, levels = tiff
    with open_slide(path) as slide:
        array = slide.dask(1)
    assert np.array_equal(array.compute(scheduler="synchronous"), levels[1])
    reader, writer = multiprocessing.Pipe(duplex=False)
    with lazy._slides._lock:  # as if another thread were opening a slide
        child = os.fork()
        if child == 0:
            try:
                writer.send_bytes(array.compute(scheduler="synchronous").tobytes())
            finally:
                os._exit(0)
    try:
        assert reader.poll(30), "the child hangs"
        assert reader.recv_bytes() == levels[1].tobytes()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class Counted:
    """A slide that knows whether it is open, and how many are."""

    open_now = 0
    lock = threading.Lock()

    def __init__(self, name: str) -> None:
        self.name, self.threads, self.closed = name, 8, False
        with self.lock:
            Counted.open_now += 1

    @property
    def address(self) -> object:
        return self.name

    @property
    def levels(self) -> tuple[()]:
        return ()

    def tile_size(self, level: int = 0) -> tuple[int, int]:
        return 1, 1

    def read(self, location: tuple[int, int], size: tuple[int, int], level: int = 0) -> np.ndarray:
        for _ in range(3):
            assert not self.closed, "closed while it is read"
            time.sleep(0.0003)
        return np.zeros((0, 0, 3), np.uint8)

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        with self.lock:
            Counted.open_now -= 1


@dataclass(frozen=True)
class CountedAddress:
    name: str

    def open(self) -> Counted:
        return Counted(self.name)


def test_few_slides_stay_open_and_none_is_closed_while_it_is_read() -> None:
    slides = lazy._Slides(3)
    Counted.open_now = 0

    def use(number: int) -> None:
        with slides.borrow(CountedAddress(str(number))) as slide:
            assert slide.name == str(number)
            assert slide.threads == 1
            slide.read((0, 0), (1, 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, np.random.default_rng(0).integers(0, 8, 800).tolist()))
    assert Counted.open_now == 3
    for number in (100, 101, 102):
        use(number)
    opened = [entry.slide for entry in slides._entries.values()]
    use(100)
    use(103)  # 101 was used longest ago
    assert [slide.closed for slide in opened] == [False, True, False]


def test_a_slide_is_opened_once_for_many_chunks(
    tiff: tuple[Path, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "_slides", lazy._Slides(2))
    with open_slide(tiff[0]) as slide:
        array = slide.dask(0, chunk=1)
        kind, opened = type(slide.address), []
    original = kind.open
    monkeypatch.setattr(kind, "open", lambda self: opened.append(self) or original(self))
    array.compute(scheduler="synchronous")
    array[:10].compute(scheduler="synchronous")
    assert len(opened) == 1
