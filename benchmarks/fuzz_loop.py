"""Slides opened, read and closed one after another in a process of its own: memory and descriptors as they go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

READERS = (("svs", None), ("deflate", None), ("zarr-crc32c", None), ("svs", "openslide"))
"""Slide of fuzz_mutate.py and backend, in turn."""
STEP = 200
"""Slides between two looks."""


def open_and_close(originals: Path, count: int) -> list[dict[str, float]]:
    """What a fresh process holds after every 200 slides of `count`, beginning with none."""
    command = [sys.executable, __file__, str(originals), str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: list[dict[str, float]] = json.loads(done.stdout)
    return found


def prepare(slides: int) -> dict[str, float]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    rss = int(status["VmRSS"].split()[0]) * 1024 / 1e6
    return {"slides": slides, "rss_mb": round(rss, 1), "files": len(list(Path("/proc/self/fd").iterdir()))}


def main(originals: Path, count: int) -> None:
    from wsi_ats.slides import open_slide

    found = [prepare(0)]
    for done in range(1, count + 1):
        name, backend = READERS[done % len(READERS)]
        with open_slide(originals / name, backend=backend) as slide:
            slide.read((100, 100), (500, 500))
            size = slide.levels[-1].size
            slide.read((0, 0), (size.width, size.height), len(slide.levels) - 1)
            dict(slide.associated_images)
        if done % STEP == 0 or done == count:
            found.append(prepare(done))
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
