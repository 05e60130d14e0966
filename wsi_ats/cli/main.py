"""The command line: parsing, messages and exit statuses; the work is done elsewhere.

Exit status: 0 all done; 1 some slides failed; 2 not done, because of an argument, a setting, the one slide asked for,
or a place that cannot be written to; 130 interrupted by Ctrl-C; 143 ended by SIGTERM, as by SLURM at a time limit. An
interrupted `train` or `predict` goes on when the same command is given again.
"""

from __future__ import annotations

import errno
import functools
import io
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperGroup

from wsi_ats import __version__
from wsi_ats.cli.blank import NotBlank
from wsi_ats.cli.convert import convert
from wsi_ats.cli.device import device_named
from wsi_ats.cli.evaluate import compare, evaluate
from wsi_ats.cli.evidence import evidence
from wsi_ats.cli.export import export
from wsi_ats.cli.model_info import model_facts, model_of, show_model
from wsi_ats.cli.options import (
    TABLES,
    BadTiles,
    By,
    ConfigFile,
    Device,
    Group,
    Model,
    Mpp,
    OverrideMpp,
    Patient,
    Repeats,
    Sampler,
    Seed,
    Settings,
    Site,
    SlidesDir,
    Target,
    Tiles,
    Tolerance,
    Workers,
)
from wsi_ats.cli.report import WithReport, report, report_beside
from wsi_ats.cli.splits import number_of_folds, splits
from wsi_ats.cli.terminal import (
    complain,
    console,
    describe,
    errors,
    say,
    show_facts,
    show_summary,
    slide_facts,
    with_status,
)
from wsi_ats.cli.training import epoch_bar, train_with_seeds
from wsi_ats.errors import ConfigError
from wsi_ats.output import check_folder, make_folder, remedy_for, write_file
from wsi_ats.reading import Reading
from wsi_ats.regular import is_folder
from wsi_ats.shown import shown
from wsi_ats.train.processes import ONE_BY_ONE, here, refuse_several

USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
"""Class of complaints about arguments: of click, or of the click that newer versions of typer have in them."""


class Discreet(TyperGroup):
    """The commands, whose complaints about arguments show these as all text is shown: without secrets of URLs."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except USAGE_ERROR as error:
            error.__dict__["message"] = shown(str(error.__dict__.get("message")))
            raise


app = typer.Typer(
    name="wsi-ats",
    cls=Discreet,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # what is wrong with a command in one line, not in a box
)
Command = TypeVar("Command", bound=Callable[..., None])


def main() -> None:
    """Entry point of `wsi-ats`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    app()


def command(function: Command) -> Command:
    """A function registered as a command of `wsi-ats`."""
    resumable = function.__name__ in ("train", "predict", "convert", "evaluate", "compare")
    run = function if function.__name__ == "train" else _in_one_process(function)
    app.command(cls=NotBlank)(with_status(run, resumable))
    return function


def _in_one_process(function: Callable[..., None]) -> Callable[..., None]:
    """`function`, refused where `torchrun` starts it several times: each would do and write all of it."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        refuse_several(f"wsi-ats {function.__name__}", "torchrun is for train alone: start it without")
        function(*args, **kwargs)

    return wrapped


def _show_version(wanted: bool) -> bool:
    if wanted:
        say(f"wsi-ats {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Classify gigapixel slides by attention sampling: a few dozen tiles a slide instead of all of them."""


@command
def train(
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST",
            help=f"{TABLES}: slide, label (or columns of tasks), and optionally patient, split, mpp.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; the model lands in OUT/model.")],
    config: ConfigFile = None,
    settings: Settings = None,
    target: Target = None,
    slides_dir: SlidesDir = None,
    patient: Patient = None,
    group: Group = None,
    site: Site = None,
    by: By = None,
    split_file: Annotated[
        Path | None,
        typer.Option(
            "--splits",
            metavar="FILE",
            help="Splits from a file of `wsi-ats splits`, CLAM (splits_0.csv) or Patho-Bench (k=all.tsv).",
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(min=0, help="The fold of --splits, where its file has several; 0 is the first."),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="K|each",
            help="Cross-validate: a model for each of K folds, 3 or more, or, each, for each group kept out; "
            "OUT/predictions.csv then has an answer for every slide from a model that has not seen it.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Train N times, with train.seed and those that follow, on one split: OUT/seed-0 and so on; "
            "OUT/seeds.csv then says how much of each figure is chance.",
        ),
    ] = None,
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    tolerate_bad_tiles: Annotated[
        int | None, typer.Option(min=0, help="Sets train.tolerate_bad_tiles: such tiles are background.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Delete a run that is in OUT and start again.")] = False,
    with_report: WithReport = True,
) -> None:
    """Train a model on slides with labels, grades, numbers or times.

    In several processes, one a GPU: torchrun --nproc-per-node N -m wsi_ats train ...
    """
    from wsi_ats.config import load_config

    # What needs no slide and no manifest is told first, before libraries that take seconds to import.
    if folds is not None:
        refuse_several("--folds", ONE_BY_ONE)
        number_of_folds(folds)
    if seeds is not None:
        refuse_several("--seeds", ONE_BY_ONE)
    _refuse_two_splits(split_file, fold, folds)
    check_folder(out, manifest)
    settings = list(settings or ())
    if by is not None:
        settings.append(f"train.by={by}")
    if tolerate_bad_tiles is not None:
        settings.append(f"train.tolerate_bad_tiles={tolerate_bad_tiles}")
    chosen = load_config(config, settings)
    if seeds is not None and folds is not None:
        raise ConfigError(f"--seeds is {seeds} and --folds is {folds}", "give one of them")
    if target is not None and chosen.tasks:
        raise ConfigError(
            f"--target is {target} and the settings name the tasks {', '.join(chosen.tasks)}",
            remedy="give one of them; tasks.NAME.target names the column of a task",
        )
    rows = _labelled(
        manifest,
        target,
        chosen,
        mpp,
        override_mpp,
        patient=patient,
        group=group,
        site=site,
        slides_dir=slides_dir,
    )
    if split_file is not None:
        from wsi_ats.manifest.split_files import read_splits

        rows = read_splits(split_file, rows, fold, warn=_warn)
    if folds is not None:
        _cross_validate(rows, folds, chosen, out, overwrite, with_report)
        return
    if seeds is not None:
        train_with_seeds(rows, seeds, chosen, out, overwrite, with_report)
        return
    from wsi_ats.train.run import train as run

    with epoch_bar() as on_progress:
        result = run(rows, chosen, out, say=say, overwrite=overwrite, on_progress=on_progress)
    if not here().is_first:
        return
    say(f"validation {result.headline}, {result.epochs} epochs, {result.seconds:.0f} s")
    say(f"model: {result.folder}")
    if with_report:
        report_beside(out, rows)
    if result.failures:
        complain(f"{len(result.failures)} {chosen.train.by}(s) could not be used: see {out / 'failures.csv'}")
        raise typer.Exit(1)


def _labelled(
    manifest: Path,
    target: str | None,
    config: Any,
    mpp: float | None,
    override_mpp: float | None,
    **how: str | None,
) -> list[Any]:
    """Rows of a manifest for the tasks of the settings, with the scales of the command; `how` is of `read_manifest`."""
    from wsi_ats.manifest import read_manifest
    from wsi_ats.tasks.settings import LABEL, columns_of_targets

    rows = read_manifest(manifest, target or LABEL, columns_of_targets(config.tasks), warn=_warn, **how)
    return [replace(row, mpp=override_mpp if row.mpp is None else row.mpp, default_mpp=mpp) for row in rows]


def _refuse_two_splits(file: Path | None, fold: int | None, folds: str | None) -> None:
    if file is None and fold is not None:
        raise ConfigError(f"--fold is {fold}, and no file of splits is given", "give it with --splits")
    if file is not None and folds is not None:
        raise ConfigError(f"--splits is {file} and --folds is {folds}", "give one of them")


def _cross_validate(
    rows: list[Any], folds: str, config: Any, out: Path, overwrite: bool, with_report: bool
) -> None:
    """Train and answer fold by fold."""
    from wsi_ats.manifest.folds import folds_of
    from wsi_ats.train.targets import ask, targets_of

    count = number_of_folds(folds)
    tasks = ask(config, rows)
    strata = tasks[0].strata(targets_of(tasks, rows)[0])
    how = config.train
    made = folds_of(rows, count, how.val_fraction, how.seed, strata)
    from wsi_ats.train.folds import cross_validate  # takes seconds to import

    with epoch_bar() as on_progress:
        result = cross_validate(made, config, out, say=say, overwrite=overwrite, on_progress=on_progress)
    say(
        f"{result.answered} of {result.asked} {config.train.by}s answered by models that have not seen them: "
        f"{out / 'predictions.csv'}"
    )
    if with_report:
        report_beside(out, rows)
    if result.failures:
        complain(
            f"{len(result.failures)} {config.train.by}(s) could not be used: see the failures.csv of each fold"
        )
        raise typer.Exit(1)


@command
def predict(
    model: Model,
    slides: Annotated[
        list[str],  # a Path would make one slash of the two in a URL
        typer.Argument(
            metavar="SLIDES", help=f"Slides, folders of slides, globs, URLs or manifests ({TABLES})."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for predictions.csv, failures.csv and slides/.")],
    tiles: Tiles = None,
    tolerance: Tolerance = None,
    sampler: Sampler = "systematic",
    repeats: Repeats = None,
    seed: Seed = 0,
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    tolerate_bad_tiles: BadTiles = 0,
    slides_dir: SlidesDir = None,
    patient: Patient = None,
    by: By = None,
    heatmaps: Annotated[bool, typer.Option(help="Write heatmap.png for every slide.")] = True,
    workers: Workers = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Use an existing Dask cluster, tcp://host:port.")
    ] = None,
    device: Device = "auto",
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Time that a slide may take before it fails; 0: any. Default: 1800, any with --sampler all.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Predict slides again that are done already.")] = False,
) -> None:
    """Classify slides, or patients by all their slides; the same command again goes on where it was stopped."""
    from wsi_ats.batch.cluster import client_for
    from wsi_ats.batch.inputs import find_slides
    from wsi_ats.batch.patients import items_by, refuse_without_manifest
    from wsi_ats.batch.progress import ProgressReport
    from wsi_ats.batch.run import run_batch
    from wsi_ats.batch.settings import PredictSettings
    from wsi_ats.model_folder import model_hash, read_by

    # What is wrong with the command is told before worker processes are started.
    check_folder(out, *slides)
    reading = Reading.of(tiles, sampler, seed, repeats, tolerance)
    how = PredictSettings(
        **asdict(reading),
        heatmap=heatmaps,
        mpp=mpp,
        override_mpp=override_mpp,
        tolerate_bad_tiles=tolerate_bad_tiles,
    )
    device = device_named(device)
    model_hash(model)
    if by == "patient":
        refuse_without_manifest(slides)
    found = find_slides(slides, slides_dir=slides_dir, patient=patient, warn=_warn)
    about, items = items_by(by, read_by(model), found, _warn)
    how = replace(how, by=about)
    make_folder(out)
    cluster = client_for(len(items), workers=workers, scheduler=scheduler, device=device)
    with ProgressReport(errors) as report, cluster as client:
        summary = run_batch(
            items,
            out,
            how,
            client,
            report,
            model=model,
            device=device,
            overwrite=overwrite,
            argv=sys.argv,
            timeout=timeout,
        )
    show_summary(summary)
    if not summary.ok:
        raise typer.Exit(1)


@command
def heatmap(
    model: Model,
    slide: Annotated[str, typer.Argument(metavar="SLIDE", help="One slide: a path or a URL.")],
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .pdf or .svg.")] = Path("heatmap.png"),
    tiles: Tiles = None,
    tolerance: Tolerance = None,
    sampler: Sampler = "systematic",
    repeats: Repeats = None,
    seed: Seed = 0,
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    tolerate_bad_tiles: BadTiles = 0,
    panel: Annotated[
        Literal["both", "attention", "contributions"],
        typer.Option(
            help="What is drawn: where the model looked, what each tile added to the answer, or both."
        ),
    ] = "both",
    size: Annotated[int, typer.Option(help="Longest side of the slide in each panel, px.")] = 900,
    scale: Annotated[
        Literal["log", "linear", "percentile"], typer.Option(help="What the attention's colours show.")
    ] = "log",
    limits: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Ends of the attention's colours, in multiples or percent, alike for several slides.",
        ),
    ] = None,
    contribution_limit: Annotated[
        float | None, typer.Option(help="Contribution of the full colours, alike for several slides.")
    ] = None,
    cmap: Annotated[
        str, typer.Option(help="Colour map of the attention: tissue (green to yellow) or any of matplotlib.")
    ] = "tissue",
    alpha: Annotated[float, typer.Option(help="Opacity of the attention's colours, 0 to 1.")] = 0.7,
    blur: Annotated[float, typer.Option(help="Gaussian blur of the attention, in cells.")] = 0.0,
    dark: Annotated[bool, typer.Option("--dark", help="Light words on dark.")] = False,
    task: Annotated[
        str | None, typer.Option(help="Task whose answer the picture names; the main one by default.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Draw over one slide where the model looked, and what each tile added to the answer; tasks share the attention."""
    from wsi_ats.batch.inputs import one_slide
    from wsi_ats.heatmap.style import HeatmapStyle
    from wsi_ats.model_folder import load_model
    from wsi_ats.slides import open_slide

    style = HeatmapStyle(
        size=size,
        panels=panel,
        scale=scale,
        limits=limits,
        contribution_limit=contribution_limit,
        cmap=cmap,
        alpha=alpha,
        blur=blur,
        dark=dark,
    )
    if out.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"--out is {out}; its suffix must be .png, .pdf or .svg", "name it so: heatmap.png")
    _check_place(out)
    slide = one_slide(slide)
    reading = Reading.of(tiles, sampler, seed, repeats, tolerance)
    network = load_model(model, device_named(device))
    opened = open_slide(
        slide,
        mpp=override_mpp,
        default_mpp=mpp,
        srgb=network.srgb,
        tolerate_bad_tiles=tolerate_bad_tiles,
    )
    with opened as handle:
        prediction = network.read(handle, reading)
        if task is not None:
            prediction = prediction.about(task)
        picture = prediction.heatmap(handle, style).encode(out.suffix[1:])
    _write(out, picture)
    if handle.bad_tiles:
        complain(f"{len(handle.bad_tiles)} damaged tile(s) were read as background")
    say(describe(prediction))
    say(f"heatmap: {out}")


@command
def calibrate(
    model: Model,
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST", help=f"{TABLES} of 6 labelled slides or more; 20 are good."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the calibrated model; must not exist.")],
    target: Target = None,
    tiles: Tiles = None,
    seed: Seed = 0,
    slides_dir: SlidesDir = None,
    patient: Patient = None,
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    device: Device = "auto",
) -> None:
    """Make a model's probabilities and threshold hold on slides of one's own, from a few with labels."""
    from wsi_ats.manifest.rows import of_train
    from wsi_ats.model_folder import load_model
    from wsi_ats.train.calibrate import calibrate_model

    check_folder(out, manifest)
    network = load_model(model, device_named(device))
    rows = _labelled(
        manifest, target, network.config, mpp, override_mpp, patient=patient, slides_dir=slides_dir
    )
    trained = of_train(rows)
    if trained:
        _warn(
            f"{trained}: a model is too sure of what it was trained on, "
            "and what is fitted to them does not hold for others; leave them out of the manifest"
        )
    calibrated, failures = calibrate_model(
        network, model, rows, Reading.of(tiles, seed=seed), out, manifest.name, say=say
    )
    for words in (*calibrated.done, *calibrated.missing):
        say(words)
    say(f"model: {out}")
    for failure in failures:
        complain(f"left out {failure.slide}: {failure.error}")
    if failures:
        raise typer.Exit(1)


@command
def info(
    slide: Annotated[
        str, typer.Argument(metavar="SLIDE|MODEL", help="One slide, a path or a URL; or a model folder.")
    ],
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    properties: Annotated[bool, typer.Option(help="All properties of the file, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what a slide is: size, levels, micrometres per pixel and where they come from, images it carries; or what a
    model is: classes, scales, calibration, threshold."""
    from wsi_ats.batch.inputs import one_slide
    from wsi_ats.slides import open_slide

    model = model_of(slide)
    if model is not None:
        known = model_facts(model)
        console.print_json(json.dumps(known)) if as_json else show_model(known)
        return
    with open_slide(one_slide(slide), mpp=override_mpp, default_mpp=mpp) as handle:
        facts = slide_facts(handle)
        if properties:
            facts["properties"] = dict(handle.properties)
    console.print_json(json.dumps(facts)) if as_json else show_facts(facts)


command(convert)
command(splits)
command(evaluate)
command(compare)
command(report)
command(evidence)
command(export)


@command
def config(
    file: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Write there instead of to the terminal.")] = None,
) -> None:
    """Print every setting with its default and its meaning, as TOML for `train --config`."""
    from wsi_ats.config import holds_settings, load_config, template

    if out is not None and out.is_file() and out.stat().st_size and not holds_settings(out):
        raise ConfigError(
            f"--out {out} is there and holds no settings: it would be lost",
            "give another name, or move it away",
        )
    text = template(load_config(file, settings or ()))
    if out is None:
        console.print(text, markup=False, end="")
    else:
        _write(out, text.encode())


@command
def doctor() -> None:
    """Check this installation: versions, devices, and whether slides can be written and read back."""
    from wsi_ats.cli.doctor import checks

    failed = 0
    for check in checks():
        failed += not check.ok
        console.print("[green]ok[/]  " if check.ok else "[red]BAD[/] ", end="")
        say(f"{check.name}: {check.found}")
        if not check.ok:
            say(f"     {check.remedy}")
    if failed:
        raise typer.Exit(1)


@command
def demo(
    out: Annotated[Path, typer.Option(help="Folder for slides/, run/ and out/.")] = Path("demo"),
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Make synthetic slides, train on them, classify others, draw heatmaps: a few minutes, no data needed."""
    from wsi_ats.demo import run_demo

    for line in run_demo(out, seed, workers, say).lines():
        say(line)


def _warn(said: str) -> None:
    complain(f"warning: {said}")


def _check_place(file: Path) -> None:
    if is_folder(file):
        raise ConfigError(f"--out {file} is a folder; it must name a file", remedy_for(errno.EISDIR))
    check_folder(file.parent)


def _write(path: Path, content: bytes) -> None:
    _check_place(path)
    make_folder(path.parent)
    write_file(path, content, f"--out {path}")
