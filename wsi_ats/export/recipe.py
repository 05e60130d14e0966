"""The recipe: what a program that runs an exported model does before, between and after its three programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_ats import __version__
from wsi_ats.attention.networks import ConvAttention
from wsi_ats.config import to_values
from wsi_ats.export.agreement import MOST
from wsi_ats.export.formats import OPSET
from wsi_ats.export.programs import AttentionProgram, Program
from wsi_ats.features.encoder import Encoder
from wsi_ats.lowres.stain_normalisation import CENTRE, LEAST_SPREAD, SPREAD
from wsi_ats.slide_model import SlideModel
from wsi_ats.tasks.make import to_card
from wsi_ats.tasks.task import Task

FORMAT = 1
"""Number of the file's format, raised when what is written changes its meaning."""
STEPS = {
    "view": "Read the slide at the view's scale (from a level that has it within 1 %, as it is), filled "
    "with white to whole cells of stride x stride view px. Divide by 255 or, where view.normalise is given, let x be "
    "the optical density -log10(max(level, 1) / 255) of a colour and take centre - spread * (x - mean) / "
    "max(deviation, least_spread), with mean and standard deviation of x over the stained pixels, colour by colour.",
    "tissue": "Find the cells with tissue. Attention is a distribution over these alone; those of wsi-ats itself come "
    "from the settings in tissue.",
    "attention": "Run attention on the view, or on blocks of it with at least halo_cells more cells on every side, "
    "whose logits are dropped. a = softmax of the logits over the tissue cells (of a patient: of all slides), then "
    "(1 - smoothing) a + smoothing / K of K cells. Where attention.uniform is true, a is 1 / K instead. With members "
    "above 1, do so with the logits of each member; a is their mean.",
    "draw": "Draw cells from a and read only these; a cell that was drawn with chance q has the weight 1 / q. All "
    "cells with weight 1 give the exact answer.",
    "tiles": "Read tile.px x tile.px px at the tile's scale, centred on the drawn cells (the corner rounded to level-0 "
    "px), RGB, divided by 255, and run features on them.",
    "answer": "Run answer on the vectors, log a (with members above 1, that of each member) and log weights of the "
    "drawn cells. values_I are the values of task I "
    "as tasks[I].values names them; calibration is in them.",
    "decide": "By tasks[I].says. The positive one from the threshold on: the class tasks[I].point.positive where its "
    "probability is at least tasks[I].point.threshold, else the other. The most probable: that class. All that are "
    "likely: all labels of at least 0.5. The median: the lowest grade that is not exceeded with a probability of at "
    "least 0.5. A number: it. A class is in the prediction set where 1 - its probability is at most its quantile.",
}
"""What is done, in words, in this order."""
BY_THRESHOLD = "the positive one from the threshold on"
"""How the values of two classes with an operating point are put into a word, beside what `TaskEntry.says` names."""
NOT_INCLUDED = (
    "standard errors and intervals of drawn tiles",
    "telling slides unlike the training slides",
    "the tissue mask",
)


def recipe(
    model: SlideModel,
    programs: Sequence[Program],
    files: Mapping[str, Mapping[str, Path]],
    digests: Mapping[str, str],
    differences: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Plain values of export.json.

    files: those of each program, by format. digests: sha256 of files by name. differences: the largest one of each
    file's answers from the model's, by what it was tried on.
    """
    config = model.config
    values = to_values(config)
    return {
        "format": FORMAT,
        "wsi_ats": __version__,
        "model": model.hash,
        "opset": OPSET,
        "most_difference": MOST,
        "answers_about": config.train.by,
        "members": config.train.members,
        "programs": {
            program.name: {
                "inputs": program.inputs,
                "outputs": program.outputs,
                "files": {form: path.name for form, path in files[program.name].items()},
            }
            for program in programs
        },
        "files": {
            name: {"sha256": digests[name], "differences": differences.get(name, {})} for name in digests
        },
        "encoder": _encoder(model),
        "slide": values["slide"],
        "view": _view(model, _attention(programs), values),
        "tissue": values["tissue"],
        "attention": {
            "smoothing": config.attention.smoothing,
            "uniform": config.sampling.uniform,
            "halo_cells": -(-max(_attention(programs).halo) // config.attention.stride),
        },
        "tile": {**values["tile"], "channels": "RGB", "range": [0, 1]},
        "tasks": [_task(task) for task in model.tasks],
        "steps": STEPS,
        "not_included": NOT_INCLUDED,
        "notes": notes_on(model),
    }


def _attention(programs: Sequence[Program]) -> ConvAttention:
    return next(program.network for program in programs if isinstance(program, AttentionProgram))


def notes_on(model: SlideModel) -> tuple[str, ...]:
    """Clauses on what a user of the programs should know."""
    notes = []
    if isinstance(model.features, Encoder):
        notes.append(
            f"features holds the weights of {model.features.name}: its licence holds for the file, too"
        )
    if model.config.features.precision != "float32":
        notes.append(
            f"features computes in float32 and the model in {model.config.features.precision}: answers differ a little"
        )
    return tuple(notes)


def _view(model: SlideModel, network: ConvAttention, values: Mapping[str, Any]) -> dict[str, Any]:
    config = model.config
    stain = {"centre": CENTRE, "spread": SPREAD, "least_spread": LEAST_SPREAD}
    scale = {key: values["view"][key] for key in ("mpp", "downsample") if key in values["view"]}
    return {
        **scale,
        "stride": config.attention.stride,
        "channels": "RGB",
        "normalise": stain if config.view.normalise else None,
        "outside": network.background,
    }


def _encoder(model: SlideModel) -> dict[str, Any] | None:
    """Whose weights the features' program holds, where they are not the model's own."""
    features = model.features
    if not isinstance(features, Encoder):
        return None
    origin = features.origin
    return {
        "network": features.name,
        "sha256": "" if origin is None else origin.sha256,
        "trained_at_mpp": features.mpp,
    }


def _task(task: Task) -> dict[str, Any]:
    """What a model folder keeps of a task, the names of its values and outputs, and how they become an answer."""
    spec = task.spec
    return {
        **to_card(task),
        "values": spec.values,
        "outputs": spec.outputs,
        "says": spec.entry.says if spec.point is None else BY_THRESHOLD,
    }
