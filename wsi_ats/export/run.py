"""`export_model`: a folder with a model's programs, their recipe and the model's card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_ats.atomic import write_atomic
from wsi_ats.errors import ConfigError
from wsi_ats.export.agreement import check_agreement, random_examples, slide_examples
from wsi_ats.export.folder import check_new, new_folder
from wsi_ats.export.formats import SUFFIXES, check_extra, write_program
from wsi_ats.export.programs import programs_of
from wsi_ats.export.recipe import notes_on, recipe
from wsi_ats.output import writing
from wsi_ats.slide_model import SlideModel
from wsi_ats.slides.base import Slide

RECIPE, CARD = "export.json", "model-card.md"


@dataclass(frozen=True)
class Exported:
    """An export that agrees with its model."""

    folder: Path
    differences: dict[str, dict[str, float]]
    """Largest difference from the model's answers, of each file, by what it was tried on."""
    notes: tuple[str, ...] = ()
    """Clauses on what a user of the programs should know."""


def export_model(
    model: SlideModel,
    out: Path,
    formats: Sequence[str] = ("onnx", "torch"),
    *,
    slide: Slide | None = None,
    card: str | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Exported:
    """Write the programs of a model, in evaluation mode on the processor, into the new folder `out`.

    formats: "onnx", "torch" or both. slide: programs are tried on it, too. card: the model's, to go along. overwrite:
    replace an export that is in `out`. Every file is loaded and run again, and `out` comes to be where all of them
    agree with the model. Raises `ConfigError` for an `out` that is taken, a format that cannot be written or a model
    that cannot be exported; `ModelError` where a network cannot be translated or a file disagrees; `SlideError` of the
    slide.

    >>> from tempfile import TemporaryDirectory
    >>> from wsi_ats.build import build_model
    >>> from wsi_ats.config import load_config
    >>> model = build_model(load_config(overrides=["tile.px=32"]), ["benign", "tumour"])
    >>> with TemporaryDirectory() as folder:
    ...     made = export_model(model, Path(folder, "out"), ["torch"], say=lambda line: None)
    ...     sorted(path.name for path in made.folder.iterdir())
    ['answer.pt2', 'attention.pt2', 'export.json', 'features.pt2']
    """
    wrong = [form for form in formats if form not in SUFFIXES]
    if wrong or not formats:
        raise ConfigError(f"formats are {list(formats)}", f"give one or more of {', '.join(SUFFIXES)}")
    check_extra(formats)
    check_new(out, RECIPE, overwrite=overwrite)
    programs = programs_of(model)
    on_slide = [{} for _ in programs] if slide is None else slide_examples(model, programs, slide)
    differences: dict[str, dict[str, float]] = {}
    with new_folder(out) as folder:
        files = {}
        for program, real in zip(programs, on_slide, strict=True):
            files[program.name] = write_program(program, folder, formats)
            examples = {**random_examples(program), **real}
            for path in files[program.name].values():
                differences[path.name] = check_agreement(program, path, examples)
                say(f"{path.name} agrees with the model: {_in_words(differences[path.name])}")
        with writing(out):
            digests = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
            values = recipe(model, programs, files, digests, differences)
            write_atomic(folder / RECIPE, f"{json.dumps(values, indent=2)}\n".encode())
            if card is not None:
                write_atomic(folder / CARD, card.encode())
    return Exported(out, differences, notes_on(model))


def _in_words(differences: dict[str, float]) -> str:
    return ", ".join(f"largest difference {found:.1e} on {name}" for name, found in differences.items())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
