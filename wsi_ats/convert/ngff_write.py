"""NGFF metadata (OME-Zarr) as written: images of c, y, x and label images of y, x, with scales in micrometres.

The same facts in two dialects: 0.5 has them under `ome` in the attributes of Zarr v3, 0.4 directly in those of
Zarr v2. See https://ngff.openmicroscopy.org/0.5/.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import Any, Literal

from wsi_ats.geometry import Pyramid

Version = Literal["0.5", "0.4"]
Attributes = dict[str, Any]

CHANNELS = (("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF"))


def image_attributes(
    version: Version,
    name: str,
    pyramid: Pyramid,
    mpp: tuple[float, float] | None,
    downscaling: tuple[str, str],
) -> Attributes:
    """Attributes of the group of an RGB image whose levels are the arrays "0", "1", ... of axes c, y, x.

    mpp: micrometres per level-0 px (x, y); None: scales are in level-0 px and the axes have no unit.
    downscaling: how the levels were made: the `type` and the description of the method.
    """
    kind, description = downscaling
    image = {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}, *_space(mpp)],
        "datasets": _datasets(pyramid, mpp, channels=True),
        "type": kind,
        "metadata": {"method": "wsi_ats", "version": installed("wsi-ats"), "description": description},
    }
    omero = {
        "channels": [
            {
                "label": label,
                "color": color,
                "active": True,
                "window": {"start": 0, "end": 255, "min": 0, "max": 255},
            }
            for label, color in CHANNELS
        ],
        "rdefs": {"model": "color"},
    }
    if version == "0.5":
        return {"ome": {"version": version, "multiscales": [image], "omero": omero}}
    return {"multiscales": [{"version": version, **image}], "omero": omero}


def label_attributes(
    version: Version,
    name: str,
    pyramid: Pyramid,
    mpp: tuple[float, float] | None,
    colours: dict[int, tuple[int, int, int, int]],
) -> Attributes:
    """Attributes of the group of a label image, `labels/<name>`, with the levels and scales of its image.

    colours: RGBA of each label value.
    """
    image = {"name": name, "axes": _space(mpp), "datasets": _datasets(pyramid, mpp, channels=False)}
    label = {
        "colors": [{"label-value": value, "rgba": list(rgba)} for value, rgba in colours.items()],
        "source": {"image": "../../"},
    }
    if version == "0.5":
        return {"ome": {"version": version, "multiscales": [image], "image-label": label}}
    return {
        "multiscales": [{"version": version, **image}],
        "image-label": {"version": version, **label},
    }


def labels_attributes(version: Version, names: Sequence[str]) -> Attributes:
    """Attributes of the group `labels`."""
    if version == "0.5":
        return {"ome": {"version": version, "labels": list(names)}}
    return {"labels": list(names)}


def _space(mpp: tuple[float, float] | None) -> list[dict[str, str]]:
    unit = {} if mpp is None else {"unit": "micrometer"}
    return [{"name": name, "type": "space", **unit} for name in "yx"]


def _datasets(pyramid: Pyramid, mpp: tuple[float, float] | None, channels: bool) -> list[Attributes]:
    """Scale and translation of each level: pixel i of a level is centred on the level-0 pixels that it covers.

    A level-0 pixel's centre is the origin, so the centre of the first pixel of a level that is coarser by s lies
    (s - 1) / 2 level-0 px from it.
    """
    mpp_x, mpp_y = mpp or (1.0, 1.0)
    datasets = []
    for level in pyramid.levels:
        s_x, s_y = level.downsample
        scale, translation = [mpp_y * s_y, mpp_x * s_x], [mpp_y * (s_y - 1) / 2, mpp_x * (s_x - 1) / 2]
        if channels:
            scale, translation = [1.0, *scale], [0.0, *translation]
        steps: list[Attributes] = [{"type": "scale", "scale": scale}]
        if level.index:
            steps.append({"type": "translation", "translation": translation})
        datasets.append({"path": str(level.index), "coordinateTransformations": steps})
    return datasets
