"""Audit of a split before anything is trained: what leaks from one side to the other, and what a model may learn
instead of the classes."""

from __future__ import annotations

import re
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.cohort import Cohort
from wsi_ats.manifest.files import file_key, status_of
from wsi_ats.manifest.rows import Row
from wsi_ats.manifest.same_file import twins
from wsi_ats.manifest.split_files import slide_stem
from wsi_ats.shown import counted
from wsi_ats.slides.storage.opening import is_url

NAMED = 3
"""Number of leaks, or of classes, that a message names."""
STRONG, CHANCE = 0.5, 0.01
"""Association of class and site (Cramér's V, corrected for its bias) from which on it is told, and how rarely chance
may make one as strong."""


@dataclass(frozen=True)
class Audit:
    """What an audit found that is no error."""

    cohort: Cohort
    warnings: tuple[str, ...]


def audit(rows: Sequence[Row], classes: Sequence[str], parts: Sequence[str] | None = None) -> Audit:
    """Look for leaks between splits and for classes that go with sites. Slides are not opened, their files compared.

    rows: with their splits. classes: that of each row, as text; empty where it has none. parts: what the table shows
    of each row, by default its split. Raises `ConfigError` listing all leaks: a patient, a group, a file (also as a
    copy, byte for byte) or a slide under two spellings on two sides; two labels for one file.

    >>> rows = [Row(f"{s}.svs", f"{s}.svs", "a", "P1", s, None) for s in ("train", "val")]
    >>> audit(rows, ["a", "a"])
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: the split leaks: 1 patient(s) on two sides: 'P1' (train: train.svs; val: val.svs)
      Remedy: give all slides of each of these one split or, ...
    """
    refuse_leaks(rows)
    parts = parts or [row.split or "none" for row in rows]
    cohort = Cohort.count(rows, [name or "not given" for name in classes], parts)
    return Audit(cohort, tuple(_told_sites(rows, classes)))


def refuse_leaks(rows: Sequence[Row]) -> None:
    """Raise `ConfigError` listing what is on two sides of the split, and files of two labels."""
    of_file = _files(rows)
    found = {
        "patient(s) on two sides": _torn(rows, [row.patient for row in rows], lambda row: repr(row.patient)),
        "group(s) on two sides": _torn(rows, [row.group for row in rows], lambda row: repr(row.group)),
        "file(s) on two sides": _torn(rows, of_file, lambda row: "one file"),
        "slide(s) under two spellings on two sides": _torn(
            rows, [_spelling(row.slide) for row in rows], lambda row: "one name"
        ),
    }
    leaks = [_listed(what, cases) for what, cases in found.items() if cases]
    labels = _two_labels(rows, of_file)
    if labels:
        raise ConfigError(
            f"the labels contradict: {_listed('file(s) with two labels', labels)}",
            "keep the row that is right for each of these",
        )
    if leaks:
        raise ConfigError(
            f"the split leaks: {'; '.join(leaks)}",
            "give all slides of each of these one split or, where splits are made, one patient",
        )


@dataclass(frozen=True)
class _File:
    path: str
    file: Hashable
    size: int


def _files(rows: Sequence[Row]) -> list[int]:
    """Number of the first row that has the same file, or a copy of it, for each row; of a file that is not there, its
    own: it fails alone when it is opened."""
    files = []
    for number, row in enumerate(rows):
        path = str(row.path)
        facts = None if is_url(path) else status_of(path)
        key = file_key(path) if facts is not None or is_url(path) else number
        files.append(
            _File(path, key, facts.st_size if facts is not None and stat.S_ISREG(facts.st_mode) else 0)
        )
    first = list(range(len(rows)))
    for twin in twins(files):
        first[twin.second] = first[twin.first]
    return first


def _spelling(slide: str) -> str:
    """A slide's path without suffix, letter case and kinds of separators."""
    return re.sub(r"[\s_.-]+", "_", slide_stem(slide)).casefold()


def _torn(rows: Sequence[Row], keys: Sequence[Hashable], name: Callable[[Row], str]) -> list[str]:
    """Words for what has rows in several splits, in their order. keys: what each row is of; empty: nothing."""
    by_key: dict[Hashable, dict[str, str]] = defaultdict(dict)
    first: dict[Hashable, Row] = {}
    for row, key in zip(rows, keys, strict=True):
        if key != "":
            by_key[key].setdefault(row.split or "none", row.slide)
            first.setdefault(key, row)
    return [
        f"{name(first[key])} ({'; '.join(f'{split}: {slide}' for split, slide in sides.items())})"
        for key, sides in by_key.items()
        if len(sides) > 1
    ]


def _two_labels(rows: Sequence[Row], of_file: Sequence[int]) -> list[str]:
    """Words for the files whose rows differ in a target."""
    cases = []
    for row, first in zip(rows, of_file, strict=True):
        other = rows[first]
        mine, its = (r.cells or {"label": r.label} for r in (row, other))
        differ = [f"{c} {its[c]!r} and {mine[c]!r}" for c in mine if mine[c] != its.get(c, mine[c])]
        if differ:
            cases.append(f"{other.slide} and {row.slide} ({', '.join(differ)})")
    return cases


def _listed(what: str, cases: Sequence[str]) -> str:
    more = f", and {len(cases) - NAMED} more" if len(cases) > NAMED else ""
    return f"{len(cases)} {what}: {', '.join(cases[:NAMED])}{more}"


def _told_sites(rows: Sequence[Row], classes: Sequence[str]) -> Iterator[str]:
    """Warnings of classes that live at one site alone or, where there is none, of classes that go with sites."""
    seen = {
        (row.patient, name, row.site) for row, name in zip(rows, classes, strict=True) if name and row.site
    }
    names, sites = sorted({name for _, name, _ in seen}), sorted({site for _, _, site in seen})
    if len(names) < 2 or len(sites) < 2:
        return
    table = np.zeros((len(names), len(sites)), np.int64)
    for _, name, site in seen:
        table[names.index(name), sites.index(site)] += 1
    why = (
        "what tells the sites apart, stain and scanner, tells the classes apart, and a model may learn that alone: "
        "add slides of these classes from other sites, or keep whole sites out with --group"
    )
    alone = [
        f"{name} from {sites[int(row.argmax())]} ({counted(int(row.sum()), 'patient')})"
        for name, row in zip(names, table, strict=True)
        if (row > 0).sum() == 1 and row.sum() > 1
    ]
    if alone:
        yield f"{_listed('class(es) that live at one site only', alone)}; {why}"
        return
    strength, chance = association(table)
    if strength >= STRONG and chance < CHANCE:
        most = [
            f"{name}: {row.max()} of {counted(int(row.sum()), 'patient')} from {sites[int(row.argmax())]}"
            for name, row in zip(names, table, strict=True)
        ]
        yield f"class and site go together (Cramér's V {strength:.2f}): {', '.join(most[:NAMED])}; {why}"


def association(table: Int64[np.ndarray, "r c"]) -> tuple[float, float]:
    """Cramér's V of a table of counts, 0 (none) to 1, corrected for its bias, and the p-value of Pearson's chi2.

    V is sqrt(max(0, chi2/n - (r-1)(c-1)/(n-1)) / min(r'-1, c'-1)), r' = r - (r-1)^2/(n-1), c' likewise: Bergsma, A
    bias-correction for Cramér's V and Tschuprow's T, Journal of the Korean Statistical Society 42 (2013), eq. 4.

    >>> round(association(np.array([[20, 0], [0, 20]]))[0], 6)
    1.0
    >>> association(np.array([[10, 10], [10, 10]]))
    (0.0, 1.0)
    """
    from scipy.stats import chi2_contingency

    found = chi2_contingency(table, correction=False)
    n = table.sum()
    r, c = table.shape
    phi2 = max(0.0, found.statistic / n - (r - 1) * (c - 1) / (n - 1))
    least = min(side - (side - 1) ** 2 / (n - 1) for side in (r, c)) - 1
    return (float(np.sqrt(min(1.0, phi2 / least))) if least > 0 else 0.0), float(found.pvalue)
