"""Processes killed in the middle of a write leave nothing behind after the next run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.kills import SLOW, kill_in_writes
from tests.support.batches import good_slides, run, start, untimed, wait_until
from tests.support.fake_model import make_model
from wsi_ats.atomic import AGE_LIMIT, remove_temporaries, temporary_beside


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


@pytest.mark.slow
def test_five_kills_in_the_middle_of_a_write_leave_nothing(tmp_path: Path) -> None:
    slides = good_slides(tmp_path / "killed", 6)
    good_slides(tmp_path / "quiet", 6)
    done = kill_in_writes(tmp_path / "killed", 5)
    assert sum(done.values()) == 5
    run(slides, tmp_path / "quiet")
    assert run(slides, tmp_path / "killed").ok
    assert parts(tmp_path / "killed" / "out") == []
    assert untimed(tmp_path / "killed") == untimed(tmp_path / "quiet")


def test_a_table_half_written_is_removed_and_that_of_a_living_process_stays(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 1)
    make_model(tmp_path / "model")
    out = tmp_path / "out"
    process = start(tmp_path, SLOW.format(seconds=60, name="predictions.csv"))
    wait_until(lambda: list(out.glob(".predictions.csv.*.part")))
    (half,) = out.glob(".predictions.csv.*.part")
    remove_temporaries(out)
    assert half.exists(), "its writer lives"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert run(slides, tmp_path).progress.known == 1
    assert parts(out) == []


@pytest.mark.parametrize("name", [".a.csv.0a1b2c3d-17-99-0123456789ab.part", ".a.csv.1f.part"])
def test_of_a_writer_that_cannot_be_seen_the_age_decides(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    remove_temporaries(tmp_path)
    assert path.exists()
    then = time.time() - AGE_LIMIT - 5
    os.utime(path, (then, then))
    remove_temporaries(tmp_path)
    assert not path.exists()


def test_a_temporary_name_says_who_writes(tmp_path: Path) -> None:
    path = temporary_beside(tmp_path / "a.csv")
    path.touch()
    remove_temporaries(tmp_path)
    assert path.exists()
