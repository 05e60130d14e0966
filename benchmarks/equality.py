"""Does every region of every slide have the right pixels, to the last grey level and to the pixel?

    python benchmarks/equality.py                      # the layouts that are made here, some minutes
    python benchmarks/equality.py --slides SLIDES      # and real slides: see tests/support/equality.py

1,000 regions of each slide, drawn by hypothesis: any level, 1 to 300 px a side, inside, over the border, beyond. They
are compared with OpenSlide's pixels, with tifffile's where OpenSlide refuses the file, or with what was written. Coarse
levels are read from OpenSlide in one piece: it blends neighbours where a region does not begin at a pixel that it can
name in level-0 px, and the package copies pixels.

Each region is also read one pixel beside where it should be, and must not pass: a reader that is off by one would be
noticed. Regions that look the same one pixel beside (plain ones) are left out of this count.

Results go to benchmarks/results/equality.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent.parent))
from tests.support.equality import (
    REAL,
    SHIFTS,
    Part,
    Subject,
    difference,
    expected,
    found,
    is_equal,
    layouts,
    parts,
    real,
)
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide

RESULTS = Path(__file__).parent / "results"
VERSIONS = ("openslide-python", "openslide-bin", "tifffile", "imagecodecs", "numpy")


@dataclass
class Count:
    """What the regions of one slide came to."""

    slide: str
    backend: str
    truth: str
    levels: int
    bound: int
    regions: int = 0
    unequal: int = 0
    largest: int = 0
    """Largest difference of a value, grey levels."""
    shifts: int = 0
    """Regions that look different one pixel beside."""
    unnoticed: int = 0
    """Of those, read one pixel beside without being noticed."""
    examples: list[str] = field(default_factory=list)
    """Regions that are unequal or unnoticed, the first few."""

    def add(self, slide: Slide, subject: Subject, part: Part, shift: tuple[int, int]) -> None:
        """Compare a region, and the one beside it."""
        pixels, right = found(slide, part), expected(subject, part)
        self.regions += 1
        self.largest = max(self.largest, difference(pixels, right))
        if not is_equal(pixels, subject, part):
            self.unequal += 1
            self.examples.append(f"unequal: {part}")
        if not np.array_equal(expected(subject, part, shift), right):
            self.shifts += 1
            beside = Part(part.level, part.x + shift[0], part.y + shift[1], part.width, part.height)
            if is_equal(found(slide, beside), subject, part):
                self.unnoticed += 1
                self.examples.append(f"unnoticed: {part} by {shift}")
        del self.examples[5:]


def counted(subject: Subject, regions: int) -> Count:
    """Compare that many regions of a slide."""
    with open_slide(subject.path) as slide:
        count = Count(subject.name, slide.backend, subject.truth, len(subject.levels), subject.bound)

        @settings(
            max_examples=regions,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(parts(subject), st.sampled_from(SHIFTS))
        def compare(part: Part, shift: tuple[int, int]) -> None:
            count.add(slide, subject, part, shift)

        compare()
    return count


def subjects(folder: Path, slides: Path | None) -> Iterator[Subject]:
    yield from layouts(folder)
    if slides is not None:
        yield from (real(slides, which) for which in range(len(REAL)))


def table(counts: list[Count]) -> str:
    rows = [
        "| slide | read by | compared with | levels | regions | unequal | largest difference | shifts | unnoticed |",
        "|---" * 9 + "|",
    ]
    for c in counts:
        numbers = (c.levels, c.regions, c.unequal, c.largest, c.shifts, c.unnoticed)
        rows.append(f"| {c.slide} | {c.backend} | {c.truth} | {' | '.join(map(str, numbers))} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--slides", type=Path, help="folder of real slides; see REAL in tests/support/equality.py"
    )
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS / "equality")
    given_ = parser.parse_args()
    counts = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(Path(folder), given_.slides):
            counts.append(counted(subject, given_.regions))
            print(json.dumps(asdict(counts[-1])), flush=True)
    versions = {name: version(name) for name in VERSIONS} | {"python": platform.python_version()}
    given_.out.parent.mkdir(exist_ok=True)
    results = {"versions": versions, "slides": [asdict(count) for count in counts]}
    given_.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    regions, unequal = sum(c.regions for c in counts), sum(c.unequal for c in counts)
    shifts, unnoticed = sum(c.shifts for c in counts), sum(c.unnoticed for c in counts)
    said = ", ".join(f"{name} {number}" for name, number in versions.items())
    text = [
        table(counts),
        f"{regions} regions of {len(counts)} slides, {unequal} unequal. Read one pixel beside: {shifts}, of which "
        f"{unnoticed} passed. What the columns mean is said in the first lines of equality.py. {said}.",
    ]
    given_.out.with_suffix(".md").write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
