"""Manifests: tables of slides, for training (with labels, patients, splits) and for prediction."""

from wsi_ats.manifest.rows import SPLITS, Row, Split, read_manifest
from wsi_ats.manifest.search import SUFFIXES
from wsi_ats.manifest.splits import with_splits

__all__ = ["SPLITS", "SUFFIXES", "Row", "Split", "read_manifest", "with_splits"]
