"""The column of slides; of several, the one that leads to files."""

from __future__ import annotations

from collections.abc import Sequence

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.columns import no_column, optional_column
from wsi_ats.manifest.files import SlideFiles
from wsi_ats.manifest.names import LIKE_SLIDE, SLIDE, known
from wsi_ats.manifest.search import has_slide_suffix
from wsi_ats.manifest.table import Table, Warn
from wsi_ats.slides.storage.opening import is_url
from wsi_ats.tasks.texts import NOT_GIVEN

TRIED = 20
"""Number of rows whose files are looked for, to tell a column of files from one of names."""


def slide_column(table: Table, files: SlideFiles, warn: Warn) -> str:
    """The column of slides.

    Of several, those whose files are there are preferred, then those that are written as paths, then the first of
    `SLIDE`; the others are told. Raises `ConfigError` where there is none, or where two could be meant and
    contradict each other.
    """
    columns = [found for name in SLIDE if (found := optional_column(table, name))]
    if not columns:
        like = known(table.columns, LIKE_SLIDE)
        example = f", for example {like[0]!r}," if like else ""
        raise no_column(table, "slide", f"rename the column that holds the slide{example} to 'slide'")
    if len(columns) == 1:
        return columns[0]
    alike = [column for column in columns if any(map(files.has, table.column(column)[:TRIED]))] or columns
    alike = [column for column in alike if all(map(_is_path, table.column(column)))] or alike
    taken, *others = alike
    for other in others:
        _refuse_contradiction(table, taken, other)
    rest = " and ".join(repr(column) for column in columns if column != taken)
    warn(
        f"manifest {table.path}: column {taken!r} names the slides' files; {rest} could, too, and is only carried along"
    )
    return taken


def _refuse_contradiction(table: Table, one: str, other: str) -> None:
    pairs = list(zip(table.column(one), table.column(other), strict=True))
    rows = [position for position, pair in enumerate(pairs) if not _agree(*pair)]
    if rows:
        a, b = pairs[rows[0]]
        raise ConfigError(
            f"{table.line(rows[0])}: {one} is {a!r} and {other} is {b!r}, and either column may name the slides"
            + table.more(rows),
            remedy=f"rename the one that does not name the slides' files, {other!r} to 'name' for example",
        )


def _agree(one: str, other: str) -> bool:
    """Whether two texts can name one file: one of them may lack folders, and its suffix."""
    if one in NOT_GIVEN or other in NOT_GIVEN:
        return True
    shorter, longer = sorted((_parts(one), _parts(other)), key=len)
    return longer[len(longer) - len(shorter) :] == shorter


def _parts(text: str) -> Sequence[str]:
    *folders, name = text.replace("\\", "/").removeprefix("./").rstrip("/").split("/")
    if _ends_as_slide(name):
        name = name.rpartition(".")[0]
    return *folders, name.removesuffix(".ome")


def _is_path(text: str) -> bool:
    """Whether a cell is written as a path or URL; an empty one may be."""
    return text in NOT_GIVEN or is_url(text) or _ends_as_slide(text) or "/" in text or "\\" in text


def _ends_as_slide(text: str) -> bool:
    return has_slide_suffix(text) or text.lower().endswith(".zarr")
