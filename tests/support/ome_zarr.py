"""OME-Zarr images for tests, written with zarr-python: the oracle of our own reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

UNITS = {"y": "micrometer", "x": "micrometer", "z": "micrometer"}
TYPES = {"c": "channel", "t": "time"}


def axes(order: str, units: dict[str, str] = UNITS) -> list[dict[str, str]]:
    return [
        {"name": a, "type": TYPES.get(a, "space"), **({"unit": units[a]} if a in units else {})}
        for a in order
    ]


def multiscale(
    order: str, scales: Sequence[tuple[float, float]], units: dict[str, str] = UNITS
) -> dict[str, Any]:
    """Metadata of an image whose levels have those scales (x, y)."""
    datasets = []
    for index, (x, y) in enumerate(scales):
        scale = [{"x": x, "y": y}.get(a, 1.0) for a in order]
        datasets.append(
            {"path": str(index), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    return {"name": "image", "axes": axes(order, units), "datasets": datasets}


def as_axes(pixels: np.ndarray, order: str) -> np.ndarray:
    """(h, w, c) with its axes in another order; t and z are 1."""
    there = [a for a in order if a in "yxc"]
    sides = dict(zip("yxc", pixels.shape, strict=True))
    return pixels.transpose(["yxc".index(a) for a in there]).reshape([sides.get(a, 1) for a in order])


def write_image(
    path: Path,
    levels: Sequence[np.ndarray],
    axes: str = "cyx",
    chunk: dict[str, int] | None = None,
    zarr_format: int = 3,
    mpp: float = 0.25,
    inside: str = "",
    **storage: Any,
) -> Path:
    """Write (h, w, c) arrays as the levels of an image; `storage` goes to zarr-python.

    inside: group of the image in the store.
    """
    group = zarr.open_group(path / inside, mode="w", zarr_format=zarr_format)
    chunk = {"y": 64, "x": 48, "c": 3, **(chunk or {})}
    names = {"dimension_names": list(axes)} if zarr_format == 3 else {}
    scales = []
    for index, level in enumerate(levels):
        data = as_axes(level, axes)
        array = group.create_array(
            str(index),
            shape=data.shape,
            dtype=data.dtype,
            chunks=tuple(chunk.get(a, 1) for a in axes),
            **names,
            **storage,
        )
        array[...] = data
        scales.append((mpp * levels[0].shape[1] / level.shape[1], mpp * levels[0].shape[0] / level.shape[0]))
    image = multiscale(axes, scales)
    if zarr_format == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [{"version": "0.4", **image}]
    return path
