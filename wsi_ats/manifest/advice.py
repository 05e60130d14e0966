"""Advice on a manifest for training: what is no error and may still make figures look better than they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from wsi_ats.manifest.entries import Entry
from wsi_ats.manifest.names import LIKE_PATIENT, PATIENT, SITE, SLIDE, known, plain
from wsi_ats.manifest.table import Table, Warn
from wsi_ats.tasks.texts import NOT_GIVEN

MOST_SLIDES = 20
"""Mean number of slides that a column may group and still be taken for one of patients."""
ID = re.compile(r"(^|[\s_.-])(id|nr|no|number|code|barcode|accession|mrn|key)$|(?-i:ID)$", re.IGNORECASE)
"""Ends of names of columns that hold ids."""
CODE = re.compile(r"[A-Za-z]+[-_ ]?\d[\w-]*")
"""Texts of ids: letters, then a number."""
BARCODE = re.compile(r"TCGA-\w{2}-\w{4}")
"""Beginning of TCGA's names of slides: that of the patient."""


def advise(
    table: Table,
    entries: Sequence[Entry],
    targets: Mapping[str, Sequence[str]],
    patients: str,
    *,
    asked: bool,
    warn: Warn,
) -> None:
    """Warn of patients that may not be recognised."""
    if not asked:
        _unknown_patients(table, entries, targets, patients, warn)
    if patients:
        tell_without_patient(table, patients, warn)


def tell_without_patient(table: Table, patients: str, warn: Warn) -> None:
    """Tell of rows without a patient where others have one: a cell that was left out for being that above it, too."""
    rows = [position for position, cell in enumerate(table.column(patients)) if cell in NOT_GIVEN]
    if rows and len(rows) < len(table.rows):
        warn(
            f"manifest {table.path}: column {patients!r} is empty in {len(rows)} of {len(table.rows)} rows "
            f"(number {table.listed(rows)}): each of these slides counts as a patient of its own; write the patient "
            "into every row where that is not meant"
        )


def _unknown_patients(
    table: Table,
    entries: Sequence[Entry],
    targets: Mapping[str, Sequence[str]],
    patients: str,
    warn: Warn,
) -> None:
    for column in known(table.columns, PATIENT):
        if patients and column != patients and not _refines(table.column(patients), table.column(column)):
            warn(
                f"column {patients!r} names the patients; {column!r} groups the slides otherwise: give --patient "
                "with the column that is meant"
            )
            return
    if patients:
        return
    taken = {plain(name) for name in (*targets, *SLIDE, *SITE, "split", "mpp")}
    for column in table.columns:
        if plain(column) not in taken and _looks_like_patients(column, table.column(column)):
            groups = len(set(table.column(column)))
            warn(
                f"column {column!r} looks like one of patients ({groups} for {len(entries)} slides) and is not used: "
                f'give --patient "{column}" so that no patient is on both sides of a split, or --patient none'
            )
            return
    codes = [found[0] for entry in entries if (found := BARCODE.search(entry.slide))]
    if len(set(codes)) < len(codes):
        warn(
            f"{len(codes)} slides have names of {len(set(codes))} TCGA patients and the manifest has no column of "
            "patients: slides of one may come on both sides of a split; add a column `patient` with the first 12 "
            "letters of each name"
        )


def _refines(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether slides that are together in `other` are so in `one`."""
    together: dict[str, str] = {}
    return all(together.setdefault(b, a) == a for a, b in zip(one, other, strict=True))


def _looks_like_patients(column: str, cells: Sequence[str]) -> bool:
    """Whether a column groups a few slides each, under a name or in texts as those of patients are."""
    given = [cell for cell in cells if cell not in NOT_GIVEN]
    groups = len(set(given))
    if len(given) < len(cells) / 2 or not max(2, len(given) / MOST_SLIDES) <= groups < len(given):
        return False
    if any(word in plain(column) for word in LIKE_PATIENT):
        return True
    if groups > 2 and ID.search(column):
        return True
    return groups > max(2, len(given) / 6) and all(map(CODE.fullmatch, given))
