"""Options and arguments that several commands take, each said in one way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_ats.catalogue import SAMPLERS
from wsi_ats.reading import ADAPTIVE_TILES, REPEATS, TILES

TABLES = "CSV, TSV, xlsx or Parquet"
"""Kinds of manifests, in the words of the help; `.txt` and other names of text are read by their content."""

Model = Annotated[Path, typer.Argument(help="Model folder, for example run/model.", metavar="MODEL")]
Tiles = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Tiles to read a slide or, by patient, a patient ({TILES}); with --tolerance the most to read "
        f"({ADAPTIVE_TILES}).",
    ),
]
Sampler = Annotated[
    str,
    typer.Option(
        help="How tiles are drawn. "
        + "; ".join(f"{name}: {entry.summary}" for name, entry in SAMPLERS.items() if not entry.research)
        + "."
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Rounds the drawn tiles are dealt out to ({REPEATS}); the answers without each of them give standard "
        "error and interval.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Read until the 95 % interval of every probability reaches no farther than this, 0.05 for example: few "
        "tiles of an easy slide, more of a hard one.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]
Mpp = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=1000,
        help="Micrometres per pixel of slides that do not say; no effect on those that do.",
    ),
]
OverrideMpp = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=1000,
        help="Micrometres per pixel that win over what slides say; where the two differ, a note says so.",
    ),
]
BadTiles = Annotated[
    int, typer.Option(min=0, help="So many damaged tiles a slide may be read as background.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes CUDA where there is one.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of settings.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Worker processes; 0: none, all in this one. Default: one a core."),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of the classes; that of the model, or label, by default. Other tasks are settings.",
    ),
]
SlidesDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder that the paths in a manifest start at, instead of the manifest's own; names without a folder are "
        "also found deeper in it.",
    ),
]
Patient = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of the patients in a manifest; none: there is none. Default: the one with a common name.",
    ),
]
By = Annotated[
    Literal["slide", "patient"] | None,
    typer.Option(
        help="One answer a slide, or one a patient from tiles drawn from all slides at once. Default: as the model was "
        "trained, and that by slide.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of what must be on one side of a split, beside patients: site, scanner, block.",
    ),
]
Site = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of the sites that slides come from, for tables and warnings; none: there is none. Default: the "
        "one with a common name.",
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="A setting, section.key=value; may be repeated.")
]
