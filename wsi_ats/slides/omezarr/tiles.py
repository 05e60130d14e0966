"""A level of an OME-Zarr image as tiles: a tile is a chunk of all three channels, or one chunk of each."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Box
from wsi_ats.slides.omezarr.array import ChunkMap, Coords, Storage
from wsi_ats.slides.omezarr.codecs import UnsupportedLayout
from wsi_ats.slides.storage.source import ByteRange, ByteSource
from wsi_ats.slides.tiled import Buffers, Encoded, Tiling, UndecodableTile

ABSENT: Encoded = memoryview(b"")
"""Stand-in for a tile of which no chunk is stored. A file of no bytes is not this object, but damaged."""


class Tiles:
    """The tiles of one level, numbered row by row. Threads share it."""

    def __init__(
        self, source: ByteSource, storage: Storage, yxc: tuple[int, int, int], buffers: Buffers
    ) -> None:
        """yxc: where the axes y, x and c stand in the array. Raises UnsupportedLayout."""
        self._source, self._storage, self._yxc, self._buffers = source, storage, yxc, buffers
        self._map = ChunkMap(source, storage)
        height, width, channels = (storage.chunk[axis] for axis in yxc)
        if channels not in (1, 3):
            raise UnsupportedLayout(f"chunks of {channels} channels")
        if any(side != 1 for axis, side in enumerate(storage.chunk) if axis not in yxc):
            raise UnsupportedLayout(f"chunks of shape {list(storage.chunk)}")
        self._planes = 3 // channels
        rows, cols = (-(-storage.shape[axis] // storage.chunk[axis]) for axis in yxc[:2])
        self.tiling = Tiling(width, height, cols, rows)
        # How the axes of the stored chunks of a tile, the first of them its planes, are ordered to have (y, x, c).
        order = [1 + storage.chain.axes.index(axis) for axis in yxc]
        others = [i for i in range(1, 1 + len(storage.chunk)) if i not in order]
        self._order = (*others, *order, 0)
        self._interleaved = self._planes == 1 and order == sorted(order)

    def in_storage_order(self, tiles: Sequence[int]) -> Sequence[int]:
        """The tiles as they lie in the files. Raises OSError where the index of a shard cannot be read."""
        places = self._map.load([self._chunks(tile)[0] for tile in tiles])
        return [tile for _, tile in sorted(zip(places, tiles, strict=True))]

    def fetch(self, tiles: Sequence[int]) -> Iterator[Encoded]:
        """Bytes of the tiles, as `decode` takes them. Raises UndecodableTile, OSError."""
        wanted: list[list[ByteRange | None] | UndecodableTile] = []
        for tile in tiles:
            try:
                wanted.append([self._map.part(chunk) for chunk in self._chunks(tile)])
            except UndecodableTile as error:
                wanted.append(error)
        stored = [part for parts in wanted if isinstance(parts, list) for part in parts if part is not None]
        # No codec here makes data much larger: a file beyond that is no chunk, and memory is not to follow it.
        found = self._source.read_many(stored, 2 * self._storage.chain.nbytes + 2**16)
        for parts in wanted:
            if isinstance(parts, UndecodableTile):
                raise parts
            yield _join([None if part is None else _complete(next(found), part) for part in parts])

    def decode(self, encoded: Encoded, window: Box | None) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of a tile; only those of `window` are sure to be right. The array is a view of one of `buffers`.

        Raises UndecodableTile.
        """
        chain = self._storage.chain
        try:
            buffer = self._buffers.take((self._planes, chain.nbytes))
        except MemoryError:
            raise OSError(
                f"there is no memory for {self._planes} chunk(s) of {chain.nbytes:,} bytes"
            ) from None
        try:
            # Only a chunk that is stored as (y, x, c) can be decoded in part.
            part = window if self._interleaved else None
            for plane, chunk in zip(buffer, _split(encoded, self._planes), strict=True):
                if chunk is None:
                    plane[:] = self._storage.fill
                else:
                    chain.decode(chunk, plane, part)
        except UndecodableTile:
            self._buffers.give(buffer)
            raise
        pixels = buffer.reshape(self._planes, *chain.shape).transpose(self._order)
        return pixels.reshape(self.tiling.height, self.tiling.width, 3)

    def _chunks(self, tile: int) -> list[Coords]:
        """The chunks of a tile, by their places in the grid of chunks."""
        row, col = divmod(tile, self.tiling.cols)
        chunks = []
        for plane in range(self._planes):
            coords = [0] * len(self._storage.shape)
            for axis, at in zip(self._yxc, (row, col, plane), strict=True):
                coords[axis] = at
            chunks.append(tuple(coords))
        return chunks


def _complete(data: bytes | None, part: ByteRange) -> bytes | None:
    """The bytes of a chunk. Raises UndecodableTile where the shard ends before it does."""
    if part.count is None:
        return data
    if data is None or len(data) < part.count:
        raise UndecodableTile(f"the shard ends before byte {part.offset + part.count}")
    return data


def _join(chunks: Sequence[bytes | None]) -> Encoded:
    """The chunks of a tile as one run of bytes, which is what the scheduler hands around."""
    if all(chunk is None for chunk in chunks):
        return ABSENT
    if len(chunks) == 1:
        return chunks[0] or b""
    lengths = [-1 if chunk is None else len(chunk) for chunk in chunks]
    return b"".join([struct.pack(f"<{len(chunks)}q", *lengths), *(chunk or b"" for chunk in chunks)])


def _split(encoded: Encoded, count: int) -> Iterator[Encoded | None]:
    """The chunks that `_join` made one of."""
    if encoded is ABSENT:
        yield from [None] * count
        return
    if count == 1:
        yield encoded
        return
    data, at = memoryview(encoded), 8 * count
    for length in struct.unpack(f"<{count}q", data[:at]):
        yield None if length < 0 else data[at : at + length]
        at += max(length, 0)


def rgb_axes(names: Sequence[str], shape: Sequence[int], dtype: str, slide: str) -> tuple[int, int, int]:
    """Positions of y, x and c in arrays of these axes; the others have one place each.

    Raises SlideError, with what is read, where the image is not one plane of RGB in 8 bits.
    """
    lengths = dict(zip(names, shape, strict=True))
    found = ", ".join(f"{name} {length}" for name, length in lengths.items())
    if dtype != "uint8" or lengths.get("c") != 3 or lengths.get("t", 1) != 1 or lengths.get("z", 1) != 1:
        raise SlideError(
            f"slide {slide!r}: it is {dtype} of {found}; RGB images are read: uint8, three channels c, one t and z",
            "convert a bright-field RGB image, or use a tool for fluorescence and volumes",
        )
    return names.index("y"), names.index("x"), names.index("c")
