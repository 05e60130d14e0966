"""A heatmap is drawn over the slide that was predicted or a copy of it, and over no other of the same size."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.fake_model import make_slide
from tests.test_model import model_with
from tests.test_prediction import make_prediction
from wsi_ats import open_slide
from wsi_ats.batch.store import SlideStore, read_prediction
from wsi_ats.errors import ConfigError
from wsi_ats.heatmap.style import HeatmapStyle
from wsi_ats.prediction import Prediction
from wsi_ats.slides.base import Slide
from wsi_ats.synthetic.phantom import Phantom, write_phantom

SMALL = HeatmapStyle(size=64)


def of(slide: Slide) -> Prediction:
    """A prediction of that slide."""
    return replace(make_prediction(slide.size, 32.0), slide=slide.name, digest=slide.digest)


def drawn_over(prediction: Prediction, path: Path) -> bytes:
    with open_slide(path) as slide:
        return prediction.heatmap(slide, SMALL).encode()


def test_copies_and_links_under_any_name_will_do(tmp_path: Path) -> None:
    path = make_slide(tmp_path / "a.tif")
    with open_slide(path) as slide:
        prediction = of(slide)
    (tmp_path / "link.tif").symlink_to(path)
    (tmp_path / "other").mkdir()
    for same in (
        path,
        tmp_path / "link.tif",
        Path(shutil.copyfile(path, tmp_path / "b.tif")),  # with a time of its own
        Path(shutil.copy2(path, tmp_path / "other" / "a.tif")),
    ):
        assert drawn_over(prediction, same)


@pytest.mark.parametrize("name", ["b.tif", "other/a.tif"])
def test_another_file_of_the_same_size_is_refused_by_both_names(tmp_path: Path, name: str) -> None:
    with open_slide(make_slide(tmp_path / "a.tif")) as slide:
        prediction = of(slide)
    other = make_slide(tmp_path / name, seed=1)
    with pytest.raises(ConfigError, match=rf"slide {other.name} is not the one .* is of, a\.tif: .*else"):
        drawn_over(prediction, other)


def test_arrays_are_told_apart_by_their_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (192, 256, 3), np.uint8)
    prediction = of(open_slide(pixels))
    assert prediction.heatmap(open_slide([pixels.copy(), pixels[::2, ::2]], name="a copy"), SMALL).encode()
    with pytest.raises(ConfigError, match="slide array is not the one"):
        prediction.heatmap(open_slide(255 - pixels))


@pytest.mark.parametrize(("name", "fits"), [("a.ome.zarr", True), ("A.svs", True), ("b.tif", False)])
def test_where_content_cannot_be_compared_the_name_is(tmp_path: Path, name: str, fits: bool) -> None:
    """As of a file that was converted, or lies behind a URL."""
    path = make_slide(tmp_path / "a.tif")
    with open_slide(path) as slide:
        prediction = of(slide)
        other = open_slide(slide.read((0, 0), slide.size), name=name)
    if fits:
        assert prediction.heatmap(other, SMALL).encode()
    else:
        with pytest.raises(ConfigError, match=r"b\.tif has another name than .*a\.tif"):
            prediction.heatmap(other)


def test_a_prediction_knows_its_slide_also_from_the_disk(tmp_path: Path) -> None:
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for seed, path in enumerate(paths):
        write_phantom(path, Phantom(size=1024, decoys=0, lesion=False, seed=seed))
    prediction = model_with().predict(paths[0], tiles=4)
    (tmp_path / "out" / "slides").mkdir(parents=True)
    store = SlideStore(tmp_path / "out", "a.tif")
    store.make()
    store.write_attention(prediction)
    store.write_result(prediction, PROVENANCE)
    for known in (prediction, read_prediction(store.folder)):
        assert drawn_over(known, paths[0])
        with pytest.raises(ConfigError, match=r"slide b\.tif is not the one"):
            drawn_over(known, paths[1])


PROVENANCE = {
    "slide": "a.tif", "path": "a.tif", "patient": "", "extra": {}, "config_hash": "", "run": "", "finished": 0.0,
    "size_bytes": 0, "mtime_ns": 0, "mpp_given": None, "bad_tiles": [],
}  # fmt: skip


def test_a_record_of_before_has_no_digest_and_is_read(tmp_path: Path) -> None:
    (tmp_path / "out" / "slides").mkdir(parents=True)
    store = SlideStore(tmp_path / "out", "a.tif")
    store.make()
    prediction = replace(make_prediction(), digest="file 1f")
    store.write_attention(prediction)
    store.write_result(prediction, PROVENANCE)
    record = json.loads((store.folder / "result.json").read_text())
    assert record.pop("digest") == read_prediction(store.folder).digest == "file 1f"
    (store.folder / "result.json").write_text(json.dumps(record))
    assert read_prediction(store.folder).digest == ""
