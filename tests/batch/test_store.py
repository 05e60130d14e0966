"""Files whole or not at all, the layout of a slide's folder, and claims."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, fields, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.test_prediction import ATTRIBUTES_OF_COORDS, make_prediction
from wsi_ats.atomic import make_atomic, remove_temporaries, write_atomic
from wsi_ats.batch import claim as claims
from wsi_ats.batch.attention_file import encode_attention
from wsi_ats.batch.claim import Holder, acquire, look
from wsi_ats.batch.records import Result, read_record
from wsi_ats.batch.store import SlideStore, folder_name, read_prediction
from wsi_ats.errors import WsiAtsError
from wsi_ats.process import Process, _start_of
from wsi_ats.tasks.answer import TaskResult, TaskSpec

SPAWN = multiprocessing.get_context("spawn")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Files


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, b"old")

    def half(temporary: Path) -> None:
        temporary.write_bytes(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_atomic(path, half)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.txt"]


def write_half_and_die(path: Path) -> None:
    def die(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        os._exit(9)

    make_atomic(path, die)


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    process = SPAWN.Process(target=write_half_and_die, args=(tmp_path / "a",))
    process.start()
    process.join()
    assert len(names(tmp_path)) == 1
    assert names(tmp_path) != ["a"]
    remove_temporaries(tmp_path)
    assert names(tmp_path) == []


# A slide's folder


def test_folder_names_are_readable_safe_and_distinct() -> None:
    assert folder_name("a/tumor 1.ome.tif").startswith("tumor_1.ome-")
    found = {folder_name(i) for i in ("a/x.svs", "b/x.svs", "x.svs", "x.tif", "a/x/.svs", ".svs", "ü/x.svs")}
    assert len(found) == 7
    assert len(folder_name("y" * 500 + ".svs")) == 89
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in found)


@pytest.mark.parametrize("mpp", [(0.5, 0.5), None])
def test_a_prediction_comes_back_as_it_was(tmp_path: Path, mpp: tuple[float, float] | None) -> None:
    prediction = replace(make_prediction(mpp=mpp, cell=77.7), bytes_read=99, seconds={"total": 1.25})
    purity = TaskResult(
        TaskSpec("purity", "regression"), np.array([0.4]), np.array([np.nan]), np.ones((4, 1), np.float32)
    )
    prediction = replace(prediction, results=(prediction.main, purity))
    store = SlideStore(tmp_path, "x/case_7.svs")
    store.folder.mkdir(parents=True)
    store.write_attention(prediction)
    store.write_result(prediction, {"slide": "x/case_7.svs"})
    back = read_prediction(store.folder)
    order = np.argsort(prediction.cells)
    assert order.tolist() != sorted(order), "drawn in no order, stored in that of the cells"
    assert_same(prediction, back, order)
    assert len(back.results) == len(prediction.results) == 2
    for was, now in zip(prediction.results, back.results, strict=True):
        assert_same(was, now, order)


def assert_same(one: object, other: object, order: np.ndarray) -> None:
    """Field by field, but the answers; `one` has what was drawn in another order."""
    for field in fields(one):
        was, now = getattr(one, field.name), getattr(other, field.name)
        was = was[order] if field.name in ("cells", "weights", "contributions") else was
        if isinstance(was, np.ndarray):
            assert now.dtype == was.dtype, field.name
            np.testing.assert_array_equal(now, was)
        elif field.name != "results":
            assert now == was, field.name


def test_attention_file_has_tridents_layout(tmp_path: Path) -> None:
    prediction = make_prediction((1000, 700), 100.0)
    (tmp_path / "a.h5").write_bytes(encode_attention(prediction))
    with h5py.File(tmp_path / "a.h5") as file:
        coords = file["coords"][:]
        assert coords.dtype == np.int64
        assert coords[0].tolist() == [10, 10], "a tile of 80 px in the middle of a cell of 100 px"
        drawn = file["drawn"][:]
        assert (prediction.tissue[drawn] == np.sort(prediction.cells)).all()
        assert file["attention"].dtype == np.float32
        assert (file["weight"][:][~drawn] == 0).all()
        assert (file["contribution"][:][~drawn] == 0).all()
        expected = dict(zip(prediction.cells.tolist(), prediction.contributions[:, 1].tolist(), strict=True))
        stored = dict(
            zip(file["cell"][:][drawn].tolist(), file["contribution"][:][drawn].tolist(), strict=True)
        )
        assert stored == expected
        assert file["contribution"].attrs["class"] == "tumour"
        attrs = {key: file.attrs[key] for key in file.attrs if not key.startswith(("grid", "cell"))}
    assert attrs == ATTRIBUTES_OF_COORDS


def test_magnification_is_never_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(encode_attention(make_prediction(mpp=None)))
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.isnan([file.attrs["target_magnification"], file.attrs["level0_magnification"]]).all()


def test_a_folder_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WsiAtsError, match=r"no readable result\.json"):
        read_prediction(tmp_path)
    store = SlideStore(tmp_path, "a.svs")
    store.folder.mkdir(parents=True)
    store.write_result(make_prediction(), {})
    (store.folder / "attention.h5").write_bytes(b"half")
    with pytest.raises(WsiAtsError, match=r"attention\.h5 is not an attention file"):
        read_prediction(store.folder)
    store.clear()
    assert names(store.folder) == []


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"a": 1'])
def test_a_damaged_record_is_no_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    assert read_record(path, Result) is None
    path.write_text(content)
    assert read_record(path, Result) is None


# Claims


def dead() -> int:
    """Id of a process that ran and is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_claim(path: Path, **changes: object) -> Holder:
    holder = replace(Holder.of(""), token="theirs", **changes)
    path.write_text(json.dumps(asdict(holder)))
    return holder


def test_a_claim_is_held_by_one_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    first = acquire(path)
    assert first is not None
    assert acquire(path) is None
    content = json.loads(path.read_text())
    assert (content["host"], content["pid"]) == (socket.gethostname(), os.getpid())
    assert abs(content["time"] - time.time()) < 5
    first.release()
    assert not path.exists()
    assert acquire(path) is not None


def test_claim_of_a_process_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    write_claim(path, pid=dead())
    assert acquire(path) is not None
    assert names(tmp_path) == ["claim"]


def test_claim_of_a_zombie_is_taken_over(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    started = _start_of(process.pid)
    while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    write_claim(tmp_path / "claim", pid=process.pid, started=started)
    assert acquire(tmp_path / "claim") is not None
    process.wait()


def test_a_pid_that_another_process_has_now_is_not_taken_for_its_holder(tmp_path: Path) -> None:
    write_claim(tmp_path / "claim", started=Process.me().started - 1000)
    assert acquire(tmp_path / "claim") is not None


def test_claim_of_a_living_process_stays_however_old(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        write_claim(path, pid=process.pid, started=_start_of(process.pid), time=0.0)
        os.utime(path, (0, 0))
        assert acquire(path) is None
        process.communicate(b"\n")
    assert acquire(path) is not None


def test_claim_of_another_machine_stays_while_it_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    write_claim(path, host="elsewhere", pid=dead(), run="theirs")
    assert acquire(path, "mine") is None
    old = path.stat().st_mtime - claims.SILENCE_LIMIT - 5
    os.utime(path, (old, old))
    assert acquire(path, "mine") is not None
    assert names(tmp_path) == ["claim"]


def test_claim_of_the_same_run_on_another_machine_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    write_claim(path, host="elsewhere", run="ours")
    assert acquire(path, "ours") is None, "it may only have lost its connection"
    old = path.stat().st_mtime - claims.OWN_SILENCE_LIMIT - 5
    os.utime(path, (old, old))
    assert acquire(path, "theirs") is None
    assert acquire(path, "ours") is not None


def test_claim_that_was_never_written_is_taken_over_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    path.touch()
    assert acquire(path) is None
    old = path.stat().st_mtime - claims.ODD_LIMIT - 5
    os.utime(path, (old, old))
    assert acquire(path) is not None


def test_a_takeover_that_was_killed_half_way_is_taken_over(tmp_path: Path) -> None:
    path, gone = tmp_path / "claim", dead()
    write_claim(path, pid=gone)
    write_claim(tmp_path / "claim.theirs", pid=gone)
    assert acquire(path) is not None
    assert names(tmp_path) == ["claim"]


def test_releasing_leaves_a_claim_that_was_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    mine = acquire(path)
    assert mine is not None
    write_claim(path)
    mine.release()
    found = look(path)
    assert found is not None
    assert found.token == "theirs"


def test_a_held_claim_is_touched_until_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.01)
    path = tmp_path / "claim"
    claim = acquire(path)
    assert claim is not None
    with claim:
        os.utime(path, (0, 0))
        end = time.monotonic() + 5
        while path.stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert not path.exists()
    assert not any(thread.name.startswith("claim") and thread.is_alive() for thread in _after(0.2))


def _after(seconds: float) -> list[threading.Thread]:
    time.sleep(seconds)
    return threading.enumerate()


def race(folder: Path, rounds: int, racers: list[str], barrier: Barrier) -> None:
    """Take over one stale claim a round, in step with the other racers; write down each one that was got."""

    def contend(racer: str) -> None:
        for number in range(rounds):
            barrier.wait()
            if acquire(folder / f"{number}") is not None:
                with (folder / "log").open("a") as log:
                    log.write(f"{number} {racer}\n")
        barrier.wait()  # a process that ended earlier would leave stale claims behind

    threads = [threading.Thread(target=contend, args=(racer,)) for racer in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_exactly_one_takes_over_a_stale_claim(tmp_path: Path) -> None:
    """Threads of two processes, all after the same stale claim at the same time, over and over."""
    gone, rounds, threads = dead(), 100, 4
    for number in range(rounds):
        write_claim(tmp_path / f"{number}", pid=gone)
    barrier = SPAWN.Barrier(2 * threads)
    processes = [
        SPAWN.Process(target=race, args=(tmp_path, rounds, [f"{side}{n}" for n in range(threads)], barrier))
        for side in ("left", "right")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    winners = Counter(line.split()[0] for line in (tmp_path / "log").read_text().splitlines())
    assert winners == {str(number): 1 for number in range(rounds)}
