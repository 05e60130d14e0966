"""Table of a cohort: how many slides and patients there are of each class and site in each split."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from wsi_ats.manifest.rows import SPLITS, Row
from wsi_ats.shown import csv_bytes, shown
from wsi_ats.tasks.texts import natural_order

COLUMNS = ["class", "split", "site", "slides", "patients"]
"""Columns of cohort.csv."""
MOST_LINES = 24
"""Lines of the table on a terminal; with more, sites are added up."""


@dataclass(frozen=True)
class Cohort:
    """Slides and patients by class, part (a split, or the test of a fold) and site."""

    classes: tuple[str, ...]
    parts: tuple[str, ...]
    sites: tuple[str, ...]
    of: dict[tuple[str, str, str], tuple[frozenset[str], frozenset[str]]]
    """Ids of the slides and of the patients of each (class, part, site) that has any."""

    @classmethod
    def count(cls, rows: Sequence[Row], classes: Sequence[str], parts: Sequence[str]) -> Cohort:
        """The cohort of rows. classes, parts: those of each row.

        >>> rows = [Row(f"{i}.svs", "", "ab"[i % 2], f"P{i // 2}", None, None, site="Oslo") for i in range(4)]
        >>> cohort = Cohort.count(rows, [row.label for row in rows], ["train", "train", "val", "val"])
        >>> cohort.numbers("a", "train"), cohort.numbers("a")
        ((1, 1), (2, 2))
        """
        slides: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        patients: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for row, name, part in zip(rows, classes, parts, strict=True):
            slides[name, part, row.site].add(row.slide)
            patients[name, part, row.site].add(row.patient)
        of = {key: (frozenset(mine), frozenset(patients[key])) for key, mine in slides.items()}
        sites = natural_order(row.site for row in rows)
        return cls(natural_order(classes), tuple(sorted(set(parts), key=_place)), sites, of)

    def numbers(self, name: str, part: str | None = None, site: str | None = None) -> tuple[int, int]:
        """Number of slides and of patients of a class; in one part and of one site where these are given."""
        mine = [
            found
            for (its, own, place), found in self.of.items()
            if its == name and part in (own, None) and site in (place, None)
        ]
        slides, patients = ({x for both in mine for x in both[i]} for i in (0, 1))
        return len(slides), len(patients)

    def as_csv(self) -> bytes:
        """Content of cohort.csv."""
        order = [
            (c, p, s) for c in self.classes for p in self.parts for s in self.sites if (c, p, s) in self.of
        ]
        return csv_bytes(COLUMNS, ([*key, *map(len, self.of[key])] for key in order))

    def lines(self, title: str = "slides (patients)") -> list[str]:
        """The table for a terminal: a line for each class and site, a column for each part."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        by_site = len(self.sites) > 1 and len(self.classes) * len(self.sites) <= MOST_LINES
        table = Table(title=title, title_justify="left", title_style="", header_style="", box=box.SIMPLE)
        for head in ("class", *(("site",) if by_site else ())):
            table.add_column(head)
        for part in self.parts:
            table.add_column(part, justify="right")
        for name in self.classes:
            for site in self.sites if by_site else (None,):
                cells = [_words(*self.numbers(name, part, site)) for part in self.parts]
                heads = [name, *([] if site is None else [site or "not given"])]
                table.add_row(*(_plain(text) for text in (*heads, *cells)))
        text = io.StringIO()
        Console(file=text, width=160, color_system=None, markup=False, highlight=False).print(table)
        return [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]


def _place(part: str) -> tuple[int, int, str]:
    """Splits in the order of their use, folds by number."""
    number = part.rpartition(" ")[2]
    return (
        SPLITS.index(part) if part in SPLITS else len(SPLITS),
        int(number) if number.isdecimal() else 0,
        part,
    )


def _words(slides: int, patients: int) -> str:
    return f"{slides} ({patients})" if slides else "-"


def _plain(text: str) -> str:
    text = shown(text)
    return text if len(text) <= 40 else f"{text[:37]}..."
