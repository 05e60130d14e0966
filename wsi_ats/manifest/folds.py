"""Folds of a cross-validation: every slide is kept for a test once, and nothing that must stay together is parted.

What must stay together, a unit, is a patient's slides and, where groups are named (a site, a scanner, a block), those
of a group: patients that share a group and groups that share a patient are one unit. Inside each fold some of the other
units are kept to choose the epoch, calibrate and set the threshold by: nested validation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.rows import Row
from wsi_ats.manifest.splits import balanced_parts, held_out_units, units_of
from wsi_ats.shown import counted


def folds_of(
    rows: Sequence[Row],
    k: int | Literal["each"],
    val_fraction: float,
    seed: int,
    strata: Sequence[str | None] | None = None,
) -> list[list[Row]]:
    """The rows once a fold, each with its split: test, and train or val of what is left.

    k: number of folds, whose classes are as balanced as units allow, or "each": every group once (leave one group out).
    strata: which class each row counts for, by default that of its label; None where it does not matter. The same rows
    in another order give the same folds. Raises `ConfigError` where a class has too few units, and for rows that have a
    split already.

    >>> rows = [Row(f"{i}.svs", "", ("a", "b")[i % 2], f"patient {i // 2}", None, None) for i in range(24)]
    >>> folds = folds_of(rows, 3, 0.25, seed=0)
    >>> [sum(row.split == "test" for row in fold) for fold in folds]
    [8, 8, 8]
    """
    if any(row.split is not None for row in rows):
        raise ConfigError(
            "the manifest has a column of splits, and folds are to be made",
            remedy="drop the column; to train on its splits, leave out --folds",
        )
    classes = [f"class {row.label!r}" for row in rows] if strata is None else list(strata)
    units = units_of(rows)
    tests = _each_group(rows) if k == "each" else _balanced(units, classes, k, seed)
    return [_fold(rows, units, classes, test, val_fraction, seed) for test in tests]


def _each_group(rows: Sequence[Row]) -> list[set[str]]:
    """Units of each group, in the order of the groups' names."""
    units = units_of(rows)
    of: dict[str, set[str]] = defaultdict(set)
    for row, unit in zip(rows, units, strict=True):
        of[row.group or row.patient].add(unit)
    if len(of) < 3 or len(set(units)) < 3:
        raise ConfigError(
            f"{counted(len(set(units)), 'group')} without a patient in common; one each for training, validation and "
            "test are needed",
            remedy="name another column with --group, or give a number of --folds",
        )
    return list({frozenset(units): set(units) for _, units in sorted(of.items())}.values())


def _balanced(units: Sequence[str], classes: Sequence[str | None], k: int, seed: int) -> list[set[str]]:
    """Units of each of k folds."""
    having: dict[str | None, set[str]] = defaultdict(set)
    for unit, name in zip(units, classes, strict=True):
        having[name].add(unit)
    for name, members in having.items():
        if name is not None and len(members) < max(k, 3):
            raise ConfigError(
                f"{name} has {counted(len(members), 'patient')} (or groups of them): too few for {k} folds, each with "
                "training, validation and test",
                remedy=f"use --folds {len(members)}" if len(members) >= 3 else "add slides of that kind",
            )
    return balanced_parts(units, classes, k, seed)


def _fold(
    rows: Sequence[Row],
    units: Sequence[str],
    classes: Sequence[str | None],
    test: set[str],
    val_fraction: float,
    seed: int,
) -> list[Row]:
    rest = [(unit, name) for unit, name in zip(units, classes, strict=True) if unit not in test]
    val = held_out_units([unit for unit, _ in rest], [name for _, name in rest], val_fraction, seed)

    def split(unit: str) -> Literal["train", "val", "test"]:
        return "test" if unit in test else "val" if unit in val else "train"

    return [replace(row, split=split(unit)) for row, unit in zip(rows, units, strict=True)]
