"""The plan of a conversion: levels, arrays, metadata, and whether it goes on with what is there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_ats.convert.ngff_write import Version, image_attributes
from wsi_ats.convert.zarr_write import ArrayPlan, Codec, codec_of
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.geometry import Pyramid
from wsi_ats.slides.base import Slide
from wsi_ats.slides.memory import MemoryAddress
from wsi_ats.slides.omezarr.group import GROUP_FILES, OURS, Group
from wsi_ats.slides.storage.opening import open_source

CHUNK = 256
"""Side of a chunk in px: what is decoded for a pixel."""
BLOCK = 4096
"""Side of a block in px, at most: a shard, and what is in memory at a time (48 MiB)."""
KEPT = ("openslide.vendor", "openslide.objective-power", "openslide.quickhash-1")
"""Properties of the source that are written along: no descriptions, which may hold names and dates."""

Json = dict[str, Any]
Verify = Literal["sample", "all", "none"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of how a slide is converted."""

    codec: Literal["zstd", "blosc", "lz4", "jpeg"] = "zstd"
    """Codec of chunks. zstd, blosc (zstd in it), lz4: lossless. jpeg: the slide's own JPEG tiles, bit for bit."""
    ngff: Version = "0.5"
    """Version of NGFF. 0.5: Zarr v3, sharded. 0.4: Zarr v2, a file a chunk, for older viewers."""
    verify: Verify = "sample"
    """Part that is read back and compared with the slide in the end: 16 blocks a level, all, or nothing."""

    def __post_init__(self) -> None:
        choices = {
            "codec": ("zstd", "blosc", "lz4", "jpeg"),
            "ngff": ("0.5", "0.4"),
            "verify": ("sample", "all", "none"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r}; it must be one of {', '.join(allowed)}",
                    remedy="choose one of these",
                )
        if self.codec == "jpeg" and self.ngff == "0.4":
            raise ConfigError(
                "codec='jpeg' with ngff='0.4': Zarr v2 cannot store tiles of interleaved colours as c, y, x",
                "leave --ngff 0.4 away, or choose a lossless codec",
            )

    @property
    def zarr_format(self) -> int:
        """Version of the Zarr format itself, 2 or 3."""
        return 3 if self.ngff == "0.5" else 2


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan of all that a conversion writes, but for the pixels."""

    slide: str
    root: Path
    settings: Settings
    pyramid: Pyramid
    mpp: tuple[float, float] | None
    """Micrometres per level-0 px (x, y)."""
    arrays: tuple[ArrayPlan, ...]
    """Arrays of the levels, finest first."""
    copied: int
    """Number of levels that are copies of the slide's own tiles; the others are made of the level before."""
    attributes: Json
    """Attributes of the image's group, once it is complete."""
    notes: Json
    """Notes of what the image is made from and how: a conversion with equal notes goes on."""

    @property
    def pixels(self) -> int:
        """Number of pixels of all levels together."""
        return sum(array.height * array.width for array in self.arrays)

    def group(self) -> Group:
        """The group of the image as it will be, for reading it before it is complete."""
        return Group("", self.settings.zarr_format, self.attributes)


def halved(width: int, height: int, until: int = CHUNK) -> list[tuple[int, int]]:
    """Sizes from (width, height) on, each half the one before, rounded up, down to `until` px a side."""
    sizes = [(width, height)]
    while max(sizes[-1]) > until:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def plan(
    slide: Slide, root: Path, settings: Settings, tiles: Sequence[tuple[Codec, tuple[int, int]]] = ()
) -> Plan:
    """The plan of what to write for a slide.

    tiles: codec and tile size (height, width) of the levels that are copied as they are, finest first; none: all
        levels are made from level 0, each of means of 2 x 2 px of the one before.
    """
    given = [(level.size.width, level.size.height) for level in slide.levels[: max(len(tiles), 1)]]
    pyramid = Pyramid.of_sizes([*given[:-1], *halved(*given[-1])])
    lossless = codec_of("zstd" if settings.codec == "jpeg" else settings.codec, settings.zarr_format)
    arrays = []
    for level in pyramid.levels:
        codec, chunk = tiles[level.index] if level.index < len(tiles) else (lossless, (CHUNK, CHUNK))
        block = tuple(side * max(1, BLOCK // side) for side in chunk)
        arrays.append(
            ArrayPlan(
                key=str(level.index),
                height=level.size.height,
                width=level.size.width,
                rgb=True,
                chunk=chunk,
                block=(block[0], block[1]),
                zarr_format=settings.zarr_format,
                codec=codec,
                fill=255,
            )
        )
    how = ("mean", "each level is the mean of 2 x 2 px of the one before")
    if tiles:
        how = ("copy", f"{len(tiles)} level(s) of the slide's own JPEG tiles, the others means of 2 x 2 px")
    attributes = image_attributes(settings.ngff, slide.name, pyramid, slide.mpp_xy, how)
    return Plan(
        slide.name,
        root,
        settings,
        pyramid,
        slide.mpp_xy,
        tuple(arrays),
        len(tiles),
        attributes,
        _notes(slide, settings, arrays),
    )


def _notes(slide: Slide, settings: Settings, arrays: Sequence[ArrayPlan]) -> Json:
    notes: Json = {
        "source": {"name": slide.name, "stamp": source_stamp(slide)},
        "settings": {"codec": settings.codec, "ngff": settings.ngff, "mpp": slide.mpp_xy},
        "arrays": hashlib.blake2b(json.dumps([a.metadata() for a in arrays]).encode()).hexdigest()[:16],
        "srgb": slide.address.options.srgb,
        "properties": {key: slide.properties[key] for key in KEPT if key in slide.properties},
    }
    if settings.codec == "jpeg":
        notes["readers"] = (
            "The levels with the codec imagecodecs_jpeg hold the JPEG tiles of the slide as they were. They open "
            "in wsi-ats, and in zarr-python with the package imagecodecs-zarr (Python 3.12 or later); other "
            "readers of OME-Zarr do not know the codec."
        )
    as_read: Json = json.loads(json.dumps(notes))  # no tuples
    return as_read


def source_stamp(slide: Slide) -> list[str]:
    """Fingerprint of the source of a slide, as texts: size and time of the file, or a digest of arrays in memory.

    Texts, since readers in other languages have no whole numbers that large.
    """
    address = slide.address
    if isinstance(address, MemoryAddress):
        digest = hashlib.blake2b(digest_size=16)
        for level in address.levels:
            digest.update(level.tobytes())
        return [digest.hexdigest()]
    path = getattr(address, "path", None)
    if not isinstance(path, str):
        return []
    with open_source(path) as source:
        for key in ("", *GROUP_FILES):
            try:
                return [str(number) for number in source.stamp(key)]
            except FileNotFoundError:
                continue
    return []


def prepare(plan: Plan, overwrite: bool, labels: Iterable[str] = ()) -> bool:
    """Make the folder of `plan` ready; False where it is complete, with `labels`, and of this slide and plan.

    Raises ConfigError where something else is there, or what was begun has other settings.
    """
    if not plan.root.exists() or (plan.root.is_dir() and not any(plan.root.iterdir())):
        return True
    remedy = "choose another OUT, or give --overwrite to delete it"
    if not plan.root.is_dir() or not any((plan.root / name).is_file() for name in GROUP_FILES):
        raise ConfigError(f"{plan.root} exists and is no Zarr store", "choose another OUT")
    if overwrite:
        shutil.rmtree(plan.root)
        return True
    notes = dict(_attributes(plan.root).get(OURS, {}))
    if not notes:
        raise ConfigError(f"{plan.root} exists and was not made by wsi-ats convert", remedy)
    complete = notes.pop("complete", False)
    different = sorted(key for key in plan.notes if notes.get(key) != plan.notes[key])
    if different or not plan.notes["source"]["stamp"]:
        state = "a conversion" if complete else "the beginning of a conversion"
        details = "; ".join(f"{key} {notes.get(key)} there, {plan.notes[key]} now" for key in different)
        raise ConfigError(
            f"{plan.root} holds {state} of another kind: {details or 'of an unknown source'}", remedy
        )
    return not complete or not {*labels} <= {*labels_in(plan.root)}


def labels_in(root: Path) -> list[str]:
    """Names of the labels that a conversion in the folder `root` has already."""
    attributes = _attributes(root / "labels")
    return list(attributes.get("ome", attributes).get("labels", ()))


def _attributes(folder: Path) -> Json:
    """The attributes of a group; empty where there is none. Raises SlideError where they are damaged."""
    for name in ("zarr.json", ".zattrs"):
        try:
            content: Json = json.loads((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise SlideError(f"{folder / name} cannot be read: {error}", "give --overwrite") from error
        return content.get("attributes", {}) if name == "zarr.json" else content
    return {}
