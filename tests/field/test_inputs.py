"""What is given to `predict`: every slide stands in the tables, also one that cannot be looked into; none is lost."""

from __future__ import annotations

import builtins
import io
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.commands import TRAINING, run
from wsi_ats.batch.inputs import SlideItem, find_slides
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import read_manifest

PREDICT = ("predict", "run/model", "--tiles", "8", "--no-heatmaps", "--workers", "0")


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that takes from us the right to read a file or folder, which cannot be taken from root."""
    locked: set[Path] = set()

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def guard(path: Any = ".", *args: Any, **more: Any) -> Any:
            if isinstance(path, str | os.PathLike) and Path.cwd() / path in locked:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return function(path, *args, **more)

        return guard

    for module, name in ((os, "scandir"), (os, "open"), (io, "open"), (builtins, "open")):
        monkeypatch.setattr(module, name, guarded(getattr(module, name)))
    return lambda name: locked.add(Path.cwd() / name)


def failures(out: str = "out") -> dict[str, tuple[str, str]]:
    table = pd.read_csv(Path(out, "failures.csv"), keep_default_na=False)
    return {row.slide: (row.stage, row.error) for row in table.itertuples()}


def test_what_cannot_be_read_is_a_failed_row(place: Path, lock: Callable[[str], None]) -> None:
    for name in ("mixed/closed", "mixed/open"):
        Path(name).mkdir(parents=True)
    Path("mixed/good.tif").symlink_to(Path("slides/test_0.tif").absolute())
    for name in ("mixed/closed/a.tif", "mixed/open/locked.dcm"):
        Path(name).write_bytes(b"x" * 200)
    lock("mixed/closed")
    lock("mixed/open/locked.dcm")
    result = run(*PREDICT, "mixed", "--out", "out", status=1)
    assert "1 of 3 slides done" in result.stdout
    found = failures()
    assert list(found) == ["mixed/open/locked.dcm", "mixed/closed"]
    assert found["mixed/closed"] == ("open", "mixed/closed cannot be read: Permission denied")
    assert found["mixed/open/locked.dcm"][0] == "open"
    statuses = pd.read_csv("out/predictions.csv").set_index("slide").status
    assert dict(statuses) == {
        "mixed/good.tif": "done",
        "mixed/open/locked.dcm": "failed",
        "mixed/closed": "failed",
    }


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    """A folder with what has a slide's suffix and is no file."""
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd/pipe.svs")
    os.mkfifo(tmp_path / "odd/pipe.dcm")
    (tmp_path / "odd/device.tif").symlink_to("/dev/zero")
    (tmp_path / "odd/nothing.tif").symlink_to("gone")
    (tmp_path / "odd/folder.svs").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # names of sockets are short
        server.bind("odd/socket.tif")
        os.chdir(here)
        yield tmp_path / "odd"


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_opened_and_fails(odd: Path) -> None:
    troubles = {item.path.name: item.trouble for item in find_slides([odd])}
    assert sorted(troubles) == ["device.tif", "nothing.tif", "pipe.dcm", "pipe.svs", "socket.tif"]
    assert not troubles.pop("nothing.tif"), "a link to nothing is told when it is opened"
    assert all("not a regular file" in trouble for trouble in troubles.values())
    for name in ("pipe.svs", "device.tif", "pipe.dcm"):
        (item,) = find_slides([odd / name])
        assert "not a regular file" in item.trouble


def test_slides_of_more_formats_are_found_and_others_are_told(tmp_path: Path) -> None:
    for name in ("a.btf", "b.QPTIFF", "c.tf8", "notes.txt", "readme", "m/Data0000.dat"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"text")
    assert [item.path.name for item in find_slides([tmp_path])] == ["a.btf", "b.QPTIFF", "c.tf8"]
    for name, content in (
        ("d.svs.gz", b""),
        ("e.vsi", b""),
        ("f.vsi", b""),
        ("IM0001", b"\0" * 128 + b"DICM"),
        ("scan", b"II*\0"),
        ("big", b"MM\0+"),
        ("photo.JPG", b"II*\0"),
        ("true.jpg", b"\xff\xd8"),
    ):
        (tmp_path / name).write_bytes(content)
    kinds = (
        r"7 file\(s\) were passed over: 1 \.jpg that begin as TIFF or DICOM, 1 \.svs\.gz, 2 \.vsi, "
        "3 without a suffix that begin as TIFF or DICOM"
    )
    with pytest.warns(UserWarning, match=kinds):
        assert len(find_slides([tmp_path])) == 3


def test_a_folder_without_slides_says_what_is_there(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "deep/c.txt", "notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"text")
    with pytest.raises(ConfigError, match=r"; it has 4 file\(s\): 2 \.png, 1 (\.txt|without a suffix)"):
        find_slides([tmp_path])


# ---- Commands that take one slide


@pytest.mark.parametrize("command", [("info",), ("heatmap", "run/model"), ("convert",)])
def test_one_slide_is_asked_for_where_there_may_be_several(place: Path, command: tuple[str, ...]) -> None:
    Path("m.csv").write_text("slide\nslides/test_0.tif\nslides/test_1.tif\n")
    Path("empty").mkdir()
    out = ("new.ome.zarr",) if command == ("convert",) else ()
    for argument, what in (
        ("slides", "is a folder of "),
        ("slides/t*.tif", "is a pattern that matches "),
        ("m.csv", "is a table of 2"),
        ("empty", "has no file that looks like a slide"),
        ("gone/*.tif", "matches no slide"),
    ):
        result = run(*command, argument, *out, status=2)
        assert f"{argument} {what}" in result.stderr
    assert "slides/test_0.tif for example" in run(*command, "m.csv", *out, status=2).stderr.replace("\n", "")


@pytest.mark.parametrize("out", ["x.tif", "deep/x.svs"])
def test_a_conversion_is_no_folder_with_the_name_of_a_file(place: Path, out: str) -> None:
    assert "a folder is written" in run("convert", "slides/test_0.tif", out, status=2).stderr
    assert not Path(out).exists()


# ---- Where the slides of a manifest lie


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slides in folders of their own, as archives hand them out."""
    for name in (
        "u1/a.svs",
        "u2/b.ome.tif",
        "u3/c.tif",
        "u4/c.svs",
        "d.mrxs",
        "d/Index.dat",
        "u5/TCGA-1.u5.svs",
    ):
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "tables").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def found(text: str, **how: object) -> list[SlideItem]:
    path = Path("tables/m.csv")
    path.write_text(text)
    rows = read_manifest(path, "slide", **how)
    items = find_slides([path], **how)
    assert [Path(row.path).absolute() for row in rows] == [item.path for item in items]
    assert [row.slide for row in rows] == [item.id for item in items]
    return items


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("u1/a.svs", "u1/a.svs"),
        ("u1/a", "u1/a.svs"),
        ("a.svs", "u1/a.svs"),
        ("a", "u1/a.svs"),
        ("b", "u2/b.ome.tif"),
        ("b.ome", "u2/b.ome.tif"),
        ("d", "d.mrxs"),
        ("u1\\a.svs", "u1/a.svs"),
        ("nowhere/a.svs", "nowhere/a.svs"),
    ],
)
def test_names_are_found_in_the_folder_of_slides(store: Path, name: str, path: str) -> None:
    (item,) = found(f"slide\n{name}\n", slides_dir="store")
    assert (item.id, item.path) == (name, store / path)
    (item,) = found(f"slide\n{store / path}\n", slides_dir="tables")
    assert item.path == store / path, "an absolute path is what it is"


def test_a_name_that_may_be_several_is_an_error_that_names_them(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 1: 'c' may be any of u3/c\.tif, u4/c\.svs"):
        found("slide\nc\n", slides_dir="store")
    (item,) = found("slide\nu3/c\n", slides_dir="store")
    assert item.path == store / "u3/c.tif"


def test_without_the_option_paths_start_at_the_manifest(store: Path) -> None:
    (item,) = found("slide\n../store/u1/a\n")
    assert item.path == store / "u1/a.svs"
    (item,) = found("slide\na.svs\n")
    assert (item.path.exists(), item.hint) == (False, "it was looked for in tables")


def test_a_missing_slide_says_where_it_was_looked_for_and_what_is_like_it(store: Path) -> None:
    (item,) = found("slide\nTCGA-1\n", slides_dir="store")
    assert item.hint.startswith("it was looked for in store, and in the folders under store")
    assert item.hint.endswith("close names there: 'TCGA-1.u5.svs'")
    for name in ("U1/A.SVS", "tcga-1.U5.SVS"):
        (item,) = found(f"slide\n{name}\n", slides_dir="store")
        assert "close names there: " in item.hint, "letter case is no matter"


def test_the_option_needs_a_folder_and_a_manifest(store: Path) -> None:
    with pytest.raises(ConfigError, match="--slides-dir gone is no folder"):
        found("slide\na\n", slides_dir="gone")
    with pytest.raises(ConfigError, match="no manifest is given"):
        find_slides([store], slides_dir=store)


def test_commands_take_the_folder_and_tell_what_is_missing(place: Path) -> None:
    Path("tables").mkdir()
    Path("tables/m.csv").write_text("slide,label\ntest_0,x\ntest_1.tiff,y\n")
    result = run(*PREDICT, "tables/m.csv", "--slides-dir", "slides", "--out", "out", status=1)
    assert "1 of 2 slides done" in result.stdout
    assert "close names there: 'test_1.tif'" in result.stderr
    lines = Path("slides/manifest.csv").read_text().replace("train_2.tif", "train_2.tiff")
    Path("tables/m.csv").write_text(lines)
    command = ("train", "tables/m.csv", "--out", "new", *TRAINING, "-s", "train.epochs=1")
    result = run(*command, "--slides-dir", "slides", status=1)
    (remedy,) = pd.read_csv("new/failures.csv").remedy
    assert "close names there: 'train_2.tif'" in remedy
