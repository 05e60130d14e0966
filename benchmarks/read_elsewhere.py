"""Where the bytes are not in memory: a cold disk, a server far away, an OME-Zarr."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from paired import paired
from read_slide import REGION, Tiles, scattered

from wsi_ats.slides import open_slide

sys.path.append(str(Path(__file__).parent.parent))
from tests.support.range_server import RangeServer

LATENCY = 0.02
"""Seconds that the loopback server lets every request wait."""


def cold(path: Path, rounds: int) -> dict[str, object]:
    """64 regions of a file that is not in the page cache, against reading and decoding tile after tile."""
    tiles = Tiles.of(path, 0)
    corners = iter(scattered(open_slide(path).size[0], seed=seed) for seed in range(10**6))
    with open_slide(path) as slide:
        current = {}

        def before() -> None:
            # New regions each time: a disk remembers, too.
            current["corners"] = next(corners)
            drop_from_cache(path)

        def one_by_one() -> None:
            tiles.decode_all(tiles.under(current["corners"], REGION), 1)()

        def ours() -> None:
            slide.read_many(current["corners"], (REGION, REGION))

        timings = paired({"one thread, tile by tile": one_by_one, "wsi_ats": ours}, "wsi_ats", rounds, before)
    return {name: asdict(timing) for name, timing in timings.items()}


def drop_from_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def remote(path: Path, rounds: int) -> dict[str, object]:
    """64 regions from a server that answers 20 ms late; opening for the first time and again."""
    with tempfile.TemporaryDirectory() as cache, RangeServer(path.parent, latency=LATENCY) as server:
        os.environ["WSI_ATS_CACHE"] = cache
        url = f"{server.url}/{path.name}"
        first, again = seconds(lambda: open_slide(url).close()), seconds(lambda: open_slide(url).close())
        with open_slide(url) as slide, open_slide(path) as local:
            corners = scattered(slide.size[0])
            equal = np.array_equal(
                slide.read_many(corners, (REGION, REGION)), local.read_many(corners, (REGION, REGION))
            )
            contestants = {
                "from the disk": lambda: local.read_many(corners, (REGION, REGION)),
                "from the server": lambda: slide.read_many(corners, (REGION, REGION)),
            }
            timings = paired(contestants, "from the disk", rounds)
    return {
        "latency, ms": 1e3 * LATENCY,
        "same pixels": equal,
        "first open, ms": round(1e3 * first),
        "open with the index cached, ms": round(1e3 * again),
        **{name: asdict(timing) for name, timing in timings.items()},
    }


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
