"""Codecs, how a chunk of a Zarr array becomes pixels: those that are decoded here, outside the interpreter's lock.

Zarr v3: any transposes; then `bytes` and perhaps zstd, blosc, gzip or lz4, or `imagecodecs_jpeg` (as the package
imagecodecs names it); then perhaps a crc32c. Zarr v2: one compressor of the same kinds. All else is an
`UnsupportedLayout`.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
from jaxtyping import UInt8

from wsi_ats.geometry import Box
from wsi_ats.slides.codecs import JPEG as TIFF_JPEG
from wsi_ats.slides.codecs import Coding, decode
from wsi_ats.slides.tiled import UndecodableTile

Json = Mapping[str, Any]
Bytes = bytes | memoryview
Flat = UInt8[np.ndarray, " n"]
Decoder = Callable[[Bytes, Flat], Any]
"""Decodes bytes into an array of the right length and returns something of the length that was decoded."""

# Its stubs do not say that it reads memoryviews and decodes into arrays.
_codecs: Any = imagecodecs

DECODERS: dict[str, Decoder] = {
    "zstd": lambda data, out: _codecs.zstd_decode(data, out=out),
    "blosc": lambda data, out: _codecs.blosc_decode(data, out=out),
    "gzip": lambda data, out: _codecs.gzip_decode(data, out=out),
    "zlib": lambda data, out: _codecs.zlib_decode(data, out=out),
    "lz4": lambda data, out: _codecs.lz4_decode(data, header=True, out=out),
}
JPEG = "imagecodecs_jpeg"


class UnsupportedLayout(Exception):
    """A layout or codec that is left to zarr-python; the text says which."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The codecs of an array whose chunks are decoded here."""

    shape: tuple[int, ...]
    """Shape of a chunk as it is stored: with its axes in the order of `axes`."""
    axes: tuple[int, ...]
    """Axis of the array that each stored axis is."""
    names: tuple[str, ...]
    """Names of the codecs, for people."""
    decoder: Decoder | None
    """Decoder of a chunk; None: the bytes are the values."""
    checked: bool
    """Whether chunks end with their crc32c."""
    jpeg: Coding | None = None
    """Coding of chunks that are JPEGs of known colours, as the tiles of a TIFF; then there is no decoder."""

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.shape)

    def decode(self, encoded: Bytes, out: Flat, window: Box | None = None) -> None:
        """Decode a chunk into `out`, `nbytes` long, the values in their stored order.

        window: the only pixels that are needed of a chunk that is stored as (y, x, c).
        Raises UndecodableTile where the chunk is damaged.
        """
        data = memoryview(encoded)
        if self.checked:
            data = without_crc(data)
        if self.jpeg is not None:
            decode(self.jpeg, data, out.reshape([side for side in self.shape if side > 1]), window)
            return
        try:
            done = np.frombuffer(data, np.uint8) if self.decoder is None else self.decoder(data, out)
        except (RuntimeError, ValueError) as error:  # errors of imagecodecs are RuntimeErrors
            raise UndecodableTile(f"{' '.join(str(error).split())} ({self.names[-1]})") from error
        if len(done) != len(out):
            raise UndecodableTile(f"it has {len(done)} bytes, its shape asks for {len(out)}")
        if self.decoder is None:
            out[:] = done


def without_crc(data: memoryview) -> memoryview:
    """The bytes before the crc32c that they end with. Raises UndecodableTile where it does not match."""
    if len(data) < 4 or google_crc32c.value(bytes(data[:-4])) != int.from_bytes(data[-4:], "little"):
        raise UndecodableTile("its checksum (crc32c) does not match")
    return data[:-4]


def chain_v3(codecs: Sequence[Json], chunk: tuple[int, ...]) -> Chain:
    """Codecs of a Zarr v3 array (or of the inner chunks of a shard) of uint8. Raises UnsupportedLayout."""
    axes = tuple(range(len(chunk)))
    steps = list(codecs)
    while steps and steps[0]["name"] == "transpose":
        axes = tuple(axes[i] for i in steps.pop(0)["configuration"]["order"])
    shape = tuple(chunk[axis] for axis in axes)
    names = tuple(str(codec["name"]) for codec in codecs)
    checked = bool(steps) and steps[-1]["name"] == "crc32c"
    steps = steps[:-1] if checked else steps
    # As imagecodecs has it, JPEG makes bytes of an array; others wrote it as a compressor of bytes.
    if [step["name"] for step in steps] in ([JPEG], ["bytes", JPEG]):
        return _jpeg_chain(Chain(shape, axes, names, None, checked), steps[-1].get("configuration", {}))
    if not steps or steps[0]["name"] != "bytes" or len(steps) > 2:
        raise UnsupportedLayout(f"codecs {', '.join(names)}")
    decoder = _decoder(str(steps[1]["name"]).removeprefix("numcodecs.")) if len(steps) == 2 else None
    return Chain(shape, axes, names, decoder, checked)


def chain_v2(metadata: Json, chunk: tuple[int, ...]) -> Chain:
    """Codecs of a Zarr v2 array of uint8. Raises UnsupportedLayout."""
    axes = tuple(range(len(chunk)))
    axes = axes[::-1] if metadata.get("order") == "F" else axes
    shape = tuple(chunk[axis] for axis in axes)
    if metadata.get("filters"):
        raise UnsupportedLayout(f"filters {', '.join(str(f['id']) for f in metadata['filters'])}")
    compressor = metadata.get("compressor")
    if compressor is None:
        return Chain(shape, axes, ("raw",), None, False)
    name = str(compressor["id"])
    if name == JPEG:
        return _jpeg_chain(Chain(shape, axes, (name,), None, False), compressor)
    return Chain(shape, axes, (name,), _decoder(name), False)


def _decoder(name: str) -> Decoder:
    if name not in DECODERS:
        raise UnsupportedLayout(f"codec {name}")
    return DECODERS[name]


def _jpeg_chain(chain: Chain, config: Json) -> Chain:
    """The chain of JPEG chunks: rows, columns and, where they are of colours, three channels last."""
    image = [side for side in chain.shape if side > 1]
    try:
        tables = base64.b64decode(config.get("tables") or "", validate=True)
    except (binascii.Error, TypeError) as error:
        raise UnsupportedLayout(f"{JPEG} with tables that are not base64") from error
    if config.get("header") is not None or len(image) not in (2, 3) or image[2:] not in ([], [3]):
        raise UnsupportedLayout(f"{JPEG} of chunks of shape {chain.shape}, configuration {sorted(config)}")
    stored, data = (str(config.get(f"colorspace_{what}")).upper() for what in ("jpeg", "data"))
    if len(image) == 3 and stored in ("RGB", "YCBCR") and data == "RGB":
        return replace(chain, jpeg=Coding(TIFF_JPEG, ycbcr=stored == "YCBCR", tables=tables))
    options = {
        "tables": tables or None,
        "colorspace": config.get("colorspace_jpeg"),
        "outcolorspace": config.get("colorspace_data"),
    }

    def decode_one(encoded: Bytes, out: Flat) -> Any:
        # Decoders of JPEG fill up with grey what is missing at the end of a stream, and say nothing.
        if b"\xff\xd9" not in bytes(encoded[-16:]):
            raise ValueError("the end of the stream is missing")
        _codecs.jpeg8_decode(encoded, out=out.reshape(image), **options)
        return out

    return replace(chain, decoder=decode_one)
