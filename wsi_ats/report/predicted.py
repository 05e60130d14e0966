"""The slides of a run that its report shows, predicted by its model: training keeps answers, and no pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
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
from wsi_ats.train.folder import FOLD


def predict_examples(run: Path, rows: Sequence[Row], *, device: str = "cpu") -> None:
    """Predict the few slides, or patients, that the report of a run shows into `examples` in its folder: validation
    slides or, of a cross-validation, slides of every fold, by its model and in its folder.

    rows: those of the run, with the slides' paths. Slides that fail have no picture.
    """
    found = find(run)
    tasks = found.evaluation.get("tasks", ())
    shown = [slide for task in tasks[:1] for mine in choose(task).values() for slide in mine]
    fold = {slide["slide"]: slide.get("fold", "") for slide in shown}
    if found.folds:
        # Each of these was trained on in other folds, and is answered by the one that has not seen it.
        rows = [replace(row, split="test") for row in rows]
    batches: dict[tuple[str, float | None], list[SlideItem]] = defaultdict(list)
    for row in rows_by(found.by, rows):
        if row.split != "train" and cell(row.slide) in fold:
            batches[fold[cell(row.slide)], row.of_slides[0].default_mpp].append(_item(row))
    for (number, default), items in batches.items():
        folder = run / FOLD.format(number) if found.folds else run
        how = PredictSettings(heatmap=False, mpp=default, by=found.by)
        run_batch(items, folder / EXAMPLES, how, model=folder / RUN_MODEL, device=device)


def _item(row: Row) -> SlideItem:
    """The item of a slide or a patient."""
    return SlideItem(row.slide, row.path, row.mpp, row.patient, slides=tuple(map(_item, row.slides)))
