"""Splits: which slides are trained on, and which are kept to choose the epoch by; no patient is on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.rows import Row


def with_splits(
    rows: Sequence[Row], val_fraction: float, seed: int, groups: Sequence[str | None] | None = None
) -> list[Row]:
    """The rows with a split each: the manifest's own, or one by patient, stratified by group.

    groups: which one each row is of, by default that of its label; each must be on both sides, but for None. No
    patient is ever on both sides. Raises `ConfigError` where a group has too few patients for that.
    """
    if all(row.split is not None for row in rows):
        return list(rows)
    if any(row.split is not None for row in rows):
        raise ConfigError(
            "the manifest gives some slides a split and others none; fill the column or drop it"
        )
    groups = [f"class {row.label!r}" for row in rows] if groups is None else groups
    of = {row.patient: group for row, group in zip(rows, groups, strict=True)}
    held_out = _held_out_patients(of, val_fraction, np.random.default_rng(seed))
    return [replace(row, split="val" if row.patient in held_out else "train") for row in rows]


def _held_out_patients(
    group_of: Mapping[str, str | None], fraction: float, rng: np.random.Generator
) -> set[str]:
    held_out: set[str] = set()
    for group in sorted(set(group_of.values()), key=lambda group: (group is None, group or "")):
        patients = sorted(p for p, own in group_of.items() if own == group)
        count = max(1, round(fraction * len(patients))) if group else int(fraction * len(patients))
        if count >= len(patients):
            raise ConfigError(
                f"{group} has {len(patients)} patient(s): too few to hold some out for validation",
                remedy="add slides of that kind, or give the manifest a `split` column",
            )
        held_out.update(rng.permutation(patients)[:count])
    return held_out
