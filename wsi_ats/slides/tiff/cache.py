"""The index of a slide that lies on a server, kept on this machine: reading it again costs many round trips.

One file a slide and version (ETag) in the user's cache folder: a JSON text and arrays in an .npz, nothing pickled.
`WSI_ATS_CACHE` names another folder; empty, it keeps nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from wsi_ats.atomic import write_atomic
from wsi_ats.slides.codecs import Coding
from wsi_ats.slides.tiff.index import TiffImage, TiffIndex

VARIABLE = "WSI_ATS_CACHE"
VERSION = 2
"""Version of the files' layout; files of others are ignored."""
NUMBERS = ("width", "height", "tile_width", "tile_height", "cols", "rows", "strips", "planes")
"""Fields of an image that are numbers."""


def cache_folder() -> Path | None:
    """Folder in which indices are kept; None: nowhere."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE]).absolute() if os.environ[VARIABLE] else None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wsi-ats"


def load(address: str, stamp: tuple[int, int]) -> TiffIndex | None:
    """The index of that version of a file, if it was kept."""
    path = _path(address, stamp)
    if path is None or not path.is_file():
        return None
    try:
        index = _unpack(path.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None  # of another version, or damaged: it is made again
    return index if index.stamp == stamp else None


def keep(address: str, index: TiffIndex) -> None:
    """Keep an index; where that fails, it is read anew next time."""
    path = _path(address, index.stamp)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _pack(index))
    except OSError:
        return


def _path(address: str, stamp: tuple[int, int]) -> Path | None:
    folder = cache_folder()
    if folder is None or not stamp[1]:  # a server without ETags does not tell versions apart
        return None
    key = hashlib.sha256(f"{VERSION} {address} {stamp[0]} {stamp[1]}".encode()).hexdigest()
    return folder / "tiff-index" / f"{key}.npz"


def _pack(index: TiffIndex) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {
        "version": VERSION,
        "stamp": index.stamp,
        "family": index.family,
        "note": index.note,
        "notes": index.notes,
        "properties": dict(index.properties),
        "levels": [_pack_image(image, f"level{i}", arrays) for i, image in enumerate(index.levels)],
        "associated": {
            name: _pack_image(image, f"associated{i}", arrays)
            for i, (name, image) in enumerate(index.associated.items())
        },
    }
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    if index.icc_profile is not None:
        arrays["icc"] = np.frombuffer(index.icc_profile, np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # a name could be one of its own arguments; none is
    return content.getvalue()


def _pack_image(image: TiffImage, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    arrays[f"{name}.offsets"], arrays[f"{name}.counts"] = image.offsets, image.counts
    arrays[f"{name}.tables"] = np.frombuffer(image.coding.tables, np.uint8)
    coding = {key: value for key, value in image.coding._asdict().items() if key != "tables"}
    return {**{key: getattr(image, key) for key in NUMBERS}, "name": name, "coding": coding}


def _unpack(content: bytes) -> TiffIndex:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        if facts.pop("version") != VERSION:
            raise ValueError("an index of another version")
        return TiffIndex(
            stamp=(facts["stamp"][0], facts["stamp"][1]),
            family=facts["family"],
            note=facts["note"],
            notes=tuple(facts["notes"]),
            properties=facts["properties"],
            levels=tuple(_unpack_image(image, arrays) for image in facts["levels"]),
            associated={name: _unpack_image(image, arrays) for name, image in facts["associated"].items()},
            icc_profile=arrays["icc"].tobytes() if "icc" in arrays else None,
        )


def _unpack_image(facts: dict[str, Any], arrays: Any) -> TiffImage:
    name = facts["name"]
    return TiffImage(
        **{key: facts[key] for key in NUMBERS},
        coding=Coding(**facts["coding"], tables=arrays[f"{name}.tables"].tobytes()),
        offsets=arrays[f"{name}.offsets"],
        counts=arrays[f"{name}.counts"],
    )
