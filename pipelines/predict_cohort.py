"""Classify a cohort on a Dask cluster (or on this machine), and join the answers with your own table.

python pipelines/predict_cohort.py runs/first/model cohort.csv out
python pipelines/predict_cohort.py runs/first/model cohort.csv out tcp://scheduler:8786
"""

import sys
from pathlib import Path

import pandas as pd

from wsi_ats.batch.cluster import connect, local_cluster
from wsi_ats.batch.inputs import find_slides
from wsi_ats.batch.progress import ProgressReport
from wsi_ats.batch.run import run_batch
from wsi_ats.batch.settings import PredictSettings


def main(model: str, cohort: str, out: str, scheduler: str | None = None) -> None:
    # The client is yours: any Dask cluster will do (dask-jobqueue, Kubernetes, ...). Its workers must see
    # the model, the slides and the output folder at the same paths.
    with connect(scheduler) if scheduler else local_cluster(workers=2) as client, ProgressReport() as report:
        settings = PredictSettings(tiles=64, seed=0)
        summary = run_batch(find_slides([cohort]), Path(out), settings, client, report, model=Path(model))
    for failure in summary.failures:
        print(f"failed: {failure.slide}: {failure.error}")

    answers = pd.read_csv(Path(out) / "predictions.csv")
    print(answers.groupby("prediction")["slide"].count())


if __name__ == "__main__":
    main(*sys.argv[1:])
