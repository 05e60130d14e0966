"""A place where no result can be is told before anything is computed: in one line, with the rule and a remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.commands import TRAINING, run

FOLDER = "name a folder, one that is there or a new one"
NOTHING = os.strerror(errno.ENOENT)
COMMANDS: dict[str, tuple[str, ...]] = {
    "predict": ("predict", "run/model", "slides/test_0.tif", "--workers", "0", "--out"),
    "train": ("train", "slides/manifest.csv", *TRAINING, "--out"),
    "demo": ("demo", "--out"),
    "convert": ("convert", "slides/test_0.tif"),
    "heatmap": ("heatmap", "run/model", "slides/test_0.tif", "--out"),
    "config": ("config", "--out"),
}
"""Commands that write, up to the place that they write to."""
WRITE_FILES = ("heatmap", "config")


@pytest.fixture
def nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no command come to its work."""

    def fail(*_: object, **__: object) -> None:
        pytest.fail("work was begun")

    for work in (
        "wsi_ats.batch.cluster.client_for",
        "wsi_ats.train.run._train",
        "wsi_ats.demo.make_slides",
        "wsi_ats.convert.run._Job.levels",
        "wsi_ats.model.AttentionSampler.read",
    ):
        monkeypatch.setattr(work, fail)


def obstacles(folder: Path) -> dict[str, tuple[Path, str]]:
    """What may lie where a folder was meant, and its name in words."""
    (folder / "a.txt").write_text("mine")
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("nowhere")
    return {
        "file": (Path("a.txt"), "a file"),
        "pipe": (Path("pipe"), "a pipe"),
        "dead link": (Path("link"), "a link to nothing, or out of sight"),
        "null": (Path("/dev/null"), "a device"),
        "full": (Path("/dev/full"), "a device"),
    }


@pytest.mark.parametrize("below", [False, True], ids=["there", "below"])
@pytest.mark.parametrize("obstacle", ["file", "pipe", "dead link", "null", "full"])
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_folder_is_told(
    place: Path, nothing_is_computed: None, name: str, obstacle: str, below: bool
) -> None:
    at, kind = obstacles(place)[obstacle]
    out = at / "out.png" if below or name in WRITE_FILES else at
    folder = out.parent if name in WRITE_FILES else out
    before = sorted(place.rglob("*"))
    said = run(*COMMANDS[name], out, status=2).stderr.splitlines()
    if name == "convert":
        folder, at = folder.absolute(), at.absolute()
    if name == "convert" and not below and obstacle != "dead link":
        assert said == [f"error: {at} exists and is no Zarr store", "  Remedy: choose another OUT"]
    else:
        assert said == [
            f"error: output folder {folder} cannot be made: {at} is {kind}, not a folder",
            f"  Remedy: {FOLDER}",
        ]
    assert sorted(place.rglob("*")) == before
    assert (place / "a.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [
        ("train", "slides/manifest.csv", *TRAINING),
        ("splits", "slides/manifest.csv", "--folds", "3"),
        ("predict", "run/model", "slides/manifest.csv", "--workers", "0"),
        ("calibrate", "run/model", "slides/manifest.csv"),
        ("evaluate", "run", "slides/manifest.csv"),
        ("compare", "run", "run", "slides/manifest.csv"),
    ],
    ids=lambda words: words[0],
)
def test_the_manifest_in_the_place_of_the_output_is_told(
    place: Path, nothing_is_computed: None, words: tuple[str, ...]
) -> None:
    mine = Path("slides/manifest.csv").read_bytes()
    said = run(*words, "--out", "slides/manifest.csv", status=2).stderr.splitlines()
    assert said == [
        "error: output folder slides/manifest.csv cannot be made: slides/manifest.csv is a file, not a folder, and is "
        "read by this command",
        f"  Remedy: {FOLDER}: slides/out for example",
    ]
    assert Path("slides/manifest.csv").read_bytes() == mine


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system that takes nothing new is at hand")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_system_that_takes_nothing_new_is_told(place: Path, name: str) -> None:
    out = "/proc/x.png" if name in WRITE_FILES else "/proc/x"
    said = run(*COMMANDS[name], out, status=2).stderr.splitlines()
    assert said[0].endswith(f"{out} cannot be {'written' if name in WRITE_FILES else 'made'}: {NOTHING}")
    assert said[1:] == ["  Remedy: choose another place: nothing new can be made in /proc"]


@pytest.mark.parametrize("name", WRITE_FILES)
def test_a_folder_in_the_place_of_a_file_is_told(place: Path, nothing_is_computed: None, name: str) -> None:
    (place / "out.png").mkdir()
    said = run(*COMMANDS[name], "out.png", status=2).stderr.splitlines()
    assert said == [
        "error: --out out.png is a folder; it must name a file",
        "  Remedy: give another name, or move what lies there out of the way",
    ]


def test_a_device_that_takes_no_more_is_told(place: Path) -> None:
    said = run("config", "--out", "/dev/full", status=2).stderr.splitlines()
    assert said == [
        "error: --out /dev/full cannot be written: No space left on device",
        "  Remedy: make room there",
    ]


def test_what_a_user_named_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file stays as it is where the new one cannot be finished; a link stays a link."""
    old = tmp_path / "old.toml"
    old.write_text("[tile]\npx = 64  # mine\n")
    (tmp_path / "link.toml").symlink_to(old)

    def fill(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", fill)
        said = run("config", "--out", old, status=2).stderr
    assert said.startswith(f"error: --out {old} cannot be written: No space left on device")
    assert (old.read_text(), sorted(path.name for path in tmp_path.iterdir())) == (
        "[tile]\npx = 64  # mine\n",
        ["link.toml", "old.toml"],
    )
    run("config", "--out", tmp_path / "link.toml")
    assert (tmp_path / "link.toml").is_symlink()
    assert "mine" not in old.read_text()


@pytest.mark.parametrize("content", ["# notes of mine\n", "[project]\nname = 1\n", "no: toml\n", "\x00\xff"])
def test_a_file_that_holds_no_settings_is_not_replaced_by_them(tmp_path: Path, content: str) -> None:
    mine = tmp_path / "mine.toml"
    (tmp_path / "link.toml").symlink_to(mine)
    mine.write_text(content)
    for name in ("mine.toml", "link.toml"):
        said = run("config", "--out", tmp_path / name, status=2).stderr
        assert f"--out {tmp_path / name} is there and holds no settings" in said
    assert mine.read_text() == content
    mine.write_text("")
    run("config", "--out", mine)
    assert "[tile]" in mine.read_text()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "make the file system writable, or choose another place"),
        (errno.EACCES, "give this user the right to write there, or choose another place"),
        (errno.ENAMETOOLONG, "give a shorter name"),
        (errno.ENOSPC, "make room there"),
    ],
)
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "heatmap"])  # which makes it last
def test_a_folder_that_the_system_refuses_is_told(
    place: Path,
    nothing_is_computed: None,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    remedy: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refuse)
    said = run(*COMMANDS[name], "new/out.png", status=2).stderr.splitlines()
    assert said[0].endswith(f" cannot be made: {os.strerror(number)}")
    assert said[1:] == [f"  Remedy: {remedy}"]


@pytest.mark.parametrize("name", ["demo", "convert"])
def test_a_folder_that_may_only_be_read_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (place / "out").mkdir()
    monkeypatch.setattr("wsi_ats.demo.make_slides", refuse)
    monkeypatch.setattr("wsi_ats.convert.run.write_group", refuse)
    said = run(*COMMANDS[name], "out", status=2).stderr.splitlines()
    assert said[0].endswith("out cannot be written: Read-only file system")
    assert said[1].startswith(
        "  Remedy: make the file system writable, or choose another place; then give the"
    )


@pytest.mark.parametrize("what", ["checkpoints", "model", "run.json", "validation.csv", "log.csv"])
def test_what_lies_in_the_place_of_a_result_of_training_is_told_first(
    place: Path, nothing_is_computed: None, what: str
) -> None:
    at = place / "new" / what
    if at.suffix:
        at.mkdir(parents=True)
    else:
        at.parent.mkdir()
        at.touch()
    said = run(*COMMANDS["train"], "new", status=2).stderr
    rule = "cannot be written: Is a directory" if at.suffix else "is a file, not a folder"
    assert f"new/{what} {rule}" in said
    assert [path.name for path in at.parent.iterdir()] == [what]
