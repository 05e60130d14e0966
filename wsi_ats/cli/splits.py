"""`wsi-ats splits`: folds of a cohort as files that other programs read, after an audit of what they would leak."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_ats.cli.options import TABLES, ConfigFile, Group, Patient, Settings, Site, SlidesDir, Target
from wsi_ats.cli.terminal import complain, say
from wsi_ats.errors import ConfigError
from wsi_ats.output import check_folder


def splits(
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST", help=f"{TABLES} of labelled slides, as for train."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for splits_0.csv ..., k=all.tsv and cohort.csv.")],
    folds: Annotated[
        str,
        typer.Option(
            metavar="K|each", help="Number of folds, 3 or more; each: every group is kept out once."
        ),
    ],
    target: Target = None,
    slides_dir: SlidesDir = None,
    patient: Patient = None,
    group: Group = None,
    site: Site = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Write folds by patient and group as files of CLAM and Patho-Bench, and audit what they would leak."""
    from wsi_ats.config import load_config
    from wsi_ats.manifest import read_manifest
    from wsi_ats.manifest.audit import audit, refuse_leaks
    from wsi_ats.manifest.folds import folds_of
    from wsi_ats.manifest.split_files import write_splits
    from wsi_ats.tasks.settings import LABEL, columns_of_targets
    from wsi_ats.train.targets import ask, classes_of, targets_of

    check_folder(out, manifest)
    count, chosen = number_of_folds(folds), load_config(config, settings or ())
    rows = read_manifest(
        manifest,
        target or LABEL,
        columns_of_targets(chosen.tasks),
        patient=patient,
        group=group,
        site=site,
        slides_dir=slides_dir,
        warn=lambda words: complain(f"warning: {words}"),
    )
    tasks = ask(chosen, rows)
    strata = tasks[0].strata(targets_of(tasks, rows)[0])
    made = folds_of(rows, count, chosen.train.val_fraction, chosen.train.seed, strata)
    for fold in made:
        refuse_leaks(fold)
    tests = [
        next(f"fold {k}" for k, fold in enumerate(made) if fold[i].split == "test") for i in range(len(rows))
    ]
    found = audit(rows, classes_of(tasks[0], rows, strata), tests)
    write_splits(out, made, list(rows[0].cells) or [LABEL], found.cohort)
    for line in found.cohort.lines("test slides (patients) of each fold"):
        say(line)
    for words in found.warnings:
        complain(f"warning: {words}")
    say(f"{len(made)} folds: {out}")


def number_of_folds(text: str) -> int | Literal["each"]:
    """What --folds names. Raises `ConfigError`."""
    if text == "each":
        return "each"
    if not (text.isdecimal() and 3 <= int(text) <= 100):
        raise ConfigError(
            f"--folds is {text!r}; it must be a whole number from 3 to 100, or each", "5 is usual"
        )
    return int(text)
