"""The process of benchmarks/fuzz.py that opens damaged slides: one line of JSON in, one out, for each of them."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fuzz_mutate import FORMATS, Originals, whole

from wsi_ats.errors import WsiAtsError
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide

PIECE = 400
"""Side of what is read at a time in px, off the tiles' grid."""
MANY = 24
"""Pieces of a level that are read at most: damage can make a slide as large as it likes."""
ADDRESS_SPACE = 6 << 30
"""Bytes beyond which an allocation fails, so that a damaged size cannot take the machine down."""

Pixels = dict[str, np.ndarray]


def main(originals: Path, scratch: Path, seed: int) -> None:
    """Read (case) from stdin until it ends; write the outcome to stdout."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    source = Originals(originals)
    true = {kind: truth(originals / kind) for kind in set(FORMATS)}
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    print(json.dumps(usage()), file=answer)
    for line in sys.stdin:
        case = int(line)
        path = scratch / f"{case}"
        kind, mutation = source.mutate(seed, case, path)
        outcome = attempt(path, true[kind], np.random.default_rng((seed, case, 1)))
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        gc.collect()
        facts = {"case": case, "format": kind, **vars(mutation)}
        print(json.dumps(facts | outcome | usage()), file=answer)


def usage() -> dict[str, int]:
    """Resident memory and its peak since the last call in bytes, and open descriptors."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    rss, peak = (int(status[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return {"rss": rss, "peak": peak, "files": len(list(Path("/proc/self/fd").iterdir()))}


def truth(path: Path) -> Pixels:
    """Every pixel of a slide."""
    with open_slide(path) as slide:
        found = {f"level {i}": whole(slide, i) for i in range(len(slide.levels))}
        return found | {f"image {name}": image for name, image in slide.associated_images.items()}


def attempt(path: Path, true: Pixels, rng: np.random.Generator) -> dict[str, object]:
    """Open a slide and read all of it; what came of it.

    result: "same", "other pixels" where a piece was read that is not the original's, "error" where one was refused
    and all others were the original's, "wrong error" where it was refused with anything but a WsiAtsError.
    """
    met: dict[str, str] = {}
    try:
        with open_slide(path) as slide:
            met["backend"] = f"{slide.backend}: {slide.backend_reason}"
            for read in _reads(slide, true, rng):
                _guarded(read, met)
    except WsiAtsError as error:
        met["error"] = error.message.splitlines()[0]
    except Exception as error:  # noqa: BLE001 (what it is, is the question)
        met["wrong error"] = _last_lines(error)
    result = next((kind for kind in ("wrong error", "other pixels", "error") if kind in met), "same")
    return {"result": result, "said": met.get(result, ""), "backend": met.get("backend", "")}


def _guarded(read: Callable[[], str], met: dict[str, str]) -> None:
    """One read: a slide that refuses one piece may still give others."""
    try:
        if different := read():
            met.setdefault("other pixels", different)
    except WsiAtsError as error:
        met.setdefault("error", error.message.splitlines()[0])
    except Exception as error:  # noqa: BLE001 (what it is, is the question)
        met.setdefault("wrong error", _last_lines(error))


def _last_lines(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:200]} ({Path(frame.filename).name}:{frame.lineno} {frame.line})"


def _reads(slide: Slide, true: Pixels, rng: np.random.Generator) -> list[Callable[[], str]]:
    """Level 0 in pieces, the other levels, regions at random, associated images."""
    width, height = slide.size
    corners = [
        (x, y)
        for y in range(0, min(height, 5 * PIECE), PIECE)
        for x in range(0, min(width, 5 * PIECE), PIECE)
    ]
    corners = corners[:MANY]
    at_random = np.stack([rng.integers(side, size=4) for side in (width, height)], 1)

    def piece(x: int, y: int) -> str:
        size = min(PIECE, width - x), min(PIECE, height - y)
        return _compare(slide.read((x, y), size), true, "level 0", (x, y), slide.size)

    def level(index: int) -> str:
        size = slide.levels[index].size.width, slide.levels[index].size.height
        pixels = slide.read((0, 0), (min(size[0], 1000), min(size[1], 1000)), index)
        return _compare(pixels, true, f"level {index}", (0, 0), size)

    def scattered() -> str:
        found = slide.read_many(at_random, (90, 90))
        for (x, y), pixels in zip(at_random.tolist(), found, strict=True):
            inside = pixels[: max(0, height - y), : max(0, width - x)]
            if different := _compare(inside, true, "level 0", (x, y), slide.size):
                return different
        return ""

    def image(name: str) -> str:
        pixels = slide.associated_images[name]
        return _compare(pixels, true, f"image {name}", (0, 0), (pixels.shape[1], pixels.shape[0]))

    pieces = [lambda x=x, y=y: piece(x, y) for x, y in corners]
    levels = [lambda index=index: level(index) for index in range(1, min(len(slide.levels), MANY))]
    images = [lambda name=name: image(name) for name in slide.associated_images]
    return [*pieces, *levels, scattered, *images]


def _compare(pixels: np.ndarray, true: Pixels, name: str, at: tuple[int, int], size: tuple[int, int]) -> str:
    """What differs from the original, in words; "" if nothing."""
    whole = true.get(name)
    if whole is None or (whole.shape[1], whole.shape[0]) != tuple(size):
        return f"{name} is {size[0]} x {size[1]} px"
    expected = whole[at[1] : at[1] + pixels.shape[0], at[0] : at[0] + pixels.shape[1]]
    wrong = int((pixels != expected).any(axis=2).sum())
    return f"{name}: {wrong} px differ near x={at[0]}, y={at[1]}" if wrong else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
