"""What is no regular file where one is expected: never waited for, never read without end, never taken for absent."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import run
from tests.support.ome_zarr import write_image
from tests.support.tiffs import picture
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError, ModelError, SlideError
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.features.source import locate_folder, read_json, read_weights
from wsi_ats.manifest.table import read_table
from wsi_ats.model_folder import load_model, model_hash
from wsi_ats.regular import open_descriptor, open_regular, read_regular
from wsi_ats.slides import open_slide
from wsi_ats.slides.content import content_of
from wsi_ats.slides.fingerprint import fingerprint_of
from wsi_ats.slides.storage import local
from wsi_ats.slides.storage.opening import ByteRange, open_source

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")

PIXELS = picture(150, 210)
SECONDS = 20
"""After which something waits for ever."""


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        there = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            one.bind(path.name)
        finally:
            os.chdir(there)


def folder(path: Path) -> None:
    path.mkdir()


IRREGULAR = {"a pipe": fifo, "a device": device, "a socket": unix_socket, "a folder": folder}
ENDLESS = {name: IRREGULAR[name] for name in ("a pipe", "a device")}
LOST = {
    **IRREGULAR,
    "a link to what is not there": lambda path: path.symlink_to("nowhere"),
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
}


@contextmanager
def in_time() -> Iterator[None]:
    """Free whoever waits for a pipe, so that a test fails instead of waiting."""

    def free() -> None:
        for pipe in PIPES:
            if pipe.is_fifo():
                os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
        raised.append(True)

    raised: list[bool] = []
    timer = threading.Timer(SECONDS, free)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert not raised, "it waits"


PIPES: list[Path] = []


def put(path: Path, make: Callable[[Path], None]) -> Path:
    """Something else in the place of a file."""
    if path.exists():
        path.unlink()
    make(path)
    PIPES[:] = [path]
    return path


@pytest.mark.parametrize("kind", IRREGULAR)
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    path = put(tmp_path / "x", IRREGULAR[kind])
    with in_time():
        for opens in (
            open_descriptor,
            open_regular,
            lambda p: read_regular(p, 10),
            fingerprint_of,
            content_of,
        ):
            if kind == "a folder" and opens in (fingerprint_of, content_of):
                continue  # may be a Zarr store
            with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
                opens(path)


def test_a_pipe_that_comes_after_the_look_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "x", fifo)
    monkeypatch.setattr("wsi_ats.regular.regular_stat", lambda path: None)
    with in_time(), pytest.raises(OSError, match="it is a pipe"):
        open_descriptor(path)


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_regular(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="more than the 4 bytes"):
        read_regular(tmp_path / "x", 4)


@pytest.mark.parametrize("suffix", [".svs", ".tif", ".dcm", ".mrxs", ".ndpi", ".xyz"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_slides(kind: str, suffix: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"a{suffix}", ENDLESS[kind])
    with in_time():
        for backend in (None, "tiff", "openslide"):
            with pytest.raises(SlideError, match=f"it is {kind}, not a regular file"):
                open_slide(path, backend)


@pytest.mark.parametrize("name", ["a.dcm", "a.vms", "a/Data0001.dat"])
def test_what_openslide_would_open_beside_a_slide(name: str, tmp_path: Path) -> None:
    slide = tmp_path / ("a.mrxs" if "/" in name else f"b{Path(name).suffix}")
    slide.write_bytes(bytes(200))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    put(tmp_path / name, fifo)
    with in_time(), pytest.raises(SlideError, match="it is a pipe"):
        open_slide(slide)


@pytest.mark.parametrize("name", ["\0", "a\0.svs", "x" * 5000, "a/" * 3000, "\ud800"])
def test_names_that_no_file_has(name: str, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="cannot be opened"):
        open_slide(f"{tmp_path}/{name}")


@pytest.mark.parametrize("kind", ENDLESS)
def test_commands(kind: str, place: Path) -> None:
    path = put(place / "a.tif", ENDLESS[kind])
    with in_time():
        assert f"it is {kind}" in run("info", path, status=2).stderr
        (place / "m.csv").write_text("slide,label\na.tif,x\n")
        result = run("predict", "run/model", "m.csv", "--out", "out", "--workers", "0", status=1)
        assert f"it is {kind}" in result.stderr
        put(place / "m2.csv", ENDLESS[kind])
        assert f"it is {kind}" in run("train", "m2.csv", "--out", "r", status=2).stderr
        put(place / "c.toml", ENDLESS[kind])
        assert f"it is {kind}" in run("train", "m.csv", "--out", "r", "--config", "c.toml", status=2).stderr


@pytest.mark.parametrize("kind", IRREGULAR)
def test_settings_manifests_and_weights(kind: str, tmp_path: Path) -> None:
    make, said = IRREGULAR[kind], f"it is {kind}"
    with in_time():
        with pytest.raises(ConfigError, match=said):
            load_config(put(tmp_path / "c.toml", make))
        for name in ("m.csv", "m.parquet"):
            with pytest.raises(ConfigError, match=said):
                read_table(put(tmp_path / name, make), print)
        for name in ("w.safetensors", "w.pt"):
            with pytest.raises(ModelError, match=said):
                read_weights(put(tmp_path / name, make))
        with pytest.raises(ModelError, match=said):
            read_json(put(tmp_path / "config.json", make))
        settings = FeatureSettings(network="timm", weights=str(tmp_path))
        with pytest.raises(ConfigError, match=said):
            locate_folder(settings, None, ("config.json", "*.safetensors"))


@pytest.mark.parametrize("name", ["config.toml", "model.safetensors"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_model_folders(kind: str, name: str, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(trained / "model", copy)
    put(copy / name, ENDLESS[kind])
    with in_time():
        for loads in (load_model, model_hash):
            with pytest.raises(ModelError, match=f"it is {kind}"):
                loads(copy)


@pytest.mark.parametrize("storage", [{}, {"zarr_format": 2}, {"shards": (3, 128, 96)}, {"filters": None}])
@pytest.mark.parametrize("kind", LOST)
def test_chunks(kind: str, storage: dict[str, object], tmp_path: Path) -> None:
    if storage.get("filters", 0) is None:  # a layout that is left to zarr-python
        import zarr

        storage = {"chunk": {"c": 2}, "compressors": [zarr.codecs.GzipCodec()]}
    path = write_image(tmp_path / "a.zarr", [PIXELS], **storage)
    chunk = path / ("0/0.1.1" if storage.get("zarr_format") == 2 else "0/c/0/1/1")
    with open_slide(path) as slide:
        expected = slide.read((0, 0), slide.size)
    put(chunk, LOST[kind])
    with in_time(), open_slide(path) as slide, pytest.raises(SlideError) as caught:
        slide.read((0, 0), slide.size)
    assert chunk.name in caught.value.message
    assert kind in caught.value.message
    chunk.rmdir() if chunk.is_dir() and not chunk.is_symlink() else chunk.unlink()
    with open_slide(path) as slide:  # one that is absent is what the array is filled with
        found = slide.read((0, 0), slide.size)
    assert (found != expected).any()
    assert (found[found != expected] == 0).all()


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENAMETOOLONG, errno.ESTALE, errno.ENOTDIR])
def test_chunks_that_cannot_be_had(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.zarr", [PIXELS])
    real = local.open_descriptor

    def fails(name: str) -> int:
        if name.endswith("c/0/1/1"):
            raise OSError(code, os.strerror(code), name)
        return real(name)

    with open_slide(path) as slide:
        monkeypatch.setattr(local, "open_descriptor", fails)
        with pytest.raises(SlideError, match="c/0/1/1") as caught:
            slide.read((0, 0), slide.size)
    assert os.strerror(code) in caught.value.message


def test_a_store_that_is_gone_is_not_background(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [PIXELS])
    with open_slide(path) as slide:
        path.rename(tmp_path / "b.zarr")  # as when its disk is unmounted
        with pytest.raises(SlideError, match=r"a\.zarr is gone"):
            slide.read((0, 0), slide.size)


def test_a_folder_of_chunks_that_leads_nowhere(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [PIXELS])
    (path / "0" / "c").rename(tmp_path / "c")
    (path / "0" / "c").symlink_to("nowhere")
    with open_slide(path) as slide, pytest.raises(SlideError, match="0/c is a link to what is not there"):
        slide.read((0, 0), slide.size)


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json"])
@pytest.mark.parametrize("kind", IRREGULAR)
def test_metadata(kind: str, name: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [PIXELS])
    put(path / name, IRREGULAR[kind])
    with in_time(), pytest.raises(SlideError, match=f"{kind}, not a regular file.*zarr.json"):
        open_slide(path)


def test_shards_that_end_too_soon(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [PIXELS], shards=(3, 128, 96))
    shard = path / "0" / "c" / "0" / "0" / "0"
    content = shard.read_bytes()
    index = np.frombuffer(content[-4 - 16 * 4 : -4], "<u8").reshape(-1, 2).copy()
    import google_crc32c

    for offset in (len(content) - 3, 1 << 40, 1 << 63, 2**64 - 2):
        index[3, 0] = offset
        encoded = index.tobytes()
        crc = google_crc32c.value(encoded).to_bytes(4, "little")
        shard.write_bytes(content[: -4 - len(encoded)] + encoded + crc)
        with (
            open_slide(path) as slide,
            pytest.raises(SlideError, match="tile column 1, row 1 cannot be decoded"),
        ):
            slide.read((0, 0), slide.size)


def test_a_source_says_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    with open_source(str(tmp_path)) as source:
        assert list(source.read_many([ByteRange("none"), ByteRange("none/x"), ByteRange("one")])) == [
            None,
            None,
            b"x",
        ]
        for key in ("sub", "one/x"):
            with pytest.raises(OSError, match=key):
                source.exists(key)
            with pytest.raises(OSError, match=key):
                list(source.read_many([ByteRange(key)]))
