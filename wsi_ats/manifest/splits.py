"""Splits: which slides are trained on, and which are kept to choose the epoch by; no patient is on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

import numpy as np

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.rows import Row


def with_splits(
    rows: Sequence[Row], val_fraction: float, seed: int, strata: Sequence[str | None] | None = None
) -> list[Row]:
    """The rows with a split each: the manifest's own, or one by patient and group, stratified.

    strata: what each row counts for, by default its class; each must be on both sides, but for None. No patient and no
    group is ever on both sides. Where the manifest has `train` and `test` alone, `val` is taken from `train`. Raises
    `ConfigError` where a stratum has too few patients for that.
    """
    splits = {row.split for row in rows}
    if None not in splits and splits != {"train", "test"}:
        return list(rows)
    if None in splits and len(splits) > 1:
        raise ConfigError(
            "the manifest gives some slides a split and others none; fill the column or drop it"
        )
    strata = [f"class {row.label!r}" for row in rows] if strata is None else strata
    units = units_of(rows)
    free = [row.split != "test" for row in rows]
    held_out = held_out_units([*compress(units, free)], [*compress(strata, free)], val_fraction, seed)
    return [
        replace(row, split="val" if unit in held_out else "train") if mine else row
        for row, unit, mine in zip(rows, units, free, strict=True)
    ]


def units_of(rows: Sequence[Row]) -> list[str]:
    """What each row must stay together with: its patient or, where groups are named, all patients and groups that it
    is linked to. Named by the least of these patients.

    >>> rows = [Row(str(i), "", "a", p, None, None, group=g) for i, (p, g) in enumerate(["ax", "ay", "by", "cz"])]
    >>> units_of(rows)  # patient a has slides of the groups x and y, and y has slides of b, too
    ['a', 'a', 'a', 'c']
    """
    patients = sorted({row.patient for row in rows})
    parent = {("patient", patient): ("patient", patient) for patient in patients}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for row in rows:
        if row.group:
            parent[root(("group", row.group))] = root(("patient", row.patient))
    least: dict[tuple[str, str], str] = {}
    for patient in patients:
        least.setdefault(root(("patient", patient)), patient)
    return [least[root(("patient", row.patient))] for row in rows]


def held_out_units(
    units: Sequence[str], strata: Sequence[str | None], fraction: float, seed: int
) -> set[str]:
    """Units to keep from training, about that fraction of those of each stratum, one at least.

    units, strata: of each row; a stratum must be on both sides, but for None. Raises `ConfigError` where it cannot.
    """
    of: dict[str, set[str | None]] = {}
    for unit, stratum in zip(units, strata, strict=True):
        of.setdefault(unit, set()).add(stratum)
    if any(len(having) > 1 for having in of.values()):
        return _of_several_strata(units, strata, fraction, seed)
    rng, held_out = np.random.default_rng(seed), set[str]()
    single = {unit: next(iter(having)) for unit, having in of.items()}
    for stratum in sorted(set(single.values()), key=lambda stratum: (stratum is None, stratum or "")):
        mine = sorted(unit for unit, own in single.items() if own == stratum)
        count = max(1, round(fraction * len(mine))) if stratum else int(fraction * len(mine))
        if count >= len(mine):
            raise _too_few(stratum, len(mine))
        held_out.update(rng.permutation(mine)[:count].tolist())
    return held_out


def balanced_parts(
    units: Sequence[str], strata: Sequence[str | None], parts: int, seed: int
) -> list[set[str]]:
    """Units of each of so many parts, which have the strata in much the same proportions; whatever the rows' order."""
    from sklearn.model_selection import StratifiedGroupKFold  # takes a while to import

    pairs = sorted(
        zip(units, strata, strict=True), key=lambda pair: (pair[0], pair[1] is None, pair[1] or "")
    )
    names = sorted(set(strata), key=lambda name: (name is None, name or ""))
    codes, array = [names.index(name) for _, name in pairs], np.asarray([unit for unit, _ in pairs])
    splitter = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
    return [set(array[part].tolist()) for _, part in splitter.split(np.zeros(len(pairs)), codes, array)]


def _of_several_strata(
    units: Sequence[str], strata: Sequence[str | None], fraction: float, seed: int
) -> set[str]:
    """Units to keep from training, where units have rows of several strata, as sites have."""
    names = sorted({stratum for stratum in strata if stratum is not None})
    count = len(set(units))
    most = max(2, round(1 / fraction))
    for parts in range(min(most, count), 1, -1):
        for held_out in balanced_parts(units, strata, parts, seed):
            sides = {(stratum, unit in held_out) for unit, stratum in zip(units, strata, strict=True)}
            if all((name, side) in sides for name in names for side in (True, False)):
                return held_out
    raise _too_few(" and ".join(names), count)


def _too_few(stratum: str | None, count: int) -> ConfigError:
    return ConfigError(
        f"{stratum} has {count} patient(s): too few to hold some out for validation",
        remedy="add slides of that kind, or give the manifest a `split` column",
    )
