"""Damaged slides: do they end in an error that names the slide, and never in a crash, a hang, a leak or wrong pixels?

    python benchmarks/fuzz.py --real ../shared/data/slides   # 3,000 slides, about 10 minutes on two cores
    python benchmarks/fuzz.py --only 17 4711     # single cases again, with all that is known of them

Each slide is one of the layouts in fuzz_sources.py (a phantom of 1,000 px as SVS, generic TIFF, OME-TIFF, Philips,
OME-Zarr), or a real SVS, NDPI, DICOM or OME-TIFF, damaged as fuzz_mutate.py says. A child process of 2 GB of address
space opens it with `open_slide` and reads level 0 in pieces, the other levels, regions at random and the associated
images, within 20 seconds. What a case is follows from the seed, its number and whether the real slides are there.
Results go to benchmarks/results/fuzz.{json,md}.

Other pixels than the original's are "silent" where something could have told: only bytes were changed that a checksum
covers, or the end of the file is missing. All else that differs (a bit in a JPEG, in a header, in LZW) is "other
pixels", and where the tiles were read directly, OpenSlide reads the same file in a process of its own: "unlike
OpenSlide" where it opens the file and reads other pixels. The columns exclude each other.

Then 2,000 undamaged slides are opened, read and closed in one process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fuzz_loop import open_and_close
from fuzz_mutate import Originals, mutations
from fuzz_sources import SIZE, write_originals

RESULTS = Path(__file__).parent / "results"
CHILD = Path(__file__).parent / "fuzz_child.py"
PATIENCE = 20.0
"""Seconds of processor time after which a slide hangs: those on the clock also depend on what else the machine does."""
SLEEPING = 12
"""Times as many seconds on the clock after which it hangs anyway: it waits for something that does not come."""
LOOK = 0.1
"""Seconds between two looks at the clocks."""
LEAK = 500 << 20
"""Bytes by which a slide may raise the process's memory, at its peak or for good."""
LEAKED_FILES = 16
OUTCOMES = (
    "same",
    "error",
    "other pixels",
    "unlike OpenSlide",
    "silent",
    "wrong error",
    "crash",
    "hang",
    "leak",
)
BAD = OUTCOMES[3:]
Case = dict[str, Any]


class Child:
    """A process that reads one damaged slide after another, watched from outside; begun again when it is gone."""

    def __init__(self, command: list[str], patience: float = PATIENCE) -> None:
        self._command, self._patience = command, patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._process: subprocess.Popen[bytes] | None = None
        self._first: Case = {}

    def run(self, case: int) -> Case:
        """The outcome of a case."""
        if self._process is None:
            self._begin()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % case)
        self._process.stdin.flush()
        found = self._answer(SLEEPING * self._patience, self._patience)
        if found is None:
            return {"case": case, "result": "hang", "said": self._end()}
        if not found:
            code = self._process.wait()
            name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return {"case": case, "result": "crash", "said": f"{name}: {self._end()}"}
        return self._judged(found)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end()
        self._errors.close()

    def _begin(self) -> None:
        self._errors.truncate(0)
        self._errors.seek(0)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=self._errors, bufsize=0
        )
        first = self._answer(600)
        if not first:
            raise RuntimeError(f"the child does not start: {self._end()}")
        self._first = first

    def _judged(self, found: Case) -> Case:
        if found["result"] == "other pixels" and found["told"]:
            found["result"] = "silent"
        grown = max(found["peak"], found["rss"]) - self._first["rss"]
        files = found["files"] - self._first["files"]
        if found["result"] not in BAD and (grown > LEAK or files > LEAKED_FILES):
            found |= {"result": "leak", "said": f"{grown >> 20} MiB and {files} files more; {found['said']}"}
            self._end()
        return found

    def _answer(self, patience: float, processor: float = math.inf) -> Case | None:
        """The next line; {} where the process ended instead, None where it takes too long, in seconds."""
        assert self._process is not None
        assert self._process.stdout is not None
        begun, worked, line = time.monotonic(), processor_time(self._process.pid), b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], LOOK)[0]:
                worked_since = processor_time(self._process.pid) - worked
                if time.monotonic() - begun > patience or worked_since > processor:
                    return None
                continue
            more = os.read(self._process.stdout.fileno(), 1 << 16)
            if not more:
                return {}
            line += more
        answer: Case = json.loads(line)
        return answer

    def _end(self) -> str:
        """Kill the process; the last that it wrote to stderr."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process = None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-12:])


def processor_time(pid: int) -> float:
    """Seconds that a process has worked so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def fuzz(
    cases: Iterable[int], seed: int, folder: Path, jobs: int, say: bool = False, real: Path | None = None
) -> list[Case]:
    """The outcomes of cases, by `jobs` children; slides are written below `folder`."""
    originals = folder / "originals"
    if not originals.exists():
        write_originals(originals, SIZE, real)
    source = Originals(originals)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    found: list[Case] = []

    def work(number: int) -> None:
        scratch = folder / f"scratch-{number}"
        scratch.mkdir(exist_ok=True)
        child = Child([sys.executable, str(CHILD), str(originals), str(scratch), str(seed)])
        try:
            while True:
                case = waiting.get_nowait()
                outcome = child.run(case)
                place = dict(zip(("format", "kind"), source.place(case), strict=True))
                found.append(place | outcome)
                if say and outcome["result"] in BAD:
                    print(json.dumps(found[-1]), flush=True)
        except queue.Empty:
            return
        finally:
            child.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found, key=lambda case: case["case"])


def table(found: list[Case]) -> str:
    """Counts of each format, then of each mutation."""
    rows = [f"| format | mutation | slides | {' | '.join(OUTCOMES)} |", "|---" * (3 + len(OUTCOMES)) + "|"]
    formats = list(dict.fromkeys(case["format"] for case in found))
    groups = [*((f, "") for f in formats), *(("", m) for m in mutations("zarr")), ("all", "")]
    for name, mutation in groups:
        group = [c for c in found if name in ("all", "", c["format"]) and mutation in ("", c["kind"])]
        counts = Counter(case["result"] for case in group)
        numbers = " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
        rows.append(f"| {name} | {mutation} | {len(group)} | {numbers} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--loop", type=int, default=2000, help="undamaged slides to open and close")
    parser.add_argument("--real", type=Path, help="folder with the real slides (benchmarks/README.md)")
    parser.add_argument("--only", type=int, nargs="*", help="these cases only; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.only:
            print(json.dumps(fuzz(given.only, given.seed, folder, 1, real=given.real), indent=1))
            return
        start = time.monotonic()
        found = fuzz(range(given.slides), given.seed, folder, given.jobs, say=True, real=given.real)
        seconds = time.monotonic() - start
        loop = open_and_close(folder / "originals", given.loop)
    bad = [case for case in found if case["result"] in BAD]
    facts = {
        "seed": given.seed,
        "slides": len(found),
        "seconds": round(seconds),
        "python": platform.python_version(),
    }
    counts = Counter(f"{c['format']}, {c['kind']}, {c['result']}" for c in found)
    given.out.parent.mkdir(exist_ok=True)
    results = {**facts, "counts": dict(sorted(counts.items())), "bad": bad, "loop": loop}
    given.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    first, last = loop[1], loop[-1]
    text = [
        table(found),
        f"Seed {given.seed}, {len(found)} slides in {seconds:.0f} s, {given.jobs} processes at a time; what the "
        "columns mean is said in the first lines of fuzz.py.",
        f"Opened, read and closed in one process: {first['slides']} slides {first['rss_mb']} MB resident and "
        f"{first['files']} descriptors, {last['slides']} slides {last['rss_mb']} MB and {last['files']}.",
    ]
    given.out.with_suffix(".md").write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
