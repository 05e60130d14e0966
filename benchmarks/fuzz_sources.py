"""Slides that benchmarks/fuzz.py damages: one of every layout that is read, of one picture, and real ones.

TIFF is written with tifffile, OME-Zarr with `wsi_ats.convert`. The real files (README.md of the benchmarks says where
they come from) are used where `--real FOLDER` names them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from read_slide import APERIO

from wsi_ats.convert.plan import Settings
from wsi_ats.convert.run import convert
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.synthetic.phantom import Phantom, write_phantom

SIZE = 1000
"""Side of the slides in px."""
TILE = (256, 256)
REAL = {
    "real-svs": "CMU-1-Small-Region.svs",
    "real-ndpi": "dapi.ndpi",
    "real-dicom-jpeg": "jpeg.dicom",
    "real-dicom-raw": "raw.dicom",
    "real-ome": "OS-2-vsi.ome.tif",
}
"""Real slides by the name of their file."""
OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="{order}" Type="uint8" SizeX="{size}" SizeY="{size}" '
    'SizeZ="1" SizeC="3" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">{channels}<TiffData/></Pixels></Image></OME>'
)
PHILIPS = (
    '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
    '<Attribute Name="DICOM_MANUFACTURER">PHILIPS</Attribute><Attribute Name="PIM_DP_SCANNED_IMAGES"><Array>'
    '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>'
    '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{levels}</Array></Attribute></DataObject>'
    "</Array></Attribute></DataObject>"
)
PHILIPS_LEVEL = (
    '<DataObject ObjectType="PixelDataRepresentation">'
    '<Attribute Name="DICOM_PIXEL_SPACING">"{spacing}" "{spacing}"</Attribute>'
    '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER">{number}</Attribute></DataObject>'
)

Levels = list[np.ndarray]


def write_originals(folder: Path, size: int = SIZE, real: Path | None = None) -> None:
    """One slide of each layout, all of the same picture; and the real slides that lie below `real`."""
    folder.mkdir(parents=True, exist_ok=True)
    svs = folder / "svs"
    write_phantom(svs, Phantom(size=size, seed=3), (1, 4), APERIO.format(size=size))
    with open_slide(svs) as slide:
        levels = [whole(slide, i) for i in range(len(slide.levels))]
        for kind, settings in ZARRS.items():
            convert(slide, folder / kind, settings)
    _add_images(svs, levels)
    for kind, write in TIFFS.items():
        write(folder / kind, levels)
    for kind, name in REAL.items() if real is not None else ():
        for path in sorted(real.rglob(name))[:1]:
            shutil.copy(path, folder / kind)


def whole(slide: Slide, level: int) -> np.ndarray:
    """All pixels of a level."""
    size = slide.levels[level].size
    return slide.read((0, 0), (size.width, size.height), level)


def _add_images(path: Path, levels: Levels) -> None:
    """A label (LZW) and a macro image (JPEG) at the end of an SVS."""
    with tifffile.TiffWriter(path, append=True) as tiff:
        for kind, name, compression in ((1, "label", "lzw"), (9, "macro", "jpeg")):
            text = f"Aperio Image Library v12.0.15\n{name} 200x150"
            options = {"photometric": "rgb", "subfiletype": kind, "rowsperstrip": 16, "metadata": None}
            tiff.write(levels[1][:150, :200], description=text, compression=compression, **options)


def _pyramid(path: Path, levels: Levels, file: dict[str, Any] | None = None, **how: Any) -> None:
    """A tiled TIFF of all levels."""
    with tifffile.TiffWriter(path, **(file or {})) as tiff:
        for i, level in enumerate(levels):
            options = {"photometric": "rgb", "tile": TILE, "metadata": None, "subfiletype": int(i > 0)}
            tiff.write(level, **options | how)


def _aperio_jpeg2000(path: Path, levels: Levels) -> None:
    """An SVS whose tiles are JPEG 2000 in RGB, under Aperio's own number."""
    with tifffile.TiffWriter(path) as tiff:
        for level in levels:
            tiles = [
                bytes(imagecodecs.jpeg2k_encode(tile, 40, codecformat="j2k", reversible=False, mct=True))
                for tile in _tiles_of(level)
            ]
            text = APERIO.format(size=len(level))
            options = {"photometric": "rgb", "compression": 33005, "metadata": None, "description": text}
            tiff.write(iter(tiles), shape=level.shape, dtype=np.uint8, tile=TILE, **options)


def _tiles_of(level: np.ndarray) -> list[np.ndarray]:
    height, width = TILE
    padded = np.pad(level, ((0, -level.shape[0] % height), (0, -level.shape[1] % width), (0, 0)), mode="edge")
    corners = [(y, x) for y in range(0, padded.shape[0], height) for x in range(0, padded.shape[1], width)]
    return [np.ascontiguousarray(padded[y : y + height, x : x + width]) for y, x in corners]


def _ome(path: Path, levels: Levels) -> None:
    """An OME-TIFF whose smaller level is a SubIFD."""
    text = OME.format(order="XYCZT", size=len(levels[0]), channels='<Channel ID="C:0" SamplesPerPixel="3"/>')
    options: dict[str, Any] = {"photometric": "rgb", "tile": TILE, "metadata": None, "compression": "zlib"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(levels[0], description=text.encode(), subifds=len(levels) - 1, **options)
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, **options)


def _ome_planes(path: Path, levels: Levels) -> None:
    """An OME-TIFF with a page for red, green and blue each."""
    channels = "".join(f'<Channel ID="C:{i}" SamplesPerPixel="1"/>' for i in range(3))
    text = OME.format(order="XYCZT", size=len(levels[0]), channels=channels)
    options: dict[str, Any] = {"photometric": "minisblack", "tile": TILE, "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for i in range(3):
            plane = np.ascontiguousarray(levels[0][..., i])
            tiff.write(plane, compression="zlib", description=text.encode() if i == 0 else None, **options)


def _philips(path: Path, levels: Levels) -> None:
    """A Philips TIFF of level 0 alone."""
    text = PHILIPS.format(levels=PHILIPS_LEVEL.format(spacing=0.0005, number=0))
    options: dict[str, Any] = {"photometric": "rgb", "tile": TILE, "metadata": None, "compression": "zlib"}
    tifffile.imwrite(path, levels[0], description=text.encode(), software="Philips DP v1.0", **options)


def _alpha(path: Path, levels: Levels) -> None:
    """A TIFF with an alpha channel that hides a corner."""
    rgba = np.dstack([levels[0], np.full(levels[0].shape[:2], 255, np.uint8)])
    rgba[:200, :200, 3] = 0
    tifffile.imwrite(
        path,
        rgba,
        photometric="rgb",
        tile=TILE,
        compression="zlib",
        extrasamples=["unassalpha"],
        metadata=None,
    )


TIFFS: dict[str, Callable[[Path, Levels], None]] = {
    "svs-jpeg2000": _aperio_jpeg2000,
    "deflate": lambda path, levels: _pyramid(path, levels, compression="zlib", predictor=True),
    "lzw": lambda path, levels: _pyramid(path, levels, compression="lzw", predictor=True),
    "raw": lambda path, levels: _pyramid(path, levels),
    "bigtiff-jpeg": lambda path, levels: _pyramid(
        path, levels, {"bigtiff": True}, compression="jpeg", subsampling=(2, 2)
    ),
    "big-endian": lambda path, levels: _pyramid(path, levels, {"byteorder": ">"}, compression="zlib"),
    "planar": lambda path, levels: _pyramid(
        path, [np.ascontiguousarray(np.moveaxis(level, 2, 0)) for level in levels], compression="zlib",
        planarconfig="separate",
    ),
    "strips": lambda path, levels: _pyramid(path, levels[:1], tile=None, rowsperstrip=64, compression="lzw"),
    "alpha": _alpha,
    "ome": _ome,
    "ome-planes": _ome_planes,
    "philips": _philips,
}  # fmt: skip
"""Writers of TIFF layouts by name; svs is a phantom's own."""
ZARRS = {
    "zarr-crc32c": Settings(codec="blosc"),
    "zarr-zstd": Settings(codec="zstd"),
    "zarr-jpeg": Settings(codec="jpeg"),
    "zarr-0.4": Settings(codec="zstd", ngff="0.4"),
}
"""Settings of OME-Zarr layouts by name."""
SOURCES = ("svs", *TIFFS, *ZARRS)
"""All that are made here."""
CHECKED = ("deflate", "big-endian", "ome", "philips", "zarr-crc32c", "zarr-zstd", "zarr-0.4")
"""Sources whose pixels have checksums: adler32, crc32c, zstd's own (xxhash)."""
