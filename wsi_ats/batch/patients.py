"""Patients of a batch: from its slides to one item a patient, which is predicted, fails and is resumed as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wsi_ats.batch.inputs import SlideItem, is_manifest
from wsi_ats.batch.settings import By
from wsi_ats.errors import ConfigError
from wsi_ats.manifest.spellings import refuse_spellings
from wsi_ats.manifest.table import Warn

NEEDED = "one answer a patient needs a manifest with a column of patients (--patient COLUMN names it)"


def have_patients(items: Sequence[SlideItem]) -> bool:
    """Whether any slide is known to be of a patient."""
    return any(item.patient for item in items)


def items_by(
    by: str | None, of_model: str, items: Sequence[SlideItem], warn: Warn
) -> tuple[By, list[SlideItem]]:
    """What there is one answer about, and the items of that.

    by: what is asked for; None: what the model was trained on, `of_model`, if patients are known. Raises `ConfigError`
    as `patients_of` does.
    """
    if by is None and of_model == "patient" and not have_patients(items):
        warn(
            "the model was trained by patient, and no slide is of one that is known: each is answered for itself"
        )
        by = "slide"
    if (by or of_model) != "patient":
        return "slide", list(items)
    if by is None:
        warn("one answer a patient, as the model was trained; --by slide gives one a slide")
    return "patient", patients_of(items, warn)


def refuse_without_manifest(arguments: Sequence[str]) -> None:
    """Raise `ConfigError` for slides that are named on the command line, where nobody says whose they are."""
    loose = [argument for argument in arguments if not is_manifest(argument)]
    if loose:
        raise ConfigError(
            f"--by is patient and {loose[0]} is no manifest: whose slide it is, nobody says", NEEDED
        )


def patients_of(items: Sequence[SlideItem], warn: Warn) -> list[SlideItem]:
    """One item a patient, in the order of their first slides.

    A slide without a patient is one of its own; other names of a file that a patient has are left out and told.
    Raises `ConfigError` where no slide has a patient, where patients are spelt in two ways, and where one file is of
    two patients.
    """
    if not have_patients(items):
        raise ConfigError(
            f"none of {len(items)} slide(s), {items[0].id} for one, is of a patient that is known",
            remedy=f"{NEEDED}; or ask for one answer a slide: --by slide",
        )
    refuse_spellings("the column of patients", [item.patient for item in items], "patients")
    owners: dict[str, SlideItem] = {}
    of: dict[str, dict[str, SlideItem]] = {}
    for item in items:
        owner = owners.setdefault(item.source, item)
        if owner.patient != item.patient:
            raise ConfigError(
                f"{owner.id} is of patient {owner.patient!r}, and {item.id}, the same file, of {item.patient!r}",
                remedy="keep the row that is right",
            )
        of.setdefault(item.patient or item.source, {}).setdefault(item.source, item)
    again = len(items) - len(owners)
    if again:
        warn(f"{again} slide(s) are other names of a file of the same patient, and each file is taken once")
    return [_patient(patient, list(slides.values())) for patient, slides in of.items()]


def _patient(patient: str, slides: Sequence[SlideItem]) -> SlideItem:
    """The item of a patient; of other columns, what the slides say of it, each text once."""
    extra: dict[str, list[str]] = {}
    for slide in slides:
        for column, text in slide.extra.items():
            extra.setdefault(column, []).append(text)
    said = {column: ";".join(dict.fromkeys(texts)) for column, texts in extra.items()}
    kept = tuple(replace(slide, id=slide.source, twin="") for slide in slides)
    return SlideItem(patient, "", None, patient, said, slides=kept)
