"""The fast path for TIFFs where things go wrong, or on: damage, pickling, forks, many slides, slides behind a URL."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import sys
import tracemalloc
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.support.range_server import RangeServer
from tests.support.tiffs import damage, edit_tag, picture, write_aperio, write_pyramid
from wsi_ats.errors import SlideError
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.slides.tiff import slide as tiff

WHOLE = picture(256, 320)
BAD_TILE = 7
"""Column 2, row 1 of 5 tiles of 64 px a row: none of those that are compared with OpenSlide at opening."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_pyramid(tmp_path / "a.tif", [WHOLE], "deflate")


def forbid_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(tiff, "read_index", parse)


def pixels_of(slide: Slide) -> np.ndarray:
    return slide.read((0, 0), slide.size)


def test_a_damaged_tile_is_named(path: Path) -> None:
    damage(path, 0, BAD_TILE, lambda data: bytes(len(data)))
    with open_slide(path) as slide:
        assert slide.backend == "tiff"
        np.testing.assert_array_equal(slide.read((0, 0), (100, 64)), WHOLE[:64, :100])
        with pytest.raises(SlideError, match=r"'a\.tif': level 0, tile column 2, row 1 cannot be decoded"):
            pixels_of(slide)


def test_damaged_tiles_can_be_put_up_with(path: Path) -> None:
    damage(path, 0, BAD_TILE, lambda data: bytes(len(data)))
    with open_slide(path, tolerate_bad_tiles=1) as slide:
        found = pixels_of(slide)
        assert slide.bad_tiles == ((0, 2, 1),)
        pixels_of(slide)  # the same one does not count twice
    expected = WHOLE.copy()
    expected[64:128, 128:192] = 255
    np.testing.assert_array_equal(found, expected)
    damage(path, 0, BAD_TILE + 1, lambda data: bytes(len(data)))
    with open_slide(path, tolerate_bad_tiles=1) as slide, pytest.raises(SlideError, match="tile column"):
        pixels_of(slide)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_jpeg_tile_that_is_cut_short_is_no_grey_tile(cut: float, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [WHOLE], "jpeg-420")
    damage(path, 0, BAD_TILE, lambda data: data[: int(cut * len(data))])
    with open_slide(path) as slide, pytest.raises(SlideError, match="tile column 2, row 1"):
        pixels_of(slide)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_a_truncated_file_is_an_error_and_no_crash(share: float, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SlideError, match=r"a\.tif"), open_slide(path) as slide:
        pixels_of(slide)


@pytest.mark.parametrize("kind", ["deflate", "jpeg-420"])
def test_the_size_of_a_tile_is_not_believed(kind: str, tmp_path: Path) -> None:
    """Of a gigabyte that a tile claims, no more is read than a tile can have."""
    path = write_pyramid(tmp_path / "a.tif", [WHOLE], kind)
    with tifffile.TiffFile(path) as file:
        counts = list(file.pages[0].databytecounts)
    counts[BAD_TILE] = 1 << 30
    edit_tag(path, 0, "TileByteCounts", counts)
    with path.open("r+b") as file:
        file.truncate(2 << 30)  # sparse
    with open_slide(path) as slide:
        assert slide.backend == "tiff"
        tracemalloc.start()
        try:
            with contextlib.suppress(SlideError):
                slide.read((2 * 64, 64), (64, 64))
            assert tracemalloc.get_traced_memory()[1] < 1 << 22
        finally:
            tracemalloc.stop()


def test_a_pickled_slide_carries_its_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(path) as slide:
        again = pickle.dumps(slide)
    forbid_parsing(monkeypatch)
    with pickle.loads(again) as slide:  # noqa: S301 (our own bytes)
        np.testing.assert_array_equal(pixels_of(slide), WHOLE)


def test_a_file_that_changed_is_parsed_again(path: Path) -> None:
    with open_slide(path) as slide:
        address = slide.address
    other = WHOLE[:, ::-1]
    write_pyramid(path, [np.ascontiguousarray(other)], "lzw", (128, 128))
    with address.open() as slide:
        np.testing.assert_array_equal(pixels_of(slide), other)


def _read_in_child(slide: Slide, answers: Queue[bool]) -> None:
    answers.put(np.array_equal(pixels_of(slide), WHOLE))


@pytest.mark.skipif(sys.platform == "win32" or sys.version_info >= (3, 12), reason="forks of threads warn")
def test_a_forked_child_reads(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with open_slide(path) as slide:
        pixels_of(slide)
        answers: Queue[bool] = context.Queue()
        child = context.Process(target=_read_in_child, args=(slide, answers))
        child.start()
        assert answers.get(timeout=60)
        child.join()
        np.testing.assert_array_equal(pixels_of(slide), WHOLE)


def test_a_closed_slide_says_so(path: Path) -> None:
    with open_slide(path) as slide:
        pass
    with pytest.raises(SlideError, match="is closed"):
        slide.read((0, 0), (8, 8))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_many_slides_leave_no_descriptor_open(path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with open_slide(path) as slide:
        pixels_of(slide)
    before = descriptors()
    for _ in range(100):
        with open_slide(path) as slide:
            slide.read((3, 5), (40, 40))
    assert descriptors() <= before + 1


def test_a_slide_behind_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setenv("WSI_ATS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    local = write_aperio(folder / "a.svs", [WHOLE])
    with RangeServer(folder) as server, open_slide(local) as expected:
        with open_slide(f"{server.url}/a.svs") as slide:
            assert slide.mpp == expected.mpp
            assert set(slide.associated_images) == set(expected.associated_images)
            np.testing.assert_array_equal(pixels_of(slide), pixels_of(expected))
        forbid_parsing(monkeypatch)
        with open_slide(f"{server.url}/a.svs") as slide:
            np.testing.assert_array_equal(pixels_of(slide), pixels_of(expected))


@pytest.mark.parametrize("tile", range(20))
def test_a_wrong_checksum_is_noticed_in_every_tile(path: Path, tile: int) -> None:
    """Also in tiles that are compared with OpenSlide at opening, which does not look at checksums."""
    damage(path, 0, tile, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with open_slide(path) as slide:
        row, col = divmod(tile, 5)
        with pytest.raises(SlideError, match=f"level 0, tile column {col}, row {row} cannot be decoded"):
            pixels_of(slide)


@pytest.mark.parametrize("backend", ["tiff", "openslide"])
def test_the_size_of_an_associated_image_is_not_believed(backend: str, tmp_path: Path) -> None:
    path = write_aperio(tmp_path / "a.svs", [WHOLE])
    edit_tag(path, 3, "ImageWidth", 1 << 30)
    with open_slide(path, backend=backend) as slide:
        images = slide.associated_images
        with pytest.raises(SlideError, match="image 'macro' cannot be read: 1073741824 x 40 px are too many"):
            images["macro"]
        assert images["label"].shape == (40, 50, 3)
