"""Arguments of the Python interface that are no numbers: an error of the package that names argument and value."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from wsi_ats.slides import open_slide

# In a process of its own: under pytest, wrong types are refused by the checks of annotations.
SCRIPT = """
import json, sys
import numpy as np
import wsi_ats
from wsi_ats.reading import Reading
pixels = np.full((64, 64, 3), 240, np.uint8)
slide = wsi_ats.open_slide(pixels, mpp=0.5)
nan = float("nan")
found = []
for case in json.loads(sys.argv[1]):
    try:
        found.append(["nothing", repr(eval(case))])
    except Exception as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""
WRONG = {
    "Reading.of(tiles='64')": "tiles is '64'",
    "Reading.of(tiles=nan)": "tiles is nan",
    "Reading.of(tiles=True)": "tiles is True",
    "Reading.of(tiles=2.5)": "tiles is 2.5",
    "Reading.of(repeats='4')": "repeats is '4'",
    "Reading.of(seed='0')": "seed is '0'",
    "Reading.of(seed=None)": "seed is None",
    "Reading.of(tolerance='0.1')": "tolerance is '0.1'",
    "Reading.of(tolerance=nan)": "tolerance is nan",
    "Reading.of(sampler=None)": "unknown sampler None",
    "Reading.of(sampler=['all'])": "unknown sampler ['all']",
    "wsi_ats.open_slide(pixels, mpp='0.5')": "mpp is '0.5'",
    "wsi_ats.open_slide(pixels, mpp=nan)": "mpp is nan",
    "wsi_ats.open_slide(pixels, mpp=True)": "mpp is True",
    "wsi_ats.open_slide(pixels, mpp=(1, 2, 3))": "mpp is (1, 2, 3)",
    "wsi_ats.open_slide(pixels, default_mpp='1')": "default_mpp is '1'",
    "wsi_ats.open_slide(pixels, tolerate_bad_tiles='1')": "tolerate_bad_tiles is '1'",
    "slide.read((0, 0), (4, 4), level='0')": "level is '0'",
    "slide.read((0, 0), (4, 4), level=None)": "level is None",
    "slide.read((0, nan), (4, 4))": "location is nan",
    "slide.read(3, (4, 4))": "location is 3",
    "slide.read((0, 0), ('4', 4))": "size is '4'",
    "slide.read_many(np.zeros((1, 2), int), 4)": "size is 4",
    "slide.read_at_mpp((0, 0), (4, 4), mpp='1')": "mpp is '1'",
    "slide.read_at_mpp((0, 0), (4, 4), mpp=nan)": "mpp is nan",
    "slide.dask('0')": "level is '0'",
    "slide.dask(0, chunk='256')": "chunk is '256'",
}


@pytest.fixture(scope="module")
def errors() -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(WRONG))], capture_output=True, text=True, check=True
    )
    return dict(zip(WRONG, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("case", WRONG)
def test_it_is_named_with_its_value(case: str, errors: dict[str, list[str]]) -> None:
    kind, text = errors[case]
    assert (kind, WRONG[case] in text) == ("ConfigError", True), text


def test_pixels_that_are_not_square_are_told_and_shown() -> None:
    with open_slide(np.full((64, 64, 3), 240, np.uint8), mpp=(0.5, 1.0)) as slide:
        assert slide.notes == ("pixels are not square: the given mpp says 0.5 x 1 um/px",)
        assert "0.5 x 1 um/px" in repr(slide)
