"""Compose labelled slides from a folder of labelled tiles (tiles.csv: file, label, group, split).

python pipelines/mosaic_slides.py --tiles FOLDER --out FOLDER --train 80 --val 50 --size 7168 --seed 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wsi_ats.synthetic.mosaic import load_tiles, write_cohort


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=Path, required=True, help="folder that holds tiles.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for slides, truth and manifest.csv")
    parser.add_argument("--train", type=int, default=80, help="slides of the tiles' train split")
    parser.add_argument("--val", type=int, default=50, help="slides of the tiles' val split")
    parser.add_argument(
        "--size", type=int, default=7168, help="side of a slide in px, a multiple of the tile's"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    counts = {"train": arguments.train, "val": arguments.val}
    manifest = write_cohort(
        arguments.out,
        load_tiles(arguments.tiles),
        counts,
        size=arguments.size,
        seed=arguments.seed,
        on_slide=lambda path: print(path, flush=True),
    )
    print(f"{sum(counts.values())} slides are listed in {manifest}")


if __name__ == "__main__":
    main()
