"""Classify a cohort on a Dask cluster (or on this machine), and join the answers with your own table.

python pipelines/predict_cohort.py runs/first/model cohort.csv out
python pipelines/predict_cohort.py runs/first/model cohort.csv out tcp://scheduler:8786
"""

import argparse
from pathlib import Path

import pandas as pd

from wsi_ats.batch.cluster import connect, local_cluster
from wsi_ats.batch.inputs import find_slides
from wsi_ats.batch.progress import ProgressReport
from wsi_ats.batch.run import run_batch
from wsi_ats.batch.settings import PredictSettings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of the model: run/model")
    parser.add_argument("cohort", help="manifest, or a folder of slides")
    parser.add_argument("out", type=Path, help="folder of the answers")
    parser.add_argument(
        "scheduler", nargs="?", help="address of a Dask scheduler; by default two workers here"
    )
    given = parser.parse_args()

    # The client is yours: any Dask cluster will do (dask-jobqueue, Kubernetes, ...). Its workers must see
    # the model, the slides and the output folder at the same paths.
    cluster = connect(given.scheduler) if given.scheduler else local_cluster(workers=2)
    with cluster as client, ProgressReport() as report:
        settings = PredictSettings(tiles=64, seed=0)
        summary = run_batch(
            find_slides([given.cohort]), given.out, settings, client, report, model=given.model
        )
    for failure in summary.failures:
        print(f"failed: {failure.slide}: {failure.error}")

    answers = pd.read_csv(given.out / "predictions.csv")
    print(answers.groupby("prediction")["slide"].count())


if __name__ == "__main__":
    main()
