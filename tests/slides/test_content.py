"""What a slide holds, told apart from where it lies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.range_server import RangeServer
from wsi_ats.slides.content import BLOCK, BLOCKS, END, content_of
from wsi_ats.slides.storage.opening import FileSource

LARGE = 2 * END + BLOCKS * BLOCK
"""Up to here all of a file is read."""


def make(path: Path, size: int = 5_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes())
    os.utime(path, ns=(10**18, 10**18 + 7))
    return path


def change(path: Path, place: int, *, keep_time: bool = True) -> None:
    """Another byte at that place."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        old = file.read(1)
        file.seek(place)
        file.write(bytes([old[0] ^ 1]))
    times = (before.st_atime_ns, before.st_mtime_ns) if keep_time else (0, before.st_mtime_ns + 1)
    os.utime(path, ns=times)


@pytest.mark.parametrize("size", [0, 1, 5_000, LARGE, LARGE + 1, LARGE + 3_000_000])
def test_copies_are_one_slide(tmp_path: Path, size: int) -> None:
    path = make(tmp_path / "a.svs", size)
    (tmp_path / "b").mkdir()
    copy = Path(shutil.copy2(path, tmp_path / "b" / "other.tif"))
    (tmp_path / "link.svs").symlink_to(path)
    names = {
        content_of(path),
        content_of(copy),
        content_of(str(path)),
        content_of(f"file://{path}"),
        content_of(tmp_path / "b" / ".." / "a.svs"),
        content_of(tmp_path / "link.svs"),
    }
    assert len(names) == 1
    assert len(names.pop()) == 32


def test_the_folder_that_a_process_works_in_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a.svs")
    monkeypatch.chdir(tmp_path)
    assert content_of("a.svs") == content_of(path)


@pytest.mark.parametrize("place", [0, END - 1, END, LARGE // 2, LARGE - END, LARGE - 1])
def test_a_changed_byte_of_a_small_file_is_another_slide(tmp_path: Path, place: int) -> None:
    path = make(tmp_path / "a.svs", LARGE)
    before = content_of(path)
    change(path, place)
    assert content_of(path) != before


def test_a_changed_end_block_size_or_time_of_a_large_file_is_another_slide(tmp_path: Path) -> None:
    size = LARGE + 10_000_000
    path = make(tmp_path / "a.svs", size)
    seen = [content_of(path)]
    for place in (0, END - 1, END, size - END - 1, size - END, size - 1):
        change(path, place)
        seen.append(content_of(path))
    change(path, END + BLOCK + 5_000)  # between two of the blocks: not seen,
    assert content_of(path) == seen[-1]
    change(path, END + BLOCK + 5_000, keep_time=False)  # but for the time
    seen.append(content_of(path))
    os.truncate(path, size - 1)
    seen.append(content_of(path))
    assert len(set(seen)) == len(seen)


def test_little_is_read_of_a_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.svs"
    path.touch()
    os.truncate(path, 1 << 40)
    read: list[int] = []
    reads = FileSource.read_many

    def counted(self: FileSource, parts: list) -> list:  # type: ignore[type-arg]
        found = list(reads(self, parts))
        read.extend(len(part or b"") for part in found)
        return found

    monkeypatch.setattr(FileSource, "read_many", counted)
    content_of(path)
    assert sum(read) == LARGE < 4_000_000


def make_folder(tmp_path: Path) -> Path:
    (tmp_path / "nothing").mkdir()
    return tmp_path / "nothing"


def make_pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.svs")
    return tmp_path / "pipe.svs"


def make_store_of_a_pipe(tmp_path: Path) -> Path:
    (tmp_path / "a.zarr").mkdir()
    os.mkfifo(tmp_path / "a.zarr" / "zarr.json")
    return tmp_path / "a.zarr"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "where",
    [
        lambda folder: folder / "none.svs",
        lambda folder: make(folder / "a.svs") / "below",
        lambda folder: Path("/dev/zero"),
        make_folder,
        make_pipe,
        make_store_of_a_pipe,
    ],
)
def test_what_is_no_slide_is_an_oserror_at_once(tmp_path: Path, where: Callable[[Path], Path]) -> None:
    with pytest.raises(OSError):
        content_of(where(tmp_path))


def test_a_zarr_store_is_what_its_root_says(tmp_path: Path) -> None:
    store = tmp_path / "a.ome.zarr"
    make(store / "0" / "c" / "0")
    make(store / "zarr.json")
    make(store / ".zmetadata", 300)
    before = content_of(store)
    assert content_of(shutil.copytree(store, tmp_path / "elsewhere")) == before
    assert content_of(f"{store}/") == before
    change(store / "zarr.json", 17)
    changed = content_of(store)
    os.utime(store / "zarr.json", ns=(0, 99))
    touched = content_of(store)
    change(store / ".zmetadata", 17)
    assert len({before, changed, touched, content_of(store)}) == 4


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.mrxs", "a/Data0001.dat"),
        ("a.MRXS", "a/Slidedat.ini"),
        ("d/1.dcm", "d/2.dcm"),
        ("v/a.vms", "v/a(1,0).jpg"),
    ],
)
def test_the_other_files_of_a_slide_count(tmp_path: Path, name: str, data: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    slide, other = make(here / name), make(here / data)
    before = content_of(slide)
    assert content_of(shutil.copytree(here, there) / name) == before
    os.utime(other, ns=(0, 99))
    touched = content_of(slide)
    os.truncate(other, 17)
    os.utime(other, ns=(0, 99))
    shorter = content_of(slide)
    other.rename(other.with_name("renamed"))
    assert len({before, touched, shorter, content_of(slide)}) == 4


def test_an_mrxs_may_change_its_name_with_its_folder(tmp_path: Path) -> None:
    slide = make(tmp_path / "a.mrxs")
    make(tmp_path / "a" / "Data0001.dat")
    before = content_of(slide)
    (tmp_path / "a").rename(tmp_path / "b")
    assert content_of(slide) != before  # its data are gone
    assert content_of(slide.rename(tmp_path / "b.mrxs")) == before


def test_files_beside_an_ordinary_slide_do_not_count(tmp_path: Path) -> None:
    slide = make(tmp_path / "a.svs")
    before = content_of(slide)
    make(tmp_path / "b.svs")
    make(tmp_path / "a" / "c")
    assert content_of(slide) == before


def test_a_url_is_told_by_its_address_and_version_and_holds_no_secret(tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="obstore (the extra 'remote') is not installed")
    make(tmp_path / "a.svs")
    make(tmp_path / "b.svs")
    with RangeServer(tmp_path) as server:
        url = f"{server.url}/a.svs"
        before = content_of(url)
        with_secrets = f"http://me:hunter2@127.0.0.1:{server.port}/a.svs?signature=S1GNATURE"
        assert content_of(with_secrets) == before
        assert content_of(f"{server.url}/b.svs") != before
        change(tmp_path / "a.svs", 9, keep_time=False)
        assert content_of(url) != before
        with pytest.raises(OSError):
            content_of(f"{server.url}/none.svs")
