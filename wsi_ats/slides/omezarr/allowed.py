"""Which codecs a Zarr array may name before zarr-python is asked: none that can run code.

Zarr v2 knows filters and compressors that unpickle (`pickle`, and dtypes of objects), and whether they are refused
depends on the versions of zarr-python and numcodecs. Here they always are: what is allowed is listed, all else is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from wsi_ats.slides.omezarr.metadata import Json, parse_metadata

PLAIN = {
    *(
        "blosc",
        "zstd",
        "zlib",
        "gzip",
        "lz4",
        "lzma",
        "bz2",
        "shuffle",
        "delta",
        "fixedscaleoffset",
        "astype",
    ),
    *(
        "packbits",
        "quantize",
        "bitround",
        "crc32",
        "crc32c",
        "adler32",
        "fletcher32",
        "jenkins_lookup3",
        "zfpy",
    ),
}
"""Codecs of numcodecs that turn bytes or numbers into bytes or numbers."""
STRUCTURE = {"bytes", "endian", "transpose", "sharding_indexed"}
"""Codecs of Zarr v3 that only say how numbers lie in a chunk."""
NUMBERS = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
NUMBERS |= {"float16", "float32", "float64"}
"""Data types of Zarr v3 that hold plain numbers."""
SHORT = {*"biuf"}
"""The kinds of them in Zarr v2, as numpy writes them."""


def refuse_code(metadata: bytes, zarr_format: int) -> None:
    """Look through the metadata of an array (.zarray, or zarr.json). Raises ValueError, naming what is not allowed."""
    array = parse_metadata(metadata)
    dtype = array.get("data_type" if zarr_format == 3 else "dtype")
    plain = NUMBERS if zarr_format == 3 else SHORT
    kind = dtype if zarr_format == 3 or not isinstance(dtype, str) else dtype.lstrip("<>|=")[:1]
    if not isinstance(kind, str) or kind not in plain:
        raise ValueError(f"data type {dtype!r} is not one of plain numbers, and reading another can run code")
    for name in _codecs(array, zarr_format):
        if not _is_allowed(name, zarr_format):
            raise ValueError(f"codec {name!r} is not one of those that are known to run no code")


def _is_allowed(name: str, zarr_format: int) -> bool:
    bare = name.removeprefix("numcodecs.")
    return bare in PLAIN or bare.startswith("imagecodecs_") or (zarr_format == 3 and bare in STRUCTURE)


def _codecs(array: Json, zarr_format: int) -> Iterator[str]:
    """Names of all codecs, those inside a shard included."""
    if zarr_format != 3:
        for codec in (array.get("compressor"), *(array.get("filters") or ())):
            if codec is not None:
                yield str(codec["id"])
        return
    for codec in array.get("codecs") or ():
        yield str(codec if isinstance(codec, str) else codec["name"])
        inside = codec.get("configuration") if isinstance(codec, dict) else None
        for key in ("codecs", "index_codecs"):
            if isinstance(inside, dict) and inside.get(key):
                yield from _codecs({"codecs": inside[key]}, 3)
