"""`wsi-ats convert`: any slide to OME-Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wsi_ats.cli.options import BadTiles, Mpp, OverrideMpp
from wsi_ats.cli.terminal import complain, errors, say
from wsi_ats.errors import ConfigError


def convert(
    slide: Annotated[str, typer.Argument(metavar="SLIDE", help="One slide: a path or a URL.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, best NAME.ome.zarr.")],
    codec: Annotated[
        Literal["zstd", "blosc", "lz4", "jpeg"],
        typer.Option(help="jpeg copies the slide's own JPEG tiles, bit for bit; the others are lossless."),
    ] = "zstd",
    ngff: Annotated[Literal["0.5", "0.4"], typer.Option(help="Version of OME-Zarr.")] = "0.5",
    verify: Annotated[
        Literal["sample", "all", "none"], typer.Option(help="What is read back and compared with the slide.")
    ] = "sample",
    tissue: Annotated[
        bool,
        typer.Option("--tissue", help="Write the tissue mask along, as the label image `labels/tissue`."),
    ] = False,
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    tolerate_bad_tiles: BadTiles = 0,
    overwrite: Annotated[bool, typer.Option(help="Delete the Zarr store that is at OUT.")] = False,
) -> None:
    """Convert a slide to OME-Zarr; the same command again goes on where it was stopped."""
    from wsi_ats.batch.inputs import one_slide
    from wsi_ats.convert.plan import Settings
    from wsi_ats.convert.run import convert as run
    from wsi_ats.convert.tissue_label import NAME, tissue_label, tissue_view
    from wsi_ats.manifest.search import has_slide_suffix
    from wsi_ats.slides import open_slide

    if has_slide_suffix(out.name):
        raise ConfigError(
            f"OUT is {out}, a name of a file, and a folder is written", "let it end in .ome.zarr"
        )
    settings = Settings(codec, ngff, verify)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        open_slide(
            one_slide(slide), mpp=override_mpp, default_mpp=mpp, tolerate_bad_tiles=tolerate_bad_tiles
        ) as handle,
        Progress(*columns, console=errors, disable=not errors.is_terminal) as bar,
    ):
        if tissue:
            tissue_view(handle)  # a scale that is missing is told before hours of work
        task = bar.add_task("begin")
        done = run(
            handle,
            out,
            settings,
            labels={NAME: tissue_label} if tissue else {},
            overwrite=overwrite,
            progress=lambda what, at, of: bar.update(task, description=what, completed=at, total=of),
        )
    for level, (width, height) in enumerate(done.levels):
        say(f"level {level}: {width} x {height} px{' (copied)' if level < done.copied else ''}")
    for note in handle.notes:
        complain(f"note: {note}")
    if done.bad_tiles:
        say(f"{len(done.bad_tiles)} damaged tile(s) became background")
    say(f"{done.written / 1e6:.1f} MB written to {done.path}")
