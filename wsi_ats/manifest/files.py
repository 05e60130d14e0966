"""Files of the slides that a manifest names: where they lie, and which names mean one and the same file."""

from __future__ import annotations

import difflib
import os
import stat
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wsi_ats.errors import ConfigError
from wsi_ats.manifest.search import has_slide_suffix, search, series_of
from wsi_ats.slides.storage.opening import is_url

HINTS = 20
"""Number of missing slides for which close names are looked for."""
COMPARED = 5000
"""Number of names that a missing one is compared with."""


@dataclass(frozen=True)
class SlideFile:
    """Where a slide lies."""

    path: str
    """Path seen from the working folder, or URL."""
    key: Hashable
    """The same for all names of one file, other files have another."""
    size: int = 0
    """Bytes of a regular file; 0 where it is none, or not there."""
    hint: str = ""
    """What to do where the file is missing: where it was looked for, and what lies there."""


class SlideFiles:
    """Finds the files that a manifest means.

    folder: folder (or URL) that relative paths start at. searched: names without a folder may also lie deeper in it.
    encoding: of the manifest; names of files need not be text of any.
    """

    def __init__(self, folder: Path | str, *, searched: bool = False, encoding: str = "utf-8") -> None:
        self.folder = str(folder)
        self._remote = is_url(self.folder)
        self._searched = searched
        self._encoding = encoding
        self._listed: dict[str, dict[str, list[str]]] = {}
        self._hints = 0

    def find(self, written: str, line: str) -> SlideFile:
        """The file that a manifest names on a line. Raises `ConfigError` where it may be any of several."""
        if is_url(written):
            return SlideFile(written, file_key(written))
        if self._remote:
            url = f"{self.folder.rstrip('/')}/{written}"
            return SlideFile(url, url)
        place = os.path.normpath(os.path.join(self.folder, written))
        facts = status_of(place)
        if facts is None or (stat.S_ISDIR(facts.st_mode) and not place.lower().endswith(".zarr")):
            other = self._otherwise(written, place, line)
            if other is None and facts is None:
                return SlideFile(place, os.path.abspath(place), hint=self._hint(place))
            place, facts = other or place, status_of(other or place)
        size = facts.st_size if facts is not None and stat.S_ISREG(facts.st_mode) else 0
        return SlideFile(place, local_key(place, facts), size)

    def has(self, written: str) -> bool:
        """Whether a local file is there that `written` can mean."""
        if not written or self._remote or is_url(written):
            return False
        place = os.path.normpath(os.path.join(self.folder, written))
        try:
            return status_of(place) is not None or self._otherwise(written, place, "") is not None
        except ConfigError:  # any of several
            return True

    def _otherwise(self, written: str, place: str, line: str) -> str | None:
        """The one file that is meant though it is not called so: its suffix, its folder or its bytes are others."""
        folder, name = os.path.split(place)
        matches = [os.path.join(folder, match) for match in self._names(folder).get(name, ())]
        if not matches and self._searched and written == name:
            matches = self._deeper.get(name, [])
        if len(matches) > 1:
            names = (os.path.relpath(match, self.folder) for match in sorted(matches))
            raise ConfigError(
                f"{line}: {written!r} may be any of {', '.join(names)}",
                remedy="write the slide's path with its folder and its suffix",
            )
        if matches:
            return matches[0]
        spelt = [written.replace("\\", "/")]
        if self._encoding != "utf-8":
            spelt.append(os.fsdecode(written.encode(self._encoding)))
        there = (os.path.normpath(os.path.join(self.folder, other)) for other in spelt if other != written)
        return next((path for path in there if os.path.isfile(path)), None)

    def _names(self, folder: str) -> dict[str, list[str]]:
        """Names of slides in a folder by what they are called without their suffix; listed once."""
        if folder not in self._listed:
            try:
                names = os.listdir(folder)
            except OSError:
                names = []
            self._listed[folder] = _by_stem(name for name in names if _is_slide(name))
        return self._listed[folder]

    @cached_property
    def _deeper(self) -> dict[str, list[str]]:
        """Paths of all slides under the folder by their names with and without suffix."""
        by_name: dict[str, list[str]] = defaultdict(list)
        for path in map(str, search(Path(self.folder)).slides):
            for name in {os.path.basename(path), *_stems(os.path.basename(path))}:
                by_name[name].append(path)
        return by_name

    def _hint(self, place: str) -> str:
        """Where a missing slide was looked for, and names there that are like its own."""
        folder, name = os.path.split(place)
        deeper = f", and in the folders under {self.folder}" if self._searched else ""
        looked = f"it was looked for in {folder or '.'}{deeper}"
        self._hints += 1
        if self._hints > HINTS:
            return looked
        names = {full for full, *_ in self._names(folder).values()}
        if self._searched:
            names |= {os.path.basename(path) for paths in self._deeper.values() for path in paths}
        close = _close(name, names)
        return f"{looked}; close names there: {', '.join(map(repr, close))}" if close else looked


def status_of(path: str) -> os.stat_result | None:
    """Facts of a file; None where there is none, or it cannot be seen."""
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def file_key(place: str) -> Hashable:
    """A key of a file: its place on the disk, the same under all its names; of a URL or a missing file, its name."""
    if place.lower().startswith("file://"):
        place = unquote(urlsplit(place).path)
    return place if is_url(place) else local_key(place, status_of(place))


def local_key(place: str, facts: os.stat_result | None) -> Hashable:
    """As `file_key`. The files of one DICOM series in a folder are one slide. Size and time are part of the key, since
    some network file systems give the number of a file that they forgot to another one."""
    if facts is None:
        return os.path.abspath(place)
    series = series_of(place)
    if series:
        return os.path.realpath(os.path.dirname(place)), series
    if not facts.st_ino:
        return os.path.realpath(place)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _is_slide(name: str) -> bool:
    return not name.startswith(".") and (has_slide_suffix(name) or name.lower().endswith(".zarr"))


def _stems(name: str) -> list[str]:
    """A name without its suffix, and where that is a double one (`.ome.tif`), without both."""
    stem = os.path.splitext(name)[0]
    return [stem, stem[:-4]] if stem.lower().endswith(".ome") else [stem]


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in names:
        for stem in _stems(name):
            by_stem[stem].append(name)
    return by_stem


def _close(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of the names that are like `name`, letter case aside: those that begin with it first."""
    plain = name.casefold()
    some = {other: other.casefold() for other in sorted(names)}
    if len(some) > COMPARED:
        begin_alike = (other for other, text in some.items() if text[:2] == plain[:2])
        some = {other: some[other] for other in islice(begin_alike, COMPARED)}
    close = difflib.get_close_matches(plain, some.values())
    begin = [other for other, text in some.items() if text.startswith(plain)]
    like = [other for wanted in close for other, text in some.items() if text == wanted]
    return list(dict.fromkeys([*begin, *like]))[:3]
