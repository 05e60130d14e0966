"""Small TIFF slides of every layout that the fast path reads, written with tifffile."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.support.strategies import noise

APERIO_JPEG2000 = {"jp2k-ycbcr": 33003, "jp2k-rgb": 33005}
"""Aperio's numbers of JPEG 2000."""


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves and a little noise: JPEG keeps them, and a shift by one pixel shows."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x + seed) / 7) + np.cos(y / 9), np.sin(y / 5 + seed), np.cos((x + y) / 11)]
    smooth = np.stack([127 + 50 * wave for wave in waves], axis=2)
    return (smooth + noise(height, width, seed) / 12).clip(0, 255).astype(np.uint8)


def jpeg_parts(encoded: bytes) -> tuple[bytes, bytes]:
    """(tables, image without them) of a JPEG, as a TIFF stores them."""
    at, tables, rest = 2, b"", b""
    while encoded[at + 1] != 0xDA:
        end = at + 2 + struct.unpack(">H", encoded[at + 2 : at + 4])[0]
        if encoded[at + 1] in (0xDB, 0xC4):
            tables += encoded[at:end]
        elif encoded[at + 1] != 0xE0:
            rest += encoded[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + encoded[at:]


def jpeg2000(tile: np.ndarray, *, ycbcr: bool) -> bytes:
    """A JPEG 2000 stream of RGB, or of YCbCr that does not say so, as Aperio has it."""
    if ycbcr:
        tile = np.asarray(Image.fromarray(tile).convert("YCbCr"))
    return bytes(imagecodecs.jpeg2k_encode(tile, 40, codecformat="j2k", reversible=False, mct=not ycbcr))


def tiles_of(level: np.ndarray, tile: tuple[int, int]) -> Iterator[np.ndarray]:
    """Tiles (height, width) of a level, padded with its border."""
    height, width = tile
    padded = np.pad(level, ((0, -level.shape[0] % height), (0, -level.shape[1] % width), (0, 0)), mode="edge")
    for y in range(0, len(padded), height):
        for x in range(0, padded.shape[1], width):
            yield np.ascontiguousarray(padded[y : y + height, x : x + width])


def write_level(
    tiff: tifffile.TiffWriter, level: np.ndarray, kind: str, tile: tuple[int, int], **more: Any
) -> None:
    """Add a level whose tiles are encoded as `kind` says, such as "lzw+predictor" or "jpeg-420+tables"."""
    codec, _, option = kind.partition("+")
    if codec.startswith("jpeg-"):
        space, sampling = ("RGB", None) if codec == "jpeg-rgb" else ("YCBCR", codec[5:])
        encoded = [
            bytes(
                imagecodecs.jpeg8_encode(t, 85, colorspace="RGB", outcolorspace=space, subsampling=sampling)
            )
            for t in tiles_of(level, tile)
        ]
        parts = [jpeg_parts(data) for data in encoded]
        tables = parts[0][0] if option == "tables" else None
        data = [part[1] for part in parts] if tables else encoded
        factors = {"420": (2, 2), "422": (2, 1), "444": (1, 1), None: None}[sampling]
        more |= {
            "photometric": "rgb" if space == "RGB" else "ycbcr",
            "compression": "jpeg",
            "jpegtables": tables,
        }
        more |= {"subsampling": factors} if factors else {}
        tiff.write(iter(data), shape=level.shape, dtype=np.uint8, tile=tile, metadata=None, **more)
        return
    if codec.startswith("jp2k-"):
        encoded = [jpeg2000(t, ycbcr=codec == "jp2k-ycbcr") for t in tiles_of(level, tile)]
        more |= {"photometric": "rgb", "compression": APERIO_JPEG2000[codec], "metadata": None}
        tiff.write(iter(encoded), shape=level.shape, dtype=np.uint8, tile=tile, **more)
        return
    compression = {"raw": None, "lzw": "lzw", "deflate": "zlib", "zstd": "zstd"}.get(codec, codec)
    more |= {"photometric": "rgb", "compression": compression, "predictor": option == "predictor"}
    tiff.write(level, tile=tile, metadata=None, **more)


def write_pyramid(
    path: Path,
    levels: list[np.ndarray],
    kind: str = "jpeg-420",
    tile: tuple[int, int] = (64, 64),
    options: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A generic tiled TIFF; options are those of the file, the rest those of level 0."""
    with tifffile.TiffWriter(path, **(options or {})) as tiff:
        for index, level in enumerate(levels):
            write_level(tiff, level, kind, tile, subfiletype=int(index > 0), **(more if index == 0 else {}))
    if kind.startswith("jpeg-rgb"):  # tifffile says YCbCr of every JPEG
        for page in range(len(levels)):
            edit_tag(path, page, "PhotometricInterpretation", 2)
    return path


def write_aperio(path: Path, levels: list[np.ndarray], kind: str = "jpeg-420+tables") -> Path:
    """An SVS: levels, a thumbnail as the second image, and a label and a macro image at the end."""
    height, width = levels[0].shape[:2]
    heading = f"Aperio Image Library v12.0\r\n{width}x{height}"
    with tifffile.TiffWriter(path) as tiff:
        write_level(tiff, levels[0], kind, (240, 240), description=f"{heading}|AppMag = 20|MPP = 0.4990")
        strips = {"metadata": None, "rowsperstrip": 16, "photometric": "rgb"}
        tiff.write(picture(60, 80, 7), description=f"{heading} -> 80x60 - |AppMag = 20", **strips)
        for level in levels[1:]:
            write_level(tiff, level, kind, (240, 240), description=f"{heading} -> {level.shape[1]}x")
        for kind, name in ((1, "label"), (9, "macro")):
            compression = {"compression": "lzw", "predictor": True} if name == "label" else {}
            text = f"Aperio Image Library v12.0\n{name} 50x40"
            tiff.write(picture(40, 50, kind), description=text, subfiletype=kind, **strips, **compression)
    return path


def write_ome(path: Path, levels: list[np.ndarray], kind: str = "jpeg-420", **options: Any) -> Path:
    """An OME-TIFF whose smaller levels are SubIFDs, and with a label as a second image."""
    height, width = levels[0].shape[:2]
    pixels = 'Type="uint8" SizeC="3" SizeT="1" DimensionOrder="XYCZT" ID="Pixels'
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0" Name="slide"><Pixels {pixels}:0" SizeX="{width}" SizeY="{height}" '
        f'SizeZ="{options.pop("planes", 1)}" '
        'PhysicalSizeX="0.25" PhysicalSizeY="0.5" PhysicalSizeXUnit="µm" PhysicalSizeYUnit="µm">'
        '<TiffData IFD="0"/></Pixels></Image><Image ID="Image:1" Name="label image">'
        f'<Pixels {pixels}:1" SizeX="50" SizeY="40" SizeZ="1"><TiffData IFD="1"/></Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(path, **options) as tiff:
        write_level(tiff, levels[0], kind, (64, 64), description=xml.encode(), subifds=len(levels) - 1)
        for level in levels[1:]:
            write_level(tiff, level, kind, (64, 64), subfiletype=1)
        tiff.write(picture(40, 50), photometric="rgb", metadata=None)
    return path


PHILIPS = """<?xml version="1.0" encoding="UTF-8" ?>
<DataObject ObjectType="DPUfsImport">
  <Attribute Name="DICOM_MANUFACTURER" Group="0x0008" Element="0x0070" PMSVR="IString">PHILIPS</Attribute>
  <Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>
    <DataObject ObjectType="DPScannedImage">
      <Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">MACROIMAGE</Attribute>
    </DataObject>
    <DataObject ObjectType="DPScannedImage">
      <Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">WSI</Attribute>
      <Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" PMSVR="IDataObjectArray"><Array>{}
      </Array></Attribute>
    </DataObject></Array></Attribute>
</DataObject>"""
PHILIPS_LEVEL = """
        <DataObject ObjectType="PixelDataRepresentation">
          <Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" PMSVR="IDoubleArray">"{:.9f}" "{:.9f}"</Attribute>
          <Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER" Group="0x1001" PMSVR="IUInt16">{}</Attribute>
        </DataObject>"""


def write_philips(
    path: Path,
    level: np.ndarray,
    downsamples: tuple[int, ...] = (1, 2, 4),
    edit: Callable[[str], str] = lambda xml: xml,
) -> list[np.ndarray]:
    """A Philips TIFF, whose levels are padded to whole tiles; returns the levels as they should be read."""
    spacings = "".join(
        PHILIPS_LEVEL.format(0.000226891 * d * 1.0003, 0.000226907 * d, i) for i, d in enumerate(downsamples)
    )
    height, width = level.shape[:2]
    true = []
    with tifffile.TiffWriter(path) as tiff:
        for index, downsample in enumerate(downsamples):
            small = level[::downsample, ::downsample]
            rows, cols = (-(-side // 64) * 64 for side in small.shape[:2])
            padded = np.full((rows, cols, 3), 99, np.uint8) if index else small
            padded[: small.shape[0], : small.shape[1]] = small
            text = edit(PHILIPS.format(spacings)).encode() if index == 0 else f"level={index}"
            write_level(
                tiff, padded, "deflate", (64, 64), subfiletype=int(index > 0), description=text,
                software="Philips DP v1.0",
            )  # fmt: skip
            true.append(padded[: height // downsample, : width // downsample])
        tiff.write(picture(40, 50, 1), photometric="rgb", metadata=None, description="Macro", software=False)
        tiff.write(picture(40, 50, 2), photometric="rgb", metadata=None, description="Label -offset=(0,0)")
    return true


def edit_tag(path: Path, page: int, name: str, value: Any) -> None:
    """Overwrite a tag of a page."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[page].tags[name].overwrite(value)


def drop_tiles(path: Path, page: int, tiles: list[int]) -> None:
    """Make tiles of a page missing: no bytes."""
    with tifffile.TiffFile(path) as file:
        counts = list(file.pages[page].databytecounts)
    for tile in tiles:
        counts[tile] = 0
    edit_tag(path, page, "TileByteCounts", counts)


def damage(path: Path, page: int, tile: int, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of a tile, of which as many are kept."""
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[page].dataoffsets[tile], file.pages[page].databytecounts[tile]
    content = bytearray(path.read_bytes())
    content[start : start + count] = change(bytes(content[start : start + count]))[:count].ljust(count, b"\0")
    path.write_bytes(content)
