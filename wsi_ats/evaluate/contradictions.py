"""What a table of answers says twice, or otherwise than the manifest: one rule says what stands, and it is told."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from wsi_ats.evaluate.answers import SUM, Answers
from wsi_ats.manifest.names import PATIENT, SITE, known
from wsi_ats.manifest.rows import Row
from wsi_ats.manifest.table import Warn
from wsi_ats.shown import cell, counted
from wsi_ats.tasks.answer import TaskSpec
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import NOT_GIVEN

ROUNDED = 0.01
"""Relative distance of a number in words from the value beside it that rounding may make."""


def tell_contradictions(
    answers: Answers, manifest: Path, rows: Sequence[Row], places: Sequence[int], warn: Warn
) -> None:
    """Tell where answers contradict themselves, or the rows of the manifest that stand at `places` in their table.

    Of classes and grades the column `prediction` stands, of other kinds the values; of patients and sites the manifest.
    """
    for task in answers.tasks:
        if answers.decision_column(task) in answers.table.columns:
            _tell_decisions(answers, task, places, warn)
    if answers.by == "slide":
        _tell_names(answers, manifest, PATIENT, "patient", rows, places, warn)
        _tell_names(answers, manifest, SITE, "site", rows, places, warn)


def _tell_decisions(answers: Answers, task: Task, places: Sequence[int], warn: Warn) -> None:
    spec, column = task.spec, answers.decision_column(task)
    values, texts = answers.values(task, places), answers.table.column(column)
    said = [
        (place, texts[place], mine)
        for place, mine in zip(places, values, strict=True)
        if texts[place] not in NOT_GIVEN and not np.isnan(mine).any()
    ]
    stands = _decides(spec)
    names = [cell(name) for name in spec.names]
    strange = [(place, text) for place, text, _ in said if stands and text not in names]
    if strange:
        place, text = strange[0]
        warn(
            f"{answers.table.line(place)}: {column} is {text!r}, which is none of {names} ({len(strange)} such "
            "row(s)): the probabilities decide there"
        )
    torn = [each for each in said if (each[0], each[1]) not in strange and not _agrees(spec, *each[1:])]
    if torn:
        place, text, mine = torn[0]
        values_ = "probabilities" if spec.names else "values"
        rule = (
            f"the column decides, areas and calibration rest on the {values_}; delete the column if those are right"
            if stands
            else f"the {values_} decide"
        )
        warn(
            f"{answers.path}: the column {column!r} contradicts the {values_} of {len(torn)} of {len(said)} "
            f"{answers.by}s, for one {answers.table.column(answers.slide)[place]!r} ({text!r} beside "
            f"{_shown(spec, mine)}{_as_from(spec, said)}): {rule}"
        )


def _decides(spec: TaskSpec) -> bool:
    return spec.kind in ("classes", "ordinal")


def _agrees(spec: TaskSpec, text: str, values: Float64[np.ndarray, " V"]) -> bool:
    """Whether an answer in words is that of the values, which are rounded in the table."""
    if not spec.names:
        try:
            return isclose(float(text), values[0], rel_tol=ROUNDED, abs_tol=ROUNDED)
        except ValueError:
            return False
    parts = [text] if _decides(spec) else text.split(";")
    nudge = np.array([SUM if cell(name) in parts else -SUM for name in spec.names])
    nudged = np.append(values[: len(nudge)] + nudge, values[len(nudge) :])
    return text in (cell(spec.text(values)), cell(spec.text(nudged)))


def _shown(spec: TaskSpec, values: Float64[np.ndarray, " V"]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in zip(spec.values, values, strict=True))


def _as_from(spec: TaskSpec, said: Sequence[tuple[int, str, Float64[np.ndarray, " V"]]]) -> str:
    """Words for the threshold of the last of two classes that all answers follow; empty where none explains them."""
    if len(spec.names) != 2 or not _decides(spec):
        return ""
    name = spec.names[1]
    called = [float(mine[1]) for _, text, mine in said if text == cell(name)]
    others = [float(mine[1]) for _, text, mine in said if text == cell(spec.names[0])]
    if not called or not others or max(others) > min(called):
        return ""
    return f"; a threshold between {max(others):.3g} and {min(called):.3g} of {name} explains it"


def _tell_names(
    answers: Answers,
    manifest: Path,
    names: Sequence[str],
    what: str,
    rows: Sequence[Row],
    places: Sequence[int],
    warn: Warn,
) -> None:
    """Tell of patients or sites that both tables name, otherwise; and of patients that the answers alone name.

    A slide's own id as its patient names none.
    """
    column = next(iter(known(answers.table.columns, names)), "")
    ids, theirs = answers.table.column(answers.slide), answers.optional(column)
    ours = [cell(getattr(row, what)) if getattr(row, what) != row.slide else "" for row in rows]
    given = [
        (row.slide, our, theirs[place])
        for row, our, place in zip(rows, ours, places, strict=True)
        if theirs[place] not in (*NOT_GIVEN, ids[place])
    ]
    torn = [each for each in given if each[1] not in ("", each[2])]
    if torn:
        slide, our, their = torn[0]
        warn(
            f"{what}s of {counted(len(torn), 'slide')} differ: {slide!r} is of {our!r} in {manifest} and of "
            f"{their!r} in {answers.path}, for one; the manifest stands: check that both tables are of the same slides"
        )
    if what == "patient" and given and not any(ours):
        warn(
            f"{answers.path} names patients (column {column!r}) and {manifest} none: each slide counts as a patient of "
            "its own, which makes intervals too narrow; add the column to the manifest"
        )
