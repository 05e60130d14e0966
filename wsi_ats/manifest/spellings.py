"""Spellings: texts of a column that people mean one thing by, and that a comparison letter by letter keeps apart."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.table import Table, Warn
from wsi_ats.shown import counted
from wsi_ats.tasks.texts import NOT_GIVEN, as_written, is_number

NAMED = 3
"""Number of repeated texts that a warning names."""
LOOK_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТУХавеѕіјкмнорстух" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοικρ",
    "ABESIJKMHOPCTYXabesijkmhopctyx" + "ABEZHIKMNOPTYXoikp",
)
"""Letters of Cyrillic and Greek that are drawn as Latin ones are: a keyboard in the wrong language writes them."""


def spellings(texts: Iterable[str]) -> list[list[str]]:
    """The texts that differ in letter case, spaces, hyphens, invisible or look-alike letters alone, or are one number
    (1 and 01), together; those that nothing is like are left out.

    >>> spellings(["Tumour", "normal", "tumour", "1", "01", "2"])
    [['Tumour', 'tumour'], ['01', '1']]
    """
    spelt: dict[str, list[str]] = defaultdict(list)
    for text in sorted(set(texts) - NOT_GIVEN):
        spelt[_plain(text)].append(text)
    return sorted(
        (names for names in spelt.values() if len(names) > 1), key=lambda names: is_number(names[0])
    )


def _plain(text: str) -> str:
    if is_number(text):
        return f"{float(text):.17g}"
    seen = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", seen.strip()).translate(LOOK_ALIKE).casefold()


def refuse_spellings(where: str, cells: Sequence[str], what: str) -> None:
    """Raise `ConfigError` for texts of a column that are one by mistake: `what` (classes, patients) they would be else.

    where: names the column. cells: its texts, one a slide.
    """
    for names in spellings(cells):
        counts = Counter(cells)
        said = " and ".join(f"{_visible(name)} ({counted(counts[name], 'slide')})" for name in names)
        often = max(names, key=counts.__getitem__)
        raise ConfigError(
            f"{where} has {said}: spelt differently they would be different {what}",
            remedy=f"write one of them everywhere, {_visible(often)} for example; where they are different {what} "
            "indeed, give them names that no reader takes for each other",
        )


def _visible(name: str) -> str:
    """A text in quotes, with the code of letters that are none of its own alphabet or cannot be seen."""
    odd = [c for c in name if c.translate(LOOK_ALIKE) != c or unicodedata.category(c) == "Cf"]
    codes = ", ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(odd))
    return f"{name!r} (with {codes})" if odd else repr(name)


def one_a_number(
    table: Table, column: str, cells: Sequence[str], what: str, warn: Warn, *, most: int | None = None
) -> list[str]:
    """The cells of a column, 1.0 as 1 where all of them are numbers: programs write integers beside an empty cell so.

    what: that one number is, a patient. Tells where both are written, unless more than `most` texts differ.
    """
    taken = as_written(cells)
    spelt: dict[str, set[str]] = defaultdict(set)
    for before, after in set(zip(cells, taken, strict=True)):
        spelt[after].add(before)
    several = [sorted(names, key=len) for _, names in sorted(spelt.items()) if len(names) > 1]
    if several and (most is None or len(spelt) <= most):
        counts = Counter(cells)
        said = "; ".join(
            " and ".join(f"{x!r} ({counted(counts[x], 'row')})" for x in names) for names in several[:NAMED]
        )
        more = f"; and {len(several) - NAMED} more such" if len(several) > NAMED else ""
        warn(f"manifest {table.path}: column {column!r} has {said}{more}: one number is one {what}")
    return taken
