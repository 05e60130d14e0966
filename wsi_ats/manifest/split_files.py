"""Files of splits, as other programs write and read them.

CLAM's `splits_{k}.csv`, one a fold: the columns train, val and test, whose cells are slides, the shorter ones filled up
with nothing, behind a column of numbers without a name (github.com/mahmoodlab/CLAM, README).
Patho-Bench's `k=all.tsv`, one for all folds: a row a slide, the columns case_id, slide_id, those of targets, and
fold_0, fold_1, ..., whose cells are train, val or test (huggingface.co/datasets/MahmoodLab/Patho-Bench).
"""

from __future__ import annotations

import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from wsi_ats.atomic import write_atomic
from wsi_ats.errors import ConfigError
from wsi_ats.manifest.cohort import Cohort
from wsi_ats.manifest.columns import column_called
from wsi_ats.manifest.names import SLIDE, known
from wsi_ats.manifest.rows import SPLITS, Row, Split
from wsi_ats.manifest.search import has_slide_suffix
from wsi_ats.manifest.table import Table, Warn, read_table
from wsi_ats.output import make_folder, writing
from wsi_ats.shown import cell, csv_bytes
from wsi_ats.tasks.texts import NOT_GIVEN, as_written

ALL_FOLDS = "k=all.tsv"
"""Name of Patho-Bench's file."""
FOLD = re.compile(r"fold[ _]?(\d+)", re.IGNORECASE)
NAMED = 3
"""Number of slides that a message names."""


def clam_bytes(rows: Sequence[Row]) -> bytes:
    """Content of CLAM's file for one fold.

    >>> rows = [Row(f"{n}.svs", "", "a", n, s, None) for n, s in (("x", "train"), ("y", "test"), ("z", "train"))]
    >>> print(clam_bytes(rows).decode())
    ,train,val,test
    0,x,,y
    1,z,,
    """
    names = names_in_files(rows)
    columns = [
        [name for name, row in zip(names, rows, strict=True) if row.split == split] for split in SPLITS
    ]
    lines = ([n, *cells] for n, cells in enumerate(zip_longest(*columns, fillvalue="")))
    return csv_bytes(["", *SPLITS], lines)


def patho_bench_bytes(folds: Sequence[Sequence[Row]], targets: Sequence[str]) -> bytes:
    """Content of Patho-Bench's file. folds: the same rows, in the same order, once a fold; targets: columns of targets.

    >>> fold = [Row("x.svs", "", "a", "P1", "train", None), Row("y.svs", "", "b", "P2", "test", None)]
    >>> print(patho_bench_bytes([fold, fold], ["label"]).decode().expandtabs(9))
    case_id  slide_id label    fold_0   fold_1
    P1       x        a        train    train
    P2       y        b        test     test
    """
    rows = folds[0]
    header = ["case_id", "slide_id", *targets, *(f"fold_{k}" for k in range(len(folds)))]
    lines = (
        [row.patient, name, *map(row.cell, targets), *(fold[i].split or "" for fold in folds)]
        for i, (row, name) in enumerate(zip(rows, names_in_files(rows), strict=True))
    )
    return csv_bytes(header, lines, "\t")


def write_splits(out: Path, folds: Sequence[Sequence[Row]], targets: Sequence[str], cohort: Cohort) -> None:
    """Write splits_0.csv and so on, k=all.tsv and cohort.csv into a folder, which is made.

    Raises `OutputError` where it cannot be written, `ConfigError` where it holds files of other folds.
    """
    names = [f"splits_{k}.csv" for k in range(len(folds))]
    others = sorted({path.name for path in out.glob("splits_*.csv")} - set(names))
    if others:
        raise ConfigError(
            f"{out} holds {others[0]}, which is none of these {len(folds)} folds",
            "give another --out, or empty it",
        )
    make_folder(out)
    with writing(out):
        for name, fold in zip(names, folds, strict=True):
            write_atomic(out / name, clam_bytes(fold))
        write_atomic(out / ALL_FOLDS, patho_bench_bytes(folds, targets))
        write_atomic(out / "cohort.csv", cohort.as_csv())


def names_in_files(rows: Sequence[Row]) -> list[str]:
    """What each slide is called in files of splits: its name without folder and suffix, where no other is called so."""
    short = [slide_stem(os.path.basename(row.slide)).strip() for row in rows]
    meant = _rows_by_name(rows)
    return [
        name if meant[name] == {i} else row.slide
        for i, (name, row) in enumerate(zip(short, rows, strict=True))
    ]


def read_splits(
    path: Path | str, rows: Sequence[Row], fold: int | None = None, *, warn: Warn = warnings.warn
) -> list[Row]:
    """The rows that a file of splits names, each with its split there, in their own order.

    Slides are known by path or by name, with or without suffix. fold: number of the fold, from 0, where the file has
    several. warn: gets how many rows the file leaves out. Raises `ConfigError` for a slide that the manifest has not,
    that may be several of it or that the file gives two splits, and for a file or a fold that cannot be meant.

    >>> from tempfile import TemporaryDirectory
    >>> rows = [Row(f"x/{name}.svs", "", "a", name, None, None) for name in "ab"]
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "splits_0.csv")
    ...     _ = path.write_text(",train,val,test\\n0,b,a,\\n")
    ...     [(row.slide, row.split) for row in read_splits(path, rows)]
    [('x/a.svs', 'val'), ('x/b.svs', 'train')]
    """
    table = read_table(Path(path), warn)
    named = _of_clam(table, fold) if known(table.columns, ["train"]) else _of_patho_bench(table, fold)
    split = _matched(table, named, rows)
    left_out = [row.slide for i, row in enumerate(rows) if i not in split]
    if left_out:
        warn(
            f"{path} has no split for {len(left_out)} of the manifest's slides, which are left out: {_listed(left_out)}"
        )
    return [replace(row, split=split[i]) for i, row in enumerate(rows) if i in split]


def _of_clam(table: Table, fold: int | None) -> list[tuple[str, Split]]:
    """Slides and their splits in CLAM's file."""
    if fold is not None:
        raise ConfigError(
            f"--fold is {fold}, and {table.path} is of one fold alone",
            "leave out --fold: each fold has a file",
        )
    named: list[tuple[str, Split]] = []
    for split in SPLITS:
        for column in known(table.columns, [split]):
            # Numbers beside empty cells are written as 1.0.
            given = [text for text in as_written(table.column(column)) if text not in NOT_GIVEN]
            named += [(text, split) for text in given]
    if named and {text.casefold() for text, _ in named} <= {"true", "false"}:
        raise ConfigError(
            f"{table.path} says True and False, and names no slides",
            "give splits_0.csv rather than splits_0_bool.csv",
        )
    return named


def _of_patho_bench(table: Table, fold: int | None) -> list[tuple[str, Split]]:
    """Slides and their splits in one fold of Patho-Bench's file."""
    folds = {int(found[1]): column for column in table.columns if (found := FOLD.fullmatch(column))}
    if not folds:
        raise ConfigError(
            f"{table.path} is no file of splits: its columns are {list(table.columns)}",
            "give CLAM's splits_0.csv (train, val, test) or Patho-Bench's k=all.tsv (slide_id, fold_0, ...)",
        )
    if fold is None and len(folds) > 1:
        raise ConfigError(f"{table.path} has {len(folds)} folds", "name one with --fold, 0 for the first")
    number = next(iter(folds)) if fold is None else fold
    if number not in folds:
        raise ConfigError(
            f"--fold is {fold}; {table.path} has the folds {', '.join(map(str, sorted(folds)))}",
            "name one of them",
        )
    column = folds[number]
    table.refuse(
        column,
        lambda text: text.casefold() not in SPLITS and text not in NOT_GIVEN,
        "; it must be train, val or test",
        "correct it, or leave it empty",
    )
    slide = next(iter(known(table.columns, SLIDE)), "") or column_called(
        table, "slide_id", "name the slides so"
    )
    splits = {split: split for split in SPLITS}
    return [
        (name, splits[text.casefold()])  # type: ignore[index]  # refused above
        for name, text in zip(as_written(table.column(slide)), table.column(column), strict=True)
        if text not in NOT_GIVEN
    ]


def _matched(table: Table, named: Iterable[tuple[str, Split]], rows: Sequence[Row]) -> dict[int, Split]:
    """Split of each row that is named, by the row's position."""
    by_name = _rows_by_name(rows)
    split: dict[int, Split] = {}
    absent: list[str] = []
    several: list[str] = []
    two: list[str] = []
    for name, side in named:
        meant = (
            by_name.get(name)
            or by_name.get(slide_stem(name))
            or by_name.get(slide_stem(os.path.basename(name)))
            or set()
        )
        if len(meant) != 1:
            (several if meant else absent).append(name)
            continue
        (position,) = meant
        if split.setdefault(position, side) != side:
            two.append(f"{name} ({split[position]} and {side})")
    for wrong, what, remedy in (
        (
            absent,
            "slide(s) that the manifest has not",
            "add them to the manifest, or take them out of the file",
        ),
        (
            several,
            "name(s) that several of the manifest's slides have",
            "write their paths as the manifest has them",
        ),
        (two, "slide(s) in two splits", "keep one of the two"),
    ):
        if wrong:
            raise ConfigError(f"{table.path} has {len(wrong)} {what}: {_listed(wrong)}", remedy)
    if not split:
        raise ConfigError(f"{table.path} gives no slide a split", "see that it is the right file and fold")
    return split


def _rows_by_name(rows: Sequence[Row]) -> Mapping[str, set[int]]:
    """Positions of the rows that a name may mean; a slide's whole path means it alone."""
    by_name: dict[str, set[int]] = defaultdict(set)
    for i, row in enumerate(rows):
        names = {row.slide, os.path.basename(row.slide), os.path.basename(str(row.path))}
        for name in names | {slide_stem(name) for name in names}:
            by_name[name.strip()].add(i)  # as cells of a table are read
    for i, row in enumerate(rows):
        by_name[row.slide] = {i}
    for name in list(by_name):
        by_name.setdefault(cell(name), by_name[name])  # as it stands in a file that was written here
    return by_name


def slide_stem(name: str) -> str:
    """A slide's name without its suffix, a double one (`.ome.tif`) too; other names as they are."""
    if not has_slide_suffix(name) and not name.lower().endswith(".zarr"):
        return name
    stem = os.path.splitext(name)[0]
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
