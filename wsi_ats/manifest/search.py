"""Slides in folders: which files are taken for slides, which folders cannot be read, and what is passed over."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from wsi_ats.regular import is_folder

TIFF = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".qptiff")
DICOM = (".dcm", ".dicom")
SUFFIXES = frozenset(
    (*TIFF, *DICOM, ".svs", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi")
)
"""Files that are taken for slides where none is named: in a folder, or by names without a suffix."""
UNREAD = frozenset(
    (
        ".vsi",
        ".isyntax",
        ".i2syntax",
        ".kfb",
        ".sdpc",
        ".mds",
        ".mdsx",
        ".tmap",
        ".lif",
        ".nd2",
        ".oir",
        ".zvi",
    )
)
"""Suffixes of slides in formats that are not read: they are passed over, and told."""
PACKED = frozenset((".gz", ".bz2", ".xz", ".zst", ".zip", ".7z"))
NAMED = 4
"""Number of suffixes that an error names."""
PEEKS = 200
"""Number of files of each suffix that no slide has that are looked into, a folder that is searched."""


@dataclass
class Found:
    """Result of a search, in the order in which folders are walked."""

    slides: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    """Folders that could not be listed, and why."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Number of files that may be slides and were not taken, by kind."""
    others: Counter[str] = field(default_factory=Counter)
    """Number of all other files, by suffix."""

    def told_others(self) -> str:
        """Words for the suffixes of files that do not look like slides; empty where there is none."""
        kinds = [
            f"{count} {suffix or 'without a suffix'}" for suffix, count in self.others.most_common(NAMED)
        ]
        more = ", ..." if len(self.others) > NAMED else ""
        return f"{self.others.total()} file(s): {', '.join(kinds)}{more}" if kinds else ""

    def told(self) -> str:
        """Words for what was passed over; empty where nothing was."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.passed_over.items()))
        return kinds and f"{self.passed_over.total()} file(s) were passed over: {kinds}"


def search(folder: Path) -> Found:
    """Slides under `folder`; links are followed, each real folder once; hidden files and folders are left alone.

    Nothing is opened but the first bytes of some regular files whose suffix is none of a slide.
    """
    found = Found()
    seen: set[str] = set()
    peeks: Counter[str] = Counter()

    def failed(error: OSError) -> None:
        found.unreadable.append((Path(error.filename), error.strerror or type(error).__name__))

    for place, folders, files in os.walk(folder, followlinks=True, onerror=failed):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        stores = [name for name in folders if is_store(Path(place, name))]
        found.slides += [Path(place, name) for name in stores]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in stores)
        for name in files:
            if name.startswith("."):
                continue
            if has_slide_suffix(name):
                found.slides.append(Path(place, name))
            elif kind := _may_be_slide(os.path.join(place, name), name, peeks):
                found.passed_over[kind] += 1
            else:
                found.others[os.path.splitext(name)[1].lower()] += 1
    return found


def is_store(path: Path) -> bool:
    """Whether it is the folder of an OME-Zarr; one that is half written or hidden is none."""
    return path.suffix.lower() == ".zarr" and not path.name.startswith(".") and is_folder(path)


def has_slide_suffix(name: str) -> bool:
    """Whether the name ends as those of slides do."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _may_be_slide(path: str, name: str, peeks: Counter[str]) -> str:
    """Kind of a file that may be a slide though its name is none of a slide's; empty where it is something else."""
    stem, suffix = os.path.splitext(name)
    suffix = suffix.lower()
    if suffix in UNREAD:
        return suffix
    if suffix in PACKED and has_slide_suffix(stem):
        return os.path.splitext(stem)[1].lower() + suffix
    peeks[suffix] += 1
    if peeks[suffix] <= PEEKS and _begins_as_slide(path):
        return f"{suffix or 'without a suffix'} that begin as TIFF or DICOM"
    return ""


def _begins_as_slide(path: str) -> bool:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or head[128:] == b"DICM"


_SERIES_UID = b"\x20\x00\x0e\x00UI"
"""Tag (0020,000E) SeriesInstanceUID with its type, explicit little endian, as whole-slide DICOM has it."""


def series_of(path: Path | str) -> bytes | None:
    """SeriesInstanceUID of a regular DICOM file; None where there is none near its beginning, or it cannot be read."""
    if not str(path).lower().endswith(DICOM):
        return None
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return None
    _, found, after = head.partition(_SERIES_UID)
    if head[128:132] != b"DICM" or not found:
        return None
    return after[2 : 2 + int.from_bytes(after[:2], "little")]
