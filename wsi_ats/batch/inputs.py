"""Inputs of a batch: from files, folders, globs and manifests to its slides, in a fixed order.

What cannot be looked into (a folder without permission, a pipe called .svs) is a slide that fails, so that it stands
in the tables; only an argument that leads to nothing is an error."""

from __future__ import annotations

import glob
import itertools
import os
import stat
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.advice import tell_without_patient
from wsi_ats.manifest.columns import patient_column
from wsi_ats.manifest.entries import entries_of, slide_id
from wsi_ats.manifest.files import file_key, local_key
from wsi_ats.manifest.search import SUFFIXES, Found, is_store, search, series_of
from wsi_ats.manifest.table import Warn, read_table
from wsi_ats.regular import is_folder
from wsi_ats.shown import public_url, redacted
from wsi_ats.slides.storage.opening import is_url

__all__ = ["SlideItem", "find_slides", "manifest_slides", "slide_id"]

MANIFESTS = frozenset({".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xlsm", ".xls", ".parquet"})
"""Suffixes of tables of slides."""


@dataclass(frozen=True)
class SlideItem:
    """A slide of a batch, as the user named it, or a patient."""

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
    twin: str = ""
    """Id of the slide that this is another name of: the two have one prediction, and a row each. Empty: of none."""
    trouble: str = field(default="", compare=False)
    """Why it cannot be opened, where that is known already."""
    hint: str = field(default="", compare=False)
    """What to do where its file is missing."""
    slides: tuple[SlideItem, ...] = ()
    """Slides of a patient, whose id is then `id` (`batch/patients.py`); none where this is one slide."""

    @property
    def of_slides(self) -> tuple[SlideItem, ...]:
        """Its slides: itself where it is one."""
        return self.slides or (self,)

    @property
    def source(self) -> str:
        """Id of the slide whose prediction is this one's."""
        return self.twin or self.id


@dataclass(frozen=True)
class _Named:
    """A slide as it was found: what tells its file from others, and where it stands."""

    item: SlideItem
    key: Hashable
    line: str = ""
    """Row of a manifest; empty for slides that are named on the command line."""


def find_slides(
    arguments: Iterable[str | Path],
    *,
    slides_dir: Path | str | None = None,
    patient: str | None = None,
    warn: Warn = warnings.warn,
) -> list[SlideItem]:
    """The slides behind files, folders (searched recursively), globs and manifests, in that order.

    A path met twice on the command line is taken once. Every row of a manifest is kept, and other names of a file that
    was met (links, other spellings) are, as `twin` of the first. Raises `ConfigError` for an argument that leads to no
    slide. A slide that a manifest names and that is not there is no error here: it fails alone, later, and the others
    are done. slides_dir, patient, warn: as `read_manifest` takes them.
    """
    named = [str(argument) for argument in arguments]
    if slides_dir is not None and not any(map(is_manifest, named)):
        raise ConfigError(
            f"--slides-dir is {slides_dir} and no manifest is given",
            "it is for the paths in a manifest; give one",
        )
    found = (_named(argument, slides_dir, patient, warn) for argument in named)
    items = _with_twins(itertools.chain.from_iterable(found))
    if not items:
        raise ConfigError(
            "no slides were given", remedy="name slides, folders of slides, globs or a manifest"
        )
    return items


def one_slide(argument: str) -> str:
    """The argument of a command that takes one slide. Raises `ConfigError` for a folder, a pattern or a manifest, which
    names a slide of it."""
    path = Path(argument)
    if is_url(argument) or is_store(path):
        return argument
    if is_folder(path):
        what = "a folder of"
    elif not os.path.lexists(path) and glob.has_magic(argument):
        what = "a pattern that matches"
    elif is_manifest(argument) and os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for long names)
        what = "a table of"
    else:
        return argument
    items = find_slides([argument], warn=lambda text: None)
    raise ConfigError(
        f"{argument} is {what} {len(items)} slide(s); this command takes one",
        remedy=f"give them one at a time, {items[0].id if what != 'a table of' else items[0].path} for example",
    )


def _with_twins(found: Iterable[_Named]) -> list[SlideItem]:
    """The slides, each of which knows whether an earlier one has the same file. Raises `ConfigError` for two slides of
    one id."""
    first: dict[tuple[Hashable, float | None], str] = {}
    by_id: dict[str, _Named] = {}
    paths: set[str] = set()
    items = []
    for named in found:
        item = named.item
        path = str(item.path)
        if not named.line and path in paths:
            continue
        paths.add(path)
        earlier = by_id.setdefault(item.id, named)
        if (earlier.key, earlier.item.mpp) != (named.key, item.mpp):
            _refuse(earlier, named)
        source = first.setdefault((named.key, item.mpp), item.id)
        items.append(replace(item, twin=source) if source != item.id else item)
    return items


def _refuse(one: _Named, other: _Named) -> None:
    both = [named.line or f"argument {named.item.id}" for named in (one, other)]
    said = (
        f"mean different files, {public_url(str(one.item.path))} and {public_url(str(other.item.path))}"
        if one.key != other.key
        else f"say different things of it: mpp is {one.item.mpp} and {other.item.mpp}"
    )
    raise ConfigError(
        f"{' and '.join(both)} both name {one.item.id!r} and {said}",
        remedy="keep one of them, or predict them apart, each with its own --out",
    )


def is_manifest(argument: str) -> bool:
    """Whether an argument is a table of slides, by its name."""
    return not is_url(argument) and Path(argument).suffix.lower() in MANIFESTS and not is_folder(argument)


def _named(argument: str, slides_dir: Path | str | None, patient: str | None, warn: Warn) -> Iterator[_Named]:
    if is_url(argument):
        return iter([_Named(SlideItem(slide_id(argument), argument), file_key(argument))])
    path = Path(argument)
    if not os.path.lexists(path) and glob.has_magic(argument):
        return _matches(argument, warn)
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{argument} does not exist",
            remedy="check the path (a relative one starts at the working directory)",
        ) from None
    except OSError as error:
        return iter([_in_trouble(path, error.strerror or str(error))])
    if stat.S_ISDIR(facts.st_mode) and not is_store(path):
        return _in_folder(path, warn)
    if is_manifest(argument):
        return _rows(path, slides_dir, patient, warn)
    return iter([_one(path)])


def _matches(pattern: str, warn: Warn) -> Iterator[_Named]:
    # Not Path.glob: that one wants its folder and its pattern apart.
    matches = sorted(Path(match) for match in glob.iglob(pattern, recursive=True))  # noqa: PTH207
    found: list[_Named] = []
    files: list[Path] = []
    for match in matches:
        if match.is_dir() and not is_store(match):
            more, unreadable = _of(match, search(match), warn)
            files += more
            found += unreadable
        else:
            files.append(match)
    found += map(_one, _one_a_series(files))
    if not found:
        raise _nothing(f"{pattern} matches no slide")
    return iter(found)


def _in_folder(folder: Path, warn: Warn) -> Iterator[_Named]:
    found = search(folder)
    files, unreadable = _of(folder, found, warn)
    if not files and not unreadable:
        from wsi_ats.model_folder import is_model  # takes seconds to import

        if is_model(folder):
            raise ConfigError(
                f"{folder} is a model folder, not slides",
                remedy=f"give slides; `wsi-ats info {folder}` says what the model is",
            )
        others = found.told_others()
        raise _nothing(
            f"{folder} has no file that looks like a slide" + (f"; it has {others}" if others else "")
        )
    return iter([*map(_one, _one_a_series(files)), *unreadable])


def _of(folder: Path, found: Found, warn: Warn) -> tuple[list[Path], list[_Named]]:
    """Slides found in a folder, and the folders in it that cannot be listed."""
    if found.told():
        warn(f"{folder}: {found.told()}; those that a reader knows are read where they are named one by one")
    return sorted(found.slides), [_in_trouble(path, why) for path, why in sorted(found.unreadable)]


def _nothing(said: str) -> ConfigError:
    endings = " ".join(sorted(SUFFIXES))
    return ConfigError(said, remedy=f"slides end in {endings}; name others one by one or in a manifest")


def _one(path: Path) -> _Named:
    """A slide by its path; nothing is opened here but files of DICOM."""
    place = _absolute(path)
    try:
        facts = place.stat()
    except FileNotFoundError:  # a link to nothing, which is told when it is opened
        return _Named(SlideItem(slide_id(path), place), str(place))
    except OSError as error:
        return _in_trouble(path, error.strerror or str(error))
    if not stat.S_ISREG(facts.st_mode) and not is_store(path):
        return _in_trouble(path, "it is not a regular file")
    return _Named(SlideItem(slide_id(path), place), local_key(str(place), facts))


def _in_trouble(path: Path, why: str) -> _Named:
    place = _absolute(path)
    return _Named(
        SlideItem(
            slide_id(path),
            place,
            trouble=f"{path} cannot be read: {why}",
            hint="check its permissions and kind",
        ),
        str(place),
    )


def _absolute(path: Path) -> Path:
    """Without resolving links: their names may be all that tells two slides apart."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.absolute keeps "..")


def _one_a_series(files: Sequence[Path]) -> list[Path]:
    """The files, but of the DICOM files of one folder and series (the levels of one slide) the first
    alone."""
    kept: dict[tuple[Path, bytes | str], Path] = {}
    for file in files:
        kept.setdefault((file.parent, series_of(file) or file.name), file)
    return list(kept.values())


def manifest_slides(
    path: Path,
    *,
    slides_dir: Path | str | None = None,
    patient: str | None = None,
    warn: Warn = warnings.warn,
) -> list[SlideItem]:
    """The slides of a manifest, one a row; its columns are those of docs/formats.md.

    Paths are relative to the manifest or to `slides_dir`; a name that lacks its suffix is looked for with every suffix
    of a slide. Raises `ConfigError` naming the manifest, the row, the value and the rule."""
    return _with_twins(_rows(path, slides_dir, patient, warn))


def _rows(path: Path, slides_dir: Path | str | None, patient: str | None, warn: Warn) -> Iterator[_Named]:
    table = read_table(path, warn)
    patients = patient_column(table, patient)
    entries = entries_of(table, patients, slides_dir, warn=warn)
    if patients:
        tell_without_patient(table, patients, warn)
    for position, entry in enumerate(entries):
        place = entry.path if is_url(entry.path) else Path(os.path.abspath(entry.path))  # noqa: PTH100
        others = {name: redacted(text) for name, text in entry.others.items()}
        item = SlideItem(entry.slide, place, entry.mpp, entry.patient, others, hint=entry.hint)
        yield _Named(item, entry.file, table.line(position))
