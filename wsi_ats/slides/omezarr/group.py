"""The group of an OME-Zarr image: its attributes and the metadata of its arrays, from a folder or a URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_ats.errors import SlideError
from wsi_ats.slides.omezarr.metadata import MOST_BYTES, parse_metadata
from wsi_ats.slides.storage.source import ByteRange, ByteSource

Json = Mapping[str, Any]

OURS = "wsi_ats"
"""Attribute of what this package notes about a slide that it converted."""
MAX_SERIES = 100
"""Most images of a store that are looked for."""
GROUP_FILES = ("zarr.json", ".zattrs", ".zgroup")
MOST_LEVELS = 64
"""Levels of an image: of the largest, each half of the one before it, there are 24."""


@dataclass(frozen=True, slots=True)
class Group:
    """A Zarr group: where it lies and its attributes."""

    prefix: str
    """Folder of the group in the store, with "/" at the end unless it is the root."""
    zarr_format: int
    attributes: Json

    @property
    def notes(self) -> Json:
        """Notes that `convert` left; empty for images of others."""
        found = self.attributes.get(OURS)
        return found if isinstance(found, Mapping) else {}


def groups_of(source: ByteSource, slide: str) -> list[Group]:
    """The groups of a store's images: the root, or those of all series where bioformats2raw made the store.

    Raises SlideError where there is none, where it is damaged, or where its conversion was not finished.
    """
    root = _group(source, "", slide)
    ome = root.attributes.get("ome", root.attributes)
    if isinstance(ome, Mapping) and "bioformats2raw.layout" in ome and "multiscales" not in ome:
        return _series(source, slide)
    if root.notes.get("complete", True) is not True:
        raise SlideError(
            f"slide {slide!r} is the beginning of a conversion that was stopped: {source.address}",
            "give the same `wsi-ats convert` command again: it goes on where it was stopped",
        )
    return [root]


def _series(source: ByteSource, slide: str) -> list[Group]:
    """The groups 0, 1, 2, ... of a store, up to the first that is not there."""
    groups = [_group(source, "0/", slide)]
    while len(groups) < MAX_SERIES and any(source.exists(f"{len(groups)}/{name}") for name in GROUP_FILES):
        groups.append(_group(source, f"{len(groups)}/", slide))
    return groups


def _group(source: ByteSource, prefix: str, slide: str) -> Group:
    v3, attributes, v2 = (
        None if content is None else _parse(content, f"{prefix}{name}", slide)
        for name, content in zip(
            GROUP_FILES,
            source.read_many([ByteRange(prefix + n) for n in GROUP_FILES], MOST_BYTES),
            strict=True,
        )
    )
    if v3 is not None:
        if v3.get("node_type") != "group":
            raise SlideError(
                f"slide {slide!r}: {source.address} is a Zarr {v3.get('node_type')}, not the group of an image",
                "give the folder that holds the levels",
            )
        found = v3.get("attributes")
        return _checked(Group(prefix, 3, found if isinstance(found, Mapping) else {}), slide)
    if attributes is None and v2 is None:
        raise SlideError(
            f"slide {slide!r} is no OME-Zarr: {source.address} has none of {', '.join(GROUP_FILES)} at {prefix or '/'}",
            "check the path or URL; it must be that of the image's group",
        )
    return _checked(Group(prefix, 2, attributes or {}), slide)


def _checked(group: Group, slide: str) -> Group:
    """The group, if the notes in it have the form that `convert` gives them. Raises SlideError."""
    for name in ("associated", "properties"):
        found = group.notes.get(name, {})
        if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
            raise SlideError(
                f"slide {slide!r}: the attribute {OURS}.{name} is no table of texts", "convert it again"
            )
    return group


def read_arrays(source: ByteSource, group: Group, paths: Sequence[str], slide: str) -> list[Json]:
    """The metadata of arrays in a group, all read at once. Raises SlideError where one is absent or damaged."""
    if len(paths) > MOST_LEVELS:
        raise SlideError(f"slide {slide!r} has {len(paths)} levels; at most {MOST_LEVELS} are read")
    names = [f"{group.prefix}{path}/{'zarr.json' if group.zarr_format == 3 else '.zarray'}" for path in paths]
    arrays = []
    contents = source.read_many([ByteRange(name) for name in names], MOST_BYTES)
    for name, content in zip(names, contents, strict=True):
        if content is None:
            raise SlideError(
                f"slide {slide!r}: the level {name} is missing at {source.address}",
                "the copy is incomplete: copy it again from its source",
            )
        metadata = _parse(content, name, slide)
        if metadata.get("zarr_format") != group.zarr_format:
            raise SlideError(
                f"slide {slide!r}: {name} has zarr_format {metadata.get('zarr_format')!r}; "
                f"that of its group is {group.zarr_format}"
            )
        arrays.append(metadata)
    return arrays


def _parse(content: bytes, name: str, slide: str) -> Json:
    try:
        return parse_metadata(content)
    except ValueError as error:
        raise SlideError(f"slide {slide!r}: {name} is damaged: {error}", "copy it again") from error
