"""A Zarr of a stranger runs no code, whichever versions of zarr-python and numcodecs are installed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.ome_zarr import write_image
from tests.support.training import Bomb
from wsi_ats import SlideError, open_slide
from wsi_ats.slides.omezarr.allowed import refuse_code

PIXELS = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)


def armed(path: Path, **changes: Any) -> Path:
    """An image of Zarr v2 whose chunks are pickles that make a file when they are loaded."""
    write_image(path, [PIXELS], zarr_format=2)
    metadata = path / "0" / ".zarray"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), **changes}))
    bomb = pickle.dumps(Bomb(path / "boom"))
    for chunk in path.glob("0/[0-9]*"):
        chunk.write_bytes(bomb)
    return path


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"filters": [{"id": "pickle", "protocol": 5}], "compressor": None}, "codec 'pickle'"),
        ({"filters": None, "compressor": {"id": "pickle"}}, "codec 'pickle'"),
        ({"dtype": "|O", "filters": [{"id": "pickle"}], "compressor": None}, "it is object"),
        ({"dtype": "|O", "filters": [{"id": "json2"}], "compressor": None}, "it is object"),
        ({"filters": [{"id": "msgpack2"}]}, "codec 'msgpack2'"),
        ({"filters": [{"id": "numcodecs.pickle"}]}, "codec 'numcodecs.pickle'"),
    ],
)
def test_pixels_that_are_pickles_are_refused_by_name(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    path = armed(tmp_path / "a.ome.zarr", **changes)
    with pytest.raises(SlideError) as caught, open_slide(path) as slide:
        slide.read((0, 0), (64, 64))
    assert named in caught.value.message
    assert not (path / "boom").exists()


def test_an_associated_image_of_objects_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.ome.zarr", [PIXELS], zarr_format=2)
    write_image(path / "side", [PIXELS], zarr_format=2)
    armed(path / "side", dtype="|O", filters=[{"id": "pickle"}], compressor=None)
    notes = json.loads((path / ".zattrs").read_text())
    (path / ".zattrs").write_text(json.dumps({**notes, "wsi_ats": {"associated": {"label": "side/0"}}}))
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"data type '\|O'"):
        slide._associated("label")
    assert not (path / "side" / "boom").exists()


V3 = {"data_type": "uint8", "codecs": [{"name": "bytes"}, {"name": "zstd"}]}
SHARD = {"name": "sharding_indexed", "configuration": {"codecs": [{"name": "bytes"}, {"name": "gzip"}]}}


@pytest.mark.parametrize(
    ("array", "zarr_format"),
    [
        ({"dtype": "|u1", "compressor": {"id": "blosc"}, "filters": [{"id": "delta"}]}, 2),
        ({"dtype": "<f4", "compressor": None, "filters": None}, 2),
        ({"dtype": "|u1", "compressor": {"id": "imagecodecs_jpeg2k"}}, 2),
        (V3, 3),
        ({**V3, "codecs": [SHARD]}, 3),
        ({**V3, "codecs": [{"name": "transpose"}, "bytes", {"name": "numcodecs.zlib"}]}, 3),
    ],
)
def test_what_runs_no_code_is_let_through(array: dict[str, Any], zarr_format: int) -> None:
    refuse_code(json.dumps(array).encode(), zarr_format)


@pytest.mark.parametrize(
    ("array", "zarr_format"),
    [
        ({**V3, "data_type": "object"}, 3),
        ({**V3, "data_type": {"name": "numpy.datetime64"}}, 3),
        ({**V3, "codecs": [{"name": "numcodecs.pickle"}]}, 3),
        ({**V3, "codecs": [{"name": "vlen-utf8"}]}, 3),
        ({**V3, "codecs": [{**SHARD, "configuration": {"codecs": [{"name": "pickle"}]}}]}, 3),
        ({**V3, "codecs": [{**SHARD, "configuration": {"index_codecs": [{"name": "evil"}]}}]}, 3),
        ({"dtype": [["a", "<u1"]], "compressor": None}, 2),
        ({"dtype": None}, 2),
        ([], 2),
    ],
)
def test_all_else_is_refused(array: Any, zarr_format: int) -> None:
    with pytest.raises(ValueError, match=r"data type|codec|no JSON object"):
        refuse_code(json.dumps(array).encode(), zarr_format)
