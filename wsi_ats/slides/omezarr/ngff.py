"""NGFF metadata (OME-Zarr) as read: which arrays are the levels, what their axes mean, how large a pixel is.

Versions 0.4 (in the `.zattrs` of Zarr v2) and 0.5 (in the attributes of Zarr v3, under `ome`), see
https://ngff.openmicroscopy.org/0.5/. What is written is in `ngff_write`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from wsi_ats.errors import SlideError
from wsi_ats.geometry import Level, Pyramid, Size
from wsi_ats.slides.channels import Channel

Json = Mapping[str, Any]

VERSIONS = ("0.4", "0.5")
REMEDY = "write it again as NGFF 0.4 or 0.5, for example with `wsi-ats convert` from the original slide"

MICROMETRES = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "inch": 25400.0,
    # Not names of the standard, but written.
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "mm": 1e3,
}
"""Micrometres per unit of a space axis."""


LARGEST = 1e12
"""Bound of scales and translations, in units of their axes: a metre has 1e12 picometres."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: "t", "c", "z", "y" or "x", and the unit of its scale where there is one."""

    name: str
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A level: where its array lies in the group, and the place of its pixels in units of the axes.

    The centre of pixel i lies at scale * i + translation; both have a number for each axis.
    """

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Multiscale:
    """An image: its levels, finest first."""

    version: str
    name: str
    axes: tuple[Axis, ...]
    datasets: tuple[Dataset, ...]

    def index(self, axis: str) -> int | None:
        """Position of an axis in the shapes of the arrays; None: the image lacks it."""
        names = [a.name for a in self.axes]
        return names.index(axis) if axis in names else None

    @property
    def mpp_xy(self) -> tuple[float, float] | None:
        """Micrometres per px of the first level (x, y); None where the axes have no unit of length."""
        mpp = [
            scale * MICROMETRES[axis.unit]
            for name in "xy"
            for axis, scale in zip(self.axes, self.datasets[0].scale, strict=True)
            if axis.name == name and axis.unit in MICROMETRES
        ]
        return (mpp[0], mpp[1]) if len(mpp) == 2 else None


def count_multiscales(attributes: Json) -> int:
    """Number of images in a group."""
    images = _ome(attributes).get("multiscales")
    return len(images) if isinstance(images, list) else 0


def channels_of(attributes: Json) -> list[Channel]:
    """What a group says of the channels of its images; empty where it does not."""
    omero = _ome(attributes).get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    found = [
        channel
        for channel in (channels if isinstance(channels, list) else ())
        if isinstance(channel, Mapping)
    ]
    return [Channel(str(channel.get("label") or ""), str(channel.get("color") or "")) for channel in found]


def _ome(attributes: Json) -> Json:
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, Mapping) else {}


def parse_multiscale(attributes: Json, slide: str, place: int = 0) -> Multiscale:
    """An image of a group.

    attributes: of the group, as Zarr has them. slide: name for messages. place: of the image among the group's.
    Raises SlideError, with the value and the rule, where the metadata is absent or breaks the standard.
    """
    ome = _ome(attributes)
    images = _expect(ome, "multiscales", list, slide)
    image = images[place] if len(images) > place and isinstance(images[place], Mapping) else None
    if image is None:
        raise SlideError(
            f"slide {slide!r}: multiscales is {_short(images)}; it must have an image first", REMEDY
        )
    version = str(ome.get("version", image.get("version", "0.4")))
    if not version.startswith(VERSIONS):
        raise SlideError(
            f"slide {slide!r}: NGFF version {version} is not read, only {' and '.join(VERSIONS)}", REMEDY
        )
    axes = tuple(_axis(entry, slide) for entry in _expect(image, "axes", list, slide))
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names) or not {"y", "x"} <= set(names):
        raise SlideError(
            f"slide {slide!r}: axes are {names}; y and x must be among them, each axis once", REMEDY
        )
    outer = _scale_and_translation(
        image.get("coordinateTransformations", ()), names, slide, "the image", False
    )
    datasets = tuple(
        _dataset(entry, names, outer, slide) for entry in _expect(image, "datasets", list, slide)
    )
    if not datasets:
        raise SlideError(f"slide {slide!r}: datasets is empty; it must have a level at least", REMEDY)
    return Multiscale(version, str(image.get("name") or ""), axes, datasets)


def pyramid_of(image: Multiscale, sizes: Sequence[Size], slide: str) -> tuple[Pyramid, dict[str, str]]:
    """The levels with their places on level 0, and what is doubtful about them.

    sizes: of the arrays in px. A level's downsample is the ratio of the scales: that of the sizes may be off by a
    pixel of the level, where they were rounded. Where the two differ by more, the scales are wrong.
    Raises SlideError where the levels are not ordered, or begin at different places.
    """
    levels, doubts = [], {}
    for index, (dataset, size) in enumerate(zip(image.datasets, sizes, strict=True)):
        ratios = []
        for axis, length, full in (("x", size.width, sizes[0].width), ("y", size.height, sizes[0].height)):
            at, first = image.index(axis) or 0, image.datasets[0]
            ratio = dataset.scale[at] / first.scale[at]
            off = abs(full / ratio - length)
            if off > 1.5:
                doubts[f"ngff.level[{index}].{axis}"] = (
                    f"scale says {ratio:g} x, size {full / length:g} x: taken"
                )
            # Corner of the first pixel, in px of level 0.
            shift = (dataset.translation[at] - first.translation[at]) / first.scale[at] - (ratio - 1) / 2
            if min(abs(shift), abs(shift + (ratio - 1) / 2)) > max(ratio, 1):
                raise SlideError(
                    f"slide {slide!r}: level {index} begins {shift:g} level-0 px from level 0 in {axis}; "
                    "all levels must show the same part of the slide",
                    REMEDY,
                )
            ratios.append(full / length if off < 1e-3 or off > 1.5 else ratio)
        levels.append(Level(index, size, (ratios[0], ratios[1])))
    for finer, coarser in pairwise(levels):
        if coarser.size.width > finer.size.width or coarser.size.height > finer.size.height:
            raise SlideError(
                f"slide {slide!r}: level {coarser.index} has {coarser.size.width} x {coarser.size.height} px, more "
                f"than the one before it, {finer.size.width} x {finer.size.height}; the finest must be first",
                REMEDY,
            )
    return Pyramid(tuple(levels)), doubts


def _axis(entry: Any, slide: str) -> Axis:
    """An axis by the name that it has in this package: time and channel axes may be called anything."""
    given = entry if isinstance(entry, Mapping) else {"name": entry}
    name, kind, unit = (given.get(key) for key in ("name", "type", "unit"))
    role = {"time": "t", "channel": "c"}.get(str(kind), str(name).lower())
    if role not in ("t", "c", "z", "y", "x"):
        raise SlideError(f"slide {slide!r}: axis {_short(entry)} is none of t, c, z, y, x", REMEDY)
    return Axis(role, None if unit is None else str(unit).lower())


def _dataset(entry: Any, axes: Sequence[str], outer: tuple[list[float], list[float]], slide: str) -> Dataset:
    """A level; the transformation of the whole image, `outer`, comes after its own."""
    if not isinstance(entry, Mapping):
        raise SlideError(f"slide {slide!r}: dataset {_short(entry)} is no object", REMEDY)
    path = _expect(entry, "path", str, slide)
    steps = _expect(entry, "coordinateTransformations", list, slide)
    scale, translation = _scale_and_translation(steps, axes, slide, f"level {path!r}", True)
    return Dataset(
        path.strip("/"),
        tuple(own * further for own, further in zip(scale, outer[0], strict=True)),
        tuple(own * k + shift for own, k, shift in zip(translation, *outer, strict=True)),
    )


def _scale_and_translation(
    steps: Any, axes: Sequence[str], slide: str, where: str, needed: bool
) -> tuple[list[float], list[float]]:
    """Scale and translation by axis, of a list that holds one scale and then perhaps one translation."""
    found = {"scale": [1.0] * len(axes), "translation": [0.0] * len(axes)}
    seen = [kind for kind, _ in _steps(steps)]
    if seen.count("scale") > 1 or seen.count("translation") > 1 or (needed and "scale" not in seen):
        raise SlideError(
            f"slide {slide!r}: {where} has the transformations {seen}; the rule is one scale, "
            "then perhaps one translation",
            REMEDY,
        )
    for kind, values in _steps(steps):
        if kind == "identity":
            continue
        numbers = [_number(value) for value in values] if isinstance(values, list) else []
        sound = len(numbers) == len(axes) and all(abs(number) <= LARGEST for number in numbers)
        if kind not in found or not sound or (kind == "scale" and min(numbers) < 1 / LARGEST):
            raise SlideError(
                f"slide {slide!r}: the {kind} of {where} is {_short(values)}; it must be a list of a number "
                f"for each of the axes {list(axes)}, within {LARGEST:g}, and a scale at least {1 / LARGEST:g}",
                REMEDY,
            )
        found[kind] = numbers
    return found["scale"], found["translation"]


def _steps(steps: Any) -> Iterator[tuple[str, Any]]:
    for step in steps if isinstance(steps, Sequence) else ():
        kind = str(step.get("type")) if isinstance(step, Mapping) else str(step)
        yield kind, step.get(kind) if isinstance(step, Mapping) else None


def _number(value: Any) -> float:
    """The number; nan for all else, and for whole numbers beyond what a float can be."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= LARGEST else math.nan


def _expect(given: Json, key: str, kind: type, slide: str) -> Any:
    """A value of a certain type."""
    value = given.get(key)
    if not isinstance(value, kind):
        what = "is missing" if value is None else f"is {_short(value)}"
        raise SlideError(
            f"slide {slide!r}: {key} {what}; the metadata of an OME-Zarr image must have a {kind.__name__} there",
            REMEDY,
        )
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
