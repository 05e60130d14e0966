"""`wsi-ats evaluate` and `wsi-ats compare`: what answers are worth, and which model is better."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsi_ats.cli.device import device_named
from wsi_ats.cli.options import (
    TABLES,
    By,
    Device,
    Mpp,
    OverrideMpp,
    Patient,
    Site,
    SlidesDir,
    Target,
    Tiles,
    Workers,
)
from wsi_ats.cli.report import WithReport, report_beside
from wsi_ats.cli.terminal import complain, errors, say, show_summary
from wsi_ats.errors import ConfigError
from wsi_ats.output import check_folder
from wsi_ats.report.words import units

if TYPE_CHECKING:  # these take a while to import
    from wsi_ats.batch.inputs import SlideItem
    from wsi_ats.batch.run import Summary
    from wsi_ats.batch.settings import PredictSettings
    from wsi_ats.evaluate.compare import TaskComparison
    from wsi_ats.evaluate.join import Chosen
    from wsi_ats.evaluate.run import Evaluation, Part, TaskEvaluation
    from wsi_ats.statistics.interval import Interval
    from wsi_ats.statistics.weighted import Figure

SHORT = 3
"""Number of figures that are printed of each site or fold."""
SHOUTED = frozenset({"auroc", "auprc", "f1", "ppv", "npv", "ece", "mae", "r2"})
"""Words in the names of figures that are written in capitals."""

Manifest = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help=f"{TABLES} of labelled slides, with patients.")
]
Split = Annotated[
    Literal["train", "val", "test"] | None, typer.Option(help="Only slides of this split of the manifest.")
]
Positive = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="Which of two classes is the positive one. Default: as the model says, else the last of the classes, of a "
        "table those of its columns.",
    ),
]
Resamples = Annotated[int, typer.Option(min=100, help="Number of resamples of the patients.")]
Method = Annotated[Literal["bca", "percentile"], typer.Option(help="How intervals are taken from resamples.")]


def evaluate(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL|RUN|PREDICTIONS",
            help="A model folder (the slides are predicted first), the folder of a training run (its validation "
            "slides), an output folder of predict, or a table of predictions.",
        ),
    ],
    manifest: Manifest,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for evaluation.json and evaluation.csv; where the predictions lie by default."
        ),
    ] = None,
    target: Target = None,
    split: Split = None,
    site: Site = None,
    patient: Patient = None,
    slides_dir: SlidesDir = None,
    positive: Positive = None,
    resamples: Resamples = 1000,
    method: Method = "bca",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the resamples, and the first one of the draws.")
    ] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            help="Of a model: predict with so many seeds; their spread is what sampling adds.",
        ),
    ] = 1,
    tiles: Tiles = None,
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    by: By = None,
    workers: Workers = None,
    device: Device = "auto",
    with_report: WithReport = True,
) -> None:
    """Say what answers are worth on labelled slides, each figure with an interval over patients."""
    from wsi_ats.evaluate.files import write_evaluation
    from wsi_ats.evaluate.join import Chosen
    from wsi_ats.evaluate.run import How
    from wsi_ats.evaluate.run import evaluate as run

    if out is not None:
        check_folder(out, what, manifest)
    how = How(Chosen(target, split, site, patient, slides_dir, positive), resamples, method, seed)
    places, failed = [what], False
    if not _has_answers(what):
        settings = _settings(tiles, seed, mpp, override_mpp)
        summaries = _predict(
            what, manifest, out, how.chosen, settings, seeds, by, workers, device_named(device)
        )
        places, failed = [summary.out for summary in summaries], not all(summary.ok for summary in summaries)
    elif seeds > 1:
        raise ConfigError(
            f"--seeds is {seeds} and {what} holds answers that were given already",
            remedy="give the model folder: its draws can be repeated",
        )
    evaluation = run(places, manifest, how, seeds=range(seed, seed + seeds), warn=_warn)
    show_evaluation(evaluation)
    folder = out or (what if what.is_dir() else what.parent)
    write_evaluation(evaluation, folder)
    say(f"all figures and curves: {folder / 'evaluation.json'}")
    if with_report:
        report_beside(folder)
    if failed:
        raise typer.Exit(1)


def compare(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="A",
            help="A model folder (the slides are predicted first), a run, an output folder or predictions, as for "
            "evaluate.",
        ),
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="The same of the other model.")],
    manifest: Manifest,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for comparison.json and comparison.csv, none by default; of models also for their "
            "predictions, OUT/A and OUT/B."
        ),
    ] = None,
    target: Target = None,
    split: Split = None,
    patient: Patient = None,
    slides_dir: SlidesDir = None,
    positive: Positive = None,
    resamples: Resamples = 1000,
    method: Method = "bca",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the resamples, and of the draws of both models.")
    ] = 0,
    tiles: Tiles = None,
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    by: By = None,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Say whether one of two models is better on the same slides, or whether it may be chance."""
    from wsi_ats.evaluate.compare import compare as run
    from wsi_ats.evaluate.files import write_comparison
    from wsi_ats.evaluate.join import Chosen
    from wsi_ats.evaluate.run import How

    if out is not None:
        check_folder(out, first, second, manifest)
    how = How(Chosen(target, split, "none", patient, slides_dir, positive), resamples, method, seed)
    settings = _settings(tiles, seed, mpp, override_mpp)
    places, failed = {"A": first, "B": second}, False
    _check_models([place for place in places.values() if not _has_answers(place)])
    for name, model in places.items():
        if not _has_answers(model):
            say(f"{name}: {model}")
            place = None if out is None else out / name
            (summary,) = _predict(
                model, manifest, place, how.chosen, settings, 1, by, workers, device_named(device)
            )
            places[name], failed = summary.out, failed or not summary.ok
    comparison = run(places["A"], places["B"], manifest, how, warn=_warn)
    for name, joined in zip("AB", comparison.joined, strict=True):
        for line in joined.flow.lines():
            say(f"{name}: {line}")
    for task in comparison.tasks:
        show_comparison(task, comparison.joined[0].answers.by)
    if out is not None:
        write_comparison(comparison, out)
        say(f"all figures: {out / 'comparison.json'}")
    if failed:
        raise typer.Exit(1)


def _settings(tiles: int | None, seed: int, mpp: float | None, override_mpp: float | None) -> PredictSettings:
    """How slides are predicted where a model is given: as `predict` does, without heatmaps."""
    from wsi_ats.batch.settings import PredictSettings
    from wsi_ats.reading import Reading

    reading = asdict(Reading.of(tiles, seed=seed))
    return PredictSettings(**reading, heatmap=False, mpp=mpp, override_mpp=override_mpp)


def _check_models(models: Sequence[Path]) -> None:
    """Raise where what is no model, or two that cannot be compared, would be found out after hours of predicting."""
    from wsi_ats.evaluate.compare import paired
    from wsi_ats.model_folder import model_hash, read_tasks

    for model in models:
        model_hash(model)
    if len(models) == 2:
        paired(*map(read_tasks, models))


def _has_answers(what: Path) -> bool:
    """Whether a place holds answers that were given already; else it should be a model."""
    from wsi_ats.evaluate.answers import PREDICTIONS, VALIDATION

    return what.is_file() or any((what / name).is_file() for name in (PREDICTIONS, VALIDATION))


def _predict(
    model: Path,
    manifest: Path,
    out: Path | None,
    chosen: Chosen,
    settings: PredictSettings,
    seeds: int,
    by: str | None,
    workers: int | None,
    device: str,
) -> list[Summary]:
    """Predict the slides of the manifest with each seed; say how it went."""
    from wsi_ats.batch.cluster import client_for
    from wsi_ats.batch.inputs import find_slides
    from wsi_ats.batch.patients import items_by
    from wsi_ats.batch.progress import ProgressReport
    from wsi_ats.batch.run import run_batch
    from wsi_ats.evaluate.predict import of_split, predict_with_seeds
    from wsi_ats.model_folder import model_hash, read_by

    model_hash(model)  # what is no model is told before worker processes are started
    if out is None:
        raise ConfigError(
            f"{model} is a model, whose answers need a place", remedy="name a folder with --out"
        )
    found = find_slides([manifest], slides_dir=chosen.slides_dir, patient=chosen.patient, warn=_warn)
    about, items = items_by(by, read_by(model), of_split(found, chosen.split), _warn)
    settings = replace(settings, by=about)

    with client_for(len(items), workers=workers, scheduler=None, device=device) as client:

        def run(items: Sequence[SlideItem], place: Path, how: PredictSettings) -> Summary:
            say(f"seed {how.seed}")
            with ProgressReport(errors) as report:
                summary = run_batch(
                    items, place, how, client, report, model=model, device=device, argv=sys.argv
                )
            show_summary(summary)
            return summary

        return predict_with_seeds(items, out, settings, seeds, run)


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the flow of slides, and the figures of each task."""
    for line in evaluation.joined.flow.lines():
        say(line)
    for task in evaluation.tasks:
        _show_task(task, len(evaluation.seeds), evaluation.joined.answers.by)


def _show_task(task: TaskEvaluation, seeds: int, by: str) -> None:
    whole, *others = task.parts
    counts = ", ".join(f"{name} {words}" for name, words in task.task.counts(task.answered.targets).items())
    whom = units({"slides": whole.slides, "patients": whole.patients}, by)
    say(f"{task.task.spec.name}: {whom} ({counts})")
    if task.positive:
        say(f"positive class: {task.positive}")
    if task.rule:
        say(f"decided by: {task.rule}")
    rows = []
    for number, sampled in enumerate(whole.figures):
        spread = task.spread(number)
        over = ("" if spread is None else f"{spread[0]:.3f}",) if seeds else ()
        rows.append((_name(sampled.figure), *_words(sampled.interval), *over))
    extra = (f"sd over {seeds} seeds",) if seeds else ()
    _table(("figure", "value", "95 % over patients", *extra), rows)
    for by in dict.fromkeys(part.by for part in others):
        _show_parts(by, [part for part in others if part.by == by])


def _show_parts(by: str, parts: Sequence[Part]) -> None:
    """Print the first few figures of each site or fold; all are in the files."""
    rows = [
        (
            part.member,
            str(part.slides),
            str(part.patients),
            *(" ".join(_words(s.interval)) for s in part.figures[:SHORT]),
        )
        for part in parts
    ]
    _table((by, "slides", "patients", *(_name(s.figure) for s in parts[0].figures[:SHORT])), rows)


def show_comparison(task: TaskComparison, by: str) -> None:
    """Print the differences of two models' figures, and the tests."""
    whom = units({"slides": task.slides, "patients": task.patients}, by)
    say(f"{task.task.spec.name}: {whom} that both answer")
    rows = [
        (
            *(_name(each.difference.figure), f"{each.first:.3f}", f"{each.second:.3f}"),
            *(*_words(each.difference.interval), _p(each.p)),
        )
        for each in task.figures
    ]
    _table(("figure", "A", "B", "A - B", "95 % over patients", "p"), rows)
    for of, test in task.areas:
        what = f" of {of}" if of else ""
        interval = (
            f"{test.value:+.3f} [{test.low:+.3f}, {test.high:+.3f}], z = {test.z:.2f}, p = {_p(test.p)}"
        )
        say(f"DeLong, area under the ROC curve{what}: {interval if test.p == test.p else 'cannot be tested'}")
    if task.decisions is not None:
        d = task.decisions
        note = " (slides taken as independent, though patients have several)" if task.clustered else ""
        say(
            f"McNemar, decisions: A alone right on {d.first_alone}, B alone on {d.second_alone}, both on {d.both}, "
            f"neither on {d.neither}, p = {_p(d.p)}{note}"
        )


def _words(interval: Interval) -> tuple[str, str]:
    """Value and limits of an interval, or the word on why there is none."""
    value, _, rest = str(interval).partition(" ")
    return ("-" if value == "nan" else value), rest


def _name(figure: Figure) -> str:
    """Name of a figure as people write it."""
    words = figure.name.split("_")
    name = (
        "C-index" if figure.name == "c_index" else " ".join(w.upper() if w in SHOUTED else w for w in words)
    )
    return f"{name} ({figure.of})" if figure.of else name


def _p(value: float) -> str:
    return "-" if value != value else ("<0.001" if value < 0.0005 else f"{value:.3f}")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; no line is wrapped, so that it can be copied from a file, too."""
    every = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    for row in every:
        say("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _warn(said: str) -> None:
    complain(f"warning: {said}")
