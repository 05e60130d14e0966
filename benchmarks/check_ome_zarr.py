"""Do the OME-Zarr slides that `wsi-ats convert` writes open in the readers of others, with the right scale and pixels?

    python benchmarks/check_ome_zarr.py          # a minute; makes its own slide

Takes ome-zarr-py (its reader and its classes), ome-zarr-models (its validator) and the reader function of
napari-ome-zarr. They bring napari and bind versions of packages that this project leaves open, so they live in an
environment of their own:

    python3.12 -m venv viewers
    viewers/bin/pip install wsi-ats ome-zarr ome-zarr-models napari-ome-zarr imagecodecs-zarr
    viewers/bin/python benchmarks/check_ome_zarr.py

Without imagecodecs-zarr (Python 3.12 and later) the copies of JPEG tiles do not open there. Results:
benchmarks/results/check_ome_zarr.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from wsi_ats.convert.plan import Settings
from wsi_ats.convert.run import convert
from wsi_ats.convert.tissue_label import NAME, tissue_label
from wsi_ats.slides import open_slide
from wsi_ats.synthetic.phantom import Phantom, write_phantom

MPP, SIZE = 0.5, 5003
KINDS = [Settings("zstd"), Settings("blosc"), Settings("lz4"), Settings("zstd", "0.4"), Settings("jpeg")]
PACKAGES = ("ome-zarr", "ome-zarr-models", "napari-ome-zarr", "zarr")
RESULTS = Path(__file__).parent / "results" / "check_ome_zarr"


class Expected:
    """What the readers must find: levels and tissue as they were written, scales as they follow from their sizes."""

    def __init__(self, path: Path, version: str) -> None:
        self.path, self.version = str(path), version
        with open_slide(path) as slide:
            self.shapes = [(level.size.height, level.size.width) for level in slide.levels]
            self.levels = [slide.read((0, 0), shape[::-1], i) for i, shape in enumerate(self.shapes)]
        self.scales = [[MPP * SIZE / side for side in shape] for shape in self.shapes]

    def check(self, scale: list[float], translation: list[float], level: int) -> None:
        """Of (y, x): pixels as large as the slide is, and centred on those of level 0 that they cover."""
        np.testing.assert_allclose(scale, self.scales[level])
        np.testing.assert_allclose(translation, (np.asarray(scale) - MPP) / 2, atol=1e-9)


def steps(transformations: list, axes: int) -> tuple[list[float], list[float]]:
    """Scale and translation of the last two axes."""
    found = {"scale": [1.0] * axes, "translation": [0.0] * axes}
    found |= {step["type"]: step[step["type"]] for step in transformations}
    return found["scale"][-2:], found["translation"][-2:]


def ome_zarr_reader(expected: Expected) -> str:
    """The reader behind `ome_zarr info`: the image, the group of labels, the label."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    image, labels, label = Reader(parse_url(expected.path))()
    for node, channels in ((image, 1), (label, 0)):
        assert len(node.data) == len(expected.levels)
        for level, transformations in enumerate(node.metadata["coordinateTransformations"]):
            expected.check(*steps(transformations, 2 + channels), level)
    for ours, theirs in zip(expected.levels, image.data, strict=True):
        np.testing.assert_array_equal(np.moveaxis(theirs.compute(), 0, 2), ours)
    assert [type(spec).__name__ for spec in labels.specs] == ["Labels"]
    share = float(label.data[0].mean())
    assert 0.1 < share < 0.9
    return f"{len(image.data)} levels, pixels equal; label {label.metadata['name']!r} on {share:.0%}"


def ome_zarr_classes(expected: Expected) -> str:
    """The classes of ome-zarr-py, which validate what they read."""
    from ome_zarr.classes.image import OMEZarrMultiscale

    image = OMEZarrMultiscale.from_ome_zarr(expected.path)
    for found, (y, x) in zip(image.images, expected.scales, strict=True):
        np.testing.assert_allclose([found.scale["y"], found.scale["x"]], [y, x])
        assert dict(found.axes_units) == {"y": "micrometer", "x": "micrometer"}
    assert set(image.labels) == {NAME}
    assert [channel.label for channel in image.omero.channels] == ["R", "G", "B"]
    return f"axes {'/'.join(image.images[0].axes)}, micrometers, channels R, G, B, label {NAME!r}"


def validator(expected: Expected) -> str:
    """ome-zarr-models, told the version: raises where anything breaks the standard."""
    from ome_zarr_models import open_ome_zarr

    kinds = []
    for group in ("", "labels", f"labels/{NAME}"):
        found = open_ome_zarr(str(Path(expected.path) / group), version=expected.version)
        kinds.append(type(found).__name__)
    assert kinds == ["Image", "Labels", "ImageLabel"]
    return ", ".join(kinds)


def napari(expected: Expected) -> str:
    """The reader function of napari-ome-zarr: three channels and a label, in micrometres."""
    from napari_ome_zarr import napari_get_reader

    read = napari_get_reader(expected.path)
    assert read is not None
    layers = read()
    assert [kind for _, _, kind in layers] == ["image"] * 3 + ["labels"]
    for data, metadata, _ in layers:
        assert tuple(metadata["units"]) == ("micrometer", "micrometer")
        np.testing.assert_allclose(metadata["scale"], [MPP, MPP])
        assert [level.shape for level in data] == expected.shapes
    for channel, name in enumerate("RGB"):
        data, metadata, _ = layers[channel]
        assert metadata["name"].endswith(f": {name}")
        np.testing.assert_array_equal(data[1].compute(), expected.levels[1][..., channel])
    data, metadata, _ = layers[3]
    assert (metadata["name"], set(np.unique(data[1].compute()))) == (NAME, {0, 1})
    return f"layers R, G, B and {NAME!r}, scale {metadata['scale']} micrometer"


CHECKS: dict[str, Callable[[Expected], str]] = {
    "ome-zarr-py, reader": ome_zarr_reader,
    "ome-zarr-py, classes": ome_zarr_classes,
    "ome-zarr-models": validator,
    "napari-ome-zarr": napari,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of the readers' own libraries
    answers: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.tif"
        write_phantom(path, Phantom(size=SIZE, mpp=MPP))
        for settings in KINDS:
            name = f"NGFF {settings.ngff}, {settings.codec}"
            out = Path(folder) / f"{settings.ngff}.{settings.codec}.ome.zarr"
            with open_slide(path) as slide:
                convert(slide, out, settings, labels={NAME: tissue_label})
            answers[name] = {reader: said(check, out, settings.ngff) for reader, check in CHECKS.items()}
            print(name, json.dumps(answers[name], indent=1), flush=True)
    write(answers, given.out)
    return any(text.startswith("FAILED") for found in answers.values() for text in found.values())


def said(check: Callable[[Expected], str], path: Path, version: str) -> str:
    """What a reader found, or how it failed."""
    try:
        return check(Expected(path, version))
    except Exception as error:  # noqa: BLE001 - whatever readers raise
        return f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def write(answers: dict[str, dict[str, str]], out: Path) -> None:
    versions = {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"slide_px": SIZE, "mpp": MPP, "versions": versions, "found": answers}
    out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    lines = [
        "# OME-Zarr slides in the readers of others",
        "",
        f"Made by `benchmarks/check_ome_zarr.py` from a phantom of {SIZE} px at {MPP} um/px, with `--tissue`. "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + ".",
        "",
        "| written as | reader | found |",
        "|---|---|---|",
    ]
    lines += [
        f"| {kind} | {reader} | {text} |" for kind, found in answers.items() for reader, text in found.items()
    ]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
