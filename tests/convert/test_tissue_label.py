"""The tissue as a label image beside a converted slide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.support.commands import run
from tests.support.strategies import write_tiff
from wsi_ats.convert.plan import Settings
from wsi_ats.convert.run import convert
from wsi_ats.convert.tissue_label import tissue_label
from wsi_ats.errors import MissingMppError
from wsi_ats.lowres.tissue import tissue_mask
from wsi_ats.lowres.view import read_view
from wsi_ats.slides import open_slide

HEIGHT, WIDTH, MPP = 1301, 1703, 0.9


def section() -> np.ndarray:
    """Glass with a pink disc, a hole in it, and a speck."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    radius = np.hypot(y - 640, x - 900)
    stained = ((radius < 500) & (radius > 200)) | ((abs(y - 1250) < 12) & (abs(x - 100) < 12))
    pixels = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    pixels[stained] = (210, 120, 180)
    return pixels


SECTION = section()


def expected(out: Path) -> list[np.ndarray]:
    """Every pixel of a level has the value of the mask where its centre lies; one after the other."""
    with open_slide(out) as slide:
        view = read_view(slide, (8 / MPP, 8 / MPP), 1)
        mask = tissue_mask(view.pixels, min_object=64, min_hole=64)
        labels = []
        for level in slide.levels:
            y, x = np.mgrid[: level.size.height, : level.size.width] + 0.5
            rows = np.floor(y * (level.downsample[1] / view.downsample[1])).astype(int)
            cols = np.floor(x * (level.downsample[0] / view.downsample[0])).astype(int)
            labels.append(mask[rows, cols].astype(np.uint8))
    return labels


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_the_tissue_is_a_label_with_the_levels_of_the_image(ngff: str, tmp_path: Path) -> None:
    out = tmp_path / "a.ome.zarr"
    with open_slide(SECTION, mpp=MPP) as slide:
        convert(slide, out, Settings("lz4", ngff), labels={"tissue": tissue_label})
    labels = expected(out)
    assert 0.2 < labels[0].mean() < 0.4
    assert labels[0][640, 900] == 0, "the hole is filled"
    assert labels[0][1250, 100] == 0, "the speck is in it"
    image = zarr.open_group(out, mode="r").attrs
    root = zarr.open_group(out / "labels", mode="r")
    group = root["tissue"]
    of_image, of_root, of_label = (dict(a).get("ome", dict(a)) for a in (image, root.attrs, group.attrs))
    assert of_root["labels"] == ["tissue"]
    assert of_label["image-label"]["source"] == {"image": "../../"}
    assert of_label["image-label"]["colors"] == [{"label-value": 1, "rgba": [0, 160, 80, 96]}]
    (of_image,), (of_label,) = of_image["multiscales"], of_label["multiscales"]
    assert of_label["axes"] == of_image["axes"][1:]
    assert len(of_label["datasets"]) == len(of_image["datasets"]) == len(labels)
    for ours, image_s, level in zip(of_label["datasets"], of_image["datasets"], labels, strict=True):
        steps = zip(ours["coordinateTransformations"], image_s["coordinateTransformations"], strict=True)
        assert all(step[step["type"]] == whole[whole["type"]][1:] for step, whole in steps)
        np.testing.assert_array_equal(np.asarray(group[ours["path"]][:]), level)


def test_a_label_is_added_to_a_complete_conversion_without_writing_it_again(tmp_path: Path) -> None:
    out = tmp_path / "a.ome.zarr"
    with open_slide(SECTION, mpp=MPP) as slide:
        convert(slide, out)
        shards = {path: path.stat().st_mtime_ns for path in out.glob("[0-9]/c/**/*") if path.is_file()}
        assert convert(slide, out, labels={"tissue": tissue_label}).written == 0
        added = json.loads((out / "labels" / "zarr.json").read_text())
        assert added["attributes"]["ome"]["labels"] == ["tissue"]
        assert convert(slide, out, labels={"other": tissue_label}).written == 0
        assert convert(slide, out, labels={"tissue": pytest.fail}).written == 0
    assert shards == {path: path.stat().st_mtime_ns for path in shards}
    names = json.loads((out / "labels" / "zarr.json").read_text())["attributes"]["ome"]["labels"]
    assert names == ["other", "tissue"]
    with open_slide(out) as slide:
        np.testing.assert_array_equal(slide.read((0, 0), slide.size), SECTION)


def test_glass_alone_has_an_empty_label(tmp_path: Path) -> None:
    with open_slide(np.full((700, 900, 3), 240, np.uint8), mpp=MPP) as slide:
        convert(slide, tmp_path / "a.ome.zarr", labels={"tissue": tissue_label})
    assert not np.asarray(
        zarr.open_array(tmp_path / "a.ome.zarr" / "labels" / "tissue" / "0", mode="r")[:]
    ).any()


def test_the_command_asks_for_a_scale_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiff(tmp_path / "a.tif", [SECTION])
    monkeypatch.chdir(tmp_path)
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(MissingMppError, match="leave --tissue away"):
        tissue_label(slide)
    done = run("convert", "a.tif", "a.ome.zarr", "--tissue", status=2)
    assert "give --mpp, or leave --tissue away" in done.stderr
    assert not (tmp_path / "a.ome.zarr").exists()
    run("convert", "a.tif", "a.ome.zarr", "--tissue", "--mpp", str(MPP))
    assert (tmp_path / "a.ome.zarr" / "labels" / "tissue" / "0" / "zarr.json").exists()
