"""How fast is a slide converted to OME-Zarr, against copying its bytes; is the copy exact; does memory grow?

    python benchmarks/convert.py --work FOLDER [--sizes 20000 60007]

The slides are those of `read_slide.py`. `--codec jpeg` is run on each of them, round after round in turn with a plain
copy of the file to the same disk, both from the page cache and flushed to the disk in the end; then the bytes of all
copied tiles are compared. `--codec zstd`, which decodes and encodes, is run on the smallest, with --all on each of
them. Every conversion is a process of its own; its peak of resident memory is that of the whole process less what is
resident before it begins. It takes some ten minutes and, at 60,007 px, 1.5 GB of disk beside the slides (with --all
7 GB).
Results: benchmarks/results/convert.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from memory import MB, most_resident, resident
from read_slide import make_slide

RESULTS = Path(__file__).parent / "results" / "convert"
BUFFER = 16 << 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="folder for slides and their copies")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 60_007])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="zstd on all sizes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=3, metavar=("SLIDE", "OUT", "CODEC"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(run(*given.child)))
        return
    rows = []
    for size in sorted(given.sizes):
        slide = make_slide(given.work, size)
        for codec in ("jpeg", "zstd") if given.all or size == min(given.sizes) else ("jpeg",):
            rows.append({"slide_px": size, **compare(slide, codec, given.rounds)})
            print(json.dumps(rows[-1], indent=1), flush=True)
    write(rows, given.out)


def compare(slide: Path, codec: str, rounds: int) -> dict[str, object]:
    """A conversion and a plain copy, in turn."""
    out, plain = slide.with_suffix(f".{codec}.bench.ome.zarr"), slide.with_suffix(".copy")
    found, copies = [], []
    for _ in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        copies.append(copied(slide, plain))
        plain.unlink()
        command = [sys.executable, __file__, "--child", str(slide), str(out), codec]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / MB
    seconds = statistics.median(one["seconds"] for one in found)
    copy = statistics.median(copies)
    answer = {
        "codec": codec,
        "slide_mb": slide.stat().st_size / MB,
        "written_mb": size,
        "seconds": seconds,
        "processor_seconds": statistics.median(one["processor_seconds"] for one in found),
        "mb_per_s": size / seconds,
        "copy_mb_per_s": slide.stat().st_size / MB / copy,
        "pixels_per_us": found[0]["pixels"] / seconds / 1e6,
        "peak_mb": max(one["peak_mb"] for one in found),
        "baseline_mb": statistics.median(one["baseline_mb"] for one in found),
        "runs": [{**one, "copy_seconds": copy} for one, copy in zip(found, copies, strict=True)],
    }
    if codec == "jpeg":
        answer["tiles"], answer["tiles_identical"] = identical(slide, out)
    shutil.rmtree(out)
    return answer


def copied(source: Path, target: Path) -> float:
    """Seconds that copying a file takes, until it is on the disk."""
    start = time.perf_counter()
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, BUFFER)
        writer.flush()
        os.fsync(writer.fileno())
    return time.perf_counter() - start


def run(slide: str, out: str, codec: str) -> dict[str, float]:
    """In a process of its own: convert once, without reading back."""
    from wsi_ats.convert.plan import Settings
    from wsi_ats.convert.run import convert
    from wsi_ats.slides import open_slide

    with open_slide(slide) as handle:
        baseline = resident()
        start, before = time.perf_counter(), time.process_time()
        convert(handle, out, Settings(codec, verify="none"))
        seconds, processor = time.perf_counter() - start, time.process_time() - before
        pixels = handle.size[0] * handle.size[1]
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "pixels": pixels,
        "peak_mb": (most_resident() - baseline) / MB,
        "baseline_mb": baseline / MB,
    }


def identical(slide: Path, out: Path) -> tuple[int, bool]:
    """How many tiles were copied, and whether all of them are the slide's, byte by byte (tifffile says where)."""
    import tifffile

    from wsi_ats.slides import open_slide

    count, same = 0, True
    with tifffile.TiffFile(slide) as tiff, slide.open("rb") as file, open_slide(out) as written:
        for level, page in enumerate(page for page in tiff.pages if page.is_tiled):
            numbers = range(len(page.dataoffsets))
            for number, encoded in zip(numbers, written.encoded_tiles(level, numbers), strict=True):
                file.seek(page.dataoffsets[number])
                same &= file.read(page.databytecounts[number]) == encoded
            count += len(numbers)
    return count, same


def write(rows: list[dict], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    out.with_suffix(".json").write_text(json.dumps({"machine": machine, "found": rows}, indent=1) + "\n")
    lines = [
        "# Converting slides to OME-Zarr",
        "",
        f"Made by `benchmarks/convert.py` on {machine['cores']} cores; medians of {len(rows[0]['runs'])} runs, "
        "the peak is the highest. Copy: the slide's file, copied to the same disk in turn with the conversion.",
        "",
        "| slide, px | codec | written, MB | seconds | processor seconds | MB/s | copy, MB/s | peak memory, MB "
        "| tiles identical |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        tiles = (
            f"all {row['tiles']:,}" if row.get("tiles_identical") else "NO" if "tiles" in row else "decoded"
        )
        lines.append(
            f"| {row['slide_px']:,} | {row['codec']} | {row['written_mb']:.0f} | {row['seconds']:.1f} "
            f"| {row['processor_seconds']:.1f} | {row['mb_per_s']:.0f} | {row['copy_mb_per_s']:.0f} "
            f"| {row['peak_mb']:.0f} over {row['baseline_mb']:.0f} | {tiles} |"
        )
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
