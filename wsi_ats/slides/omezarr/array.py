"""Layout of a Zarr array, where its chunks lie: files of one chunk each (v2, v3) or shards, files of many (v3).

Only the metadata of arrays of uint8 that are decoded here; all else is `UnsupportedLayout` and left to zarr-python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import floordiv
from typing import Any

import numpy as np
from jaxtyping import UInt64

from wsi_ats.slides.omezarr.codecs import Chain, UnsupportedLayout, chain_v2, chain_v3, without_crc
from wsi_ats.slides.omezarr.metadata import Json, array_facts, check_chunks, shortened, whole_numbers
from wsi_ats.slides.storage.source import ByteRange, ByteSource
from wsi_ats.slides.tiled import UndecodableTile

Coords = tuple[int, ...]

MISSING = 2**64 - 1
"""Offset and length of a chunk that a shard does not have."""
INDEX_BYTES = 64 << 20
"""Indices of shards that an array remembers: those of a slide of 500,000 x 500,000 px."""


Index = UInt64[np.ndarray, "chunks 2"] | UndecodableTile
"""Offset and length of each chunk of a shard, in C order; or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Shards:
    """Layout of chunks in shards: chunks of a shard along each axis, and where its index is."""

    chunks: tuple[int, ...]
    at_end: bool
    checked: bool
    """Whether the index ends with its crc32c."""

    @property
    def part(self) -> tuple[int, int]:
        """Bytes of the index in a shard: its offset and length."""
        length = 16 * math.prod(self.chunks) + 4 * self.checked
        return (-length if self.at_end else 0), length


@dataclass(frozen=True, slots=True)
class Storage:
    """An array of uint8 as it is stored."""

    key: str
    """Folder of the array in the store."""
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    """Shape of a chunk: of what is decoded at once."""
    chain: Chain
    fill: int
    """Value of all pixels of a chunk that is not stored."""
    shards: Shards | None
    prefix: str
    separator: str

    def file(self, coords: Coords) -> str:
        """Name of the file of a chunk, or of a shard, from its place in the grid of files."""
        return f"{self.key}/{self.prefix}{self.separator.join(map(str, coords))}"


def storage_of(key: str, metadata: Json) -> Storage:
    """Storage of an array of uint8, from its metadata.

    Raises UnsupportedLayout; KeyError, TypeError, ValueError where metadata is damaged.
    """
    shape, _ = array_facts(metadata)
    if metadata["zarr_format"] == 2:
        chunk = _sides(metadata["chunks"], shape)
        check_chunks(shape, chunk)
        separator = str(metadata.get("dimension_separator", "."))
        return Storage(
            key, shape, chunk, chain_v2(metadata, chunk), _fill(metadata), None, "", _known(separator)
        )
    grid, encoding = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if grid["name"] != "regular" or encoding["name"] not in ("default", "v2"):
        raise UnsupportedLayout(f"chunk grid {grid['name']}, chunk keys {encoding['name']}")
    if metadata.get("storage_transformers"):
        raise UnsupportedLayout("storage transformers")
    default = encoding["name"] == "default"
    separator = _known(encoding.get("configuration", {}).get("separator", "/" if default else "."))
    prefix = f"c{separator}" if default else ""
    outer = _sides(grid["configuration"]["chunk_shape"], shape)
    codecs = metadata["codecs"]
    if codecs[0]["name"] != "sharding_indexed":
        check_chunks(shape, outer)
        return Storage(key, shape, outer, chain_v3(codecs, outer), _fill(metadata), None, prefix, separator)
    config = codecs[0]["configuration"]
    inner = _sides(config["chunk_shape"], shape)
    check_chunks(shape, inner)
    shards = _shards(config, outer, inner)
    if len(codecs) > 1:
        raise UnsupportedLayout("shards that are compressed as a whole")
    chain = chain_v3(config["codecs"], inner)
    return Storage(key, shape, inner, chain, _fill(metadata), shards, prefix, separator)


def _shards(config: Json, outer: tuple[int, ...], inner: tuple[int, ...]) -> Shards:
    names = [codec["name"] for codec in config["index_codecs"]]
    endian = config["index_codecs"][0].get("configuration", {}).get("endian", "little")
    if names not in (["bytes"], ["bytes", "crc32c"]) or endian != "little":
        raise UnsupportedLayout(f"shard index of {', '.join(names)}, {endian} endian")
    if any(whole % part for whole, part in zip(outer, inner, strict=True)):
        raise ValueError(f"shards of {list(outer)} are no multiple of chunks of {list(inner)}")
    location = config.get("index_location", "end")
    if location not in ("start", "end"):
        raise ValueError(f"index_location is {location!r}; it must be start or end")
    shards = Shards(
        tuple(whole // part for whole, part in zip(outer, inner, strict=True)),
        location == "end",
        "crc32c" in names,
    )
    if shards.part[1] > INDEX_BYTES:
        raise ValueError(
            f"shards of {list(outer)} have an index of {shards.part[1]:,} bytes; at most {INDEX_BYTES:,} are read"
        )
    return shards


def _sides(given: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    sides = whole_numbers("the shape of chunks", given)
    if len(sides) != len(shape):
        raise ValueError(f"chunks of {list(sides)} do not fit an array of {list(shape)}")
    return sides


def _known(separator: Any) -> str:
    if separator not in (".", "/"):
        raise ValueError(f"the separator of chunk keys is {separator!r}; it must be . or /")
    return str(separator)


def _fill(metadata: Json) -> int:
    value = metadata.get("fill_value")
    if value is None:
        return 0
    if not isinstance(value, int | float) or not 0 <= value <= 255 or value != int(value):
        raise ValueError(f"fill_value is {shortened(value)}; it must be a whole number from 0 to 255")
    return int(value)


class ChunkMap:
    """A map from chunks to the bytes that hold them. Threads share it; indices of shards are read once and kept."""

    def __init__(self, source: ByteSource, storage: Storage) -> None:
        self._source, self.storage = source, storage
        self._indices: dict[Coords, Index] = {}

    def load(self, chunks: Sequence[Coords]) -> list[tuple[Coords, int]]:
        """Read the indices of all shards that the chunks need and that are not known yet, at once.

        Returns what chunks lie in the files by: file and offset; those that are damaged or not stored lie anywhere.
        Raises OSError.
        """
        shards = self.storage.shards
        if shards is None:
            return [(chunk, 0) for chunk in chunks]
        places = [_place(chunk, shards) for chunk in chunks]
        indices = self._known({shard for shard, _ in places}, shards)
        return [(shard, _offset(indices[shard], place)) for shard, place in places]

    def part(self, chunk: Coords) -> ByteRange | None:
        """The bytes of a chunk, None where it is not stored.

        Raises UndecodableTile where the index of its shard is damaged, OSError where it cannot be read.
        """
        shards = self.storage.shards
        if shards is None:
            return ByteRange(self.storage.file(chunk))
        shard, place = _place(chunk, shards)
        index = self._indices.get(shard)
        if index is None:
            index = self._known({shard}, shards)[shard]
        if isinstance(index, UndecodableTile):
            raise UndecodableTile(str(index))
        offset, count = index[place].tolist()
        if offset == count == MISSING:
            return None
        # No codec here makes data much larger: what goes beyond is no length, and memory is not to follow it.
        if offset >= 2**62 or count > 2 * self.storage.chain.nbytes + 2**16:
            raise UndecodableTile(f"the index of its shard says {count} bytes from byte {offset}")
        return ByteRange(self.storage.file(shard), offset, count)

    def _known(self, wanted: set[Coords], shards: Shards) -> dict[Coords, Index]:
        """The indices of shards; those that are not remembered yet are read, and remembered."""
        known = {shard: index for shard in wanted if (index := self._indices.get(shard)) is not None}
        missing = sorted(wanted.difference(known))
        offset, length = shards.part
        parts = [ByteRange(self.storage.file(shard), offset, length) for shard in missing]
        found = {
            shard: _index(encoded, shards)
            for shard, encoded in zip(missing, self._source.read_many(parts), strict=True)
        }
        if (len(self._indices) + len(found)) * length > INDEX_BYTES:
            self._indices = {}
        self._indices.update(found)
        return known | found


def _place(chunk: Coords, shards: Shards) -> tuple[Coords, int]:
    """The shard of a chunk, and the chunk's number in it (C order)."""
    number = 0
    for at, count in zip(chunk, shards.chunks, strict=True):
        number = number * count + at % count
    return tuple(map(floordiv, chunk, shards.chunks)), number


def _offset(index: Index, number: int) -> int:
    return 0 if isinstance(index, UndecodableTile) else int(index[number, 0])


def _index(encoded: bytes | None, shards: Shards) -> Index:
    """The index of a shard from its bytes; a shard that is not there has no chunks."""
    if encoded is None:
        return np.full((math.prod(shards.chunks), 2), MISSING, np.uint64)
    data = memoryview(encoded)
    if len(data) < shards.part[1]:
        return UndecodableTile("the shard is cut short")
    try:
        data = without_crc(data) if shards.checked else data
    except UndecodableTile as error:
        return UndecodableTile(f"the index of its shard is damaged: {error}")
    return np.frombuffer(data, "<u8").astype(np.uint64, copy=False).reshape(-1, 2)
