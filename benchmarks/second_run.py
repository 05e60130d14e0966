"""Does a second training on the same slides read them again? Tiles, bytes and time of runs that share a folder.

    python benchmarks/second_run.py --tiles TILES --weights MOBILENET.npz --work FOLDER

Slides composed of real colon tiles (120 to train on, 40 of the same groups to choose the epoch by; 7,168 px, about
340 tissue tiles), settings of pipelines/configs/mobilenet.toml, in two studies: one keeps the features of the tiles
that are drawn, one has `train.embed_all`. Each trains with seed 0, then with seed 1, with the splits swapped round, and
with another head. Tiles are counted where they are read from slides (`read_tiles`); bytes are those of decoded pixels.
Results go to benchmarks/results/second_run.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsi_ats import embed
from wsi_ats.config import Config, load_config
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.synthetic.mosaic import load_tiles, write_cohort
from wsi_ats.train.frozen import FOLDER
from wsi_ats.train.run import train

COUNTS = {"train": 160}
CHOOSE = 40
SIZE = 7168
TOML = Path(__file__).parents[1] / "pipelines" / "configs" / "mobilenet.toml"
STUDIES = {"tiles that are drawn": [], "all tissue tiles (train.embed_all)": ["train.embed_all=true"]}
RUNS: dict[str, list[str]] = {
    "first, seed 0": [],
    "seed 1": ["train.seed=1"],
    "fold: splits swapped round": [],
    "head.scale 4": ["head.scale=4.0"],
}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=Path, required=True, help="folder of labelled tiles with tiles.csv")
    parser.add_argument("--weights", type=Path, required=True, help="npz of MobileNet v1")
    parser.add_argument("--work", type=Path, required=True, help="folder for slides and runs")
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    rows = make_slides(arguments.tiles, arguments.work / "slides")
    results = []
    for study, settings in STUDIES.items():
        folder = arguments.work / study.split(" ")[0]
        shutil.rmtree(folder, ignore_errors=True)
        for name, more in RUNS.items():
            weights = [f"{part}.weights={arguments.weights}" for part in ("attention", "features")]
            config = load_config(TOML, [*weights, f"train.epochs={arguments.epochs}", *settings, *more])
            results.append({"kept": study, "run": name, **run(rows, config, folder / name.replace(" ", "-"))})
            print(json.dumps(results[-1]), flush=True)
    (RESULTS / "second_run.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "second_run.md").write_text(table(results))


def make_slides(tiles: Path, folder: Path) -> list[Row]:
    """The slides, made once; the last ones choose the epoch."""
    if not (folder / "manifest.csv").exists():
        write_cohort(folder, load_tiles(tiles), COUNTS, size=SIZE, seed=1)
    rows = read_manifest(folder / "manifest.csv")
    return [*rows[:-CHOOSE], *(replace(row, split="val") for row in rows[-CHOOSE:])]


def run(rows: list[Row], config: Config, out: Path) -> dict[str, object]:
    """Train once; what was read of the slides, and what that took."""
    if "fold" in out.name:
        rows = [
            *(replace(row, split="val") for row in rows[:CHOOSE]),
            *(replace(row, split="train") for row in rows[CHOOSE:]),
        ]
    wall, cpu = time.monotonic(), time.process_time()
    with counted() as read:
        result = train(rows, config, out, say=lambda line: None, overwrite=True)
    kept = sum(file.stat().st_size for file in (out.parent / FOLDER).rglob("*") if file.is_file())
    return {
        "tiles_read": read["tiles"],
        "tile_mb": round(read["bytes"] / 1e6, 1),
        "val_auc": round(result.figures["val_auc"].value, 3),
        "seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "kept_mb": round(kept / 1e6, 1),
    }


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Counts the tiles that are read from slides, and their decoded bytes."""
    read, real = {"tiles": 0, "bytes": 0}, embed.read_tiles

    def counting(slide, grid, cells, *rest) -> np.ndarray:
        before = slide.bytes_read
        pixels = real(slide, grid, cells, *rest)
        read["tiles"] += len(cells)
        read["bytes"] += slide.bytes_read - before
        return pixels

    embed.read_tiles = counting
    try:
        yield read
    finally:
        embed.read_tiles = real


def table(results: list[dict[str, object]]) -> str:
    lines = [
        "# A second training on the same slides",
        "",
        "Command: `python benchmarks/second_run.py --tiles TILES --weights MOBILENET.npz --work FOLDER`. 120 slides",
        "to train on and 40 to choose the epoch by, of 7,168 px and about 340 tissue tiles; the validation AUC is of",
        "slides of the same tissue groups and only shows that the runs are sound. Seconds are of a shared machine; the",
        "views of all slides are read in every run, for their tissue.",
        "",
        "| features kept of | run | tiles read | MB of tiles | val. AUC | seconds | CPU s | kept on disk, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row.values()))} |" for row in results)]) + "\n"


if __name__ == "__main__":
    main()
