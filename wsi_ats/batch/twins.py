"""Twins: slides that are other names of one file, in this run or since an earlier one, and so share its prediction.

A slide's folder is called after its id, as the user wrote it. The same folder of slides given by its absolute path has
other ids and the same files: what an earlier run left under the other names is taken, not made again."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.records import Result, read_record
from wsi_ats.batch.store import folder_name, slide_folders
from wsi_ats.manifest.files import file_key


def once_each(items: Iterable[SlideItem]) -> list[SlideItem]:
    """The slides to predict, under the ids that their predictions have: of several names of one file the first."""
    first: dict[str, SlideItem] = {}
    for item in items:
        if item.source not in first:
            first[item.source] = replace(item, id=item.source, twin="") if item.twin else item
    return list(first.values())


def with_known_twins(
    items: Sequence[SlideItem], out: Path, config_hash: str, override_mpp: float | None
) -> list[SlideItem]:
    """The slides, those whose file has a result under another name in `out` as twins of that.

    Only results of slides that have the same name but for their folder are looked into: of a hundred thousand results,
    as other tasks of an array job leave them, few or none.
    """
    if any(item.slides for item in items):  # patients: which files they are of, is part of their results
        return list(items)
    own = {folder_name(id): id for id in {item.source for item in items}}
    stems = {_stem(name) for name in own}
    candidates = [name for name in slide_folders(out) if name not in own and _stem(name) in stems]
    known: dict[tuple[Hashable, float | None], str] = {}
    for name in candidates:
        record = read_record(out / "slides" / name / "result.json", Result)
        if record is not None and record["config_hash"] == config_hash:
            known[file_key(record["path"]), record["mpp_given"]] = record["slide"]
    if not known:
        return list(items)
    done = {id for name, id in own.items() if (out / "slides" / name / "result.json").exists()}
    other: dict[str, str] = {}
    for item in items:
        mpp = item.mpp if item.mpp is not None else override_mpp
        if not item.twin and item.id not in done and _stem(folder_name(item.id)) in stems:
            other[item.id] = known.get((file_key(str(item.path)), mpp), "")
    return [replace(item, twin=twin) if (twin := other.get(item.source)) else item for item in items]


def note(item: SlideItem) -> tuple[str, ...]:
    """What the tables say of a slide that is another name of a file."""
    return () if item.source == item.id else (f"same file as {item.source}",)


def _stem(folder: str) -> str:
    """Name of a slide's folder without the hash of its id."""
    return folder.rpartition("-")[0]
