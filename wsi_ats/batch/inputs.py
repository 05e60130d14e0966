"""Inputs of a batch: from files, folders, globs and manifests to its slides, each once, in a fixed order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsi_ats.errors import ConfigError
from wsi_ats.manifest import SUFFIXES, entries_of, read_table, slide_id
from wsi_ats.shown import redacted
from wsi_ats.slides.storage.opening import is_url

__all__ = ["SlideItem", "find_slides", "manifest_slides", "slide_id"]

DICOM = frozenset({".dcm", ".dicom"})
MANIFESTS = frozenset({".csv", ".parquet"})
_SERIES_UID = b"\x20\x00\x0e\x00UI"
"""Tag (0020,000E) SeriesInstanceUID with its type, explicit little endian, as whole-slide DICOM has it."""


@dataclass(frozen=True)
class SlideItem:
    """A slide of a batch, as the user named it."""

    id: str
    """The path as the user gave it, with forward slashes: the slide's name in every table. For a slide found
    in a folder, the folder as given joined with the path inside it; for one of a manifest, the path as
    written there."""
    path: Path | str = field(repr=False)
    """Absolute path, so that a worker with another working directory finds it; a string where it is a URL, with its
    user and signature, which is why it is not shown."""
    mpp: float | None = None
    """Micrometres per pixel as the manifest has it."""
    patient: str = ""
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Other columns of the manifest, carried through to predictions.csv."""


def find_slides(arguments: Iterable[str | Path]) -> list[SlideItem]:
    """The slides behind files, folders (searched recursively), globs and manifests (.csv, .parquet), in that
    order.

    A slide met twice is taken once. Raises `ConfigError` for an argument that leads to no slide. A slide that
    a manifest names and that is not there is no error here: it fails alone, later, and the others are done.
    """
    items: dict[Path | str, SlideItem] = {}
    for argument in arguments:
        for item in _items_of(str(argument)):
            items.setdefault(item.path, item)
    if not items:
        raise ConfigError(
            "no slides were given", remedy="name slides, folders of slides, globs or a manifest"
        )
    return list(items.values())


def _items_of(argument: str) -> list[SlideItem]:
    if is_url(argument):
        return [SlideItem(slide_id(argument), argument)]
    path = Path(argument)
    if _is_store(path):
        return [_item(path)]
    if path.is_dir():
        return _found(path, sorted(_search(path)), "has no file that looks like a slide")
    if path.is_file():
        return manifest_slides(path) if path.suffix.lower() in MANIFESTS else [_item(path)]
    if glob.has_magic(argument):
        # Not Path.glob: that one wants its folder and its pattern apart.
        matches = sorted(Path(match) for match in glob.iglob(argument, recursive=True))  # noqa: PTH207
        inside = (
            sorted(_search(match)) if match.is_dir() and not _is_store(match) else [match]
            for match in matches
        )
        return _found(path, [file for files in inside for file in files], "matches no slide")
    raise ConfigError(
        f"{argument} does not exist", remedy="check the path (a relative one starts at the working directory)"
    )


def _found(argument: Path, files: Sequence[Path], otherwise: str) -> list[SlideItem]:
    if not files:
        raise ConfigError(
            f"{argument} {otherwise}",
            remedy=f"slides end in {' '.join(sorted(SUFFIXES))}; name others one by one or in a manifest",
        )
    return [_item(file) for file in _one_a_series(files)]


def _is_store(path: Path) -> bool:
    """Is it the folder of an OME-Zarr? One that is half written or hidden is none."""
    return path.suffix.lower() == ".zarr" and not path.name.startswith(".") and path.is_dir()


def _item(path: Path) -> SlideItem:
    return SlideItem(slide_id(path), _absolute(path))


def _absolute(path: Path) -> Path:
    """Without resolving links: their names may be all that tells two slides apart."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.absolute keeps "..")


def _search(folder: Path) -> Iterator[Path]:
    """Slides under `folder`; links are followed, each real folder once; hidden files and folders are left
    alone."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        stores = [name for name in folders if _is_store(Path(place, name))]
        yield from (Path(place, name) for name in stores)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in stores)
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


def _one_a_series(files: Sequence[Path]) -> list[Path]:
    """The files, but of the DICOM files of one folder and series (the levels of one slide) the first
    alone."""
    kept: dict[tuple[Path, bytes | str], Path] = {}
    for file in files:
        kept.setdefault((file.parent, _series(file) or file.name), file)
    return list(kept.values())


def _series(file: Path) -> bytes | None:
    """SeriesInstanceUID of a DICOM file; None where there is none near its beginning."""
    if file.suffix.lower() not in DICOM:
        return None
    with file.open("rb") as stream:
        head = stream.read(1 << 16)
    _, found, after = head.partition(_SERIES_UID)
    if head[128:132] != b"DICM" or not found:
        return None
    return after[2 : 2 + int.from_bytes(after[:2], "little")]


def manifest_slides(path: Path) -> list[SlideItem]:
    """The slides of a CSV or Parquet manifest: columns slide (or wsi, slide_id), patient (or case_id), mpp,
    others.

    Paths are relative to the manifest; CLAM's slide_id comes without a suffix and is then looked for with
    every suffix of a slide. Raises `ConfigError` naming the manifest, the row, the value and the rule."""
    items: dict[str, tuple[int, SlideItem]] = {}
    for entry in entries_of(read_table(path), path):
        place = entry.path if isinstance(entry.path, str) else _absolute(entry.path)
        others = {name: redacted(text) for name, text in entry.others.items()}
        item = SlideItem(entry.slide, place, entry.mpp, entry.patient, others)
        earlier, same = items.setdefault(item.id, (entry.row, item))
        if same != item:
            raise ConfigError(
                f"{path}: rows {earlier} and {entry.row} both name {item.id!r} and say different things of it",
                remedy="keep one of them",
            )
    return [item for _, item in items.values()]
