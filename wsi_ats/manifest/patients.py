"""Rows of patients: from one row a slide to one a patient, whose slides must agree in what is to be learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.rows import Row
from wsi_ats.tasks.texts import NOT_GIVEN

NAMED = 5
"""Number of patients that an error names."""


def patients_of(rows: Sequence[Row]) -> list[Row]:
    """One row a patient, in the order of their first slides. Its `slide` is the patient, its `slides` are the rows.

    A target that some rows leave out is that of the others; sites that differ are all named. Raises `ConfigError`
    where no patient is named, and listing the patients whose slides have different targets.

    >>> rows = [Row(f"{i}.svs", "", "tumour", p, None, None) for i, p in enumerate("aba")]
    >>> [(patient.slide, [row.slide for row in patient.slides]) for patient in patients_of(rows)]
    [('a', ['0.svs', '2.svs']), ('b', ['1.svs'])]
    """
    if rows and all(row.patient == row.slide for row in rows):
        raise ConfigError(
            "one answer a patient is asked for, and the manifest names no patients",
            remedy="name their column with --patient, or ask for one answer a slide (train.by=slide)",
        )
    of: dict[str, list[Row]] = {}
    for row in rows:
        of.setdefault(row.patient, []).append(row)
    targets = {patient: _targets(mine) for patient, mine in of.items()}
    _refuse_contradictions(targets, of)
    return [_patient(patient, mine, _agreed(targets[patient])) for patient, mine in of.items()]


def rows_by(by: str, rows: Sequence[Row]) -> list[Row]:
    """One row for each that there is one answer about: `slide` or `patient`."""
    return patients_of(rows) if by == "patient" else list(rows)


def unit_of(rows: Sequence[Row]) -> str:
    """What the rows are of: `slide` or `patient`."""
    return "patient" if any(row.slides for row in rows) else "slide"


def _targets(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What the rows say, by column, without what they leave out."""
    said = [row.cells or {"label": row.label} for row in rows]
    return {
        column: list(dict.fromkeys(cells[column] for cells in said if cells[column] not in NOT_GIVEN))
        for column in said[0]
    }


def _agreed(targets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {column: texts[0] if texts else "" for column, texts in targets.items()}


def _refuse_contradictions(
    targets: Mapping[str, Mapping[str, Sequence[str]]], rows: Mapping[str, Sequence[Row]]
) -> None:
    torn = [
        (patient, column)
        for patient, said in targets.items()
        for column, texts in said.items()
        if len(texts) > 1
    ]
    if torn:
        each = "; ".join(_torn(patient, column, rows[patient]) for patient, column in torn[:NAMED])
        more = f"; and {len(torn) - NAMED} more" if len(torn) > NAMED else ""
        raise ConfigError(
            f"{len(torn)} patient(s) have slides that contradict each other: {each}{more}",
            remedy="give every slide of a patient the patient's label (tumour, where one slide shows it), or ask for "
            "one answer a slide",
        )


def _torn(patient: str, column: str, rows: Sequence[Row]) -> str:
    first: dict[str, str] = {}
    for row in rows:
        text = row.cells[column] if row.cells else row.label
        if text not in NOT_GIVEN:
            first.setdefault(text, row.slide)
    return f"{patient!r}, {column} " + ", ".join(f"{text!r} ({slide})" for text, slide in first.items())


def _patient(patient: str, rows: Sequence[Row], targets: Mapping[str, str]) -> Row:
    first = rows[0]
    return replace(
        first,
        slide=patient,
        path="",
        label="" if first.cells else targets["label"],
        cells=dict(targets) if first.cells else {},
        mpp=None,
        default_mpp=None,
        site=" + ".join(sorted({row.site for row in rows} - {""})),
        hint="",
        slides=tuple(rows),
    )
