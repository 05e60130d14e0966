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
import torch
import wsi_ats
from wsi_ats import estimator, sampling
from wsi_ats.build import build_model
from wsi_ats.config import load_config
from wsi_ats.heatmap.style import HeatmapStyle
from wsi_ats.reading import Reading
pixels = np.full((512, 768, 3), 240, np.uint8)
pixels[128:384, 128:640] = 170, 90, 160
slide = wsi_ats.open_slide(pixels, mpp=0.5)
scale = ("view.downsample=8", "tile.downsample=1", "tile.px=64", "attention.stride=8")
model = build_model(load_config(overrides=scale), ["normal", "tumour"])
prediction = model.predict(slide, tiles=8)
heatmap = prediction.heatmap()
log_p = torch.tensor([0.5, 0.25, 0.25]).log()
generator = torch.Generator()
draws = sampling.draw(log_p, 2, generator=generator)
features = torch.ones(2, 3)
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
    "slide.read((0, 0), (10**7, 10**7))": "size is (10000000, 10000000): 1 region(s) of it are 300,000.0 GB",
    "slide.read((0, 0), (10**14, 10**14))": "for which memory has no room",
    "slide.read_many(np.zeros((2, 2), int), (10**7, 10**7))": "2 region(s) of it are 600,000.0 GB",
    "slide.read_at_mpp((0, 0), (10**7, 10**7), mpp=1.0)": "size is (10000000, 10000000)",
    "slide.read_many(None, (4, 4))": "xy is None",
    "slide.read_many(np.full((1, 2), nan), (4, 4))": "xy is nan",
    "slide.read_many(np.zeros((1, 2), int), (4, 4), out=3)": "out is 3",
    "prediction.heatmap(slide).plot(0)": "ax is 0",
    "heatmap.encode('bmp')": "kind of picture is 'bmp'",
    "wsi_ats.load_model(1)": "folder is 1",
    "sampling.draw(log_p, nan, generator=generator)": "n is nan",
    "sampling.draw(log_p, 0, generator=generator)": "n is 0",
    "sampling.smooth(log_p, None)": "strength None",
    "sampling.uniform_attention(0)": "k is 0",
    "HeatmapStyle(limits=0)": "limits is 0",
    "HeatmapStyle(limits={})": "limits is {}",
}
ANYTHING = ("None", "0", "''", "'  '", "[]", "nan", "{}", "object", "b'x'", "-1", "True")
"""What a variable may hold by mistake."""
CALLS = {
    "wsi_ats.open_slide(#)": "source",
    "wsi_ats.load_model(#)": "folder",
    "model.predict(#)": "slide",
    "model.read(slide, #)": "reading",
    "prediction.heatmap(#)": "slide",
    "prediction.heatmap(slide, #)": "style",
    "heatmap.save(#)": "path",
    "heatmap.encode(#)": "kind of picture",
    "HeatmapStyle(size=#)": "size",
    "HeatmapStyle(alpha=#)": "alpha",
    "HeatmapStyle(blur=#)": "blur",
    "slide.read(#, (4, 4))": "location",
    "slide.read((0, 0), #)": "size",
    "sampling.draw(#, 2, generator=generator)": "log_p",
    "sampling.draw(log_p, 2, generator=#)": "generator",
    "sampling.every_cell(#)": "log_p",
    "estimator.expectation(#, draws, features)": "log_p",
    "estimator.expectation(log_p, #, features)": "draws",
    "estimator.expectation(log_p, draws, #)": "features",
    "estimator.refined_expectation(log_p, draws, features, #)": "scores",
}
"""Calls, with # in the place of the argument of that name."""
SENSIBLE = {
    ("wsi_ats.open_slide(#)", "[]"),  # an error, but of a slide without levels
    ("wsi_ats.open_slide(#)", "{}"),
    ("prediction.heatmap(#)", "None"),
    ("prediction.heatmap(slide, #)", "None"),
    ("HeatmapStyle(alpha=#)", "0"),
    ("HeatmapStyle(alpha=#)", "True"),
    ("HeatmapStyle(blur=#)", "0"),
    ("HeatmapStyle(blur=#)", "True"),
}
"""What is no mistake, or another one."""
MISTAKES = {
    call.replace("#", value): f"{name} is "
    for call, name in CALLS.items()
    for value in ANYTHING
    if (call, value) not in SENSIBLE
}


@pytest.fixture(scope="module")
def errors() -> dict[str, list[str]]:
    cases = [*WRONG, *MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)], capture_output=True, text=True, check=True
    )
    return dict(zip(cases, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("case", WRONG)
def test_it_is_named_with_its_value_and_a_remedy(case: str, errors: dict[str, list[str]]) -> None:
    kind, text = errors[case]
    assert (kind, WRONG[case] in text, "\n  Remedy: " in text) == ("ConfigError", True, True), text


def test_whatever_stands_in_place_of_an_argument_is_named_with_a_remedy(errors: dict[str, list[str]]) -> None:
    bare = {
        case: (kind, text)
        for case, name in MISTAKES.items()
        for kind, text in [errors[case]]
        if kind != "ConfigError" or name not in text or "\n  Remedy: " not in text
    }
    assert not bare


def test_pixels_that_are_not_square_are_told_and_shown() -> None:
    with open_slide(np.full((64, 64, 3), 240, np.uint8), mpp=(0.5, 1.0)) as slide:
        assert slide.notes == ("pixels are not square: the given mpp says 0.5 x 1 um/px",)
        assert "0.5 x 1 um/px" in repr(slide)
