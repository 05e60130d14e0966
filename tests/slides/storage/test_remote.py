"""Bytes from behind a URL: the same as on the disk, in few round trips, with errors that name no secrets."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.range_server import RangeServer
from tests.support.strategies import noise
from wsi_ats.errors import ConfigError
from wsi_ats.shown import public_url
from wsi_ats.slides.storage import remote, transfer, urls
from wsi_ats.slides.storage.opening import ByteRange, as_file, open_source
from wsi_ats.slides.storage.remote import RemoteSource

pytest.importorskip("obstore", reason="obstore (the extra 'remote') is not installed")

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()
SMALL = 20_000
NAMES = ("plain.bin", "a b#ü%20[1]~.svs", "sub/folder/x+y.bin")
SECRETS = ("hunter2", "S1GNATURE")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("remote")
    (place / "big.svs").write_bytes(CONTENT)
    (place / "small").write_bytes(CONTENT[:SMALL])
    (place / "empty").write_bytes(b"")
    for name in NAMES:
        path = place / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 9)
    return place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RangeServer]:
    with RangeServer(folder) as running:
        yield running


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives up soon, as a test must."""
    second = timedelta(milliseconds=1)
    backoff = {"init_backoff": second, "max_backoff": second, "base": 2}
    monkeypatch.setattr(urls, "RETRIES", {**urls.RETRIES, "max_retries": 2, "backoff": backoff})
    monkeypatch.setattr(urls, "CLIENT", {**urls.CLIENT, "read_timeout": "300ms", "connect_timeout": "300ms"})


def slices(parts: list[ByteRange], content: bytes = CONTENT) -> list[bytes]:
    found = []
    for _, offset, count in parts:
        rest = content[offset if offset >= 0 else max(len(content) + offset, 0) :]
        found.append(rest if count is None else rest[:count])
    return found


def scattered(number: int, seed: int = 0) -> list[ByteRange]:
    """Parts of 1,200 bytes, no two of them near enough to share a request."""
    starts = np.random.default_rng(seed).permutation(len(CONTENT) // 6000)[:number] * 6000
    return [ByteRange("", int(start), 1200) for start in starts]


places = st.integers(-30_000, 30_000) | st.integers(-100, 100) | st.integers(19_900, 20_100)
lengths = st.none() | st.integers(0, 200) | st.integers(0, 30_000)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(ByteRange, st.just(""), places, lengths), max_size=6), st.booleans())
def test_parts_are_slices_of_the_file(server: RangeServer, parts: list[ByteRange], known: bool) -> None:
    with open_source(f"{server.url}/small") as source:
        if known:
            assert source.stamp()[0] == SMALL
        assert list(source.read_many(parts)) == slices(parts, CONTENT[:SMALL])
        assert [source.read(part) for part in parts[:2]] == slices(parts[:2], CONTENT[:SMALL])


def test_files_below_a_url(server: RangeServer) -> None:
    source = open_source(f"{server.url}/store/")
    assert source.remote
    keys = [*NAMES, "none", "plain.bin/x", "sub", NAMES[0]]
    got = list(source.read_many([ByteRange(key, 1, 20) for key in keys]))
    assert got == [
        *((name.encode() * 9)[1:21] for name in NAMES),
        None,
        None,
        None,
        (NAMES[0].encode() * 9)[1:21],
    ]
    assert [source.exists(key) for key in (NAMES[1], "none")] == [True, False]
    with pytest.raises(FileNotFoundError, match=f"{server.url}/store/none does not exist"):
        source.read(ByteRange("none"))


def test_an_empty_file(server: RangeServer) -> None:
    source = open_source(f"{server.url}/empty")
    parts = [ByteRange(), ByteRange("", 0, 10), ByteRange("", -4, 4), ByteRange("", 7)]
    assert list(source.read_many(parts)) == [b""] * 4
    assert source.exists("")
    assert source.stamp()[0] == 0


def test_all_ranges_are_under_way_at_once_but_not_more_than_the_bound(folder: Path) -> None:
    with RangeServer(folder, latency=0.1) as far, open_source(f"{far.url}/big.svs") as source:
        source.stamp()
        parts = scattered(190)
        far.reset()
        begun = time.monotonic()
        assert list(source.read_many(parts)) == slices(parts)
        assert time.monotonic() - begun < 190 * 0.1 / 4
        assert far.counts()["requests"] == 190
        assert far.counts()["at_once"] >= 150
        parts = scattered(490, 1)
        far.reset()
        with ThreadPoolExecutor(2) as pool:
            for got in pool.map(lambda some: list(source.read_many(some)), [parts, parts]):
                assert got == slices(parts)
        assert far.counts()["at_once"] <= transfer.AT_ONCE
        assert far.counts()["requests"] == 2 * 490


def test_neighbours_share_a_request_and_no_byte_is_fetched_for_nothing(folder: Path) -> None:
    with RangeServer(folder) as server, open_source(f"{server.url}/big.svs") as source:
        tiles = [ByteRange("", 1000 * i, 1000) for i in (5, 3, 4, 100, 101, 104, 2000)]
        source.stamp()
        server.reset()
        assert list(source.read_many(tiles)) == slices(tiles)
        assert server.counts()["requests"] == 3
        assert server.counts()["bytes"] == 3000 + 5000 + 1000


def test_what_is_not_taken_is_not_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "AHEAD_BYTES", 5000)
    with RangeServer(folder) as server, open_source(f"{server.url}/big.svs") as source:
        source.stamp()
        server.reset()
        parts = scattered(300)
        reading = source.read_many(parts)
        assert next(reading) == slices(parts)[0]
        time.sleep(0.2)
        assert server.counts()["requests"] <= 12
        assert list(reading) == slices(parts)[1:]
        source.close()
        with pytest.raises(OSError, match="is closed"):
            list(source.read_many(parts))


def test_threads_share_a_source(server: RangeServer) -> None:
    source = open_source(f"{server.url}/big.svs")
    sets = [scattered(40, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for got, parts in zip(pool.map(lambda some: list(source.read_many(some)), sets), sets, strict=True):
            assert got == slices(parts)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", ["503", "429", "drop", "cut", "stall"])
def test_what_fails_for_a_moment_is_tried_again(folder: Path, fault: str) -> None:
    parts = scattered(30)
    with RangeServer(folder, faults=(fault, "", fault)) as server:
        source = open_source(f"{server.url}/big.svs")
        assert list(source.read_many(parts)) == slices(parts)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("503", OSError, "the server answers 503 [A-Za-z ]*, after 2 retries"),
        ("403", PermissionError, "the server answers 403"),
        ("401", PermissionError, "the server answers 401"),
        ("400", OSError, "the server answers 400"),
        ("drop", OSError, "the server closes the connection without an answer"),
        ("cut", OSError, "the connection breaks within the answer"),
        ("stall", OSError, "the server does not answer in time"),
    ],
)
def test_what_fails_for_good_says_why_and_tells_no_secrets(
    folder: Path, fault: str, kind: type[OSError], text: str
) -> None:
    with RangeServer(folder, faults=(fault,) * 50) as server:
        url = f"http://me:{SECRETS[0]}@127.0.0.1:{server.port}/big.svs?X-Sig={SECRETS[1]}"
        source = open_source(url)
        begun = time.monotonic()
        with pytest.raises(
            kind, match=f"http://127.0.0.1:{server.port}/big.svs cannot be read: ({text})"
        ) as caught:
            source.read(ByteRange("", 0, 10))
        assert time.monotonic() - begun < 10
    said = "".join(traceback.format_exception(caught.value)) + source.address + repr(source)
    assert not [secret for secret in SECRETS if secret in said]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("host", "text"), [("127.0.0.1:9", "Connection refused"), ("nowhere.invalid", "lookup|resolve|dns")]
)
def test_a_server_that_is_not_there(host: str, text: str) -> None:
    with pytest.raises(OSError, match=f"http://{host}/x.svs cannot be read: .*({text})"):
        open_source(f"http://{host}/x.svs?sig={SECRETS[1]}").stamp()


def test_a_server_without_ranges_gives_whole_files_only(folder: Path) -> None:
    with RangeServer(folder, ranges=False) as server:
        source = open_source(f"{server.url}/store")
        assert source.read(ByteRange(NAMES[0])) == NAMES[0].encode() * 9
        with pytest.raises(OSError, match="cannot send parts of a file"):
            open_source(f"{server.url}/big.svs").read(ByteRange("", 10, 10))


def test_user_and_password_are_sent(folder: Path) -> None:
    # "Aladdin:open sesame" in base 64: the example of RFC 7617
    with RangeServer(folder, authorization="Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==") as server:
        url = f"http://Aladdin:open%20sesame@127.0.0.1:{server.port}/big.svs"
        assert open_source(url).read(ByteRange("", 5, 9)) == CONTENT[5:14]
        with pytest.raises(PermissionError, match="401"):
            open_source(f"{server.url}/big.svs").read(ByteRange("", 5, 9))


@pytest.mark.parametrize("etag", [True, False])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, etag: bool) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT[:100_000])
    with RangeServer(tmp_path, etag=etag) as server:
        source, parts = open_source(f"{server.url}/x"), [ByteRange("", 10_000 * i, 100) for i in range(9)]
        assert list(source.read_many(parts)) == slices(parts)
        before = source.stamp()
        path.write_bytes(CONTENT[1:100_002])
        with pytest.raises(OSError, match=f"{server.url}/x changed on its server"):
            list(source.read_many(parts))
        again = open_source(f"{server.url}/x")
        assert again.stamp() != before
        assert again.stamp()[0] == 100_001
        assert open_source(f"{server.url}/x").stamp() == again.stamp()


def test_a_tiff_is_parsed_in_few_round_trips(tmp_path: Path) -> None:
    path, levels = tmp_path / "a.tif", [noise(512, 512), noise(256, 256), noise(128, 128)]
    with tifffile.TiffWriter(path) as tiff:
        for level in levels:
            tiff.write(level, tile=(64, 64), photometric="rgb")
    with RangeServer(tmp_path) as server:
        with tifffile.TiffFile(as_file(open_source(f"{server.url}/a.tif"))) as tiff:
            assert [page.shape for page in tiff.pages] == [level.shape for level in levels]
            places = [page.dataoffsets[-1] for page in tiff.pages]
        assert server.counts()["requests"] <= 4
    with tifffile.TiffFile(path) as tiff:
        assert places == [page.dataoffsets[-1] for page in tiff.pages]


def test_a_remote_file_view_is_a_file(server: RangeServer) -> None:
    view, expected = as_file(open_source(f"{server.url}/big.svs")), io.BytesIO(CONTENT)
    rng = np.random.default_rng(0)
    for at, count in zip(
        rng.integers(0, 3_100_000, 40).tolist(), rng.integers(0, 300_000, 40).tolist(), strict=True
    ):
        assert view.seek(at) == expected.seek(at)
        assert view.read(count) == expected.read(count)


def test_buckets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 as its servers have it: the bucket is the first part of the path."""
    with RangeServer(folder) as server:
        for name, value in (("ENDPOINT", server.url), ("SKIP_SIGNATURE", "true"), ("ALLOW_HTTP", "true")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        source = open_source("s3://store/sub/folder")
        assert source.read(ByteRange("x+y.bin", 1, 9)) == (NAMES[2].encode() * 9)[1:10]
        assert not source.exists("none")
        assert source.address == "s3://store/sub/folder"
        one = open_source("s3://store/plain.bin")
        assert one.read(ByteRange("", -3)) == b"bin"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://me:pw@host:8/a/b.svs?sig=1#x", "https://host:8/a/b.svs"),
        ("https://host/a@b/c.svs", "https://host/a@b/c.svs"),
        ("http://host", "http://host"),
        ("https://host/store/", "https://host/store"),
        ("https://host?sig=a/b@c", "https://host"),
        ("s3://key:secret@bucket/a b.svs?token=1", "s3://bucket/a b.svs"),
    ],
)
def test_public_urls_have_no_secrets(url: str, expected: str) -> None:
    assert public_url(url) == expected


def test_other_urls_and_a_missing_extra_are_errors_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot be read from ftp://"):
        open_source("ftp://host/x.svs")
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"pip install 'wsi-ats\[remote\]'"):
        open_source("https://host/x.svs")


def test_a_program_ends_while_a_request_is_under_way(folder: Path) -> None:
    code = (
        "import sys; from wsi_ats.slides.storage.opening import ByteRange, open_source\n"
        "source = open_source(sys.argv[1]); source.stamp()\n"
        "reading = source.read_many([ByteRange('', 6000 * i, 9) for i in range(300)])\n"
        "print(len(next(reading)))\n"
    )
    with RangeServer(folder, latency=0.05) as server:
        command = [sys.executable, "-c", code, f"{server.url}/big.svs"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "9", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_that_it_cannot_read(server: RangeServer) -> None:
    source = open_source(f"{server.url}/big.svs")
    source.stamp()
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            source.read(ByteRange("", 0, 10))
        except OSError as error:
            writer.send_bytes(str(error).encode())
        finally:
            os._exit(0)
    try:
        assert reader.poll(30), "the child hangs"
        assert b"forked process" in reader.recv_bytes()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_one_thread_serves_all_sources(server: RangeServer) -> None:
    sources = [RemoteSource(f"{server.url}/big.svs") for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda source: source.read(ByteRange("", 3, 5)), sources)) == {CONTENT[3:8]}
    assert sum(thread.name == "wsi-ats-transfer" for thread in threading.enumerate()) == 1
