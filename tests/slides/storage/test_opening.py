"""Bytes by position from local files and folders, against slices of the same bytes in memory."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsi_ats.slides.storage import local
from wsi_ats.slides.storage import opening as by
from wsi_ats.slides.storage.local import FileSource, FolderSource
from wsi_ats.slides.storage.opening import ByteRange, as_file, is_url, open_source
from wsi_ats.slides.storage.ranges import Request, batches, is_exact, requests
from wsi_ats.slides.storage.source import ByteSource, span

CONTENT = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
HUGE = 1 << 70  # what a damaged index asks for


def counts(longest: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(0, longest) | st.just(HUGE)


offsets = st.integers(-6000, 6000) | st.sampled_from([HUGE, -HUGE])
parts = st.builds(ByteRange, st.just(""), offsets, counts(6000))


def oracle(part: ByteRange, content: bytes = CONTENT) -> bytes:
    start = part.offset if part.offset >= 0 else max(len(content) + part.offset, 0)
    return content[start:] if part.count is None else content[start:][: part.count]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """c/0 to c/199 with their numbers and more, `one`, `empty`."""
    place = tmp_path_factory.mktemp("bytes")
    (place / "c").mkdir()
    for i in range(200):
        (place / "c" / str(i)).write_bytes(b"%d " % i + CONTENT[:i])
    (place / "one").write_bytes(CONTENT)
    (place / "empty").write_bytes(b"")
    return place


@pytest.fixture(scope="module")
def one(folder: Path) -> FileSource:
    source = open_source(str(folder / "one"))
    assert isinstance(source, FileSource)
    return source


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count descriptors")


@given(st.lists(parts, max_size=8))
def test_parts_of_a_file_are_slices_of_it(one: FileSource, wanted: list[ByteRange]) -> None:
    assert [one.read(part) for part in wanted] == [oracle(part) for part in wanted]
    assert list(one.read_many(wanted)) == [oracle(part) for part in wanted]


@given(part=parts, size=st.integers(0, 5000))
def test_a_span_never_leaves_the_file(part: ByteRange, size: int) -> None:
    start, count = span(part, size)
    assert 0 <= start <= start + count <= size
    assert CONTENT[:size][start : start + count] == oracle(part, CONTENT[:size])


def test_parts_of_a_folder_come_in_order_and_missing_ones_are_none(folder: Path) -> None:
    source = open_source(str(folder))
    keys = [f"c/{i}" for i in (7, 199, 0, 7, 200, 42)] + ["none", "none/x"]
    got = list(source.read_many([ByteRange(key, 1, 50) for key in keys]))
    assert got == [(b"%d " % i + CONTENT[:i])[1:51] for i in (7, 199, 0, 7)] + [
        None,
        (b"42 " + CONTENT[:42])[1:51],
        None,
        None,
    ]
    assert [source.exists(key) for key in ("c/1", "c/200", "", "empty")] == [True, False, False, True]
    assert source.read(ByteRange("empty", -4, 4)) == b""


@needs_proc
def test_a_folder_keeps_a_bounded_number_of_files_open(folder: Path) -> None:
    before = descriptors()
    with FolderSource(str(folder)) as source:
        for _ in range(2):
            got = list(source.read_many([ByteRange(f"c/{i}") for i in range(200)]))
            assert got == [b"%d " % i + CONTENT[:i] for i in range(200)]
            assert descriptors() - before <= local.OPEN_FILES
        assert descriptors() - before > local.OPEN_FILES // 2, "files are opened for every read"
    assert descriptors() == before


@pytest.mark.parametrize("key", ["../one", "c/../../x", "/etc/passwd", "..", "c/\0", ""])
def test_keys_do_not_lead_out_of_the_folder(folder: Path, key: str) -> None:
    source = FolderSource(str(folder / "c"))
    with pytest.raises(FileNotFoundError, match="not the name of a file"):
        source.read(ByteRange(key))
    assert not source.exists(key)


def test_one_file_has_no_keys(one: FileSource) -> None:
    assert one.exists("")
    assert not one.exists("x")
    assert list(one.read_many([ByteRange("x"), ByteRange("", 3, 2)])) == [None, CONTENT[3:5]]
    with pytest.raises(FileNotFoundError, match="is one file"):
        one.read(ByteRange("x"))


def test_what_cannot_be_opened_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(str(folder / "nowhere"))
    with pytest.raises(NotADirectoryError, match="not a folder"):
        FolderSource(str(folder / "one"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="a pipe, not a regular file"):
            open_source(str(tmp_path / "pipe"))


def test_a_stamp_tells_that_a_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    before = FileSource(str(path)).stamp()
    assert FileSource(str(path)).stamp() == before == (5, path.stat().st_mtime_ns)
    assert FolderSource(str(tmp_path)).stamp("x") == before
    os.utime(path, ns=(0, before[1] + 1))
    assert FileSource(str(path)).stamp() != before
    with pytest.raises(FileNotFoundError):
        FolderSource(str(tmp_path)).stamp("y")


def test_a_file_cut_short_after_it_was_opened_gives_fewer_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    with FileSource(str(path)) as source:
        os.truncate(path, 100)
        assert source.read(ByteRange("", 90, 1000)) == CONTENT[90:100]


def test_relative_paths_hold_in_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    single, many = open_source("one"), open_source("c")
    monkeypatch.chdir("/")
    assert Path(single.address).is_absolute()
    assert many.read(ByteRange("3")) == b"3 " + CONTENT[:3]


def test_file_urls_are_paths(tmp_path: Path) -> None:
    path = tmp_path / "a b#ü.bin"
    path.write_bytes(b"x")
    assert open_source(path.as_uri()).read(ByteRange()) == b"x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a/b", True),
        ("S3://bucket/x", True),
        ("file:///x", True),
        ("/a/b", False),
        ("a/http://x", False),
        ("C:\\slides\\a.svs", False),
        ("c://odd", False),
        ("", False),
    ],
)
def test_urls_are_told_from_paths(text: str, expected: bool) -> None:
    assert is_url(text) is expected


@pytest.mark.parametrize(
    "make", [lambda folder: FileSource(str(folder / "one")), lambda f: FolderSource(str(f))]
)
def test_a_closed_source_cannot_be_read_but_reads_under_way_end_well(folder: Path, make) -> None:
    source: ByteSource = make(folder)
    key = "" if isinstance(source, FileSource) else "one"
    reading = source.read_many([ByteRange(key, i, 10) for i in range(20)])
    assert next(reading) == CONTENT[:10]
    source.close()
    # Files opened now get the numbers that were free: they must not be those of the file still being read.
    others = [(folder / "c" / "9").open("rb") for _ in range(10)]
    assert list(reading) == [CONTENT[i : i + 10] for i in range(1, 20)]
    for other in others:
        other.close()
    with pytest.raises(OSError, match="is closed"):
        source.read(ByteRange(key))
    with pytest.raises(OSError, match="is closed"):
        list(source.read_many([ByteRange(key)]))


def test_threads_share_a_source(folder: Path) -> None:
    with FolderSource(str(folder)) as source, ThreadPoolExecutor(8) as pool:
        expected = {f"c/{i}": b"%d " % i + CONTENT[:i] for i in range(200)}
        keys = [f"c/{i}" for i in np.random.default_rng(1).integers(0, 200, 2000)]
        assert list(pool.map(lambda key: source.read(ByteRange(key)), keys)) == [
            expected[key] for key in keys
        ]


def test_threads_share_a_file_where_reading_needs_a_seek(
    one: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_read_at", local._by_seeking)
    starts = np.random.default_rng(1).integers(0, 5000, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda start: one.read(ByteRange("", start, 7)), starts))
    assert got == [CONTENT[start : start + 7] for start in starts]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_folder_survives_a_fork(folder: Path) -> None:
    with FolderSource(str(folder)) as source:
        source.read(ByteRange("c/1"))
        reader, writer = multiprocessing.Pipe(duplex=False)
        with source._lock:  # as if another thread were opening a file
            child = os.fork()
            if child == 0:
                try:
                    writer.send_bytes(source.read(ByteRange("c/1")) + source.read(ByteRange("c/2")))
                finally:
                    os._exit(0)
        try:
            assert reader.poll(30), "the child hangs"
            assert reader.recv_bytes() == b"1 " + CONTENT[:1] + b"2 " + CONTENT[:2]
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@needs_proc
def test_opening_many_sources_leaves_no_descriptors(folder: Path) -> None:
    before = descriptors()
    for _ in range(300):
        open_source(str(folder / "one")).read(ByteRange("", 0, 1))
        with open_source(str(folder)) as source:
            source.read(ByteRange("one", 0, 1))
        with pytest.raises(FileNotFoundError):
            open_source(str(folder / "nowhere"))
    assert descriptors() == before


moves = st.one_of(
    st.tuples(st.just("seek"), st.integers(0, 6000), st.just(0)),
    st.tuples(st.just("seek"), st.integers(-6000, 200), st.just(2)),
    st.tuples(st.just("seek"), st.integers(-300, 300), st.just(1)),
    st.tuples(st.just("read"), st.integers(-1, 6000), st.just(0)),
)


class Far(ByteSource):
    """Bytes in memory that claim to be far away, and count how often they are asked for."""

    remote, address = True, "far"

    def __init__(self, content: bytes) -> None:
        self.content, self.asked = content, list[ByteRange]()

    def read(self, part: ByteRange) -> bytes:
        self.asked.append(part)
        return oracle(part, self.content)

    def read_many(self, parts: Sequence[ByteRange]):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def exists(self, key: str) -> bool:
        return not key

    def stamp(self, key: str = "") -> tuple[int, int]:
        return len(self.content), 0

    def close(self) -> None:
        pass


@settings(deadline=None)
@given(st.lists(moves, max_size=12), st.sampled_from([1, 7, 256, 4096, 10000]), st.booleans())
def test_a_file_view_is_a_file(
    one: FileSource, steps: list[tuple[str, int, int]], block: int, far: bool
) -> None:
    view, expected = as_file(Far(CONTENT) if far else one, block), io.BytesIO(CONTENT)
    for name, number, whence in steps:
        if name == "read":
            assert view.read(number) == expected.read(number)
        else:
            at = number + {0: 0, 1: expected.tell(), 2: len(CONTENT)}[whence]
            if at < 0:
                with pytest.raises((ValueError, OSError)):
                    view.seek(number, whence)
            else:
                assert view.seek(number, whence) == expected.seek(at)
        assert view.tell() == expected.tell()


def test_a_file_view_forgets_the_oldest_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by, "KEPT_BYTES", 1000)
    monkeypatch.setattr(by, "FIRST_AHEAD", 100)
    source = Far(CONTENT)
    view = as_file(source, 100)
    assert view.read() == CONTENT
    assert len(view.raw._kept) <= 10  # type: ignore[attr-defined]
    view.seek(0)
    assert view.read(5000) == CONTENT


def test_a_file_view_asks_a_server_few_times() -> None:
    content = bytes(4 << 20)
    source = Far(content)
    view = as_file(source)
    for i in range(0, 1000, 2):  # a directory of a TIFF, entry by entry, at the beginning
        view.seek(i)
        view.read(2)
    assert len(source.asked) == 1
    view.seek(2 << 20)
    view.read(20)
    view.read(900_000)  # its tile index
    assert len(source.asked) == 3
    view.seek(-10, 2)
    view.read(10)
    assert len(source.asked) == 4
    view.seek(0)
    while view.read(30_000):  # all of it from the start: what is remembered is not fetched again
        pass
    assert len(source.asked) <= 9
    taken = sum(len(oracle(part, content)) for part in source.asked)
    assert taken <= len(content) + (1 << 16)


@st.composite
def wanted(draw: st.DrawFn) -> list[ByteRange]:
    """Parts of three files, in any order; crowded, so that many touch or overlap."""
    exact = st.builds(ByteRange, st.sampled_from("abc"), st.integers(0, 400), st.integers(0, 30))
    open_ended = st.builds(ByteRange, st.sampled_from("abc"), st.integers(-30, 30), counts(30))
    return draw(st.lists(exact | open_ended, max_size=25))


@example([ByteRange("b", 0, 1), ByteRange("b", 0, 2), ByteRange("b", 0, 1)], 0, 1)
@given(wanted(), st.integers(0, 20), st.integers(1, 100))
def test_requests_hold_every_part_once_and_little_else(
    parts: list[ByteRange], gap: int, longest: int
) -> None:
    found = requests(parts, gap, longest)
    content = {key: CONTENT[i * 500 : i * 500 + 500] for i, key in enumerate("abc")}
    members = sorted(i for request in found for i in request.members)
    assert members == [i for i, part in enumerate(parts) if part.count != 0 or not is_exact(part)]
    for request in found:
        data = memoryview(oracle(request.part, content[request.part.key]))
        for i in request.members:
            assert request.cut(parts[i], data) == oracle(parts[i], content[parts[i].key])
    assert [min(r.members) for r in found] == sorted(min(r.members) for r in found)
    check_gaps([r for r in found if is_exact(r.part)], parts, gap, longest)


def check_gaps(found: list[Request], parts: list[ByteRange], gap: int, longest: int) -> None:
    """No request has a hole larger than `gap`, and no two that could be one are apart."""
    for request in found:
        covered = np.zeros(600, bool)
        for i in request.members:
            covered[parts[i].offset : parts[i].offset + (parts[i].count or 0)] = True
        used = covered[request.part.offset : request.part.offset + (request.part.count or 0)]
        assert used[0]
        assert used[-1]
        holes = np.diff(np.flatnonzero(used)) - 1
        assert holes.max(initial=0) <= gap
        assert len(used) <= max(longest, max(parts[i].count or 0 for i in request.members))
    for key in "abc":
        near = sorted(r.part[1:] for r in found if r.part.key == key)
        for (start, count), (next_start, next_count) in pairwise(near):
            together = max(start + (count or 0), next_start + (next_count or 0)) - start
            assert next_start - start - (count or 0) > gap or together > longest


@given(wanted(), st.integers(1, 4), st.sets(st.sampled_from("abc")))
def test_batches_keep_the_order_and_leave_alone_what_tells_the_size(
    parts: list[ByteRange], most: int, known: set[str]
) -> None:
    exact = [ByteRange(key, *span(part, 500)) if (key := part.key) in known else part for part in parts]
    found = requests(exact, 0, 10)
    grouped = batches(found, most, known)
    assert [request for batch in grouped for request in batch] == found
    for batch in grouped:
        assert len(batch) <= most
        assert len({request.part.key for request in batch}) == 1
        assert len(batch) == 1 or (batch[0].part.key in known and all(is_exact(r.part) for r in batch))
    for key in {request.part.key for request in found}:
        first, *_ = (batch for batch in grouped if batch[0].part.key == key)
        assert len(first) == 1
    if known and len({request.part.key for request in found}) == 1:
        assert len(grouped) <= 1 + -(-(len(found) - 1) // most) or found[0].part.key not in known
