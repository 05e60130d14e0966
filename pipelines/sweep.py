"""Search settings with Optuna: a training run a trial. The same command again goes on where it was stopped.

python pipelines/sweep.py slides/manifest.csv sweeps/first pipelines/configs/20x.toml --trials 30

Needs `pip install 'wsi-ats[sweep]'`. Copy this file and change SPACE. Trials are compared by their validation slides,
so the best one's figures are too good: judge its model on slides that no trial has seen.
"""

import argparse
from pathlib import Path

from wsi_ats.config import load_config
from wsi_ats.manifest import read_manifest
from wsi_ats.train.sweep import Range, sweep

SPACE = {
    "train.lr": Range(3e-4, 1e-2, log=True),
    "train.lr_attention": Range(1e-3, 3e-2, log=True),
    "train.attention_loss": Range(0.01, 1.0, log=True),
    "sampling.prior": Range(0.0, 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="table of slides with a column `label`")
    parser.add_argument("out", type=Path, help="folder of the study and its runs")
    parser.add_argument("config", type=Path, nargs="?", help="settings of all trials, but for SPACE")
    parser.add_argument("--trials", type=int, default=30, help="finished trials in the end")
    arguments = parser.parse_args()

    rows = read_manifest(arguments.manifest, target="label")
    found = sweep(rows, load_config(arguments.config), SPACE, arguments.out, arguments.trials)
    print(f"best score {found.score:.3f}: settings in {found.best}")


if __name__ == "__main__":
    main()
