"""How long does a manifest of 100,000 slides keep a batch or a training run from its first slide?

    python benchmarks/manifest.py --work FOLDER

Makes empty files in folders of a thousand each, and manifests of them: paths with suffixes; names alone, found by
`--slides-dir`; a quarter of the files under a second name. Seconds of CPU of one process, user and system, the least of
three times: others use the machine, too. Takes a minute or two. Results go to benchmarks/results/manifest.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

from wsi_ats.batch.inputs import find_slides
from wsi_ats.batch.job import Job, Run, settled
from wsi_ats.batch.run import begun
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.batch.store import folder_name
from wsi_ats.batch.twins import once_each, with_known_twins
from wsi_ats.manifest import read_manifest, with_splits
from wsi_ats.model_folder import load_model

RESULTS = Path(__file__).parent / "results"
TIMES = 3
SETTINGS = PredictSettings()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the files")
    parser.add_argument("--slides", type=int, default=100_000)
    arguments = parser.parse_args()
    work, count = arguments.work, arguments.slides
    plain, bare, twice = make_manifests(work, count)
    items = find_slides([plain])
    out = work / "out"
    for item in items:
        (out / "slides" / folder_name(f"elsewhere/{item.id}")).mkdir(parents=True, exist_ok=True)
    made = work / "made"
    for item in items:
        (made / "slides" / folder_name(item.id)).mkdir(parents=True, exist_ok=True)
    rows = read_manifest(plain)
    steps: dict[str, Callable[[], object]] = {
        "predict: find the slides of a manifest": lambda: find_slides([plain]),
        "predict: names without folder and suffix, --slides-dir": lambda: find_slides(
            [bare], slides_dir=work
        ),
        "predict: a quarter of the rows name a file again": lambda: find_slides([twice]),
        "predict: a folder instead of a manifest": lambda: find_slides([work / "slides"]),
        "predict: look for results under other names, none there": lambda: once_each(
            with_known_twins(items, work / "new", "", None)
        ),
        "predict: the same, as many folders of equal names there": lambda: once_each(
            with_known_twins(items, out, "", None)
        ),
        "predict: all of it up to the first slide": lambda: up_to_the_first_slide(plain, work / "new"),
        "predict: the same, a folder of each slide there": lambda: up_to_the_first_slide(plain, made),
        "train: read the manifest": lambda: read_manifest(plain),
        "train: choose the splits": lambda: with_splits(rows, 0.2, 0),
    }
    results = {name: round(min(timed(step) for _ in range(TIMES)), 2) for name, step in steps.items()}
    (RESULTS / "manifest.json").write_text(
        json.dumps({"slides": count, "cpu_seconds": results}, indent=1) + "\n"
    )
    (RESULTS / "manifest.md").write_text(table(count, results))


def make_manifests(work: Path, count: int) -> list[Path]:
    names = [f"slides/{i // 1000:03d}/s{i:06d}.svs" for i in range(count)]
    for folder in {Path(name).parent for name in names}:
        (work / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (work / name).touch()
    again = [name if i % 4 else f"./{names[i - 1]}" for i, name in enumerate(names)]
    written = {"plain": names, "bare": [Path(name).stem for name in names], "twice": again}
    return [write(work / f"{name}.csv", slides) for name, slides in written.items()]


def write(path: Path, slides: list[str]) -> Path:
    lines = (f"{name},{'ab'[i % 2]},P{i // 3},0.25,S{i % 7},x\n" for i, name in enumerate(slides))
    path.write_text("slide,label,patient,mpp,site,scanner\n" + "".join(lines))
    return path


def up_to_the_first_slide(manifest: Path, out: Path) -> None:
    """What a batch does with its slides before it predicts the first."""
    run = Run("", 0.0)
    items = once_each(with_known_twins(find_slides([manifest]), out, "", None))
    jobs = [Job(item, out, out, "", "", SETTINGS, run, load_model) for item in items]
    for job in begun(jobs):
        settled(job)


def timed(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def table(count: int, results: dict[str, float]) -> str:
    lines = [f"| {name} | {seconds} |" for name, seconds in results.items()]
    return "\n".join(
        [
            "# A large manifest",
            "",
            f"Command: `python benchmarks/manifest.py --work FOLDER`. {count:,} slides on a local disk; seconds of CPU "
            "of one process on a busy machine (they grow with what others do there), Python "
            f"{platform.python_version()}, the least of {TIMES} times.",
            "",
            "| step | CPU s |",
            "|---|---|",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    main()
