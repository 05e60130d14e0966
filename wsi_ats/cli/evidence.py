"""`wsi-ats evidence`: how many of its tiles a slide's answer needs, and how it fares without them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_ats.cli.device import device_named
from wsi_ats.cli.options import Device, Model, Mpp, OverrideMpp, Patient, SlidesDir
from wsi_ats.cli.report import WithReport, report_beside
from wsi_ats.cli.terminal import complain, say


def evidence(
    model: Model,
    slides: Annotated[
        list[str],
        typer.Argument(
            metavar="SLIDES", help="Slides, folders of slides, globs, URLs or manifests (.csv, .xlsx)."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for evidence.csv and evidence.json; that of an evaluation will do.")
    ],
    orders: Annotated[int, typer.Option(min=2, help="Number of random orders of the tiles.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random orders.")] = 0,
    slides_dir: SlidesDir = None,
    patient: Patient = None,
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    device: Device = "auto",
    with_report: WithReport = True,
) -> None:
    """Say how many of the most attended tiles an answer needs and how it fares without them, beside random tiles."""
    from wsi_ats.batch.inputs import find_slides
    from wsi_ats.evaluate.evidence import SLIDES, refuse_numbers, write_evidence
    from wsi_ats.evaluate.evidence import evidence as run
    from wsi_ats.model_folder import load_model
    from wsi_ats.output import make_folder

    network = load_model(model, device_named(device))
    refuse_numbers(network)
    items = find_slides(slides, slides_dir=slides_dir, patient=patient, warn=_warn)
    make_folder(out)
    say("every tissue tile of each slide is read")
    found, failures = run(
        network, items, mpp=mpp, override_mpp=override_mpp, seed=seed, orders=orders, say=say
    )
    facts = {
        "model": {"folder": str(model.absolute()), "hash": network.hash},
        "seed": seed,
        "orders": orders,
    }
    write_evidence(found, failures, out, facts)
    say(f"a row a slide: {out / SLIDES}")
    if with_report:
        report_beside(out)
    if failures:
        complain(f"{len(failures)} slide(s) failed: see {out / 'evidence_failures.csv'}")
        raise typer.Exit(1)


def _warn(said: str) -> None:
    complain(f"warning: {said}")
