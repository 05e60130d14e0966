"""Kill -9 in the middle of writes, over and over, and what is left in the output folder after the next run.

A batch of small slides with the stand-in model of the tests runs in a process of its own, in which each write is held
up between its temporary file and its final name; it is killed as soon as such a file is there. Run as
`python -m benchmarks.kills` (writes benchmarks/results/kills.md).
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.batches import good_slides, run, start, untimed

SLOW = """
import time
import wsi_ats.atomic
flush = wsi_ats.atomic._flush
def held_up(path, flags):
    if path.suffix == ".part" and "{name}" in path.name:
        time.sleep({seconds})
    flush(path, flags)
wsi_ats.atomic._flush = held_up
"""
"""Lines that hold up writes of files of that name in a process."""
RESULTS = Path(__file__).parent / "results" / "kills.md"
NAMES = ("attention.h5", "result.json", "run.json", "predictions.csv", "failures.csv")


def kill_in_writes(folder: Path, times: int) -> Counter[str]:
    """Kill a batch of folder/*.tif so many times, each while it writes a file; how often each file, by name."""
    hit: Counter[str] = Counter()
    while sum(hit.values()) < times:
        name = NAMES[sum(hit.values()) % len(NAMES)]
        process = start(folder, SLOW.format(seconds=30, name=name))
        pattern = f"**/.{name}.*.part"
        while process.poll() is None and not [
            p for p in (folder / "out").glob(pattern) if is_of(p, process.pid)
        ]:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            hit[name] += 1
        else:  # nothing of that name was left to write: begin anew
            for record in (folder / "out").glob("slides/*/result.json"):
                record.unlink()
    return hit


def is_of(part: Path, pid: int) -> bool:
    """Whether a temporary file is written by that process."""
    return f"-{pid}-" in part.name


def main(times: int = 50) -> None:
    with tempfile.TemporaryDirectory() as place:
        killed, quiet = Path(place, "killed"), Path(place, "quiet")
        slides = good_slides(killed, 40)
        good_slides(quiet, 40)
        start_time = time.monotonic()
        hit = kill_in_writes(killed, times)
        seconds = time.monotonic() - start_time
        summary = run(slides, killed)
        run(slides, quiet)
        left = [path.name for path in (killed / "out").rglob(".*")]
        same = untimed(killed) == untimed(quiet)
    lines = [
        "# Kill -9 in the middle of writes",
        "",
        f"{times} kills of a batch of {len(slides)} slides (`python -m benchmarks.kills`), each while a temporary file "
        "of that name was there:",
        "",
        "| file | kills |",
        "|---|---|",
        *(f"| `{name}` | {count} |" for name, count in hit.items()),
        "",
        f"After the next run: {summary.progress.done} of {summary.progress.total} slides done, "
        f"{summary.progress.failed} failed; hidden files left in the output folder: {len(left)}; predictions.csv "
        f"{'equal to' if same else 'DIFFERENT FROM'} that of a run without kills (seconds aside). The kills took "
        f"{seconds:.0f} s.",
    ]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
