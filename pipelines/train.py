"""Train a slide classifier from a manifest. Copy this file and change what you need.

python pipelines/train.py slides/manifest.csv runs/first pipelines/configs/20x.toml
"""

import argparse
from pathlib import Path

from wsi_ats.config import load_config
from wsi_ats.manifest import read_manifest
from wsi_ats.train.run import train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="table of slides with a column `label`")
    parser.add_argument("out", type=Path, help="folder of the run")
    parser.add_argument("config", type=Path, nargs="?", help="settings; by default those of the package")
    arguments = parser.parse_args()

    rows = read_manifest(arguments.manifest, target="label")
    # Your own rules go here, for example: rows = [row for row in rows if row.patient not in excluded]
    result = train(rows, load_config(arguments.config), arguments.out)
    print(f"validation {result.headline}; model in {result.folder}")


if __name__ == "__main__":
    main()
