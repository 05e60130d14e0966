"""Output that cannot be written ends the work at once, in one line with a remedy, and the same command goes on."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tests.support.batches import good_slides, run, start, table
from tests.support.cohort import settings
from tests.support.commands import run as command
from tests.support.fake_model import calls, make_model
from tests.test_prediction import make_prediction
from wsi_ats.batch.cluster import local_cluster
from wsi_ats.batch.run import Progress
from wsi_ats.batch.store import SlideStore
from wsi_ats.manifest import Row
from wsi_ats.output import OutputError, writing
from wsi_ats.train.run import train


def refuse(number: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("where", ["wsi_ats.atomic._flush", "wsi_ats.batch.claim._create", "os.mkdir"])
def test_a_disk_that_refuses_stops_a_batch_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    slides = good_slides(tmp_path, 4)

    def break_disk(progress: Progress) -> None:
        if progress.done == 1:
            monkeypatch.setattr(where, refuse(number))

    with pytest.raises(OutputError, match=f"out.* cannot be written: {os.strerror(number)}") as raised:
        run(slides, tmp_path, on_progress=break_disk)
    assert raised.value.remedy.endswith("then give the same command again: what is done is kept")
    assert len(calls(tmp_path / "model")) <= 2, "the others are not computed for nothing"
    monkeypatch.undo()
    assert run(slides, tmp_path).progress.known == 1
    assert list(table(tmp_path).status) == ["done"] * 4
    assert list((tmp_path / "out").rglob(".*")) == []


def test_an_output_folder_that_vanishes_stops_a_batch_and_is_not_made_anew(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 4)

    def vanish(progress: Progress) -> None:
        if progress.done == 1:
            (tmp_path / "out").rename(tmp_path / "elsewhere")

    with pytest.raises(OutputError, match="out is not there"):
        run(slides, tmp_path, on_progress=vanish)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()  # as a mount point without its disk
    (tmp_path / "out").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "out")
    assert run(slides, tmp_path).progress.known == 1


def test_a_mount_point_without_its_disk_is_not_written_to(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 2)

    def unmount(progress: Progress) -> None:
        if progress.done == 1:
            (tmp_path / "out").rename(tmp_path / "elsewhere")
            (tmp_path / "out").mkdir()

    with pytest.raises(OutputError, match="see that it is there still"):
        run(slides, tmp_path, on_progress=unmount)
    assert list((tmp_path / "out").glob("slides/*")) == []


def test_workers_that_cannot_write_stop_the_batch(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 12)
    make_model(tmp_path / "model", delay=0.2)

    def vanish(progress: Progress) -> None:
        if progress.done == 2:
            shutil.move(tmp_path / "out", tmp_path / "elsewhere")

    with local_cluster(2) as client:
        with pytest.raises(OutputError):
            run(slides, tmp_path, client=client, on_progress=vanish)
        assert len(calls(tmp_path / "model")) < 12
    shutil.move(tmp_path / "elsewhere", tmp_path / "out")
    assert run(slides, tmp_path).progress.known >= 2
    assert list(table(tmp_path).status) == ["done"] * 12


def test_a_limit_of_the_system_is_told_by_a_process_of_its_own(tmp_path: Path) -> None:
    good_slides(tmp_path, 2)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    process = start(tmp_path, limit)
    said = process.communicate()[0]
    assert "OutputError" in said
    assert "File too large" in said
    assert len(calls(tmp_path / "model")) <= 1


@pytest.mark.parametrize("name", ["run.json", "predictions.csv", "failures.csv", ".tables"])
def test_a_folder_in_the_place_of_a_table_is_told_before_anything_is_computed(
    tmp_path: Path, name: str
) -> None:
    slides = good_slides(tmp_path, 1)
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(OutputError, match=f"{name} cannot be written: Is a directory"):
        run(slides, tmp_path)
    assert calls(tmp_path / "model") == []


def test_the_command_says_one_line_and_ends_with_2(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_ats.atomic._flush", refuse(errno.ENOSPC))
    result = command("predict", "run/model", "slides/test_0.tif", "--out", "out", "--workers", "0", status=2)
    assert result.stderr.splitlines() == [
        f"error: {Path('out').absolute()} cannot be written: No space left on device",
        "  Remedy: make room there; then give the same command again: what is done is kept",
    ]


@pytest.mark.parametrize(
    "told",
    [
        "Error while serializing: I/O error: File too large (os error 27)",
        'Error while serializing: IoError(Os { code: 27, kind: FileTooLarge, message: "File too large" })',
    ],
    ids=["today", "0.4"],
)
def test_errors_of_the_system_in_any_release_of_safetensors_are_recognised(tmp_path: Path, told: str) -> None:
    with pytest.raises(OutputError, match="File too large") as raised, writing(tmp_path):
        raise SafetensorError(told)
    assert raised.value.remedy.startswith("raise the limit of file sizes")


@pytest.mark.parametrize("library", ["file", "torch", "safetensors"])
def test_what_libraries_make_of_a_full_disk_is_recognised(tmp_path: Path, library: str) -> None:
    path = tmp_path / "file"

    def write() -> None:
        if library == "file":
            path.write_bytes(bytes(100_000))
        elif library == "torch":
            with path.open("wb") as file:
                torch.save({"x": torch.zeros(100_000)}, file)
        else:
            save_file({"x": torch.zeros(100_000)}, path)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large"), writing(tmp_path):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_under_attention_h5_is_told_and_the_process_lives(tmp_path: Path) -> None:
    """HDF5 that meets the full disk itself may end the process later, when it cleans up."""
    (tmp_path / "out" / "slides").mkdir(parents=True)
    store = SlideStore(tmp_path / "out", "a.tif")
    store.make()
    code = (
        "import gc, pickle, resource, sys\n"
        "from wsi_ats.output import OutputError\n"
        "store, prediction = pickle.load(sys.stdin.buffer)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try: store.write_attention(prediction)\n"
        "except OutputError as error: print(error)\n"
        "gc.collect()\n"
    )
    given = pickle.dumps((store, make_prediction()))
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"File too large" in done.stdout
    assert list(store.folder.iterdir()) == []


def test_a_mistake_in_a_block_that_writes_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), writing(tmp_path):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("what", ["last.ckpt", "validation.csv", "model"])
def test_training_is_stopped_and_goes_on(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    out, epochs = tmp_path / "run", settings("train.epochs=2")
    said: list[str] = []
    if what == "model":
        monkeypatch.setattr("wsi_ats.train.run.save_model", refuse(errno.ENOSPC))
    else:
        replace = Path.replace

        def full(path: Path, target: Path) -> Path:
            if target.name == what:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=r"run.* cannot be written: No space left on device"):
        train(rows, epochs, out, say=said.append)
    monkeypatch.undo()
    train(rows, epochs, out, say=said.append)
    assert (out / "run.json").exists()
    assert list(out.rglob(".*")) == []
    told = [line for line in said if line.startswith("epoch")]
    assert len(told) == 2, "no epoch that was told is trained again"


def test_a_claim_on_a_full_disk_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SlideStore(tmp_path, "a.svs")
    store.folder.mkdir(parents=True)
    monkeypatch.setattr("wsi_ats.batch.claim.os.fdopen", refuse(errno.ENOSPC))
    from wsi_ats.batch.claim import acquire

    with pytest.raises(OSError, match="No space"):
        acquire(store.claim)
    assert list(store.folder.iterdir()) == []
