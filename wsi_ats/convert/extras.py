"""Extras of an image: label, macro and thumbnail of the slide, its ICC profile, masks as labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from wsi_ats.atomic import write_atomic
from wsi_ats.convert.ngff_write import label_attributes, labels_attributes
from wsi_ats.convert.plan import BLOCK, CHUNK, Plan, labels_in
from wsi_ats.convert.zarr_write import ArrayPlan, codec_of, write_group, write_json, write_metadata
from wsi_ats.geometry import Box, Pair
from wsi_ats.slides.base import Slide

LABEL_CHUNK = 1024
"""Side of a chunk of labels, which are mostly of one value, in px."""
MASK_ROWS = 1024
"""Most rows of a mask that are read at a time."""
Colour = tuple[int, int, int, int]


@runtime_checkable
class Mask(Protocol):
    """A mask that is read box by box, so that it need not be in memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the mask in px."""

    def read(self, box: Box) -> Bool[np.ndarray, "h w"]:
        """Values (h, w) of the mask in a box that lies in it."""


@dataclass(frozen=True, slots=True)
class Label:
    """A mask over the slide."""

    mask: Mask
    downsample: Pair
    """Downsample of the mask: level-0 px per pixel (x, y). What lies beyond the mask is False."""
    colour: Colour = (0, 160, 80, 96)
    """Colour of the mask for viewers, RGBA."""


Labels = Mapping[str, Callable[[Slide], Label]]
"""Functions by the label's name that make it of a slide, called once the slide's levels are written."""


def write_associated(slide: Slide, plan: Plan) -> dict[str, Any]:
    """Write the images that the slide carries and its ICC profile below `associated/`; returns notes of them.

    Raises OSError, SlideError.
    """
    folder, fmt = plan.root / "associated", plan.settings.zarr_format
    notes: dict[str, Any] = {}
    profile = None if slide.address.options.srgb else slide.icc_profile
    if profile or slide.associated_images:
        write_group(folder, fmt, {})
    if slide.associated_images:
        notes["associated"] = {}
    for number, (name, image) in enumerate(sorted(slide.associated_images.items())):
        key = f"associated/{number}"
        height, width, _ = image.shape
        array = ArrayPlan(
            key, height, width, True, (CHUNK, CHUNK), (BLOCK, BLOCK), fmt, codec_of("zstd", fmt), fill=255
        )
        write_metadata(plan.root, array)
        for block in array.blocks():
            pixels = image[block.y :, block.x :][: block.height, : block.width]
            chunks = [array.encode(pixels, block, chunk) for chunk in array.chunks(block)]
            array.write(plan.root, block, chunks)
        notes["associated"][name] = key
    if profile:
        notes["icc_profile"] = _write_bytes(plan.root, "associated/icc_profile", profile, fmt)
    return notes


def _write_bytes(root: Path, key: str, content: bytes, zarr_format: int) -> str:
    """Write bytes as an array of one chunk that is not compressed; the name of the file that holds them."""
    common = {"zarr_format": zarr_format, "shape": [len(content)], "fill_value": 0}
    if zarr_format == 2:
        old = {"chunks": [len(content)], "dtype": "|u1", "compressor": None, "filters": None, "order": "C"}
        write_json(root / key / ".zarray", common | old)
        file = f"{key}/0"
    else:
        new = {
            "node_type": "array",
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [len(content)]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": [{"name": "bytes"}],
            "attributes": {},
        }
        write_json(root / key / "zarr.json", common | new)
        file = f"{key}/c/0"
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(root / file, content)
    return file


def write_labels(labels: Mapping[str, Label], plan: Plan) -> None:
    """Write masks below `labels/`, each with the levels of the image, as NGFF asks for. Raises OSError."""
    version, fmt = plan.settings.ngff, plan.settings.zarr_format
    for name, label in labels.items():
        key = f"labels/{name}"
        for level in plan.pyramid.levels:
            array = ArrayPlan(
                key=f"{key}/{level.index}",
                height=level.size.height,
                width=level.size.width,
                rgb=False,
                chunk=(LABEL_CHUNK, LABEL_CHUNK),
                block=(BLOCK, BLOCK),
                zarr_format=fmt,
                codec=codec_of("zstd", fmt),
                fill=0,
            )
            write_metadata(plan.root, array)
            for block in array.blocks():
                pixels = _enlarged(label, level.downsample, block)
                chunks = [array.encode(pixels, block, chunk) for chunk in array.chunks(block)]
                array.write(plan.root, block, chunks)
        attributes = label_attributes(version, name, plan.pyramid, plan.mpp, {1: label.colour})
        write_group(plan.root / key, fmt, attributes)
    if labels:
        names = sorted({*labels, *labels_in(plan.root)})
        write_group(plan.root / "labels", fmt, labels_attributes(version, names))


def _enlarged(label: Label, downsample: Pair, block: Box) -> UInt8[np.ndarray, "h w"]:
    """The mask at a block of a level: each pixel has the value where its centre lies."""
    height, width = label.mask.shape
    cols = _places(block.x, block.width, downsample[0] / label.downsample[0], width)
    rows = _places(block.y, block.height, downsample[1] / label.downsample[1], height)
    out = np.zeros((block.height, block.width), np.uint8)
    if not len(cols):
        return out
    # Level by level coarser, the same block covers more of the mask: so many rows of it at a time.
    step = max(1, int(MASK_ROWS * label.downsample[1] / downsample[1]))
    for top in range(0, len(rows), step):
        some = rows[top : top + step]
        part = label.mask.read(Box(cols[0], some[0], cols[-1] + 1 - cols[0], some[-1] + 1 - some[0]))
        if part.any():
            # First the columns of the few rows that there are, then whole rows, which is copying.
            wide = part[:, cols - cols[0]].view(np.uint8)
            out[top : top + len(some), : len(cols)] = wide[some - some[0]]
    return out


def _places(start: int, count: int, ratio: float, length: int) -> Int64[np.ndarray, " n"]:
    """The pixels, of `length` in a mask, that hold the centres of `count` pixels of a level from `start` on."""
    places = np.floor((np.arange(start, start + count) + 0.5) * ratio).astype(np.int64)
    return np.asarray(places[places < length])
