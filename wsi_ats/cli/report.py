"""`wsi-ats report`: one page on a run or an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_ats.cli.device import device_named
from wsi_ats.cli.terminal import complain, say

if TYPE_CHECKING:  # takes a while to import
    from wsi_ats.manifest import Row

WithReport = Annotated[
    bool, typer.Option("--report/--no-report", help="Write report.html, a page to read and to print.")
]


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|EVALUATION",
            help="Folder of a training run or a cross-validation, or the one that evaluate wrote into.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write; report.html in the folder by default.")
    ] = None,
) -> None:
    """Make one page, report.html: figures with intervals, curves, sites, slides to look at, how it was all made."""
    from wsi_ats.report.page import make_report

    say(f"report: {make_report(folder, out)}")


def report_beside(folder: Path, rows: Sequence[Row] = ()) -> None:
    """Make the report of what has just been done, which is worth having without it: what goes wrong is told alone.

    rows: those of a training run, of which a few are predicted to be shown.
    """
    from wsi_ats.report.page import make_report
    from wsi_ats.report.predicted import predict_examples

    try:
        if rows:
            predict_examples(folder, rows, device=device_named("auto"))
        say(f"report: {make_report(folder)}")
    except Exception as error:  # noqa: BLE001  # whatever it is, the run is done
        complain(f"no report: {str(error) or type(error).__name__}; try again with `wsi-ats report {folder}`")
