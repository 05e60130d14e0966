"""Fingerprint of a slide, by which a change shows: its size and time of change, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from wsi_ats.regular import is_folder, regular_stat
from wsi_ats.slides.storage.opening import is_url, open_source

ROOTS = ("zarr.json", ".zattrs", ".zgroup")
"""Files of which a Zarr store has one at its root; written last by most writers."""


def fingerprint_of(slide: Path | str) -> tuple[int, int]:
    """Pair (bytes, time of change in ns) of a file; of the root's metadata for a folder; behind a URL the second number
    stands for the server's ETag.

    Raises OSError where there is no such slide, and where it is neither file nor folder (a pipe, a device).
    """
    address = str(slide)
    if not is_url(address) and not is_folder(address):
        status = regular_stat(address)
        return status.st_size, status.st_mtime_ns
    source = open_source(address)
    try:
        if not is_url(address) or _is_store(address):
            for root in ROOTS:
                if source.exists(root):
                    return source.stamp(root)
            raise FileNotFoundError(2, "no Zarr store is there", address)
        return source.stamp()
    finally:
        source.close()


def _is_store(url: str) -> bool:
    from wsi_ats.slides.omezarr.slide import is_zarr

    return is_zarr(url)
