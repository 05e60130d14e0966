"""How fast are scattered regions read from an OME-Zarr, against the least that its own codec costs, and far away?

    python benchmarks/read_zarr.py --work FOLDER [--size 20000]

The slide of `read_slide.py` is converted: `zstd`, our default; `zstd, a file a chunk` (NGFF 0.4); `jpeg`, the slide's
own tiles. LB: `pread` and decode of exactly the chunks that 64 regions of level 0 touch, from places known beforehand,
into one buffer: nothing is put in order or copied. All contestants run in turn, a figure is the median over rounds of
the ratio to LB; for one thread of processor time, for two of time. Then the same regions from a loopback server that
answers every request 20 ms late. Takes about five minutes and, at 20,000 px, 1.3 GB of disk. Results:
benchmarks/results/read_zarr.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time

import imagecodecs
import numpy as np
import zarr
from paired import paired, save
from read_elsewhere import LATENCY, seconds
from read_slide import REGION, Tiles, make_slide, scattered

from wsi_ats.convert.plan import Settings
from wsi_ats.convert.run import convert
from wsi_ats.slides import open_slide
from wsi_ats.slides.tiled import Buffers

sys.path.append(str(Path(__file__).parent.parent))
from tests.support.range_server import RangeServer

KINDS = {
    "zstd": Settings("zstd"),
    "zstd, a file a chunk": Settings("zstd", "0.4"),
    "jpeg": Settings("jpeg"),
}
CHUNK, SHARD = 256, 16
"""Side of a chunk in px, and of a shard in chunks."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the slide and its copies")
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "read_zarr.json")
    given = parser.parse_args()
    path = make_slide(given.work, given.size)
    results: dict[str, object] = {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "slide_px": given.size}
    }
    for kind, settings in KINDS.items():
        copy = given.work / f"{path.stem}.{settings.codec}.{settings.ngff}.ome.zarr"
        with open_slide(path) as slide:
            convert(slide, copy, settings)
        results[kind] = {**regions(path, copy, settings, given.rounds), **far(copy, given.rounds)}
        print(kind, json.dumps(results[kind], indent=1), flush=True)
        save(results, given.results, "Reading OME-Zarr", "read_zarr.py")


def regions(path: Path, copy: Path, settings: Settings, rounds: int) -> dict[str, object]:
    """64 scattered regions of level 0 from the page cache."""
    with open_slide(copy) as slide:
        corners = scattered(slide.size[0])
        tiles = Tiles.of(path, 0)
        chunks = [divmod(int(tile), tiles.cols) for tile in tiles.under(corners, REGION)]
        out = np.empty((len(corners), REGION, REGION, 3), np.uint8)
        array = zarr.open_array(copy / "0", mode="r") if settings.codec == "zstd" else None

        def ours(threads: int) -> Callable[[], object]:
            def read() -> None:
                slide.threads = threads
                slide.read_many(corners, (REGION, REGION), out=out)

            return read

        def with_zarr_python() -> None:
            assert array is not None
            for x, y in corners.tolist():
                array[:, y : y + REGION, x : x + REGION]

        with open_slide(path) as original:
            expected = original.read_many(corners, (REGION, REGION))
        ours(1)()
        answer: dict[str, object] = {"chunks": len(chunks), "same pixels": bool((out == expected).all())}
        for threads in (1, 2):
            contestants = {
                "LB": least(copy, chunks, settings, threads, tiles.tables),
                "wsi_ats": ours(threads),
            }
            if threads == 1 and array is not None:
                contestants["zarr-python, region by region"] = with_zarr_python
            timings = paired(contestants, "LB", rounds, clock=process_time if threads == 1 else perf_counter)
            answer[f"{threads} thread(s)"] = {name: asdict(timing) for name, timing in timings.items()}
    return answer


def least(
    copy: Path, chunks: list[tuple[int, int]], settings: Settings, threads: int, tables: bytes | None
) -> Callable[[], None]:
    """The lower bound: read and decode these chunks (row, column), and do nothing else."""
    places = sorted(where(copy, chunks, settings))
    files = {file: os.open(file, os.O_RDONLY) for file in {file for file, _, _ in places}}
    colours = {"tables": tables, "colorspace": "YCBCR", "outcolorspace": "RGB"}

    def work(part: list[tuple[Path, int, int]]) -> None:
        buffer = Buffers().take((CHUNK, CHUNK, 3))
        for file, offset, count in part:
            data = os.pread(files[file], count, offset)
            if settings.codec == "jpeg":
                imagecodecs.jpeg8_decode(data, out=buffer, **colours)
            else:
                imagecodecs.zstd_decode(data, out=buffer.reshape(-1))

    def run() -> None:
        if threads == 1:
            work(places)
            return
        size = -(-len(places) // threads)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [places[i : i + size] for i in range(0, len(places), size)]))

    return run


def where(copy: Path, chunks: list[tuple[int, int]], settings: Settings) -> list[tuple[Path, int, int]]:
    """File, offset and length of chunks of level 0."""
    if settings.ngff == "0.4":
        files = [copy / "0" / "0" / str(row) / str(col) for row, col in chunks]
        return [(file, 0, file.stat().st_size) for file in files]
    places, indices = [], {}
    for row, col in chunks:
        file = copy / "0" / "c" / "0" / str(row // SHARD) / str(col // SHARD)
        if file not in indices:
            indices[file] = np.frombuffer(file.read_bytes()[-16 * SHARD**2 - 4 : -4], "<u8").reshape(
                SHARD, SHARD, 2
            )
        places.append((file, *indices[file][row % SHARD, col % SHARD].tolist()))
    return places


def far(copy: Path, rounds: int) -> dict[str, object]:
    """The same regions behind a server."""
    with tempfile.TemporaryDirectory() as cache, RangeServer(copy.parent, latency=LATENCY) as server:
        os.environ["WSI_ATS_CACHE"] = cache
        url = f"{server.url}/{copy.name}"
        opening = seconds(lambda: open_slide(url).close())
        with open_slide(url) as slide, open_slide(copy) as local:
            corners = scattered(slide.size[0])
            first = seconds(lambda: slide.read_many(corners, (REGION, REGION)))
            server.reset()
            there = slide.read_many(corners, (REGION, REGION))
            counts = server.counts()
            contestants = {
                "from the disk": lambda: local.read_many(corners, (REGION, REGION)),
                "from the server": lambda: slide.read_many(corners, (REGION, REGION)),
            }
            same = bool((there == local.read_many(corners, (REGION, REGION))).all())
            timings = paired(contestants, "from the disk", rounds)
    return {
        "far away: latency, ms": 1e3 * LATENCY,
        "far away: same pixels": same,
        "far away: opening, ms": round(1e3 * opening),
        "far away: first read, ms": round(1e3 * first),
        "far away: requests, most at once": [counts["requests"], counts["at_once"]],
        "far away": {name: asdict(timing) for name, timing in timings.items()},
    }


if __name__ == "__main__":
    main()
