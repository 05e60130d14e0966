"""The models of all folds as one: what a cross-validation leaves to be used, since no slide is kept from all of them.

The figures of a cross-validation are of models of one fold; the mean of their outputs is seldom worse. It is calibrated
on the slides as the model of their own fold answered them, which had not seen them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from wsi_ats.cache import TileCache
from wsi_ats.config import Config
from wsi_ats.ensemble import Ensemble
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.manifest import Row
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import RUN_MODEL, load_model, model_hash, save_model
from wsi_ats.output import writing
from wsi_ats.slide_model import SlideModel
from wsi_ats.tasks.task import Task, Tasks
from wsi_ats.train.calibrate import calibrate_outputs
from wsi_ats.train.card import BY_FOLD, Trained, model_card
from wsi_ats.train.data import Examples
from wsi_ats.train.epoch_checkpoint import Say
from wsi_ats.train.figures import Figures
from wsi_ats.train.folder import read_record
from wsi_ats.train.frozen import may_be_stored
from wsi_ats.train.reference import reference_of
from wsi_ats.train.targets import ask


def is_ensemble_of(out: Path, folders: Sequence[Path]) -> bool:
    """Whether the folder of a cross-validation holds the ensemble of the very models of these runs."""
    try:
        record = read_record(out)
        return bool(record["members"] == hashes(folders) and record["model"] == model_hash(out / RUN_MODEL))
    except (KeyError, TypeError, ConfigError, ModelError):
        return False


def hashes(folders: Sequence[Path]) -> list[str]:
    """Digests of the models of runs."""
    return [model_hash(folder / RUN_MODEL) for folder in folders]


def write_ensemble(
    out: Path,
    folders: Sequence[Path],
    config: Config,
    rows: Sequence[Row],
    outputs: Sequence[Float64[np.ndarray, "n _"]],
    targets: Sequence[Float64[np.ndarray, "n _"]],
    figures: Figures,
    cache: TileCache,
    say: Say,
) -> None:
    """Write the models of all folds as one into `out/model`, or say why they cannot be one.

    folders: the runs of the folds. rows: slides or patients of all folds. outputs, targets: of each that was answered,
    by the model of its fold, an array a task. figures: what these answers are worth.
    """
    models = [load_model(folder / RUN_MODEL) for folder in folders]
    tasks = ask(config, rows)
    for task, every in zip(tasks, targets, strict=True):
        task.fit(every)
    odd = [
        name for name in map(_differing, tasks, zip(*(model.tasks for model in models), strict=True)) if name
    ]
    if odd:
        say(f"the models of the folds are not made one: {', '.join(odd)} differ")
        return
    members = [member for model in models for member in members_of(model)]
    settings = config.train.model_copy(update={"members": len(members)})
    ensemble = Ensemble(config.model_copy(update={"train": settings}), members)
    ensemble.tasks, ensemble.cache = Tasks(tasks), cache
    if config.train.calibrate:
        on = f"{config.train.by}s, each answered by the fold that had not seen it"
        calibrated = calibrate_outputs(ensemble.tasks, outputs, targets, on)
        for words in (*calibrated.done, *calibrated.missing):
            say(words)
    examples = Examples(rows, tasks, config, 1 << 30, stored=may_be_stored(config))
    failures = examples.inspect(lambda: None)
    ensemble.reference = reference_of(ensemble, examples, [], config.train.seed, say)
    card = {f"val_{name}": figure for name, figure in figures.items()}
    runs = [read_record(folder) for folder in folders]
    epochs, seconds = (sum(run[key] for run in runs) for key in ("epochs", "seconds"))
    result = Trained(out / RUN_MODEL, card, epochs, seconds, failures, {}, len(members))
    text = model_card(tasks, rows, result, ensemble.reference, BY_FOLD)
    with writing(result.folder):
        save_model(ensemble, result.folder, text)
    say(f"the models of all folds as one: {result.folder}")


def members_of(model: SlideModel) -> list[AttentionSampler]:
    """The networks that a model is made of."""
    if isinstance(model, Ensemble):
        return list(model.members)
    assert isinstance(model, AttentionSampler)
    return [model]


def _differing(task: Task, of_folds: Sequence[Task]) -> str:
    """The name of a task whose outputs do not mean the same in all folds; empty where they do."""
    alike = all(
        other.spec.outputs == task.spec.outputs and other.learned == of_folds[0].learned for other in of_folds
    )
    return "" if alike else f"classes or units of {task.spec.name!r}"
