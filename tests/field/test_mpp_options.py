"""A wish for slides that do not state their scale never rescales one that does; overriding one is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from tests.support.commands import run
from wsi_ats.slides import open_slide

PREDICT = ("predict", "run/model", "--tiles", "8", "--no-heatmaps", "--workers", "0")
SAYS = "slides/test_1.tif"
"""States 0.5 um/px."""


def silent(path: str) -> str:
    """The same pixels in a file that states no scale."""
    with open_slide(SAYS) as slide:
        pixels = slide.read((0, 0), slide.size)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="deflate", metadata=None)
    return path


def table(out: str) -> pd.DataFrame:
    return pd.read_csv(Path(out) / "predictions.csv", dtype=str, keep_default_na=False).set_index("slide")


def test_the_option_for_silent_slides_leaves_the_others_alone(place: Path) -> None:
    Path("mixed").mkdir()
    shutil.copy(SAYS, "mixed/says.tif")
    silent("mixed/silent.tif")
    run(*PREDICT, "mixed/says.tif", "--out", "plain")
    result = run(*PREDICT, "mixed", "--out", "out", "--mpp", "0.25")
    said, alone = table("out").loc["mixed/says.tif"], table("plain").loc["mixed/says.tif"]
    assert said.drop("seconds").equals(alone.drop("seconds"))
    assert list(table("out").notes) == ["", ""]
    assert "note:" not in result.stderr
    assert record("out", "silent")["mpp"] == [0.25, 0.25]
    assert record("out", "says")["mpp"] == [0.5, 0.5]


def record(out: str, stem: str) -> dict[str, object]:
    (path,) = Path(out, "slides").glob(f"{stem}-*/result.json")
    return dict(json.loads(path.read_text()))


def test_overriding_what_a_slide_says_is_told_where_the_answer_is(place: Path) -> None:
    result = run(*PREDICT, SAYS, "--out", "out", "--override-mpp", "0.25")
    note = "mpp 0.25 x 0.25 was given, tiff.XResolution says 0.5 x 0.5 um/px"
    assert note in table("out").notes[SAYS]
    assert f"note: {SAYS}: {note}" in result.stderr
    assert note in run("info", SAYS, "--override-mpp", "0.25").stdout
    assert f"note: {note}" in run("heatmap", "run/model", SAYS, "--override-mpp", "0.25").stdout


def test_a_cell_of_the_manifest_overrides_and_is_told(place: Path) -> None:
    silent("silent.tif")
    Path("m.csv").write_text(f"slide,mpp\n{SAYS},0.25\nsilent.tif,0.25\n")
    run(*PREDICT, "m.csv", "--out", "out", "--override-mpp", "1.0")
    assert record("out", "test_1")["mpp"] == [0.25, 0.25]  # a cell speaks of its slide, the option of all
    notes = table("out").notes
    assert "mpp 0.25 x 0.25 was given" in notes[SAYS]
    assert notes["silent.tif"] == ""


def test_a_prediction_in_a_notebook_carries_the_note(place: Path) -> None:
    from wsi_ats import load_model

    model = load_model("run/model")
    with open_slide(SAYS, mpp=0.25) as slide:
        (note,) = model.predict(slide, tiles=4).notes
    assert note.startswith("mpp 0.25 x 0.25 was given")
    with open_slide(np.full((512, 512, 3), 200, np.uint8), mpp=0.25) as slide:
        assert slide.notes == ()  # an array says nothing that could be contradicted
