"""`wsi-ats export`: a model as programs for other software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_ats.cli.options import Model, Mpp, OverrideMpp
from wsi_ats.cli.terminal import say


def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="New folder for the programs, export.json and the model's card.")],
    form: Annotated[
        Literal["both", "onnx", "torch"],
        typer.Option("--format", help="ONNX, torch.export (.pt2), or both; ONNX needs the extra export."),
    ] = "both",
    check: Annotated[
        str | None,
        typer.Option(
            metavar="SLIDE", help="A slide to try the programs on, beside random input: a path or a URL."
        ),
    ] = None,
    mpp: Mpp = None,
    override_mpp: OverrideMpp = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an export that is in OUT.")] = False,
) -> None:
    """Write a model as programs that run without wsi-ats, each tried against the model, and what to do around them."""
    from wsi_ats.batch.inputs import one_slide
    from wsi_ats.export.folder import check_new
    from wsi_ats.export.formats import SUFFIXES, check_extra
    from wsi_ats.export.run import CARD, RECIPE, export_model
    from wsi_ats.model_folder import load_model
    from wsi_ats.slides import open_slide

    formats = tuple(SUFFIXES) if form == "both" else (form,)
    # What is wrong with the command is told before networks are loaded.
    check_extra(formats)
    check_new(out, RECIPE, overwrite=overwrite)
    slide = None if check is None else one_slide(check)
    network = load_model(model)
    card = model / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    if slide is None:
        made = export_model(network, out, formats, card=text, overwrite=overwrite, say=say)
    else:
        with open_slide(slide, mpp=override_mpp, default_mpp=mpp, srgb=network.srgb) as handle:
            made = export_model(network, out, formats, slide=handle, card=text, overwrite=overwrite, say=say)
    for words in made.notes:
        say(words)
    say(f"export: {made.folder}")
