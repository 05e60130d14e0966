"""Sections on how the figures were made, and on what made them: versions, hashes, settings."""

from __future__ import annotations

import json
from collections.abc import Iterator

from wsi_ats.evaluate.evidence import FIGURES as EVIDENCE
from wsi_ats.report.blocks import Block, Grid, Points, Words
from wsi_ats.report.found import Found, Values

TRAINED = ("tile", "view", "attention", "sampling", "features", "train")
"""Sections of settings that are shown of a training run."""
METHOD = (
    "The model looks at a small picture of the whole slide and says where it would look closer (attention). From there "
    "it draws a few tiles at full resolution, more often where the attention is high, and weighs what it finds so that "
    "the mean over many draws is what all tiles would give.",
)


def methods(found: Found) -> Iterator[Block]:
    """How slides are read, how figures and intervals were had, and what data chose what."""
    said = [*METHOD, *_chosen(found)]
    told = found.evaluation.get("intervals")
    if told:
        said.append(
            f"Intervals of 95 %: {told['resamples']:,} resamples of the patients, with all their slides, class by "
            f"class (method {told['method']}, seed {told['seed']}); bands and bars of curves are percentiles, place by "
            "place. They say how far off a figure may be because these patients came and not others; they do not cover "
            "other scanners, stains or hospitals. A class with fewer than 10 patients gets no interval."
        )
    seeds = found.evaluation.get("seeds")
    if seeds:
        said.append(
            f"Tiles were drawn anew with the seeds {', '.join(map(str, seeds))}; the figures are of the first."
        )
    yield Points(said)


def _chosen(found: Found) -> Iterator[str]:
    """What data chose the epoch, the calibration, the threshold and the prediction sets."""
    if found.is_run and not found.folds:
        yield f"The epoch was chosen by the validation {found.by}s, which are those of the figures here."
    if found.folds:
        yield f"Each fold's epoch, calibration and threshold were chosen on {found.by}s that it does not answer here."
    for task in found.tasks:
        name = task.spec.name
        if task.calibration is None:
            yield f"{name}: not calibrated; probabilities are the network's own."
        else:
            yield f"{name}: calibrated on {task.calibration.on}."
        if task.spec.point is not None:
            yield f"{name}: threshold: {task.spec.point}."
        if task.spec.sets is not None:
            sets = task.spec.sets
            yield (
                f"{name}: prediction sets leave the true class out of at most {sets.error:.0%} of the {found.by}s of "
                f"each class, if {found.by}s are like those they were made from ({sets.on})."
            )
    if not found.tasks and not found.folds:
        yield "The model's folder is not at hand: what its calibration and threshold were chosen on is not known here."


def versions(found: Found) -> Iterator[Block]:
    """Versions, hashes and settings."""
    evaluation, run = found.evaluation, found.run
    told = evaluation.get("versions") or run.get("versions") or {}
    rows = [[f"version of {name}", str(version)] for name, version in told.items()]
    if evaluation:
        manifest, answers = evaluation["manifest"], evaluation["answers"]
        rows += [
            ["evaluated", str(evaluation["made"])],
            ["labels", str(manifest["path"])],
            ["sha256 of the labels", str(manifest["sha256"])],
            ["split that was asked for", str(manifest["split"] or "all")],
            ["answers", str(answers["path"])],
            ["sha256 of the answers", str(answers["sha256"])],
        ]
        rows += _model_rows(answers.get("model") or {})
    if run:
        rows += [
            [
                "trained",
                f"{run.get('end', '–')}, {run.get('seconds', '–')} s, {run.get('epochs', '–')} epochs",
            ]
        ]
    evidence = found.json(EVIDENCE)
    if evidence and not evaluation:
        rows += _model_rows(evidence["model"])
    yield Grid("What made this", ["", ""], rows)
    config = run.get("config") if isinstance(run.get("config"), dict) else None
    if config:
        settings = [
            [f"{section}.{key}", json.dumps(value, ensure_ascii=False)]
            for section in TRAINED
            for key, value in (config.get(section) or {}).items()
        ]
        yield Grid("Settings of the training (config.toml has all)", ["setting", "value"], settings)
    elif not found.is_run:
        yield Words("Settings of the training are in the model's folder (config.toml, model-card.md).")


def _model_rows(model: Values) -> list[list[str]]:
    rows = [["model", str(model["folder"])], ["hash of the model", str(model["hash"])]] if model else []
    config = model.get("config") or {}
    return rows + [[f"prediction: {key}", str(value)] for key, value in config.items()]
