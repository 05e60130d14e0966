"""Which slides can be used, found out before the first epoch, and whether those that cannot are of one class or site.

Slides that cannot be used are left out. Where that hits one class more than others, what is left is no fair sample: the
model learns from, and is judged on, the slides of that class that happened to be readable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wsi_ats.errors import Failure
from wsi_ats.manifest import Row
from wsi_ats.shown import cell, csv_bytes
from wsi_ats.tasks.texts import natural_order

USABLE = "usable"
COLUMNS = ["slide", "split", "class", "site", "patient", "found", "error"]
"""Columns of slides_looked_at.csv."""
CHANCE = 0.05
"""Level of the test whether failures hit one class or site more than the others."""
FEW = 5
"""Number of failures below which the test can hardly tell, so that the numbers are said instead."""
_STAGES = {"mpp": "no mpp", "tissue": "no tissue", "tiles": "damaged tiles"}


@dataclass(frozen=True)
class LookedAt:
    """What was found of each slide."""

    rows: Sequence[Row]
    classes: Sequence[str]
    """Class of each row; empty where it has none."""
    failures: Sequence[Failure | None]
    """Why each slide cannot be used; None where it can."""

    def as_csv(self) -> bytes:
        """Content of slides_looked_at.csv."""
        return csv_bytes(
            COLUMNS,
            (
                [row.slide, row.split, name, row.site, row.patient, kind_of(f), f.error if f else ""]
                for row, name, f in zip(self.rows, self.classes, self.failures, strict=True)
            ),
        )

    def lines(self) -> list[str]:
        """What to say of slides that cannot be used; nothing where all can."""
        kinds = Counter(kind_of(failure) for failure in self.failures if failure is not None)
        if not kinds:
            return []
        words = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        begin = f"{kinds.total()} of {len(self.rows)} slides cannot be used ({words})"
        return [
            begin,
            *self._shares("class", self.classes),
            *self._shares("site", [row.site for row in self.rows]),
        ]

    def _shares(self, what: str, names: Sequence[str]) -> Iterator[str]:
        """Share of the slides of each class or site that cannot be used, and those that are hit more than the rest."""
        total = Counter(names)
        failed = Counter(
            name for name, failure in zip(names, self.failures, strict=True) if failure is not None
        )
        if len(total) < 2:
            return
        shares = (f"{n or 'not given'} {_of(failed[n], total[n])}" for n in natural_order(total))
        yield f"cannot be used, by {what}: {', '.join(shares)}"
        hit = [name for name in natural_order(total) if self._is_hit(name, failed, total)]
        for name in hit:
            rest = failed.total() - failed[name], total.total() - total[name]
            yield (
                f"warning: slides of {what} {name or 'not given'!r} fail more often, {_of(failed[name], total[name])}, "
                f"than the others, {_of(*rest)}: what is left is biased, and figures say nothing of the slides that "
                "are missing; mend these slides before you trust the result"
            )
        if not hit and failed.total() < FEW:
            yield f"these are too few to tell whether one {what} is hit more than another"

    @staticmethod
    def _is_hit(name: str, failed: Counter[str], total: Counter[str]) -> bool:
        """Whether slides of a name fail more often than the others: Fisher's exact test, one-sided, with the level
        divided by the number of names (Bonferroni)."""
        from scipy.stats import fisher_exact

        rest_failed, rest = failed.total() - failed[name], total.total() - total[name]
        table = [[failed[name], total[name] - failed[name]], [rest_failed, rest - rest_failed]]
        return bool(fisher_exact(table, "greater").pvalue < CHANCE / len(total))


def look_at(
    rows: Sequence[Row], classes: Sequence[str], failures: Sequence[Failure], by: str = "slide"
) -> LookedAt:
    """What was found of the rows of slides, given the failures among them; by patient, of whom all slides fail.

    >>> rows = [Row(f"{i}.svs", "", "a" if i < 10 else "b", "", "train", None) for i in range(20)]
    >>> failures = [Failure(f"{i}.svs", "tissue", "no tissue", "") for i in range(6)]
    >>> print(*look_at(rows, [row.label for row in rows], failures).lines()[:2], sep="\\n")
    6 of 20 slides cannot be used (no tissue 6)
    cannot be used, by class: a 6 of 10 (60 %), b 0 of 10 (0 %)
    """
    failed = {cell(failure.slide): failure for failure in failures}  # as failures.csv shows them
    names = [row.patient if by == "patient" else row.slide for row in rows]
    return LookedAt(rows, classes, [failed.get(cell(name)) for name in names])


def kind_of(failure: Failure | None) -> str:
    """What was found of a slide, in a word or two."""
    if failure is None:
        return USABLE
    return _STAGES.get(failure.stage, "unreadable")


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})".replace("%", " %")
