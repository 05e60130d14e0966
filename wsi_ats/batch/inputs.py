"""What the user points at (files, folders, globs, manifests) -> the slides of a batch, each once, in a fixed
order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from wsi_ats.errors import ConfigError
from wsi_ats.manifest import ALIASES, column, parse_mpp

SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi"}
) | {".dcm", ".dicom"}
"""Files that a search of a folder takes for slides. A file named by the user or a manifest may have any
suffix."""
DICOM = frozenset({".dcm", ".dicom"})
MANIFESTS = frozenset({".csv", ".parquet"})
_SERIES_UID = b"\x20\x00\x0e\x00UI"
"""Tag (0020,000E) SeriesInstanceUID with its type, explicit little endian, as whole-slide DICOM has it."""


@dataclass(frozen=True)
class SlideItem:
    """One slide of a batch."""

    id: str
    """The path as the user gave it, with forward slashes: the slide's name in every table. For a slide found
    in a folder, the folder as given joined with the path inside it; for one of a manifest, the path as
    written there."""
    path: Path
    """Absolute, so that a worker with another working directory finds it."""
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
    items: dict[Path, SlideItem] = {}
    for argument in arguments:
        for item in _items_of(str(argument)):
            items.setdefault(item.path, item)
    if not items:
        raise ConfigError(
            "no slides were given", remedy="name slides, folders of slides, globs or a manifest"
        )
    return list(items.values())


def slide_id(path: str | Path) -> str:
    """A path as the id of a slide: as it is written, without `.`, `..` and double slashes, slashes
    forward."""
    return Path(os.path.normpath(path)).as_posix()


def _items_of(argument: str) -> list[SlideItem]:
    path = Path(argument)
    if path.is_dir():
        return _found(path, sorted(_search(path)), "has no file that looks like a slide")
    if path.is_file():
        return manifest_slides(path) if path.suffix.lower() in MANIFESTS else [_item(path)]
    if glob.has_magic(argument):
        # Not Path.glob: that one wants its folder and its pattern apart.
        matches = sorted(Path(match) for match in glob.iglob(argument, recursive=True))  # noqa: PTH207
        inside = (sorted(_search(match)) if match.is_dir() else [match] for match in matches)
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
        folders[:] = sorted(name for name in folders if not name.startswith("."))
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
    table = _read_text_table(path)
    names = {key: column(table, key, path, required=key == "slide") for key in ("slide", "patient")}
    items: dict[str, tuple[int, SlideItem]] = {}
    for number, values in enumerate(table.to_dict("records"), start=1):
        row = {str(key): str(value).strip() for key, value in values.items()}
        item = _manifest_item(path, f"{path}, row {number}", row, names)
        earlier, same = items.setdefault(item.id, (number, item))
        if same != item:
            raise ConfigError(
                f"{path}: rows {earlier} and {number} both name {item.id!r} and say different things of it",
                remedy="keep one of them",
            )
    return [item for _, item in items.values()]


def _manifest_item(
    path: Path, line: str, row: Mapping[str, str], names: Mapping[str, str | None]
) -> SlideItem:
    written = row[str(names["slide"])]
    if not written:
        raise ConfigError(f"{line}: column {names['slide']!r} is empty", remedy="name a slide in every row")
    taken = {*names.values(), "mpp"}
    return SlideItem(
        id=slide_id(written),
        path=_resolve(path.parent, written, line, bare=names["slide"] == ALIASES["slide"][-1]),
        mpp=parse_mpp(row.get("mpp", ""), line),
        patient=row.get(names["patient"] or "", ""),
        extra={key: value for key, value in row.items() if key not in taken},
    )


def _resolve(folder: Path, written: str, line: str, *, bare: bool) -> Path:
    """The file that a manifest means; `bare` names may lack their suffix."""
    path = _absolute(folder / written)
    if path.exists() or not bare:
        return path
    matches = [path.with_name(path.name + suffix) for suffix in sorted(SUFFIXES)]
    matches = [match for match in matches if match.exists()]
    if len(matches) > 1:
        raise ConfigError(
            f"{line}: {written!r} may be any of {', '.join(match.name for match in matches)}",
            remedy="write the slide's file name with its suffix",
        )
    return matches[0] if matches else path


def _read_text_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file with every value as text: patient 007 stays 007."""
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
            table = table.astype(object).where(table.notna(), "").astype(str)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ImportError as error:
        raise ConfigError(
            f"manifest {path} is Parquet, which needs pyarrow",
            remedy='pip install "wsi-ats[parquet]", or use CSV',
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"manifest {path} cannot be read: {error}", remedy="write it as CSV or Parquet"
        ) from error
    if table.empty:
        raise ConfigError(f"manifest {path} has no rows", remedy="write one row a slide")
    return table
