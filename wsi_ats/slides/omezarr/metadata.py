"""Metadata of Zarr stores as strangers write it: parsed, and refused where it is absurd, before anything follows it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Json = Mapping[str, Any]

MOST_BYTES = 8 << 20
"""Bytes of a file of metadata; those of slides have some 10,000."""
DEEPEST = 64
"""Objects and lists within each other; those of slides have about ten."""
MOST_AXES = 8
"""Axes of an array; NGFF knows five."""
LONGEST_SIDE = 1 << 24
"""Values along an axis: a slide of 4 m at 0.25 um/px."""
MOST_CHUNKS = 10**8
"""Chunks of an array: those of 64 x 64 px of a slide of 600,000 x 600,000 px."""
CHUNK_BYTES = 1 << 30
"""Bytes of a decoded chunk, for which there must be memory several times over."""
NUMPY = re.compile(r"[<>|=]?[biufO][0-9]{0,2}")
"""Data types in Zarr v2 that numpy knows and that have no parts."""


def parse_metadata(content: bytes) -> Json:
    """The JSON object in a file of metadata. Raises ValueError, saying what is wrong with it."""
    try:
        parsed = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(parsed, dict):
        raise ValueError("it holds no JSON object")
    inside: list[Any] = [parsed]
    for _ in range(DEEPEST + 1):
        inside = [value for one in inside for value in _values(one)]
        if not inside:
            return parsed
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def array_facts(metadata: Json) -> tuple[tuple[int, ...], str]:
    """Shape and data type (numpy's name, or how it is described) of an array; metadata: its zarr.json or .zarray.

    Raises KeyError, TypeError or ValueError where the metadata is not that of an array, or of one that no slide has.
    """
    v2 = metadata["zarr_format"] == 2
    dtype = metadata["dtype"] if v2 else metadata["data_type"]
    shape = whole_numbers("shape", metadata["shape"])
    if not 0 < len(shape) <= MOST_AXES:
        raise ValueError(f"the array has {len(shape)} axes; it must have 1 to {MOST_AXES}")
    plain = isinstance(dtype, str) and (NUMPY.fullmatch(dtype) if v2 else dtype.isidentifier())
    return shape, np.dtype(dtype).name if plain else shortened(dtype)


def check_chunks(shape: tuple[int, ...], chunk: tuple[int, ...], item: int = 1) -> None:
    """Look at the size of the chunks of an array, and at their number; item: bytes of a value. Raises ValueError."""
    if len(chunk) != len(shape):
        raise ValueError(f"chunks of {list(chunk)} do not fit an array of {list(shape)}")
    if (size := item * math.prod(chunk)) > CHUNK_BYTES:
        raise ValueError(f"a chunk of {list(chunk)} has {size:,} bytes; at most {CHUNK_BYTES:,} are read")
    count = math.prod(-(-whole // part) for whole, part in zip(shape, chunk, strict=True))
    if count > MOST_CHUNKS:
        raise ValueError(
            f"an array of {list(shape)} has {count:,} chunks of {list(chunk)}; at most {MOST_CHUNKS:,} are read"
        )


def whole_numbers(name: str, given: Any) -> tuple[int, ...]:
    """Sides of an array or of a chunk. Raises ValueError for all but whole numbers from 1 to `LONGEST_SIDE`."""
    if not isinstance(given, list) or not all(type(n) is int and 0 < n <= LONGEST_SIDE for n in given):
        raise ValueError(
            f"{name} is {shortened(given)}; it must be a list of whole numbers from 1 to {LONGEST_SIDE:,}"
        )
    return tuple(given)


def shortened(value: Any) -> str:
    """A value as it is written, but not all of a long one."""
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than are written
        return "a number of more than 4,300 digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
