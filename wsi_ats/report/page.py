"""The page: one file, readable without a network, a script or this program."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from wsi_ats import __version__
from wsi_ats.atomic import write_atomic
from wsi_ats.errors import ConfigError
from wsi_ats.output import writing
from wsi_ats.report.found import Found, find
from wsi_ats.report.sections import sections_of
from wsi_ats.report.tripod import YOURS, mapped
from wsi_ats.shown import shown

REPORT = "report.html"
"""Name of the page in the folder of a run or an evaluation."""


def make_report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a run or an evaluation, and return its path: `report.html` in its folder, unless `out` names
    a file.

    Raises `ConfigError` where the folder holds neither or what it holds is damaged, `OutputError` where the page cannot
    be written.
    """
    found = find(folder)
    path = Path(out) if out is not None else found.folder / REPORT
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(
            f"--out {path} is no name of a page", "let it end in .html: what has that name is replaced"
        )
    try:
        text = page(found)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{found.folder} holds files that are damaged, or of another version of the program: {error!r}",
            remedy="give `wsi-ats evaluate` again: it writes them anew",
        ) from error
    with writing(path.parent):
        write_atomic(path, text.encode("utf-8", "backslashreplace"))
    return path


def page(found: Found, made: datetime | None = None) -> str:
    """The text of the page; the same for the same files and the same date."""
    # Here: only who makes a report waits for it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Names of slides, sites and classes are written by strangers: whatever they hold, it is text on one line.
    environment = Environment(
        loader=PackageLoader("wsi_ats.report", "."),
        autoescape=True,
        finalize=_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = sections_of(found)
    kind = "Cross-validation" if found.folds else "Training run" if found.is_run else "Evaluation"
    titles = {section.id: section.title for section in sections}
    return environment.get_template("page.html").render(
        title=f"{kind}: {found.folder.absolute().name}",
        made=(made or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        sections=sections,
        titles=titles,
        items=mapped(titles.keys()),
        yours=YOURS,
    )


def _text(value: object) -> object:
    """What is put into the page, as people may see it; what the template itself has made stays as it is."""
    return shown(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
