"""Arrays of a layout that is not decoded here, and small ones: read with zarr-python from any source of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
import zarr
import zarr.abc.store
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from wsi_ats.slides.omezarr.allowed import refuse_code
from wsi_ats.slides.omezarr.metadata import (
    CHUNK_BYTES,
    MOST_BYTES,
    array_facts,
    check_chunks,
    parse_metadata,
)
from wsi_ats.slides.storage.source import ByteRange, ByteSource

FAILURES = (
    *(ValueError, RuntimeError, KeyError, TypeError, IndexError, AttributeError),
    *(OSError, ImportError, ArithmeticError, MemoryError),
)
"""Errors that zarr-python and codecs raise where an array is damaged or its codec unknown."""


def open_array(source: ByteSource, key: str, zarr_format: int) -> zarr.Array[Any]:
    """The array at a key. Raises one of FAILURES, ValueError where it is absurdly large or its codecs can run code."""
    part = ByteRange((f"{key}/" if key else "") + ("zarr.json" if zarr_format == 3 else ".zarray"))
    content = next(source.read_many([part], MOST_BYTES))
    if content is None:
        raise FileNotFoundError(f"{source.address}/{part.key} does not exist")
    refuse_code(content, zarr_format)
    array_facts(parse_metadata(content))
    array = zarr.open_array(SourceStore(source), path=key, mode="r", zarr_format=3 if zarr_format == 3 else 2)
    check_chunks(array.shape, array.chunks, array.dtype.itemsize)
    return array


def read_whole(array: zarr.Array[Any]) -> np.ndarray:
    """All values of an array. Raises one of FAILURES, ValueError where they are too many."""
    if array.nbytes > CHUNK_BYTES:
        raise ValueError(f"it has {array.nbytes:,} bytes; at most {CHUNK_BYTES:,} are read")
    return np.asarray(array[:])


class SourceStore(zarr.abc.store.Store):
    """A read-only Zarr store of a source's bytes."""

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = False

    def __init__(self, source: ByteSource) -> None:
        super().__init__(read_only=True)
        self._source = source

    def __eq__(self, value: object) -> bool:
        return isinstance(value, SourceStore) and value._source is self._source

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a key, or a range of them; None where it does not exist."""
        try:
            data = await asyncio.to_thread(self._source.read, _part(key, byte_range))
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Bytes of several ranges; None for keys that do not exist."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is a file of that name."""
        return await asyncio.to_thread(self._source.exists, key)

    async def set(self, key: str, value: Buffer) -> None:
        """Refused: the store is read-only."""
        raise PermissionError(f"{self._source.address} is open for reading only")

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, Any]]) -> None:
        """Refused: the store is read-only; asked for by zarr-python before 3.1."""
        raise PermissionError(f"{self._source.address} is open for reading only")

    async def delete(self, key: str) -> None:
        """Refused: the store is read-only."""
        raise PermissionError(f"{self._source.address} is open for reading only")

    def list(self) -> AsyncIterator[str]:
        """Refused: servers do not list."""
        raise NotImplementedError("a source of bytes has no list of its keys")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refused: the store is read-only."""
        return self.list()

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Refused: the store is read-only."""
        return self.list()


def _part(key: str, asked: ByteRequest | None) -> ByteRange:
    match asked:
        case RangeByteRequest(start, end):
            return ByteRange(key, start, end - start)
        case OffsetByteRequest(offset):
            return ByteRange(key, offset)
        case SuffixByteRequest(suffix):
            return ByteRange(key, -suffix, suffix)
    return ByteRange(key)
