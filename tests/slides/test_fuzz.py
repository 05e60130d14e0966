"""A slice of benchmarks/fuzz.py: damaged slides, opened and read in a child process, and the watch over it."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = 17 * 8
"""One of each layout and mutation."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory and descriptors are read from /proc")


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("fuzz")


def test_damaged_slides_end_in_errors_that_name_them(fuzz: ModuleType, tmp_path: Path) -> None:
    sys.modules["fuzz_sources"].write_originals(tmp_path / "originals", 600)
    found = fuzz.fuzz(range(CASES), 0, tmp_path, 1)
    counts = Counter(case["result"] for case in found)
    assert [case for case in found if case["result"] in fuzz.BAD] == []
    assert [case["case"] for case in found] == list(range(CASES))
    assert counts["error"] > CASES / 3
    assert counts["same"] > 2
    assert counts["other pixels"] > 5, "a bit in a JPEG changes pixels, and nothing can tell"
    assert {case["kind"] for case in found} == set(fuzz.mutations("zarr"))


def test_cases_follow_from_the_seed(fuzz: ModuleType, tmp_path: Path) -> None:
    mutate = sys.modules["fuzz_mutate"]
    sys.modules["fuzz_sources"].write_originals(tmp_path / "originals", 512)
    originals = mutate.Originals(tmp_path / "originals")
    for case in range(0, 119, 17):  # an SVS, every mutation
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir(exist_ok=True)
            originals.mutate(6, case, tmp_path / folder / str(case))
        first, second = ((tmp_path / folder / str(case)).read_bytes() for folder in ("a", "b"))
        assert first == second
        assert first != (tmp_path / "originals" / "svs").read_bytes()


FINE = '{"result": "same", "told": true, "said": "", "rss": 0, "peak": 0, "files": 4}'
LIKE = {
    "same": FINE,
    "silent": FINE.replace("same", "other pixels"),
    "leak": FINE.replace('"peak": 0', '"peak": 600000000'),
}
CHILD = """
import os, sys, time
print('{"rss": 0, "files": 4}', flush=True)
for line in sys.stdin:
    match int(line):
        case 1: os.abort()
        case 2: time.sleep(60)
        case 6:
            while True: pass
        case 3: sys.exit(3)
        case 4: print(%r, flush=True)
        case 5: print(%r, flush=True)
        case _: print(%r, flush=True)
"""


def test_crashes_hangs_and_leaks_are_seen_and_survived(fuzz: ModuleType) -> None:
    program = CHILD % (LIKE["silent"], LIKE["leak"], LIKE["same"])
    child = fuzz.Child([sys.executable, "-c", program], patience=0.2)
    try:
        found = [child.run(case)["result"] for case in (0, 1, 0, 2, 0, 3, 4, 5, 0, 6)]
    finally:
        child.close()
    assert found == ["same", "crash", "same", "hang", "same", "crash", "silent", "leak", "same", "hang"]


def test_open_slides_leave_nothing_behind(fuzz: ModuleType, tmp_path: Path) -> None:
    sys.modules["fuzz_sources"].write_originals(tmp_path, 512)
    found = sys.modules["fuzz_loop"].open_and_close(tmp_path, 400)
    assert [prepare["slides"] for prepare in found] == [0, 200, 400]
    assert found[2]["files"] <= found[1]["files"]
    assert found[2]["rss_mb"] < found[1]["rss_mb"] + 20


def test_told_is_what_a_checksum_covers(fuzz: ModuleType) -> None:
    only_in = sys.modules["fuzz_mutate"]._only_in
    data = np.arange(8, dtype=np.uint8)
    tiles = np.array([0, 0, 1, 1, 1, 0, 0, 0], bool)
    for place, expected in ((1, False), (3, True), (5, False)):
        changed = data.copy()
        changed[place] ^= 1
        assert only_in(data, changed, tiles) is expected
