"""How fast are features kept and found again on disk, beside h5py and sqlite3 doing the same?

    python benchmarks/feature_store.py --work FOLDER

300 slides of 1,300 rows of 1,024 float32, written 32 at a time, slide after slide in turn as epochs do, then read 32
at random of a random slide. `first`: by a process that knows nothing of the files yet, each slide once. `again`: a
second time. Each round is one call of every contestant, in a new order. h5py: a file a slide, an array of items and an
array of rows that grow, opened for each call, no checksum; sqlite3: one file, a table (slide, item, row), WAL,
synchronous=OFF, a transaction a call, no checksum. Ours checks a CRC of each row. "cold": the files are told out of the
page cache of this machine (posix_fadvise) before each round, which leaves caches below it, if any, as they are.
About 5 GB of disk; two minutes. Results: benchmarks/results/feature_store.{json,md}.

Predicted before the first run, ms for 32 rows: ours put 0.2, get again 0.25, get first 2; h5py put 2 and get 2 (opening
takes most of it); sqlite3 put 1 and get 0.3. Cold: ours as fast as sqlite3, both by 32 random reads.

What came out, while other programs kept both cores busy: ours put 0.7, get again 0.5, get first 2.9; h5py 1.8 and 2.7;
sqlite3 put 0.3 and get 0.5. So sqlite3 puts in half our time and not in five times as much: it writes to one open file.
It reads a slide's first rows in a fifth of our time, because it has an index, and the same rows again in the same time,
without a checksum. Cold, sqlite3 takes 1.2 to 1.7 times as long as ours, h5py 1.6 to 2.2.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
from paired import paired, save

from wsi_ats.features.store import FeatureStore

ITEMS, WIDTH, TOGETHER = 1300, 1024, 32
PREDICTED = {
    "put, ms": {"FeatureStore": 0.2, "h5py": 2, "sqlite3": 1},
    "get first, ms": {"FeatureStore": 2, "h5py": 2, "sqlite3": 0.3},
    "get again, ms": {"FeatureStore": 0.25, "h5py": 2, "sqlite3": 0.3},
}


class Contestant(ABC):
    """Keeps rows below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Begin anew, as another process does."""

    @abstractmethod
    def put(self, slide: int, items: list[int], rows: np.ndarray) -> None: ...

    @abstractmethod
    def get(self, slide: int, items: list[int]) -> dict[int, np.ndarray]: ...

    def forget(self) -> None:
        """Tell the files out of the page cache."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                fd = os.open(path, os.O_RDONLY)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)


class Ours(Contestant):
    def open(self) -> None:
        self.store = FeatureStore(self.folder, 1 << 40)

    def put(self, slide: int, items: list[int], rows: np.ndarray) -> None:
        self.store.put(str(slide), dict(zip(items, rows, strict=True)))

    def get(self, slide: int, items: list[int]) -> dict[int, np.ndarray]:
        return self.store.get(str(slide), items)


class Hdf5(Contestant):
    def open(self) -> None:
        pass

    def put(self, slide: int, items: list[int], rows: np.ndarray) -> None:
        with h5py.File(self.folder / f"{slide}.h5", "a") as file:
            if "items" not in file:
                file.create_dataset("items", (0,), np.int64, maxshape=(None,), chunks=(1024,))
                file.create_dataset("rows", (0, WIDTH), np.float32, maxshape=(None, WIDTH), chunks=(8, WIDTH))
            start = len(file["items"])
            for name, values in (("items", items), ("rows", rows)):
                file[name].resize(start + len(items), axis=0)
                file[name][start:] = values

    def get(self, slide: int, items: list[int]) -> dict[int, np.ndarray]:
        with h5py.File(self.folder / f"{slide}.h5", "r") as file:
            there = file["items"][:]
            places = np.flatnonzero(np.isin(there, items))
            return dict(zip(there[places].tolist(), file["rows"][places], strict=True))


class Sqlite(Contestant):
    def open(self) -> None:
        self.base = sqlite3.connect(self.folder / "rows.db", isolation_level=None)
        self.base.execute("PRAGMA journal_mode=WAL")
        self.base.execute("PRAGMA synchronous=OFF")
        self.base.execute(
            "CREATE TABLE IF NOT EXISTS t (slide INT, item INT, row BLOB, PRIMARY KEY (slide, item))"
        )

    def put(self, slide: int, items: list[int], rows: np.ndarray) -> None:
        self.base.execute("BEGIN")
        self.base.executemany(
            "INSERT OR REPLACE INTO t VALUES (?, ?, ?)",
            [(slide, item, row.tobytes()) for item, row in zip(items, rows, strict=True)],
        )
        self.base.execute("COMMIT")

    def get(self, slide: int, items: list[int]) -> dict[int, np.ndarray]:
        marks = ",".join("?" * len(items))
        found = self.base.execute(
            f"SELECT item, row FROM t WHERE slide=? AND item IN ({marks})", (slide, *items)
        )
        return {item: np.frombuffer(bytearray(row), np.float32) for item, row in found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the files; emptied afterwards")
    parser.add_argument("--slides", type=int, default=300)
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results" / "feature_store.json"
    )
    given = parser.parse_args()
    begun = time.perf_counter()
    kinds: dict[str, type[Contestant]] = {"FeatureStore": Ours, "h5py": Hdf5, "sqlite3": Sqlite}
    contestants = {name: kind(given.work / name) for name, kind in kinds.items()}
    rows = np.random.default_rng(0).normal(size=(ITEMS, WIDTH)).astype(np.float32)
    try:
        timings = {"put": timed(contestants, put_of, rows, given.slides, 41 * given.slides - 1)}
        os.sync()
        for temperature, rounds in (("warm", given.slides - 1), ("cold", min(60, given.slides - 1))):
            for turn in ("first", "again"):
                if turn == "first":
                    for one in contestants.values():
                        one.open()
                if temperature == "cold":
                    for one in contestants.values():
                        one.forget()
                timings[f"get {turn}, {temperature}"] = timed(contestants, get_of, rows, given.slides, rounds)
        sizes = {
            name: round(sum(path.stat().st_size for path in one.folder.rglob("*") if path.is_file()) / 1e6)
            for name, one in contestants.items()
        }
    finally:
        for one in contestants.values():
            shutil.rmtree(one.folder, ignore_errors=True)
    facts = {
        "command": f"python benchmarks/feature_store.py --work FOLDER --slides {given.slides}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": f"numpy {np.__version__}, h5py {h5py.__version__}, SQLite {sqlite3.sqlite_version}",
        "slides, rows a slide, floats a row, rows a call": [given.slides, ITEMS, WIDTH, TOGETHER],
        "MB on disk": sizes,
        "seconds in all": round(time.perf_counter() - begun),
        "predicted": PREDICTED,
        "cold": "files told out of this machine's page cache; what its disk keeps below that is not known",
        **timings,
    }
    save({"Features on disk": facts}, given.results, "Keeping features on disk", "feature_store.py")
    print(given.results.with_suffix(".md").read_text())


def timed(
    contestants: dict[str, Contestant],
    of: Callable[[Contestant, np.ndarray, int], Callable[[], None]],
    rows: np.ndarray,
    slides: int,
    rounds: int,
) -> dict[str, dict[str, float]]:
    calls = {name: of(one, rows, slides) for name, one in contestants.items()}
    return {name: asdict(timing) for name, timing in paired(calls, "FeatureStore", rounds).items()}


def put_of(one: Contestant, rows: np.ndarray, slides: int) -> Callable[[], None]:
    """The next rows of the next slide: every slide's first 32, then every slide's next."""
    todo = iter([(slide, start) for start in range(0, ITEMS, TOGETHER) for slide in range(slides)])

    def put() -> None:
        slide, start = next(todo)
        some = rows[start : start + TOGETHER]
        one.put(slide, list(range(start, start + len(some))), some)

    return put


def get_of(one: Contestant, rows: np.ndarray, slides: int) -> Callable[[], None]:
    """Rows at random, of one slide after the other."""
    chance = random.Random(0)
    order = iter(chance.sample(range(slides), slides))

    def get() -> None:
        wanted = chance.sample(range(ITEMS), TOGETHER)
        found = one.get(next(order), wanted)
        assert len(found) == TOGETHER
        assert (found[wanted[0]] == rows[wanted[0]]).all()

    return get


if __name__ == "__main__":
    main()
