"""The slides of a run that its report shows, predicted by its model: training keeps answers, and no pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.run import run_batch
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.manifest import Row
from wsi_ats.manifest.patients import rows_by
from wsi_ats.model_folder import RUN_MODEL
from wsi_ats.report.examples import choose
from wsi_ats.report.found import EXAMPLES, find
from wsi_ats.shown import cell


def predict_examples(run: Path, rows: Sequence[Row], *, device: str = "cpu") -> None:
    """Predict the few validation slides, or patients, that the report shows into `examples` in the folder of a run.

    rows: those of the run, with the slides' paths. Slides that fail have no picture.
    """
    found = find(run)
    tasks = found.evaluation.get("tasks", ())
    wanted = {slide["slide"] for task in tasks[:1] for mine in choose(task).values() for slide in mine}
    chosen = [row for row in rows_by(found.by, rows) if row.split != "train" and cell(row.slide) in wanted]
    for default in dict.fromkeys(map(_default_mpp, chosen)):
        items = [_item(row) for row in chosen if _default_mpp(row) == default]
        how = PredictSettings(heatmap=False, mpp=default, by=found.by)
        run_batch(items, run / EXAMPLES, how, model=run / RUN_MODEL, device=device)


def _default_mpp(row: Row) -> float | None:
    return row.of_slides[0].default_mpp


def _item(row: Row) -> SlideItem:
    """The item of a slide or a patient."""
    return SlideItem(row.slide, row.path, row.mpp, row.patient, slides=tuple(map(_item, row.slides)))
