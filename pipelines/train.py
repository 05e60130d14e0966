"""Train a slide classifier from a manifest. Copy this file and change what you need.

python pipelines/train.py slides/manifest.csv runs/first pipelines/configs/20x.toml
"""

import sys
from pathlib import Path

from wsi_ats.config import load_config
from wsi_ats.manifest import read_manifest
from wsi_ats.train.run import train


def main(manifest: str, out: str, config: str | None = None) -> None:
    rows = read_manifest(manifest, target="label")
    # Your own rules go here, for example: rows = [row for row in rows if row.patient not in excluded]
    result = train(rows, load_config(config), Path(out))
    print(f"validation {result.headline}; model in {result.folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
