"""`wsi-ats info` of a model folder: what the model answers, what it looks at, and how outputs become answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_ats.cli.terminal import say

if TYPE_CHECKING:  # takes a while to import
    from wsi_ats.tasks.task import Task


def model_of(argument: str) -> Path | None:
    """The model folder that an argument names, or the one of a run that it names; None where it names neither."""
    from wsi_ats.model_folder import RUN_MODEL, is_model

    places = (Path(argument), Path(argument) / RUN_MODEL)
    return next((place for place in places if is_model(place)), None)


def model_facts(folder: Path) -> dict[str, Any]:
    """Facts of a model as plain values, read without its networks. Raises `ModelError`."""
    from wsi_ats.model_folder import CARD, model_hash, read_tasks, read_values
    from wsi_ats.reference import REFERENCE

    values = read_values(folder)
    return {
        "model": str(folder),
        "hash": model_hash(folder),
        "answers about": values["train"].get("by", "slide"),
        "tasks": [_task(task) for task in read_tasks(folder)],
        "members": values["train"].get("members", 1),
        **{name: values[name] for name in ("view", "tile", "attention", "sampling")},
        "features": values["features"].get("network"),
        "tells unlike slides": (folder / REFERENCE).is_file(),
        "card": str(folder / CARD),
    }


def _task(task: Task) -> dict[str, Any]:
    spec = task.spec
    return {
        "task": spec.name,
        "kind": spec.kind,
        "names": list(spec.names),
        "calibrated on": task.calibration.on if task.calibration else None,
        "operating point": str(spec.point) if spec.point else None,
        "prediction sets": f"{spec.sets.error:.0%} error, from {spec.sets.on}" if spec.sets else None,
    }


def show_model(facts: dict[str, Any]) -> None:
    """Print the facts of a model, for people."""
    say(f"model folder: {facts['model']} (hash {facts['hash']})")
    for task in facts["tasks"]:
        names = f": {', '.join(task['names'])}" if task["names"] else ""
        say(f"task {task['task']} ({task['kind']}){names}, one answer a {facts['answers about']}")
        say(f"  calibrated on: {task['calibrated on'] or 'nothing, values are as the networks give them'}")
        for what in ("operating point", "prediction sets"):
            if task[what]:
                say(f"  {what}: {task[what]}")
    attention, tile = facts["attention"], facts["tile"]
    levels = "" if attention.get("levels", 1) == 1 else f", {attention['levels']} levels"
    say(f"view: {_scale(facts['view'])}, a cell every {attention['stride']} px{levels}")
    say(
        f"tiles: {tile['px']} x {tile['px']} px, {_scale(tile)}; trained on {facts['sampling']['tiles']} a draw"
    )
    say(f"features: {facts['features']}; networks: {facts['members']}")
    unlike = "can" if facts["tells unlike slides"] else "cannot"
    say(f"slides unlike the training slides {unlike} be told")
    say(f"more: {facts['card']}; of slides: `wsi-ats predict {facts['model']} SLIDES --out OUT`")


def _scale(section: dict[str, Any]) -> str:
    if section.get("downsample") is not None:
        return f"downsample {section['downsample']:g}"
    return f"{section['mpp']:g} um/px"
