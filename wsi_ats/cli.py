"""The command line: parsing, messages and exit statuses; the work is done elsewhere.

Exit status: 0 all done, 1 some slides failed, 2 bad arguments or settings, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console

from wsi_ats.errors import ConfigError, WsiAtsError

app = typer.Typer(
    name="wsi-ats",
    help="Classify gigapixel slides by attention sampling: a few dozen tiles a slide instead of all of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
Command = TypeVar("Command", bound=Callable[..., None])

Model = Annotated[Path, typer.Argument(help="Model folder, for example run/model.", metavar="MODEL")]
Tiles = Annotated[int, typer.Option(min=1, help="Tiles to read a slide.")]
Sampler = Annotated[str, typer.Option(help="systematic, gumbel, multinomial, top, or all (exact, slow).")]
Repeats = Annotated[
    int, typer.Option(min=1, help="Rounds the tiles are drawn in; their spread is the standard error.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]
Mpp = Annotated[
    float | None, typer.Option(help="Micrometres per pixel of slides that do not say, or say it wrong.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes CUDA where there is one.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="A setting, section.key=value; may be repeated.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of settings.")]


def main() -> None:
    """Entry point."""
    app()


def command(function: Command) -> Command:
    """Register a command; errors meant for the user become a message and an exit status."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except WsiAtsError as error:
            errors.print(f"error: {error}", style="red", markup=False)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            errors.print("interrupted; what was done is kept, and the same command goes on from there")
            raise typer.Exit(130) from None

    app.command()(wrapped)
    return function


@command
def train(
    manifest: Annotated[
        Path, typer.Argument(help="CSV or Parquet: slide, label, and optionally patient, split, mpp.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; the model lands in OUT/model.")],
    config: ConfigFile = None,
    settings: Settings = None,
    target: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    overwrite: Annotated[bool, typer.Option(help="Delete a run that is in OUT and start again.")] = False,
) -> None:
    """Train a classifier on labelled slides."""
    from wsi_ats.config import load_config
    from wsi_ats.manifest import read_manifest
    from wsi_ats.train.run import train as run

    result = run(
        read_manifest(manifest, target),
        load_config(config, settings or ()),
        out,
        say=_say,
        overwrite=overwrite,
    )
    console.print(f"validation AUC {result.val_auc}, {result.epochs} epochs, {result.seconds:.0f} s")
    console.print(f"model: {result.folder}")
    if result.failures:
        errors.print(f"{len(result.failures)} slide(s) could not be used: see {out / 'failures.csv'}")
        raise typer.Exit(1)


@command
def predict(
    model: Model,
    slides: Annotated[
        list[Path], typer.Argument(help="Slides, folders of slides, globs or manifests (.csv).")
    ],
    out: Annotated[Path, typer.Option(help="Folder for predictions.csv, failures.csv and slides/.")],
    tiles: Tiles = 64,
    sampler: Sampler = "systematic",
    repeats: Repeats = 4,
    seed: Seed = 0,
    mpp: Mpp = None,
    heatmaps: Annotated[bool, typer.Option(help="Write heatmap.png for every slide.")] = True,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Worker processes; 0: none, all in this one. Default: one a core."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Use an existing Dask cluster, tcp://host:port.")
    ] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Predict slides again that are done already.")] = False,
) -> None:
    """Classify slides; the same command again goes on where it was stopped."""
    from wsi_ats.batch.inputs import find_slides
    from wsi_ats.batch.progress import ProgressReport
    from wsi_ats.batch.run import run_batch
    from wsi_ats.batch.settings import PredictSettings
    from wsi_ats.sampling import find_sampler

    find_sampler(sampler)
    device = _device(device)
    items = find_slides(slides)
    with ProgressReport(errors) as report, _client(workers, scheduler, len(items), device) as client:
        summary = run_batch(
            items,
            out,
            PredictSettings(
                tiles=tiles, sampler=sampler, repeats=repeats, seed=seed, heatmap=heatmaps, mpp=mpp
            ),
            client,
            report,
            model=model,
            device=device,
            overwrite=overwrite,
            argv=sys.argv,
        )
    _show_summary(summary)
    if not summary.ok:
        raise typer.Exit(1)


@command
def heatmap(
    model: Model,
    slide: Annotated[Path, typer.Argument(help="One slide.")],
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .pdf or .svg.")] = Path("heatmap.png"),
    tiles: Tiles = 64,
    sampler: Sampler = "systematic",
    repeats: Repeats = 4,
    seed: Seed = 0,
    mpp: Mpp = None,
    size: Annotated[int, typer.Option(help="Longest side of the slide in the picture, px.")] = 1200,
    scale: Annotated[
        Literal["log", "linear", "percentile"], typer.Option(help="What the colours show.")
    ] = "log",
    cmap: Annotated[str, typer.Option(help="Colour map of matplotlib.")] = "turbo",
    alpha: Annotated[float, typer.Option(help="Opacity of the colours, 0 to 1.")] = 0.55,
    blur: Annotated[float, typer.Option(help="Gaussian blur, in cells.")] = 0.0,
    device: Device = "auto",
) -> None:
    """Draw the attention over one slide."""
    from wsi_ats.heatmap import HeatmapStyle
    from wsi_ats.slides import open_slide
    from wsi_ats.train.checkpoint import load_model

    style = HeatmapStyle(size=size, scale=scale, cmap=cmap, alpha=alpha, blur=blur)
    if out.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"--out is {out}; its suffix must be .png, .pdf or .svg")
    network = load_model(model, _device(device))
    with open_slide(slide, mpp=mpp) as handle:
        prediction = network.predict(handle, tiles, sampler, seed, repeats)
        prediction.heatmap(handle, style).save(out)
    console.print(_describe(prediction), markup=False)
    console.print(f"heatmap: {out}", markup=False)


@command
def info(
    slide: Annotated[Path, typer.Argument(help="One slide.")],
    mpp: Mpp = None,
    properties: Annotated[bool, typer.Option(help="All properties of the file, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what a slide is: size, levels, micrometres per pixel and where they come from, images it carries."""
    from wsi_ats.slides import open_slide

    with open_slide(slide, mpp=mpp) as handle:
        facts: dict[str, Any] = {
            "slide": handle.name,
            "backend": handle.backend,
            "size": list(handle.size),
            "mpp": handle.mpp_xy,
            "mpp source": handle.mpp_source,
            "levels": [
                {
                    "level": level.index,
                    "size": [level.size.width, level.size.height],
                    "downsample": [round(d, 4) for d in level.downsample],
                }
                for level in handle.levels
            ],
            "associated images": sorted(handle.associated_images),
        }
        if properties:
            facts["properties"] = dict(handle.properties)
    console.print_json(json.dumps(facts)) if as_json else _show_info(facts)


@command
def config(
    file: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Write there instead of to the terminal.")] = None,
) -> None:
    """Print every setting with its default and its meaning, as TOML for `train --config`."""
    from wsi_ats.config import load_config, template

    text = template(load_config(file, settings or ()))
    if out is None:
        console.print(text, markup=False, end="")
    else:
        out.write_text(text, encoding="utf-8")


@command
def doctor() -> None:
    """Check this installation: versions, devices, and whether slides can be written and read back."""
    from wsi_ats.doctor import checks

    failed = 0
    for check in checks():
        failed += not check.ok
        console.print("[green]ok[/]  " if check.ok else "[red]BAD[/] ", end="")
        console.print(f"{check.name}: {check.found}", markup=False)
        if not check.ok:
            console.print(f"     {check.remedy}", markup=False)
    if failed:
        raise typer.Exit(1)


@command
def demo(
    out: Annotated[Path, typer.Option(help="Folder for slides/, run/ and out/.")] = Path("demo"),
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Make synthetic slides, train on them, classify others, draw heatmaps: a few minutes, no data needed."""
    from wsi_ats.demo.run import run_demo

    for line in run_demo(out, seed, workers, _say).lines():
        console.print(line, markup=False)


def _say(line: str) -> None:
    console.print(line, markup=False)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name}: {str(error).splitlines()[0]}", remedy="use cpu or auto"
        ) from None
    return name


def _client(
    workers: int | None, scheduler: str | None, slides: int, device: str
) -> AbstractContextManager[Any]:
    from wsi_ats.batch.cluster import connect, local_cluster

    if scheduler is not None:
        if workers is not None:
            raise ConfigError(
                f"--workers {workers} and --scheduler {scheduler} contradict each other",
                remedy="give one of them",
            )
        return connect(scheduler)
    if workers is None:
        # Several processes may share a GPU, to read while another computes, but each takes memory on it.
        cores = os.cpu_count() or 1
        workers = min(cores if device == "cpu" else min(cores, 4), slides) if slides > 1 else 0
    return local_cluster(workers) if workers else nullcontext()


def _describe(prediction: Any) -> str:
    shares = ", ".join(
        f"{name} {p:.3f} ± {e:.3f}"
        for name, p, e in zip(prediction.classes, prediction.probabilities, prediction.stderr, strict=True)
    )
    return (
        f"{prediction.slide}: {shares}; {prediction.tiles_read} of {len(prediction.tissue)} tissue tiles read"
    )


def _show_summary(summary: Any) -> None:
    progress = summary.progress
    if summary.stages:
        stages = ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in summary.stages.items())
        console.print(f"seconds a slide, by stage: {stages}", markup=False)
    console.print(
        f"{progress.done} of {progress.total} slides done ({progress.known} of them before), {progress.failed} failed: "
        f"{summary.out / 'predictions.csv'}",
        markup=False,
    )
    for failure in summary.failures:
        errors.print(f"failed: {failure.slide}: {failure.error}", markup=False)
        if failure.remedy:
            errors.print(f"  remedy: {failure.remedy}", markup=False)


def _show_info(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if name == "levels":
            for level in value:
                (width, height), (x, y) = level["size"], level["downsample"]
                console.print(
                    f"level {level['level']}: {width} x {height} px, downsample {x:g} x {y:g}", markup=False
                )
        elif name == "properties":
            for key, text in value.items():
                console.print(f"  {key}: {text}", markup=False)
        elif name == "mpp" and value is None:
            console.print("mpp: unknown; give --mpp where it is needed, it is never guessed", markup=False)
        else:
            text = " x ".join(f"{v:g}" for v in value) if name in ("size", "mpp") else value
            text = ", ".join(text) or "none" if name == "associated images" else text
            console.print(f"{name}: {text}", markup=False)
