"""Rows on disk: what comes back is what was put, bit for bit, or nothing, whatever happened to the files."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import pickle
import shutil
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from wsi_ats.errors import ConfigError
from wsi_ats.features import store as module
from wsi_ats.features.store import FeatureStore

SPAWN = multiprocessing.get_context("spawn")
LARGE = 1 << 30
TICK = 0.02
"""Seconds; times of change are no finer than a tick of the kernel."""
KEYS = ("slide a, encoder 1", "slide a, encoder 2", 'ü "quoted"\n\udc80')


def row(made_by: str, item: int, size: int = 5) -> np.ndarray:
    """The row of an item: any bits, so that there are NaN and infinities among them."""
    seed = zlib.crc32(f"{made_by!r} {item}".encode())
    return np.random.default_rng(seed).integers(0, 1 << 32, size, np.uint32).view(np.float32)


def rows(made_by: str, items: Any, size: int = 5) -> dict[int, np.ndarray]:
    return {item: row(made_by, item, size) for item in items}


def assert_equal(found: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for item, value in found.items():
        assert (value.dtype, value.shape) == (expected[item].dtype, expected[item].shape)
        assert value.tobytes() == expected[item].tobytes()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.rows"))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in segments(folder))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for rows of others, and mark rows as used, each time."""
    monkeypatch.setattr(module, "LOOK_AGAIN", 0.0)
    monkeypatch.setattr(module, "TOUCH_AGAIN", 0.0)


# What is put comes back


ARRAYS = [
    np.array(1.5, np.float32),
    np.zeros(0, np.float32),
    np.zeros((2, 0, 3)),
    np.array([True, False]),
    np.arange(12, dtype=">i2").reshape(3, 4).T,
    np.arange(20, dtype=np.float16)[::2],
    np.array([1 + 2j, complex("nan")]),
    np.array([0x7FC00001, 0xFF800001, 0x80000000], np.uint32).view(np.float32),
    np.arange(300_000, dtype=np.uint8).reshape(3, 100_000),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_bits_dtype_and_shape_are_kept(tmp_path: Path, array: np.ndarray) -> None:
    items = [0, -5, (1 << 63) - 1, -(1 << 63)]
    with FeatureStore(tmp_path, LARGE) as store:
        store.put("a", dict.fromkeys(items, array))
        assert_equal(store.get("a", items), dict.fromkeys(items, array))
    with FeatureStore(tmp_path, LARGE) as store:
        found = store.get("a", [*items, 1])
        assert_equal(found, dict.fromkeys(items, array))
        assert all(value.flags.writeable and value.flags.aligned for value in found.values())


@settings(deadline=None, max_examples=40)
@given(st.text() | st.text(st.characters(categories=["Cs", "Zl", "Cc"])))
def test_any_text_names_what_made_the_rows(made_by: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        FeatureStore(Path(folder), LARGE).put(made_by, rows(made_by, [3]))
        other = FeatureStore(Path(folder), LARGE)
        assert_equal(other.get(made_by, [3]), rows(made_by, [3]))
        assert other.get(made_by + " ", [3]) == {}


def test_figures_count_rows(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, LARGE)
    store.put("a", rows("a", range(4)))
    store.get("a", [0, 1, 1, 9, 2])
    store.get("b", [0])
    assert (store.hits, store.misses, store.bytes_on_disk) == (3, 2, size_of(tmp_path))
    assert store.get("a", []) == {}
    store.put("a", {})
    assert (store.hits, store.misses) == (3, 2)


def test_rows_given_away_may_be_changed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, LARGE)
    store.put("a", rows("a", [1]))
    store.get("a", [1])[1][:] = 0
    assert_equal(store.get("a", [1]), rows("a", [1]))


@pytest.mark.parametrize(
    "bad",
    [
        {0: np.zeros(2), 1: np.zeros(3)},
        {0: np.zeros(2), 1: np.zeros(2, np.float32)},
        {0: np.array([None])},
        {0: np.array(["a"])},
        {0: np.zeros(1, [("x", "f4")])},
    ],
)
def test_rows_that_do_not_go_together_are_refused(tmp_path: Path, bad: dict[int, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="give numbers of one dtype and one shape"):
        FeatureStore(tmp_path, LARGE).put("a", bad)
    assert segments(tmp_path) == []


def test_rows_of_another_kind_than_those_there_are_refused(tmp_path: Path) -> None:
    FeatureStore(tmp_path, LARGE).put("a", rows("a", [1]))
    with pytest.raises(ValueError, match=r"<f8 \[5\].*<f4 \[5\].*let made_by name"):
        FeatureStore(tmp_path, LARGE).put("a", {2: np.zeros(5)})


class Life(RuleBasedStateMachine):
    """Two stores on one folder and somebody who damages it, against a dictionary."""

    which = st.integers(0, 1)
    key = st.sampled_from(KEYS)
    items = st.lists(st.integers(-3, 12), max_size=6)
    file = st.integers(0, 99)
    """Which file, modulo their number."""
    place = st.floats(0, 1, exclude_max=True)
    """Where in it."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.stores = [FeatureStore(self.folder, 0)] * 2
        self.names = itertools.count()
        self.reopen(0)
        self.reopen(1)
        self.known: dict[str, set[int]] = {key: set() for key in KEYS}
        self.whole = {*KEYS}

    @rule(which=which, key=key, items=items)
    def put(self, which: int, key: str, items: list[int]) -> None:
        self.stores[which].put(key, rows(key, items))
        self.known[key] |= {*items}
        assert_equal(self.stores[which].get(key, items), rows(key, {*items}))

    @rule(which=which, key=key, items=items)
    def get(self, which: int, key: str, items: list[int]) -> None:
        found = self.stores[which].get(key, items)
        possible = self.known[key] & {*items}
        assert_equal(found, rows(key, possible if key in self.whole else possible & found.keys()))

    @rule(which=which)
    def reopen(self, which: int) -> None:
        self.take(which, FeatureStore(self.folder, LARGE))

    @rule(which=which)
    def travel(self, which: int) -> None:
        self.take(which, pickle.loads(pickle.dumps(self.stores[which])))  # noqa: S301

    def take(self, which: int, store: FeatureStore) -> None:
        self.stores[which] = store
        store._name = f"{next(self.names):04}.rows"  # so that the same steps do the same

    @rule(file=file, place=place)
    def cut(self, file: int, place: float) -> None:
        if path := self.victim(file):
            os.truncate(path, int(place * (path.stat().st_size + 1)))

    @rule(file=file, place=place, bits=st.integers(1, 255))
    def flip(self, file: int, place: float, bits: int) -> None:
        if (path := self.victim(file)) and path.stat().st_size:
            content = bytearray(path.read_bytes())
            content[int(place * len(content))] ^= bits
            path.write_bytes(content)

    @rule(file=file, junk=st.binary(min_size=1, max_size=50))
    def append(self, file: int, junk: bytes) -> None:
        if path := self.victim(file):
            path.write_bytes(path.read_bytes() + junk)

    @rule(file=file)
    def evict(self, file: int) -> None:
        if path := self.victim(file):
            shutil.rmtree(path.parent)

    @rule(file=file, key=key)
    def misplace(self, file: int, key: str) -> None:
        """A file of one key in the folder of another."""
        there = self.folder_of(key)
        if there.is_dir() and (paths := segments(self.folder)):
            path = paths[file % len(paths)]
            if path.parent != there:
                shutil.copy(path, there / "stranger.rows")

    def victim(self, file: int) -> Path | None:
        """A file, whose key is not whole from now on."""
        paths = segments(self.folder)
        if not paths:
            return None
        path = paths[file % len(paths)]
        self.whole -= {key for key in KEYS if self.folder_of(key) == path.parent}
        return path

    def folder_of(self, key: str) -> Path:
        return self.stores[0]._shelf(key).folder

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.usefixtures("at_once")
def test_whatever_happens_nothing_wrong_comes_back() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Life, settings=settings(max_examples=120, stateful_step_count=25, deadline=None)
    )


def test_every_single_flip_and_cut_of_a_file_is_seen(tmp_path: Path) -> None:
    made_by, expected = "a", rows("a", range(3), 2)
    FeatureStore(tmp_path, LARGE).put(made_by, expected)
    (path,) = segments(tmp_path)
    content = path.read_bytes()
    start, record = len(content) - 3 * 24, 24

    def found() -> dict[int, np.ndarray]:
        return FeatureStore(tmp_path, LARGE).get(made_by, range(-1, 300))

    for place, bit in itertools.product(range(len(content)), (1, 32, 128)):
        path.write_bytes(bytes(b ^ (bit if n == place else 0) for n, b in enumerate(content)))
        lost = {(place - start) // record} if place >= start else set(expected)
        assert_equal(found(), {item: value for item, value in expected.items() if item not in lost})
    for end in range(len(content)):
        path.write_bytes(content[:end])
        assert_equal(found(), {item: expected[item] for item in range(max(0, end - start) // record)})


def test_a_damaged_row_is_kept_again(tmp_path: Path) -> None:
    FeatureStore(tmp_path, LARGE).put("a", rows("a", range(3)))
    (path,) = segments(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    store = FeatureStore(tmp_path, LARGE)
    assert_equal(store.get("a", range(3)), rows("a", range(2)))
    store.put("a", rows("a", [2]))
    assert_equal(FeatureStore(tmp_path, LARGE).get("a", range(3)), rows("a", range(3)))


# Strange files


def test_strangers_in_the_folder_are_neither_read_nor_deleted(tmp_path: Path) -> None:
    FeatureStore(tmp_path / "other", LARGE).put("a", rows("a", range(3)))
    (theirs,) = segments(tmp_path / "other")
    store = FeatureStore(tmp_path / "store", LARGE)
    store.put("b", rows("b", [0]))
    here = store._shelf("a").folder
    here.mkdir(parents=True)
    (here / "link.rows").symlink_to(theirs)
    os.mkfifo(here / "pipe.rows")
    (here / "folder.rows").mkdir()
    (here / "notes.txt").write_text("mine")
    for name, text in {"empty": b"", "line": b"\n" * 9, "zeros": bytes(9999), "deep": b"[" * 99_999}.items():
        (here / f"{name}.rows").write_bytes(text)
    for dtype in (b"<f3", b"<a4", b"|O8", b"<f4,<f4"):
        (here / f"{dtype.hex()}.rows").write_bytes(b'wsi-ats rows 1 %s [1,, 2] "a"\n' % dtype + bytes(99))
    (tmp_path / "store" / "ab").symlink_to(tmp_path / "other")
    (tmp_path / "store" / "README").write_text("mine")
    assert FeatureStore(tmp_path / "store", LARGE).get("a", range(3)) == {}
    tight = FeatureStore(tmp_path / "store", 1)  # all must go
    assert tight.bytes_on_disk == 0
    assert theirs.exists()
    assert {path.name for path in here.iterdir()} == {"link.rows", "pipe.rows", "folder.rows", "notes.txt"}
    assert (tmp_path / "store" / "README").exists()


def test_a_file_of_something_else_is_not_believed(tmp_path: Path) -> None:
    """As where two texts have one digest, or somebody moves files."""
    store = FeatureStore(tmp_path, LARGE)
    store.put("a", rows("a", range(3)))
    store._shelf("a").folder.rename(store._shelf("a").folder.with_name(store._shelf("b").folder.name))
    shutil.copytree(segments(tmp_path)[0].parent, store._shelf("b").folder, dirs_exist_ok=True)
    new = FeatureStore(tmp_path, LARGE)
    assert new.get("b", range(3)) == {}
    new.put("b", rows("b", [1]))
    assert_equal(new.get("b", range(3)), rows("b", [1]))


def test_a_file_that_turns_into_another_gives_no_wrong_rows(tmp_path: Path) -> None:
    """As where it was cut and written again since it was listed: its rows now lie in other places."""
    store = FeatureStore(tmp_path, LARGE)
    store.put("a", rows("a", [1, 2, 3]))
    FeatureStore(tmp_path / "other", LARGE).put("a", rows("a", [3, 4, 5]))
    (other,) = segments(tmp_path / "other")
    (mine,) = set(segments(tmp_path)) - {other}
    shutil.copy(other, mine)
    assert store.get("a", [1]) == {}
    assert store.get("a", [3, 4]) == {}


def test_a_segment_that_turns_into_a_link_is_not_followed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store", LARGE)
    store.put("a", rows("a", [1]))
    (path,) = segments(tmp_path)
    before = path.rename(tmp_path / "elsewhere").read_bytes()
    path.symlink_to(tmp_path / "elsewhere")
    assert store.get("a", [1]) == {}
    store.put("a", rows("a", [2]))
    assert (tmp_path / "elsewhere").read_bytes() == before


def test_a_segment_of_another_shape_is_ignored(tmp_path: Path) -> None:
    FeatureStore(tmp_path, LARGE).put("a", rows("a", [1]))
    FeatureStore(tmp_path / "b", LARGE).put("a", rows("a", [2], 7))
    (other,) = segments(tmp_path / "b")
    (mine,) = set(segments(tmp_path)) - {other}
    shutil.copy(other, mine.parent / "zz.rows")
    assert_equal(FeatureStore(tmp_path, LARGE).get("a", [1, 2]), rows("a", [1]))


def test_files_have_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        FeatureStore(tmp_path / "s", LARGE).put("a", rows("a", [1]))
    finally:
        os.umask(before)
    (path,) = segments(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.parent.stat().st_mode & 0o777 == 0o750


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_no_file_stays_open(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, LARGE)
    before = len([*Path("/proc/self/fd").iterdir()])
    for made_by in map(str, range(50)):
        store.put(made_by, rows(made_by, range(3)))
        store.get(made_by, range(5))
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_few_slides_are_remembered_and_all_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHELVES", 3)
    store = FeatureStore(tmp_path, LARGE)
    for item, made_by in itertools.product(range(3), map(str, range(8))):
        store.put(made_by, rows(made_by, [item]))
    for made_by in map(str, range(8)):
        assert_equal(store.get(made_by, range(9)), rows(made_by, range(3)))
    assert len(segments(tmp_path)) == 8  # and each process still writes one file a slide
    assert len(store._shelves) == 3


# The bound


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4_000),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(1, 9)), max_size=30),
    st.integers(0, 40),
)
def test_the_folder_never_holds_more_than_it_may(
    room: int, puts: list[tuple[int, int, int]], size: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stores = [FeatureStore(folder, room), FeatureStore(folder, room)]
        for key, which, count in puts:
            made_by = str(key)
            stores[which].put(made_by, rows(made_by, range(count), size))
            assert size_of(folder) <= room
            assert stores[0].bytes_on_disk == size_of(folder)
            found = stores[1 - which].get(made_by, range(9))
            assert_equal(found, rows(made_by, found, size))


def test_nothing_is_deleted_while_there_is_room_and_what_is_new_fits_after(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, 100_000)
    for made_by in map(str, range(60)):
        store.put(made_by, rows(made_by, range(5), 100))
        time.sleep(TICK)
    assert 0.8 * 100_000 < store.bytes_on_disk <= 100_000
    assert_equal(store.get("59", range(5)), rows("59", range(5), 100))
    assert store.get("0", range(5)) == {}


@pytest.mark.usefixtures("at_once")
def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, LARGE)
    for made_by in "abcde":
        store.put(made_by, rows(made_by, range(5), 100))
        time.sleep(TICK)
    store.get("a", [0])
    each = size_of(tmp_path) // 5
    with FeatureStore(tmp_path, 3 * each + each // 2) as smaller:
        there = {made_by for made_by in "abcde" if smaller.get(made_by, [0])}
        assert there == {"d", "e", "a"}


def test_use_is_marked_now_and_then_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[object] = []
    monkeypatch.setattr(os, "utime", lambda path, *_: marks.append(path))
    store = FeatureStore(tmp_path, LARGE)
    for _ in range(5):
        store.put("a", rows("a", [1]))
        store.get("a", [1])
        store.get("b", [1])
    assert marks == [store._shelf("a").folder]


def test_a_row_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    told: list[str] = []
    store = FeatureStore(tmp_path, 1_000, told.append)
    store.put("a", rows("a", [1], 10))
    store.put("b", rows("b", [1], 1_000))
    assert store.get("b", [1]) == {}
    assert_equal(store.get("a", [1]), rows("a", [1], 10))
    store.put("c", rows("c", range(100), 10))  # as many as fit
    assert 0 < len(store.get("c", range(100))) < 100
    assert (told, size_of(tmp_path) <= 1_000) == ([], True)


@pytest.mark.parametrize("room", [0, -1])
def test_without_room_it_is_off(tmp_path: Path, room: int) -> None:
    store = FeatureStore(tmp_path / "none", room)
    store.put("a", rows("a", [1]))
    assert store.get("a", [1]) == {}
    assert store.bytes_on_disk == 0
    assert not (tmp_path / "none").exists()
    FeatureStore(tmp_path / "full", LARGE).put("a", rows("a", [1]))
    assert FeatureStore(tmp_path / "full", room).get("a", [1]) == {}
    assert FeatureStore(tmp_path / "full", room).bytes_on_disk > 0


def test_deletion_by_another_is_absence_and_writing_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    store = FeatureStore(tmp_path, LARGE, told.append)
    store.put("a", rows("a", range(3)))
    FeatureStore(tmp_path, 1).close()
    assert segments(tmp_path) == []
    assert store.get("a", range(3)) == {}
    store.put("a", rows("a", [7]))
    assert_equal(store.get("a", range(9)), rows("a", [7]))
    assert_equal(FeatureStore(tmp_path, LARGE).get("a", range(9)), rows("a", [7]))
    assert told == []


# Failures


def failing(code: int, real: Callable[..., Any], after: int = 0) -> Callable[..., Any]:
    """`real`, `after` calls of it, and then the error of that number."""
    calls = itertools.count()

    def call(*given: Any, **named: Any) -> Any:
        if next(calls) < after:
            return real(*given, **named)
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize(
    ("name", "code"),
    [("write", errno.ENOSPC), ("write", errno.EDQUOT), ("open", errno.EROFS), ("mkdir", errno.EACCES)],
)
def test_a_folder_that_cannot_be_written_to_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    told: list[str] = []
    FeatureStore(tmp_path, LARGE).put("a", rows("a", [1]))
    store = FeatureStore(tmp_path, LARGE, told.append)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing(code, getattr(os, name)))
        for made_by in "bcd":
            store.put(made_by, rows(made_by, [1]))
    store.put("e", rows("e", [1]))
    (line,) = told
    assert str(tmp_path) in line
    assert os.strerror(code) in line
    assert f"errno {code}" in line
    assert "The run goes on" in line
    assert "\n" not in line
    assert store.get("e", [1]) == {}
    assert_equal(store.get("a", [1]), rows("a", [1]))


def test_without_a_listener_failures_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path, LARGE)
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC, os.write))
    store.put("a", rows("a", [1]))
    assert store.get("a", [1]) == {}


def test_a_disk_that_fills_in_the_middle_of_a_row_leaves_the_rows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(tmp_path, LARGE)
    store.put("a", rows("a", range(3)))
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(errno.ENOSPC, lambda fd, data: real(fd, data[:50]), 1))
        store.put("a", rows("a", range(3, 6)))
    assert_equal(store.get("a", range(6)), rows("a", range(3)))
    assert_equal(FeatureStore(tmp_path, LARGE).get("a", range(6)), rows("a", range(4)))


def test_an_interrupted_write_is_cut_off_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path, LARGE)
    store.put("a", rows("a", range(3)))
    real = os.write

    def interrupted(fd: int, data: memoryview) -> int:
        real(fd, data[:50])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.put("a", rows("a", range(3, 6)))
    store.put("a", rows("a", range(6, 9)))
    expected = rows("a", [0, 1, 2, 6, 7, 8])
    assert_equal(store.get("a", range(9)), expected)
    assert_equal(FeatureStore(tmp_path, LARGE).get("a", range(9)), expected)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ENOENT, errno.EMFILE])
def test_files_out_of_reach_are_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    FeatureStore(tmp_path, LARGE).put("a", rows("a", [1]))
    known, new = FeatureStore(tmp_path, LARGE), FeatureStore(tmp_path, LARGE)
    known.get("a", [1])
    with monkeypatch.context() as patch:
        for name in ("open", "scandir"):
            patch.setattr(os, name, failing(code, getattr(os, name)))
        assert known.get("a", [1]) == new.get("a", [1]) == {}
    assert_equal(known.get("a", [1]), rows("a", [1]))


def test_a_shelf_deleted_while_it_is_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    store = FeatureStore(tmp_path, LARGE, told.append)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.ESTALE, os.open))
        store.put("a", rows("a", [1]))
    store.put("a", rows("a", [2]))
    assert_equal(store.get("a", [1, 2]), rows("a", [2]))
    assert told == []


def test_a_folder_that_vanishes_is_not_made_again(tmp_path: Path) -> None:
    told: list[str] = []
    store = FeatureStore(tmp_path / "disk" / "store", LARGE, told.append)
    store.put("a", rows("a", [1]))
    shutil.rmtree(tmp_path / "disk")
    assert store.get("a", [1]) == {}
    store.put("a", rows("a", [1]))
    store.put("b", rows("b", [1]))
    assert len(told) == 1
    assert not (tmp_path / "disk").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "file").touch()
    store = FeatureStore(tmp_path / "file" / "store", LARGE, told.append)
    store.put("a", rows("a", [1]))
    assert store.get("a", [1]) == {}
    assert len(told) == 1


def test_a_path_that_is_a_file_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file") as caught:
        FeatureStore(tmp_path / "file", LARGE)
    assert caught.value.remedy


def test_a_closed_store_finds_and_keeps_nothing(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, LARGE) as store:
        store.put("a", rows("a", [1]))
    store.close()
    store.put("a", rows("a", [2]))
    assert store.get("a", [1, 2]) == {}
    assert_equal(FeatureStore(tmp_path, LARGE).get("a", [1, 2]), rows("a", [1]))


# Several at a time


def test_rows_of_others_are_seen_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = FeatureStore(tmp_path, LARGE), FeatureStore(tmp_path, LARGE)
    assert one.get("a", [1]) == {}
    other.put("a", rows("a", [1]))
    assert one.get("a", [1]) == {}  # it looked just now
    later = time.monotonic() + module.LOOK_AGAIN
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert_equal(one.get("a", [1]), rows("a", [1]))
    other.put("a", rows("a", [2]))  # into the file that is known already
    assert one.get("a", [2]) == {}
    monkeypatch.setattr(time, "monotonic", lambda: later + module.LOOK_AGAIN)
    assert_equal(one.get("a", [1, 2]), rows("a", [1, 2]))


def test_a_pickled_store_is_another_writer_of_the_same_folder(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, LARGE, print)
    store.put("a", rows("a", [1]))
    copy: FeatureStore = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert_equal(copy.get("a", [1]), rows("a", [1]))
    copy.put("a", rows("a", [2]))
    assert (copy.folder, copy.max_bytes, len(segments(tmp_path))) == (tmp_path, LARGE, 2)


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, LARGE)
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for n in range(20):
                made_by, item = str(n % 3), 100 * first + n
                store.put(made_by, rows(made_by, [item]))
                assert_equal(store.get(made_by, [item]), rows(made_by, [item]))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    again = FeatureStore(tmp_path, LARGE)
    assert sum(len(again.get(made_by, range(1_000))) for made_by in "012") == 160
    assert len(segments(tmp_path)) == 3


def use_in_child(store: FeatureStore) -> None:
    made_by = "a"
    assert_equal(store.get(made_by, [1]), rows(made_by, [1]))
    store.put(made_by, rows(made_by, [2]))
    assert_equal(store.get(made_by, [1, 2]), rows(made_by, [1, 2]))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system does not fork")
def test_a_forked_child_writes_a_file_of_its_own_and_waits_for_nobody(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, LARGE)
    store.put("a", rows("a", [1]))
    with store._lock:  # as a thread of the parent may
        child = multiprocessing.get_context("fork").Process(target=use_in_child, args=(store,))
        child.start()
        child.join(60)
    assert child.exitcode == 0
    assert len(segments(tmp_path)) == 2
    store.put("a", rows("a", [3]))
    assert_equal(FeatureStore(tmp_path, LARGE).get("a", range(9)), rows("a", [1, 2, 3]))


def write_and_read(store: FeatureStore, first: int, start: Barrier, done: Barrier) -> None:
    module.LOOK_AGAIN = 0.0
    made_by = "shared"
    start.wait(60)
    for item in range(first, first + 30):
        store.put(made_by, rows(made_by, [item, 1_000], 300))
        found = store.get(made_by, range(2_000))
        assert_equal(found, rows(made_by, found, 300))
    done.wait(60)
    mine = range(100)
    assert store.get(made_by, mine).keys() == {*mine} & {*range(30), *range(40, 70)}


def test_processes_share_a_folder(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, LARGE)
    start, done = SPAWN.Barrier(2), SPAWN.Barrier(2)
    workers = [SPAWN.Process(target=write_and_read, args=(store, first, start, done)) for first in (0, 40)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(segments(tmp_path)) == 2
    assert len(store.get("shared", range(2_000))) == 61


def write_for_ever(store: FeatureStore) -> None:
    for item in itertools.count():
        store.put("a", rows("a", [item], 20_000))


def test_a_writer_that_is_killed_leaves_whole_rows(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, LARGE)
    for _ in range(2):
        writer = SPAWN.Process(target=write_for_ever, args=(store,))
        before = len(segments(tmp_path))
        writer.start()
        while len(segments(tmp_path)) == before or size_of(tmp_path) < 2_000_000:
            assert writer.is_alive()
            time.sleep(0.001)
        writer.kill()
        writer.join(60)
        found = FeatureStore(tmp_path, LARGE).get("a", range(100_000))
        assert len(found) > 10
        assert_equal(found, rows("a", found, 20_000))


def test_something_in_the_way_of_some_rows_is_told_once_and_the_others_are_kept(tmp_path: Path) -> None:
    told: list[str] = []
    store = FeatureStore(tmp_path, LARGE, told.append)
    folder = store._shelf("a").folder
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where a folder should be")
    for _ in range(2):
        store.put("a", rows("a", [1]))
        store.put("b", rows("b", [1]))
    assert store.get("a", [1]) == {}
    assert_equal(store.get("b", [1]), rows("b", [1]))
    assert len(told) == 1
    assert "may be deleted at any time" in told[0]
