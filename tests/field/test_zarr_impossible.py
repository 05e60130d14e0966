"""Metadata of an OME-Zarr that no slide has: an error that names the slide and the value, before memory follows it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.support.ome_zarr import write_image
from tests.support.tiffs import picture
from wsi_ats.errors import SlideError
from wsi_ats.slides import open_slide
from wsi_ats.slides.omezarr.metadata import (
    CHUNK_BYTES,
    DEEPEST,
    LONGEST_SIDE,
    MOST_BYTES,
    MOST_CHUNKS,
    check_chunks,
    parse_metadata,
)

PIXELS = picture(150, 210)
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("zarr")
    kinds: dict[str, dict[str, Any]] = {
        "v3": {},
        "v2": {"zarr_format": 2},
        "shards": {"shards": (3, 128, 96)},
        "zarr-python": {"chunk": {"c": 2}},
    }
    return {kind: write_image(folder / f"{kind}.zarr", [PIXELS], **how) for kind, how in kinds.items()}


def changed(store: Path, to: Path, name: str, change: Change) -> Path:
    """A copy of a store in which the metadata of one file is another."""
    shutil.copytree(store, to)
    content = json.loads((to / name).read_text())
    made = change(content)
    (to / name).write_text(made if isinstance(made, str) else json.dumps(content))
    return to


def read(path: Path) -> None:
    with open_slide(path) as slide:
        slide.read((0, 0), (100, 100))


NUMBERS = [0, -1, 1.5, "3", None, True, [], 1 << 30, 1 << 62, 1 << 70, 10**4000, float("inf"), float("nan")]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: str(number)[:9])
@pytest.mark.parametrize("kind", ["v3", "v2", "shards", "zarr-python"])
def test_shapes_and_chunks(kind: str, number: Any, stores: dict[str, Path], tmp_path: Path) -> None:
    name = "0/.zarray" if kind == "v2" else "0/zarr.json"

    def shape(array: dict[str, Any]) -> None:
        array["shape"][1] = number

    def chunk(array: dict[str, Any]) -> None:
        if kind == "v2":
            array["chunks"][1] = number
        elif kind == "shards":
            array["codecs"][0]["configuration"]["chunk_shape"][1] = number
        else:
            array["chunk_grid"]["configuration"]["chunk_shape"][1] = number

    for index, change in enumerate((shape, chunk)):
        path = changed(stores[kind], tmp_path / f"{index}.zarr", name, change)
        with pytest.raises(SlideError, match=f"slide '{index}.zarr'"):
            read(path)


def scale(value: Any) -> Change:
    def change(group: dict[str, Any]) -> None:
        (image,) = group["attributes"]["ome"]["multiscales"]
        image["datasets"][0]["coordinateTransformations"][0]["scale"] = [1.0, value, value]

    return change


@pytest.mark.parametrize(
    "value", [float("inf"), float("-inf"), float("nan"), 1e300, 1e-300, -1, 0, 10**400, "1", None, [1], True]
)
def test_scales(value: Any, stores: dict[str, Path], tmp_path: Path) -> None:
    path = changed(stores["v3"], tmp_path / "a.zarr", "zarr.json", scale(value))
    with pytest.raises(SlideError, match=r"slide 'a\.zarr': the scale of level '0' is"):
        read(path)


def test_scales_that_multiply_beyond_floats(stores: dict[str, Path], tmp_path: Path) -> None:
    def change(group: dict[str, Any]) -> None:
        (image,) = group["attributes"]["ome"]["multiscales"]
        image["coordinateTransformations"] = [{"type": "scale", "scale": [1, 1e12, 1e12]}]
        image["datasets"][0]["coordinateTransformations"] = [
            {"type": "scale", "scale": [1, 1e12, 1e12]},
            {"type": "translation", "translation": [0, 1e12, -1e12]},
        ]

    with open_slide(changed(stores["v3"], tmp_path / "a.zarr", "zarr.json", change)) as slide:
        assert slide.mpp is None
        assert "implausible" in slide.notes[0]


TEXTS = {
    "nested lists": "[" * 100_000,
    "nested objects": '{"a":' * 100_000,
    "not too deep for json": '{"a":' + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1) + "}",
    "a number": "3",
    "long number": '{"node_type": "group", "zarr_format": ' + "9" * 5000 + "}",
    "large": '{"a": "' + "x" * MOST_BYTES + '"}',
    "no text": "\udcff\udcff",
    "empty": "",
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(
    ("store", "name"), [("v3", "zarr.json"), ("v3", "0/zarr.json"), ("v2", ".zattrs"), ("v2", "0/.zarray")]
)
def test_files_that_make_no_sense(
    kind: str, store: str, name: str, stores: dict[str, Path], tmp_path: Path
) -> None:
    path = changed(stores[store], tmp_path / "a.zarr", name, lambda _: "")
    (path / name).write_bytes(TEXTS[kind].encode("utf-8", "surrogateescape"))
    with pytest.raises(SlideError, match=f"{name}.*(damaged|has .* bytes)"):
        read(path)


ODD: list[tuple[str, str, Change]] = [
    ("v3", "zarr.json", lambda g: g["attributes"].update(wsi_ats={"associated": 3})),
    ("v3", "zarr.json", lambda g: g["attributes"].update(wsi_ats={"associated": {"label": ["x"]}})),
    ("v3", "zarr.json", lambda g: g["attributes"].update(wsi_ats={"properties": {"a": {"b": 1}}})),
    ("v3", "zarr.json", lambda g: g["attributes"]["ome"]["multiscales"][0].update(datasets=[DATASET] * 100)),
    ("v3", "zarr.json", lambda g: g["attributes"]["ome"]["multiscales"][0].update(axes=["y", "x"] * 9)),
    (
        "v3",
        "zarr.json",
        lambda g: g["attributes"]["ome"]["multiscales"][0]["datasets"][0].update(path="../../x"),
    ),
    (
        "v3",
        "zarr.json",
        lambda g: g["attributes"]["ome"]["multiscales"][0]["datasets"][0].update(path="x" * 9999),
    ),
    (
        "v3",
        "zarr.json",
        lambda g: g["attributes"]["ome"]["multiscales"][0]["datasets"][0].update(path="a\0b"),
    ),
    (
        "v3",
        "zarr.json",
        lambda g: g["attributes"]["ome"]["multiscales"][0]["datasets"][0].update(path="c\ud800"),
    ),
    ("v3", "0/zarr.json", lambda a: a.update(shape=[3] * 100)),
    ("v3", "0/zarr.json", lambda a: a.update(data_type="object")),
    ("v3", "0/zarr.json", lambda a: a.update(data_type={"name": "x" * 10_000})),
    ("v2", "0/.zarray", lambda a: a.update(dtype="(1000000000,)u1")),
    ("v2", "0/.zarray", lambda a: a.update(dtype=[["a", "|u1", [1000000]]])),
    ("v3", "0/zarr.json", lambda a: a.update(fill_value=float("inf"))),
    ("v3", "0/zarr.json", lambda a: a.update(fill_value=1e400)),
    ("v3", "0/zarr.json", lambda a: a.update(fill_value="NaN")),
    ("v3", "0/zarr.json", lambda a: a.update(codecs=[])),
    ("v3", "0/zarr.json", lambda a: a.update(codecs={})),
    ("v3", "0/zarr.json", lambda a: a.update(codecs="x" * 10_000)),
    ("v3", "0/zarr.json", lambda a: a["codecs"][0].update(name=["x"])),
    ("v3", "0/zarr.json", lambda a: a.update(chunk_grid=3)),
    (
        "v3",
        "0/zarr.json",
        lambda a: a.update(chunk_key_encoding={"name": "default", "configuration": {"separator": "//"}}),
    ),
    ("shards", "0/zarr.json", lambda a: a["codecs"][0]["configuration"].update(index_codecs=[])),
    ("shards", "0/zarr.json", lambda a: a["codecs"][0]["configuration"].update(index_location="middle")),
    (
        "shards",
        "0/zarr.json",
        lambda a: a["codecs"][0]["configuration"].update(chunk_shape=[3, 1, 1]) or huge_shards(a),
    ),
    ("zarr-python", "0/zarr.json", lambda a: a["codecs"].append({"name": "evil"})),
]
DATASET = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}


def huge_shards(array: dict[str, Any]) -> None:
    array["chunk_grid"]["configuration"]["chunk_shape"] = [3, 1 << 14, 1 << 14]
    array["codecs"][0]["configuration"]["chunk_shape"] = [3, 1, 1]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_odd_values(number: int, stores: dict[str, Path], tmp_path: Path) -> None:
    store, name, change = ODD[number]
    with pytest.raises(SlideError, match=r"slide 'a\.zarr'") as caught:
        read(changed(stores[store], tmp_path / "a.zarr", name, change))
    assert len(caught.value.message) < 12_000


def test_a_large_number_of_small_chunks_is_refused_and_of_usual_ones_is_not() -> None:
    check_chunks((3, 500_000, 500_000), (3, 64, 64))
    check_chunks((3, LONGEST_SIDE, 1000), (1, 64, 64))
    with pytest.raises(ValueError, match=f"at most {MOST_CHUNKS:,} are read"):
        check_chunks((3, 500_000, 500_000), (3, 16, 16))
    check_chunks((3, 10, 10), (3, 16_384, 16_384))
    with pytest.raises(ValueError, match=f"at most {CHUNK_BYTES:,} are read"):
        check_chunks((3, 10, 10), (3, 1 << 20, 1 << 20))
    with pytest.raises(ValueError, match="do not fit"):
        check_chunks((3, 10), (3,))


def test_metadata_as_deep_as_it_may_be() -> None:
    deep: object = 1
    for _ in range(DEEPEST - 1):
        deep = [deep]
    assert parse_metadata(json.dumps({"a": deep}).encode())["a"] == deep
    with pytest.raises(ValueError, match="levels deep"):
        parse_metadata(json.dumps({"a": [deep]}).encode())


def test_chunks_of_a_gigabyte_do_not_take_the_process_along(tmp_path: Path) -> None:
    """What is allowed and does not fit into memory is an error of that slide."""
    path = write_image(tmp_path / "a.zarr", [PIXELS])
    metadata = json.loads((path / "0" / "zarr.json").read_text())
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [3, 18_000, 18_000]
    (path / "0" / "zarr.json").write_text(json.dumps(metadata))
    code = (
        "import resource, sys\n"
        "from wsi_ats.errors import SlideError\n"
        "from wsi_ats.slides import open_slide\n"
        "with open_slide(sys.argv[1]) as slide:\n"
        "    most = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (900 << 20)\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "    try:\n"
        "        slide.read((0, 0), (10, 10))\n"
        "    except SlideError as error:\n"
        "        print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert "there is no memory for 1 chunk(s) of 972,000,000 bytes" in done.stdout, done.stderr


def test_a_chunk_file_that_is_larger_than_any_chunk(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [PIXELS])
    with (path / "0" / "c" / "0" / "0" / "0").open("r+b") as file:
        file.truncate(1 << 40)  # of a terabyte, and takes no room
    with pytest.raises(SlideError, match=r"c/0/0/0 has 1,099,511,627,776 bytes; at most .* are read"):
        read(path)


def test_an_associated_image_of_a_terabyte(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [PIXELS])
    zarr.open_group(path, mode="a").create_array(
        "macro", shape=(3, 10**6, 10**6), chunks=(3, 512, 512), dtype="u1"
    )
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"]["wsi_ats"] = {"associated": {"macro": "macro"}}
    (path / "zarr.json").write_text(json.dumps(group))
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match=r"image 'macro' cannot be read: it has 3,000,000,000,000 bytes"):
            slide._associated("macro")
        np.testing.assert_array_equal(slide.read((0, 0), (50, 50)), PIXELS[:50, :50])
