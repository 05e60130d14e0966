"""A live claim is never robbed; one that is left behind, or was never one, holds nobody up for long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.support.batches import good_slides, run
from tests.support.fake_model import make_model
from wsi_ats import process as processes
from wsi_ats.batch import claim as claims
from wsi_ats.batch.claim import Holder, acquire, look
from wsi_ats.batch.run import Progress
from wsi_ats.batch.store import SlideStore
from wsi_ats.process import Process


def write(path: Path, **changes: object) -> Holder:
    """A claim of another process than this one."""
    parent = os.getppid()
    holder = replace(Holder.of(""), **{"pid": parent, "started": processes._start_of(parent), **changes})
    path.write_text(json.dumps(asdict(holder)))
    return holder


def age(path: Path, seconds: float) -> None:
    then = path.lstat().st_mtime - seconds
    os.utime(path, (then, then), follow_symlinks=False)


@pytest.mark.parametrize("made", [0.0, time.time()], ids=["long ago", "now"])
def test_another_boot_of_a_machine_of_this_name_is_judged_by_its_touch(tmp_path: Path, made: float) -> None:
    path = tmp_path / "claim"
    write(path, boot="another", time=made)  # two machines may have one name, whenever each was started
    assert acquire(path) is None
    age(path, claims.SILENCE_LIMIT + 5)
    assert acquire(path) is not None


@pytest.mark.parametrize("shift", [-3600.0, -3.0, 3.0, 3600.0])
def test_a_step_of_the_clock_robs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    path = tmp_path / "claim"
    write(path)
    boot = processes.psutil.boot_time()
    monkeypatch.setattr(processes.psutil, "boot_time", lambda: boot + shift)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    processes._process.cache_clear()
    assert acquire(path) is None


def test_without_ticks_a_start_that_moved_is_no_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systems that do not tell their boot: a process whose start differs may be the same after a step of the clock."""
    monkeypatch.setattr(processes, "_boot", lambda: ("", ""))
    processes._process.cache_clear()
    try:
        path = tmp_path / "claim"
        holder = write(path)
        write(path, started=holder.started + 3)
        assert acquire(path) is None
        write(path, started=holder.started + 3)
        age(path, claims.SILENCE_LIMIT + 5)
        assert acquire(path) is not None
    finally:
        processes._process.cache_clear()


def test_a_process_that_is_hidden_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(pid: int) -> float:
        raise FileNotFoundError(pid)

    monkeypatch.setattr(processes, "_start_of", hidden)
    assert processes.is_running(os.getpid(), 1.0) is None
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert processes.is_running(process.pid, 1.0) is False


ODD: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "binary": lambda path: path.write_bytes(os.urandom(1000)),
    "huge": lambda path: path.write_bytes(bytes(10_000_000)),
    "brackets": lambda path: path.write_text("[" * 100_000),
    "other JSON": lambda path: path.write_text('{"host": 1}'),
    "a token that is a path": lambda path: write(path, token="../../x"),
    "text for a number": lambda path: path.write_text(path.write_text("") or '{"pid": "x"}'),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_claim_is_waited_for_and_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "claim"
    ODD[kind](path)
    assert acquire(path) is None, "it may be one that is being written"
    age(path, claims.ODD_LIMIT + 5)
    claim = acquire(path)
    assert claim is not None
    assert claim.holder.deaths == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["claim"]
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_a_batch_passes_odd_claims(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, len(ODD) + 1)
    for slide, make in zip(slides, [*ODD.values(), Path.mkdir], strict=True):
        store = SlideStore(tmp_path / "out", slide.id)
        store.folder.mkdir(parents=True)
        make(store.claim)
        age(store.claim, claims.ODD_LIMIT + 5)
    assert run(slides, tmp_path).ok
    assert list((tmp_path / "out").rglob(".claim*")) == []


def test_a_claim_that_its_process_forgot_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was away when it was to be given back."""
    path = tmp_path / "claim"
    mine = acquire(path)
    assert mine is not None
    path.rename(tmp_path / "away")
    mine.release()
    (tmp_path / "away").rename(path)
    assert acquire(path) is not None, "this process knows that it does not hold it"
    write(path)
    assert acquire(path, silence_limit=0.05) is None
    time.sleep(0.1)
    os.utime(path)
    assert acquire(path, silence_limit=0.05) is None, "it was touched meanwhile"
    time.sleep(0.1)
    assert acquire(path, silence_limit=0.05) is not None


def test_waiting_for_another_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_ats.batch.run.PATIENCE", 0.1)
    monkeypatch.setattr("wsi_ats.batch.run.POLL", 0.05)
    slides = good_slides(tmp_path, 2)
    make_model(tmp_path / "model")
    store = SlideStore(tmp_path / "out", "s0.tif")
    store.folder.mkdir(parents=True)
    write(store.claim, host="node7", pid=4711, token="theirs")
    told: list[str] = []

    def hear(progress: Progress) -> None:
        if progress.waiting:
            told.append(progress.waiting)
            age(store.claim, claims.SILENCE_LIMIT + 5)

    assert run(slides, tmp_path, on_progress=hear).ok
    assert (
        "waiting for 1 slide(s) that other processes are at: s0.tif (process 4711 on node7, last heard"
        in told[0]
    )
    assert "unless it is heard of, taken over at " in told[0]


def test_a_takeover_knows_who_died(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    write(path, token="a", deaths=1)
    path.write_text(path.read_text().replace(f'"pid": {os.getppid()}', f'"pid": {process.pid}'))
    claim = acquire(path)
    assert claim is not None
    assert claim.last is not None
    assert (claim.last.pid, claim.holder.deaths) == (process.pid, 2)
    found = look(path)
    assert found is not None
    assert found.holder == claim.holder
    assert Process.me().is_alive()
