"""The OME-Zarr reader: arrays that zarr-python wrote, in many layouts, against the pixels that went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ome_zarr import write_image
from tests.support.range_server import RangeServer
from tests.support.tiffs import picture
from wsi_ats.errors import SlideError
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.slides.omezarr.group import OURS
from wsi_ats.slides.omezarr.slide import NO_PROFILE

HEIGHT, WIDTH = 150, 210
WHOLE = picture(HEIGHT, WIDTH)


def axes_of(order: str, unit: str = "micrometer") -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"}
    space = {"type": "space", "unit": unit}
    return [{"name": a, "type": kinds[a]} if a in kinds else {"name": a, **space} for a in order]


def write(root: Path, order: str = "cyx", version: str = "0.5", unit: str = "micrometer", **how: Any) -> Path:
    """WHOLE and a level of half its size, as zarr-python stores them; how: arguments of create_array."""
    v3 = version == "0.5"
    group = zarr.open_group(root, mode="w", zarr_format=3 if v3 else 2)
    datasets = []
    for level in (0, 1):
        pixels = WHOLE[:: 1 + level, :: 1 + level].transpose(2, 0, 1)
        if order == "yxc":
            pixels = pixels.transpose(1, 2, 0)
        elif order == "tczyx":
            pixels = pixels[None, :, None]
        pixels = np.ascontiguousarray(pixels)
        chunks = tuple({"y": 32, "x": 64, "c": how.get("c", 3)}.get(axis, 1) for axis in order)
        more = {key: value for key, value in how.items() if key != "c"}
        if "shards" in more:
            more["shards"] = tuple({"y": 128, "x": 128, "c": 3}.get(axis, 1) for axis in order)
        if not v3:
            more["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        array = group.create_array(
            str(level), shape=pixels.shape, dtype="uint8", chunks=chunks, fill_value=255, **more
        )
        array[:] = pixels
        factor = (1 + level) * (1000 if unit == "nanometer" else 1)
        scale = [{"y": 0.5 * factor, "x": 0.25 * factor}.get(axis, 1.0) for axis in order]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    image = {"axes": axes_of(order, unit), "datasets": datasets}
    if v3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [{"version": "0.4", **image}]
    return root


def assert_is_whole(slide: Slide) -> None:
    assert slide.size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(slide.read((0, 0), slide.size), WHOLE)
    size = slide.levels[1].size
    np.testing.assert_array_equal(slide.read((0, 0), (size.width, size.height), 1), WHOLE[::2, ::2])


@pytest.mark.parametrize("order", ["cyx", "yxc", "tczyx"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_any_order_of_axes(order: str, version: str, tmp_path: Path) -> None:
    with open_slide(write(tmp_path / "a.ome.zarr", order, version)) as slide:
        assert slide.backend == "zarr"
        assert (slide.mpp_xy, slide.mpp_source) == ((0.25, 0.5), "ngff scale")
        assert_is_whole(slide)


@pytest.mark.parametrize(
    "how",
    [
        {"c": 1},
        {"c": 1, "shards": True},
        {"shards": True},
        {"compressors": None},
        {"compressors": zarr.codecs.GzipCodec()},
        {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle")},
        {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
    ],
)
def test_any_usual_storage(how: dict[str, Any], tmp_path: Path) -> None:
    with open_slide(write(tmp_path / "a.ome.zarr", **how)) as slide:
        assert_is_whole(slide)


@pytest.mark.parametrize(
    ("order", "storage"),
    [
        ("xcy", {}),
        ("tzyxc", {"zarr_format": 2}),
        ("cxy", {"chunk": {"c": 1}}),
        ("tczyx", {"chunk": {"c": 1}, "zarr_format": 2}),
        ("cyx", {"filters": [zarr.codecs.TransposeCodec(order=(2, 0, 1))]}),
        ("cyx", {"filters": [zarr.codecs.TransposeCodec(order=(1, 2, 0))]}),
        ("cyx", {"chunk": {"c": 1}, "filters": [zarr.codecs.TransposeCodec(order=(2, 1, 0))]}),
        ("cyx", {"zarr_format": 2, "order": "F"}),
    ],
)
def test_any_order_in_memory(order: str, storage: dict[str, Any], tmp_path: Path) -> None:
    levels = [WHOLE, np.ascontiguousarray(WHOLE[::2, ::2])]
    with open_slide(write_image(tmp_path / "a.ome.zarr", levels, order, **storage)) as slide:
        assert "zarr-python" not in slide.backend_reason
        assert_is_whole(slide)
        np.testing.assert_array_equal(slide.read((50, 40), (90, 80)), WHOLE[40:120, 50:140])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_first_series_of_what_bioformats2raw_makes(zarr_format: int, tmp_path: Path) -> None:
    root = tmp_path / "a.zarr"
    attributes = {"bioformats2raw.layout": 3}
    zarr.create_group(
        root, zarr_format=zarr_format, attributes=attributes if zarr_format == 2 else {"ome": attributes}
    )
    levels = [WHOLE, np.ascontiguousarray(WHOLE[::2, ::2])]
    write_image(root, levels, "tczyx", {"c": 1}, zarr_format, inside="0")
    with open_slide(root) as slide:
        assert slide.mpp == 0.25
        assert_is_whole(slide)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("zarr") / "a.ome.zarr", shards=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_any_region(store: Path, data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 120), st.integers(1, 120)))
    xy = np.array(
        data.draw(st.lists(st.tuples(st.integers(-50, 230), st.integers(-50, 170)), min_size=1, max_size=4))
    )
    with open_slide(store) as slide, open_slide(WHOLE) as oracle:
        np.testing.assert_array_equal(slide.read_many(xy, size), oracle.read_many(xy, size))


def test_chunks_that_are_not_stored_have_the_fill_value(tmp_path: Path) -> None:
    root = write(tmp_path / "a.ome.zarr")
    (root / "0" / "c" / "0" / "1" / "1").unlink()
    expected = WHOLE.copy()
    expected[32:64, 64:128] = 255
    with open_slide(root) as slide:
        np.testing.assert_array_equal(slide.read((0, 0), slide.size), expected)


def test_units_become_micrometres(tmp_path: Path) -> None:
    with open_slide(write(tmp_path / "a.ome.zarr", unit="decimeter")) as slide:
        assert slide.mpp_xy is None  # no microscope has such pixels
        assert slide.notes == (
            "ngff scale says 2.5e+04 x 5e+04 um/px, which is implausible (0.05 to 20 are believed)",
        )
    with open_slide(write(tmp_path / "b.ome.zarr", unit="nanometer")) as slide:
        assert slide.mpp_xy == pytest.approx((0.25, 0.5))


def test_what_is_no_rgb_image_says_what_is_read(tmp_path: Path) -> None:
    root = tmp_path / "a.ome.zarr"
    write(root)
    group = zarr.open_group(root, mode="a")
    del group["0"]
    group.create_array("0", shape=(3, 8, 8), dtype="uint16", chunks=(3, 8, 8))
    with pytest.raises(SlideError, match=r"a\.ome\.zarr.*uint16.*RGB images are read"):
        open_slide(root)


@pytest.mark.parametrize("how", [{"shards": True}, {"c": 1, "shards": True}, {"version": "0.4"}])
def test_chunks_behind_a_url_are_fetched_together(how: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    write(tmp_path / "a.ome.zarr", **how)
    with (
        RangeServer(tmp_path, latency=0.02) as server,
        open_slide(f"{server.url}/a.ome.zarr") as slide,
    ):
        assert_is_whole(slide)
        server.reset()
        xy = np.array([(x, y) for x in (0, 80, 160) for y in (0, 50, 100)])
        tiles = slide.read_many(xy, (40, 40))
        counts = server.counts()
    for (x, y), tile in zip(xy, tiles, strict=True):
        np.testing.assert_array_equal(tile, WHOLE[y : y + 40, x : x + 40])
    assert counts["at_once"] > 1, "one after the other"


def test_an_icc_profile_that_is_named_and_absent_is_told(tmp_path: Path) -> None:
    root = write(tmp_path / "a.ome.zarr")
    zarr.open_group(root, mode="a").attrs[OURS] = {"icc_profile": "icc/c/0"}
    with open_slide(root, srgb=True) as slide:
        assert slide.icc_profile is None
        assert slide.notes[0] == NO_PROFILE
