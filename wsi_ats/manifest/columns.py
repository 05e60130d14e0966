"""Columns of a manifest by their meaning, under the names that other tools and people give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.table import Table

SLIDE = ("slide", "wsi", "slide_id", "filename", "slide_path", "slide_name", "wsi_path")
"""Names of the column of slides: ours, TRIDENT's, CLAM's, STAMP's, and others."""
LIKE_SLIDE = ("path", "file", "filepath", "image", "image_id", "image_path", "svs", "scan", "name", "id")
"""Names of columns that may hold slides: named in the error where none of the above is there."""
PATIENT = (
    *(
        "patient",
        "patient_id",
        "patient_number",
        "patient_no",
        "patient_nr",
        "patient_code",
        "patient_barcode",
    ),
    *(
        "patient_key",
        "patient_identifier",
        "bcr_patient_barcode",
        "case_id",
        "case",
        "case_number",
        "case_no",
    ),
    *("case_submitter_id", "subject", "subject_id", "participant", "participant_id", "donor", "donor_id"),
    *("individual", "individual_id", "submitter_id", "mrn"),
)
"""Names of the column of patients."""
LIKE_PATIENT = ("patient", "case", "subject", "participant", "donor", "individual")
"""Words in the names of columns that may hold patients."""
LIKE_LABEL = (
    *(
        "class",
        "labels",
        "diagnosis",
        "y",
        "target",
        "category",
        "subtype",
        "grade",
        "outcome",
        "type",
        "status",
    ),
    *("tumor_type", "tumour_type", "histology", "ground_truth", "gt", "cohort", "group"),
)
"""Names of columns that may hold labels: named in the error where the one that was asked for is not there."""
SITE = (
    *(
        "site",
        "site_id",
        "center",
        "centre",
        "center_id",
        "centre_id",
        "institution",
        "institute",
        "hospital",
    ),
    *("hospital_id", "source", "lab", "laboratory", "tss", "tissue_source_site", "data_provider", "provider"),
)
"""Names of the column of places that slides come from."""


def plain(name: str) -> str:
    """A name of a column without letter case and separators.

    >>> plain("Patient ID") == plain("PATIENT_ID") == plain("patientId")
    True
    """
    return re.sub(r"[\s_.-]+", "", name).casefold()


def known(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The columns that have one of the names, in the order of the names."""
    columns = list(columns)
    return [column for name in names for column in columns if plain(column) == plain(name)]


def column_called(table: Table, name: str, remedy: str) -> str:
    """The column of a name: as it is written, else without regard to letter case, spaces, `_` and `-`.

    Raises `ConfigError` where there is none, or more than one.
    """
    found = optional_column(table, name)
    if not found:
        raise no_column(table, name, remedy)
    return found


def optional_column(table: Table, name: str) -> str:
    """As `column_called`; empty where there is no such column."""
    if name in table.columns:
        return name
    found = known(table.columns, [name])
    if len(found) > 1:
        raise ConfigError(
            f"manifest {table.path}: the columns {found} could each be {name!r}",
            f"rename all but one of {found}",
        )
    return found[0] if found else ""


def no_column(table: Table, name: str, remedy: str) -> ConfigError:
    """The error about a column that is not there."""
    return ConfigError(
        f"manifest {table.path} has no column {name!r}; its columns are {list(table.columns)}", remedy
    )


def slide_column(table: Table) -> str:
    """The column of slides. Raises `ConfigError` where there is none."""
    for name in SLIDE:
        if found := optional_column(table, name):
            return found
    like = known(table.columns, LIKE_SLIDE)
    example = f", for example {like[0]!r}," if like else ""
    raise no_column(table, "slide", f"rename the column that holds the slide{example} to 'slide'")


def label_column(table: Table, target: str) -> str:
    """The column of labels. Raises `ConfigError`, naming what else may be meant, where there is none."""
    like = [column for column in known(table.columns, LIKE_LABEL) if column != target]
    example = f": --target {' or --target '.join(map(_quoted, like))}" if like else ""
    return column_called(table, target, f"name the column of the labels with --target{example}")


def patient_column(table: Table, asked: str | None) -> str:
    """The column of patients: the one that was asked for, else one under a common name; empty where there is none.

    asked: a column, or `none`. Raises `ConfigError` for a column that is not there.
    """
    if asked is not None and not (asked.casefold() == "none" and asked not in table.columns):
        return column_called(
            table, asked, "name the column of the patients with --patient, or --patient none"
        )
    return "" if asked is not None else next(iter(known(table.columns, PATIENT)), "")


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
