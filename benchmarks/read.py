"""How fast are scattered tiles and whole levels read, against the least that decoding costs and other readers?

    python benchmarks/read.py --work FOLDER [--size 60007] [--extra FOLDER-WITH-OTHER-READERS]

All contestants run in turn in one process, round after round; a figure is the median over rounds of the ratio to
the lower bound LB of the same round: `pread` and `imagecodecs.jpeg8_decode` of exactly the distinct tiles that
the regions touch. Regions with one thread are measured in processor time, which others on the machine disturb far
less. tiffslide and cuCIM take part where they are installed (`pip install --no-deps --target EXTRA tiffslide
cucim-cu12`). Results: benchmarks/results/read.{json,md}. The slide takes some minutes to make, the rest about five.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import openslide
from paired import Timing, paired, save
from read_elsewhere import cold, remote
from read_slide import REGION, Tiles, make_slide, scattered

from wsi_ats.slides import codecs, open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.slides.window import compiled

Contestants = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the slide")
    parser.add_argument("--size", type=int, default=60007)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--extra", type=Path, help="folder with tiffslide and cuCIM")
    parser.add_argument("--only", nargs="*", default=["regions", "level", "open", "cold", "remote"])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "read.json")
    arguments = parser.parse_args()
    if arguments.extra:
        sys.path.append(str(arguments.extra))
    path = make_slide(arguments.work, arguments.size)
    parts: Mapping[str, Callable[[Path, int], dict[str, object]]] = {
        "regions": regions,
        "level": level,
        "open": opening,
        "cold": cold,
        "remote": remote,
    }
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    results["machine"] = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "slide_px": arguments.size,
    }
    for name in arguments.only:
        results[name] = parts[name](path, arguments.rounds)
        print(name, json.dumps(results[name], indent=1), flush=True)
        save(results, arguments.results, "Reading slides", "read.py")


def regions(path: Path, rounds: int) -> dict[str, object]:
    """64 scattered regions of level 0."""
    with open_slide(path) as slide:
        corners = scattered(slide.size[0])
        tiles = Tiles.of(path, 0)
        needed = tiles.under(corners, REGION)
        answer = {}
        for threads in (1, 2):
            contestants = {"LB": tiles.decode_all(needed, threads), **ours(slide, corners, threads)}
            for name, read in others(path).items():
                contestants[name] = spread(read, corners, threads)
            clock = process_time if threads == 1 else perf_counter
            answer[f"{threads} thread(s)"] = timed(paired(contestants, "LB", rounds, clock=clock))
        answer["against one thread of LB"] = timed(
            paired({"LB": tiles.decode_all(needed, 1), **ours(slide, corners, 2)}, "LB", rounds)
        )
    return {"tiles": len(needed), "backend": slide.backend, "window decode": compiled().state, **answer}


def ours(slide: Slide, corners: np.ndarray, threads: int) -> Contestants:
    out = np.empty((len(corners), REGION, REGION, 3), np.uint8)
    with_window = codecs.decode_window

    def read(decode_window: Callable[..., bool]) -> None:
        slide.threads = threads
        codecs.decode_window = decode_window
        slide.read_many(corners, (REGION, REGION), out=out)
        codecs.decode_window = with_window

    runs: Contestants = {"wsi_ats, as installed without a compiler": lambda: read(lambda *_: False)}
    if compiled().decode is not None:
        runs["wsi_ats, with the compiled window decode"] = lambda: read(with_window)
    return runs


def others(path: Path) -> dict[str, Callable[[int, int], object]]:
    """Readers of one region each: (x, y) -> pixels."""
    handle = openslide.OpenSlide(path)
    handle.set_cache(openslide.OpenSlideCache(0))  # the regions differ each time in real use
    size = (REGION, REGION)
    readers: dict[str, Callable[[int, int], object]] = {
        "openslide-python": lambda x, y: np.asarray(handle.read_region((x, y), 0, size))
    }
    try:
        import tiffslide

        tiff = tiffslide.TiffSlide(path)
        readers["tiffslide"] = lambda x, y: tiff.read_region((x, y), 0, size, as_array=True)
    except ImportError as error:
        print(f"without tiffslide: {error}")
    try:
        import cucim

        image = cucim.CuImage(str(path))
        readers["cuCIM"] = lambda x, y: np.asarray(image.read_region((x, y), size, 0))
    except ImportError as error:
        print(f"without cuCIM: {error}")
    return readers


def spread(read: Callable[[int, int], object], corners: np.ndarray, threads: int) -> Callable[[], object]:
    """The regions one after another, or over threads."""
    pairs = [(int(x), int(y)) for x, y in corners]
    if threads == 1:
        return lambda: [read(x, y) for x, y in pairs]

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda xy: read(*xy), pairs))

    return run


def level(path: Path, rounds: int) -> dict[str, object]:
    """The whole level of 1/16, as a view of the slide is read."""
    with open_slide(path) as slide:
        size = slide.levels[2].size
        tiles = Tiles.of(path, 2)
        everything = np.arange(len(tiles.offsets))
        handle = openslide.OpenSlide(path)
        answer = {}
        for threads in (1, 2):

            def read(threads: int = threads) -> None:
                slide.threads = threads
                slide.read((0, 0), (size.width, size.height), 2)

            contestants: Contestants = {
                "LB": tiles.decode_all(everything, threads),
                "wsi_ats": read,
                "openslide-python": lambda: np.asarray(
                    handle.read_region((0, 0), 2, (size.width, size.height))
                ),
            }
            answer[f"{threads} thread(s)"] = timed(paired(contestants, "LB", max(5, rounds // 3)))
    return {"size": [size.width, size.height], **answer}


def opening(path: Path, rounds: int) -> dict[str, object]:
    """Opening the slide: for the first time, and again from its address in another process."""
    with open_slide(path) as slide:
        address = slide.address
    contestants: Contestants = {
        "openslide-python": lambda: openslide.OpenSlide(path).close(),
        "wsi_ats": lambda: open_slide(path).close(),
        "wsi_ats, from its address": lambda: address.open().close(),
    }
    return timed(paired(contestants, "openslide-python", rounds))


def timed(timings: Mapping[str, Timing]) -> dict[str, object]:
    return {name: asdict(timing) for name, timing in timings.items()}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
