"""The process of benchmarks/fuzz.py that opens damaged slides: one line of JSON in, one out, for each of them."""

from __future__ import annotations

import faulthandler
import gc
import hashlib
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
from fuzz_mutate import Originals
from fuzz_oracle import CORNERS, PIECE, corners_of, said_by_openslide
from fuzz_sources import whole

from wsi_ats.errors import WsiAtsError
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide

ADDRESS_SPACE = 2 << 30
"""Bytes beyond which an allocation fails, so that a damaged size cannot take the machine down."""

Pixels = dict[str, np.ndarray]


def main(originals: Path, scratch: Path, seed: int) -> None:
    """Read (case) from stdin until it ends; write the outcome to stdout."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    source = Originals(originals)
    true = {kind: truth(originals / kind) for kind in source.kinds}
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
    """Every pixel of a slide; none where it is refused as it is."""
    try:
        with open_slide(path) as slide:
            found = {f"level {i}": whole(slide, i) for i in range(len(slide.levels))}
            return found | {f"image {name}": image for name, image in slide.associated_images.items()}
    except WsiAtsError:
        return {}


def attempt(path: Path, true: Pixels, rng: np.random.Generator) -> dict[str, object]:
    """Open a slide and read all of it; what came of it.

    result: "same", "other pixels" where a piece was read that is not the original's, "error" where one was refused
    and all others were the original's, "wrong error" where it was refused with anything but a WsiAtsError, "unlike
    OpenSlide" where OpenSlide reads other pixels from the same damaged file.
    """
    met: dict[str, str] = {}
    pieces: dict[tuple[int, int], np.ndarray] = {}
    try:
        with open_slide(path) as slide:
            met["backend"] = f"{slide.backend}: {slide.backend_reason}"
            for read in _reads(slide, true, rng, pieces):
                _guarded(read, met)
            if "other pixels" in met and slide.backend == "tiff":
                met |= _unlike_openslide(path, slide.size, pieces)
    except WsiAtsError as error:
        met["error"] = error.message.splitlines()[0]
    except Exception as error:  # noqa: BLE001 (what it is, is the question)
        met["wrong error"] = _last_lines(error)
    result = next((kind for kind in ORDER if kind in met), "same")
    return {"result": result, "said": met.get(result, ""), "backend": met.get("backend", "")}


ORDER = ("wrong error", "unlike OpenSlide", "other pixels", "error")
"""Results, the worst first."""


def _unlike_openslide(
    path: Path, size: tuple[int, int], pieces: dict[tuple[int, int], np.ndarray]
) -> dict[str, str]:
    """What OpenSlide reads differently from the same file, in a process of its own, where it reads it at all."""
    theirs = said_by_openslide(path)
    if theirs is None:
        return {}
    their_size, digests = theirs
    if tuple(their_size) != tuple(size):
        return {"unlike OpenSlide": f"it has {their_size} px, not {size}"}
    for at, pixels in pieces.items():
        if at in digests and digests[at] != hashlib.sha256(pixels.tobytes()).hexdigest():
            return {"unlike OpenSlide": f"other pixels from x={at[0]}, y={at[1]}"}
    return {}


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


def _reads(
    slide: Slide, true: Pixels, rng: np.random.Generator, pieces: dict[tuple[int, int], np.ndarray]
) -> list[Callable[[], str]]:
    """Level 0 in pieces, which are kept, the other levels, regions at random, associated images."""
    width, height = slide.size
    at_random = np.stack([rng.integers(side, size=4) for side in (width, height)], 1)

    def piece(x: int, y: int) -> str:
        size = min(PIECE, width - x), min(PIECE, height - y)
        pieces[x, y] = slide.read((x, y), size)
        return _compare(pieces[x, y], true, "level 0", (x, y), slide.size)

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

    parts = [lambda x=x, y=y: piece(x, y) for x, y in corners_of(width, height)]
    levels = [lambda index=index: level(index) for index in range(1, min(len(slide.levels), CORNERS))]
    images = [lambda name=name: image(name) for name in slide.associated_images]
    return [*parts, *levels, scattered, *images]


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
