"""Names of columns, as other tools and people give them, by what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

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


MPP = (
    "mpp",
    "mpp_um",
    "mpp_µm",
    "um_px",
    "um_per_px",
    "um_per_pixel",
    "microns_per_pixel",
    "micrometers_per_pixel",
)
"""Names of the column of micrometres per level-0 pixel."""
LIKE_MPP = (
    *("mpp_x", "mpp_y", "mpp_x_um", "mpp_y_um", "pixel_size", "pixel_size_um", "spacing", "resolution"),
    *(
        "magnification",
        "mag",
        "objective",
        "objective_power",
        "power",
        "apparent_magnification",
        "base_magnification",
    ),
)
"""Names of columns that may tell of the scale, in units or ways that are not read."""


def plain(name: str) -> str:
    """A name of a column without letter case, separators and brackets.

    >>> plain("Patient ID") == plain("PATIENT_ID") == plain("patientId")
    True
    """
    return re.sub(r"[\s_.()\[\]/-]+", "", name).casefold()


def known(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The columns that have one of the names, in the order of the names."""
    columns = list(columns)
    return [column for name in names for column in columns if plain(column) == plain(name)]
