"""What happens to OpenSlide's handles: damaged files, threads, forks, pickling, descriptors."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.support.helpers import shared_data
from tests.support.strategies import noise, write_tiff
from wsi_ats.errors import SlideError
from wsi_ats.slides import Slide, open_slide

CMU = "slides/aperio-cmu1-small/CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def tiff(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """Lossless noise: 300 x 420 px."""
    levels = [noise(300, 420)]
    return write_tiff(tmp_path_factory.mktemp("slides") / "noise.tif", levels, mpp=0.5), levels


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "cut short"])
def test_a_file_that_is_no_slide_is_named_with_cause_and_remedy(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.svs"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        whole = write_tiff(tmp_path / "whole.tif", [noise(256, 256)]).read_bytes()
        path.write_bytes(
            {"empty": b"", "text": b"not a slide\n" * 99, "cut short": whole[: len(whole) // 2]}[kind]
        )
    cause = {"missing": "No such file", "folder": "it is a folder", "empty": "empty file"}
    with pytest.raises(SlideError, match=cause.get(kind, "no format|cut short")) as caught:
        open_slide(path, "openslide")
    assert str(path) in caught.value.message
    assert "'bad.svs'" in caught.value.message
    assert caught.value.remedy


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A slide of 2 x 2 tiles whose last tile is garbage."""
    path = write_tiff(tmp_path / "damaged.tif", [noise(128, 128)])
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        start, count = page.dataoffsets[3], page.databytecounts[3]
    content = bytearray(path.read_bytes())
    content[start : start + count] = b"\xa5" * count
    path.write_bytes(content)
    return path


def test_a_failed_read_names_slide_level_and_position_and_the_slide_goes_on(damaged: Path) -> None:
    whole = noise(128, 128)
    with open_slide(damaged, "openslide") as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"'damaged.tif': level 0 .* x=70, y=80 .* 20 x 30 px"):
                slide.read((70, 80), (20, 30))
            assert np.array_equal(slide.read((0, 0), (64, 128)), whole[:, :64])


def test_read_many_fails_where_one_region_does(damaged: Path) -> None:
    with open_slide(damaged, "openslide") as slide, pytest.raises(SlideError, match="x=64, y=64"):
        slide.read_many(np.asarray([[0, 0], [64, 64], [0, 64]]), (64, 64))


def test_a_closed_slide_says_so_and_keeps_what_it_knows(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0], "openslide") as slide:
        pass
    slide.close()
    with pytest.raises(SlideError, match="closed"):
        slide.read((0, 0), (5, 5))
    assert slide.size == (420, 300)
    with slide.address.open() as again:
        assert again.read((0, 0), (5, 5)).shape == (5, 5, 3)


# ---- threads, processes, descriptors


def test_threads_share_a_slide(tiff: tuple[Path, list[np.ndarray]]) -> None:
    path, levels = tiff
    xy = np.random.default_rng(0).integers(-20, 300, (200, 2))
    with open_slide(path, "openslide") as slide, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda corner: slide.read(tuple(corner), (33, 33)), xy))
        counted = slide.bytes_read
    with open_slide(levels) as oracle:
        assert np.array_equal(read, oracle.read_many(xy, (33, 33)))
        assert counted == oracle.bytes_read


def test_threads_go_on_while_others_meet_a_damaged_tile(damaged: Path) -> None:
    whole = noise(128, 128)

    def attempt(bad: bool) -> bool:
        if not bad:
            return np.array_equal(slide.read((0, 0), (64, 64)), whole[:64, :64])
        with pytest.raises(SlideError):
            slide.read((64, 64), (64, 64))
        return True

    with open_slide(damaged, "openslide") as slide, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(attempt, [i % 3 == 0 for i in range(120)]))


def test_a_slide_survives_pickling(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0], "openslide", mpp=0.4) as slide:
        blob = pickle.dumps(slide)
        assert len(blob) < 1000
        with pickle.loads(blob) as other:  # noqa: S301
            assert other.address == slide.address
            assert (other.mpp, other.levels) == (0.4, slide.levels)
            assert np.array_equal(other.read((9, 9), (50, 50)), slide.read((9, 9), (50, 50)))


def test_an_address_holds_in_other_folders(
    tiff: tuple[Path, list[np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiff[0].parent)
    with open_slide(tiff[0].name, "openslide") as slide:
        blob = pickle.dumps(slide)
    monkeypatch.chdir(tmp_path)
    with pickle.loads(blob) as other:  # noqa: S301
        assert other.name == tiff[0].name


def _corner(slide: Slide) -> np.ndarray:
    return slide.read_many(np.asarray([[9, 9], [100, 80]]), (50, 50))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_slide_survives_a_fork(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0], "openslide") as slide:
        expected = _corner(slide)
        reader, writer = multiprocessing.Pipe(duplex=False)
        with slide._lock:  # as if another thread were in the middle of a read
            child = os.fork()
            if child == 0:
                try:
                    writer.send_bytes(_corner(slide).tobytes())
                finally:
                    os._exit(0)
        try:
            assert reader.poll(30), "the child hangs"
            assert reader.recv_bytes() == expected.tobytes()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert np.array_equal(_corner(slide), expected)


@pytest.mark.slow
def test_a_slide_goes_to_a_spawned_process(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0], "openslide") as slide, multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(_corner, (slide,)), _corner(slide))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count descriptors")
def test_no_descriptors_are_left_open(tiff: tuple[Path, list[np.ndarray]], damaged: Path) -> None:
    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def use(path: Path) -> None:
        with open_slide(path, "openslide") as slide:
            slide.read((0, 0), (60, 60))
        unclosed = open_slide(path, "openslide")
        unclosed.read_many(np.asarray([[0, 0], [9, 9]]), (50, 50))

    bad = damaged.with_name("text.svs")
    bad.write_text("text")
    gc.collect()
    gc.disable()  # a handle must go when its last user does, not when the collector happens to run
    try:
        before = open_descriptors()
        for _ in range(20):
            use(tiff[0])
            use(damaged)
            with pytest.raises(SlideError):
                open_slide(bad, "openslide")
            with open_slide(damaged, "openslide") as slide, pytest.raises(SlideError):
                slide.read((64, 64), (64, 64))
        assert open_descriptors() <= before + 2
    finally:
        gc.enable()


def test_a_truncated_aperio_slide_is_an_error(tmp_path: Path) -> None:
    content = shared_data(CMU).read_bytes()
    (tmp_path / "cut.svs").write_bytes(content[: int(len(content) * 0.9)])
    with pytest.raises(SlideError, match="cut short"):
        open_slide(tmp_path / "cut.svs", "openslide")
