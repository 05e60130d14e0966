"""Zarr arrays of uint8, written block by block: a block is a shard (v3), or a square of chunk files (v2).

Every file is written under another name and renamed when it is whole, so that one that is there is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import google_crc32c
import imagecodecs
import numpy as np
from jaxtyping import UInt8
from numcodecs import zstd  # type: ignore[import-untyped]

from wsi_ats.atomic import make_atomic, write_atomic
from wsi_ats.geometry import Box
from wsi_ats.slides.omezarr.array import MISSING

Json = dict[str, Any]
Chunk = bytes | memoryview | None
"""An encoded chunk; None: all of it has the fill value, and it is not stored."""
Compressor = Literal["zstd", "blosc", "lz4"]

LEVELS: dict[Compressor, int] = {"zstd": 1, "blosc": 1, "lz4": 5}
"""Levels of compression: on slides, higher ones of zstd save 1 % and take twice as long."""

_codecs: Any = imagecodecs  # its stubs do not know the arguments of all codecs


class Codec(NamedTuple):
    """Codec: how chunks are encoded."""

    metadata: Any
    """Metadata of the codec: for Zarr v3 the list of codecs, for v2 the compressor."""
    encode: Callable[[UInt8[np.ndarray, " ..."]], bytes]


def codec_of(name: Compressor, zarr_format: int) -> Codec:
    """A lossless codec. Its chunks carry a checksum, but for blosc and lz4 in Zarr v2, which has no place for it.

    lz4 is blosc's: Zarr v3 has no other that all readers know.
    """
    level = LEVELS[name]
    if name == "zstd":

        def encode(pixels: UInt8[np.ndarray, " ..."]) -> bytes:
            return bytes(zstd.compress(pixels, level, True))

        v3 = _v3("zstd", level=level, checksum=True)
        return Codec(v3 if zarr_format == 3 else {"id": "zstd", "level": level}, encode)
    inner = "zstd" if name == "blosc" else "lz4"

    def encode_blosc(pixels: UInt8[np.ndarray, " ..."]) -> bytes:
        options = {"compressor": inner, "shuffle": "noshuffle", "typesize": 1, "numthreads": 1}
        encoded = bytes(_codecs.blosc_encode(pixels, level, **options))
        return encoded + crc32c(encoded) if zarr_format == 3 else encoded

    if zarr_format == 2:
        v2 = {"id": "blosc", "cname": inner, "clevel": level, "shuffle": 0, "blocksize": 0}
        return Codec(v2, encode_blosc)
    blosc = _v3("blosc", cname=inner, clevel=level, shuffle="noshuffle", typesize=1, blocksize=0)
    return Codec([*blosc, {"name": "crc32c"}], encode_blosc)


def _v3(name: str, **configuration: Any) -> list[Json]:
    return [{"name": "bytes"}, {"name": name, "configuration": configuration}]


def crc32c(data: bytes) -> bytes:
    """The checksum that Zarr appends to shard indices and chunks."""
    return int(google_crc32c.value(data)).to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """An array to be written: RGB of (3, height, width), or labels of (height, width)."""

    key: str
    """Folder of the array in the store."""
    height: int
    width: int
    rgb: bool
    chunk: tuple[int, int]
    """Size (height, width) of a chunk in px."""
    block: tuple[int, int]
    """Size (height, width) of a block in px, multiples of the chunk's."""
    zarr_format: int
    codec: Codec
    fill: int

    def metadata(self) -> Json:
        """Metadata of the array: its zarr.json or .zarray."""
        if self.zarr_format == 2:
            return {
                "zarr_format": 2,
                "shape": self._full(self.height, self.width),
                "chunks": self._full(*self.chunk),
                "dtype": "|u1",
                "compressor": self.codec.metadata,
                "fill_value": self.fill,
                "filters": None,
                "order": "C",
                "dimension_separator": "/",
            }
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {
            "chunk_shape": self._full(*self.chunk),
            "codecs": self.codec.metadata,
            "index_codecs": index,
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self._full(self.height, self.width),
            "data_type": "uint8",
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": self._full(*self.block)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.fill,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["c", "y", "x"] if self.rgb else ["y", "x"],
            "attributes": {},
        }

    def blocks(self) -> Iterator[Box]:
        """Blocks of the array, row by row, clipped to it."""
        for top in range(0, self.height, self.block[0]):
            for left in range(0, self.width, self.block[1]):
                yield Box(
                    left, top, min(self.block[1], self.width - left), min(self.block[0], self.height - top)
                )

    def chunks(self, block: Box) -> list[Box]:
        """The chunks of a block that lie in the array, row by row, not clipped."""
        height, width = self.chunk
        return [
            Box(left, top, width, height)
            for top in range(block.y, block.y + block.height, height)
            for left in range(block.x, block.x + block.width, width)
        ]

    def files(self, root: Path, block: Box) -> list[Path]:
        """The files of a block: its shard, or its chunks in the order of `chunks`."""
        if self.zarr_format == 3:
            place = (block.y // self.block[0], block.x // self.block[1])
            return [root / self.key / "c" / "/".join(map(str, self._full(*place, first=0)))]
        return [
            root / self.key / "/".join(map(str, self._full(c.y // c.height, c.x // c.width, first=0)))
            for c in self.chunks(block)
        ]

    def is_written(self, root: Path, block: Box) -> bool:
        """Whether the files of a block are there."""
        return all(file.is_file() and file.stat().st_size for file in self.files(root, block))

    def encode(self, pixels: UInt8[np.ndarray, " ..."], block: Box, chunk: Box) -> Chunk:
        """A chunk of a block, encoded; pixels: those of the whole block, (h, w, 3) or (h, w) uint8."""
        part = pixels[chunk.y - block.y :, chunk.x - block.x :][: chunk.height, : chunk.width]
        if part.shape[:2] != (chunk.height, chunk.width):
            whole = np.full((chunk.height, chunk.width, *part.shape[2:]), self.fill, np.uint8)
            whole[: part.shape[0], : part.shape[1]] = part
            part = whole
        planes = np.ascontiguousarray(part.transpose(2, 0, 1) if self.rgb else part)
        if self.zarr_format == 3 and planes.flat[0] == self.fill and not (planes != self.fill).any():
            return None
        return self.codec.encode(planes)

    def write(self, root: Path, block: Box, chunks: Sequence[Chunk]) -> None:
        """Write a block from its encoded chunks, in the order of `chunks`. Raises OSError."""
        files = self.files(root, block)
        if self.zarr_format == 3:
            files[0].parent.mkdir(parents=True, exist_ok=True)
            pieces = self._shard(block, chunks)
            make_atomic(files[0], lambda temporary: _write(temporary, pieces))
            return
        for file, chunk in zip(files, chunks, strict=True):
            assert chunk is not None
            file.parent.mkdir(parents=True, exist_ok=True)
            # Not flushed to the disk one by one: there are thousands of them, at 30 ms each.
            temporary = file.with_name(f".{file.name}.part")
            temporary.write_bytes(chunk)
            temporary.replace(file)

    def _shard(self, block: Box, chunks: Sequence[Chunk]) -> list[bytes | memoryview]:
        """A shard: its chunks one after the other, then the index of all places and its checksum."""
        rows, cols = (whole // part for whole, part in zip(self.block, self.chunk, strict=True))
        index = np.full((rows, cols, 2), MISSING, "<u8")
        pieces: list[bytes | memoryview] = []
        at = 0
        for box, chunk in zip(self.chunks(block), chunks, strict=True):
            if chunk is not None:
                index[(box.y - block.y) // box.height, (box.x - block.x) // box.width] = at, len(chunk)
                at += len(chunk)
                pieces.append(chunk)
        table = index.tobytes()
        return [*pieces, table, crc32c(table)]

    def _full(self, height: int, width: int, first: int = 3) -> list[int]:
        """With the channel axis where there is one."""
        return [first, height, width] if self.rgb else [height, width]


def _write(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    with path.open("wb") as file:
        file.writelines(pieces)


def write_metadata(root: Path, plan: ArrayPlan) -> None:
    """Write the metadata of an array. Raises OSError."""
    name = "zarr.json" if plan.zarr_format == 3 else ".zarray"
    write_json(root / plan.key / name, plan.metadata())


def write_group(folder: Path, zarr_format: int, attributes: Json) -> None:
    """Write the metadata of a group. Raises OSError."""
    if zarr_format == 3:
        write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
    else:
        write_json(folder / ".zattrs", attributes)
        write_json(folder / ".zgroup", {"zarr_format": 2})


def write_json(path: Path, content: Json) -> None:
    """Write a JSON file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
