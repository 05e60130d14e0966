"""Conversion to OME-Zarr: pixels, levels, metadata, copies of JPEG tiles, stops and damage."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from tests.support.commands import run
from tests.support.tiffs import damage, picture, write_aperio, write_pyramid
from wsi_ats.convert.jpeg import JpegTiles
from wsi_ats.convert.plan import Settings
from wsi_ats.convert.run import convert
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide

WHOLE = picture(700, 900)


def pixels_of(slide: Slide, level: int = 0) -> np.ndarray:
    size = slide.levels[level].size
    return slide.read((0, 0), (size.width, size.height), level)


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("codec", ["zstd", "blosc", "lz4"])
@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_lossless_levels_are_means_of_the_slide(codec: str, ngff: str, tmp_path: Path) -> None:
    out = tmp_path / "a.ome.zarr"
    with open_slide(WHOLE, mpp=(0.25, 0.5)) as slide:
        done = convert(slide, out, Settings(codec, ngff, "all"))
    assert done.levels == ((900, 700), (450, 350), (225, 175))
    expected = WHOLE
    with open_slide(out) as slide:
        assert slide.backend == "zarr"
        assert slide.mpp_xy == pytest.approx((0.25, 0.5))
        for level in range(3):
            np.testing.assert_array_equal(pixels_of(slide, level), expected)
            expected = np.asarray(Image.fromarray(expected).reduce(2))


def test_zarr_python_reads_the_same_pixels(tmp_path: Path) -> None:
    out = tmp_path / "a.ome.zarr"
    with open_slide(WHOLE, mpp=0.5) as slide:
        convert(slide, out)
    array = zarr.open_array(out / "0", mode="r")
    np.testing.assert_array_equal(np.asarray(array[:]).transpose(1, 2, 0), WHOLE)


def test_scales_are_in_micrometres_with_the_ratio_of_each_axis(tmp_path: Path) -> None:
    with open_slide(picture(301, 517), mpp=(0.25, 0.5)) as slide:
        convert(slide, tmp_path / "a.ome.zarr")
    image = json.loads((tmp_path / "a.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    assert image["version"] == "0.5"
    (multiscale,) = image["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "y", "x"]
    assert [axis.get("unit") for axis in multiscale["axes"]] == [None, "micrometer", "micrometer"]
    first, second = (d["coordinateTransformations"] for d in multiscale["datasets"][:2])
    assert first == [{"type": "scale", "scale": [1.0, 0.5, 0.25]}]
    x, y = 517 / 259, 301 / 151
    assert second[0]["scale"] == pytest.approx([1.0, 0.5 * y, 0.25 * x])
    assert second[1]["translation"] == pytest.approx([0.0, 0.5 * (y - 1) / 2, 0.25 * (x - 1) / 2])


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_arrays_say_what_readers_go_by(ngff: str, tmp_path: Path) -> None:
    out = tmp_path / "a.ome.zarr"
    with open_slide(WHOLE, mpp=0.5) as slide:
        convert(slide, out, Settings(ngff=ngff))
    group = zarr.open_group(out, mode="r")
    attributes = dict(group.attrs).get("ome", dict(group.attrs))
    (image,) = attributes["multiscales"]
    assert attributes.get("version", image.get("version")) == ngff
    assert attributes["omero"]["rdefs"] == {"model": "color"}
    assert len(attributes["omero"]["channels"]) == 3
    paths = [dataset["path"] for dataset in image["datasets"]]
    assert paths == ["0", "1", "2"] == sorted(group.array_keys())
    for path in paths:
        array = group[path]
        assert (array.dtype, array.fill_value, array.shape[0]) == (np.uint8, 255, 3)
        assert array.chunks == (3, 256, 256)
        if ngff == "0.5":
            assert array.metadata.dimension_names == tuple(axis["name"] for axis in image["axes"])
            assert array.shards == (3, 4096, 4096)
            assert (out / path / "c" / "0" / "0" / "0").is_file()
        else:
            assert array.metadata.dimension_separator == "/"
            assert (out / path / "0" / "0" / "0").is_file()


@pytest.mark.parametrize("kind", ["jpeg-420+tables", "jpeg-444", "jpeg-rgb"])
def test_jpeg_tiles_are_copied_byte_by_byte(kind: str, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [WHOLE, np.ascontiguousarray(WHOLE[::2, ::2])], kind, (128, 128))
    out = tmp_path / "a.ome.zarr"
    with open_slide(path, mpp=0.5) as slide:
        done = convert(slide, out, Settings("jpeg", verify="all"))
        assert done.copied == 2
        tiles = JpegTiles(slide)
        with open_slide(out) as written:
            for level in range(2):
                every = range(tiles.count(level))
                assert list(written.encoded_tiles(level, every)) == tiles.tiles(level, every)  # type: ignore[attr-defined]
                np.testing.assert_array_equal(pixels_of(written, level), pixels_of(slide, level))
        tiles.close()


def test_tiles_that_are_no_jpegs_cannot_be_copied(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [WHOLE], "lzw")
    with open_slide(path) as slide, pytest.raises(ConfigError, match="its tiles are no JPEGs"):
        convert(slide, tmp_path / "a.ome.zarr", Settings("jpeg"))
    with open_slide(WHOLE) as slide, pytest.raises(ConfigError, match="backend 'memory'"):
        convert(slide, tmp_path / "a.ome.zarr", Settings("jpeg"))


def test_associated_images_go_along(tmp_path: Path) -> None:
    path = write_aperio(tmp_path / "a.svs", [WHOLE])
    with open_slide(path) as slide:
        convert(slide, tmp_path / "a.ome.zarr")
        with open_slide(tmp_path / "a.ome.zarr") as written:
            assert set(written.associated_images) == set(slide.associated_images)
            for name, image in slide.associated_images.items():
                np.testing.assert_array_equal(written.associated_images[name], image)


def written(out: Path) -> list[Path]:
    """Shards of level 0 that are whole."""
    return [shard for shard in out.glob("0/c/0/*/*") if not shard.name.startswith(".")]


def test_a_killed_conversion_goes_on_to_the_same_files(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [picture(4200, 4400)], "jpeg-420", (256, 256))
    out, whole = tmp_path / "a.ome.zarr", tmp_path / "whole.ome.zarr"
    command = [sys.executable, "-m", "wsi_ats", "convert", str(path), str(out), "--mpp", "0.5"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not written(out) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    with pytest.raises(SlideError, match=r"a\.ome\.zarr"):
        open_slide(out)
    kept = {shard: shard.stat().st_mtime_ns for shard in written(out)}
    assert kept
    with open_slide(path, mpp=0.5) as slide:
        convert(slide, out)
        convert(slide, whole)
    assert all(f.stat().st_mtime_ns == changed for f, changed in kept.items())
    assert content(out) == content(whole)


def test_the_same_again_does_nothing_and_something_else_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "a.ome.zarr"
    with open_slide(WHOLE, mpp=0.5) as slide:
        convert(slide, out)
        before = content(out)
        assert convert(slide, out).written == 0
        assert content(out) == before
        with pytest.raises(ConfigError, match="of another kind"):
            convert(slide, out, Settings("lz4"))
        assert convert(slide, out, Settings("lz4"), overwrite=True).written > 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    with open_slide(WHOLE) as slide, pytest.raises(ConfigError, match="is no Zarr store"):
        convert(slide, other, overwrite=True)
    assert (other / "thesis.txt").exists()


def test_what_does_not_read_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsi_ats.convert import run as module

    halved = module._halved
    monkeypatch.setattr(module, "_halved", lambda *a: halved(*a) ^ 1)
    with open_slide(WHOLE) as slide, pytest.raises(SlideError, match="does not read back as it was written"):
        convert(slide, tmp_path / "a.ome.zarr")


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    out = tmp_path / "a.ome.zarr"
    with open_slide(WHOLE, mpp=0.5) as slide:
        convert(slide, out)
    shard = out / "0" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with open_slide(out) as slide:
        with pytest.raises(SlideError, match="level 0, tile column 0, row 0 cannot be decoded"):
            pixels_of(slide)
        np.testing.assert_array_equal(slide.read((300, 300), (200, 200)), WHOLE[300:500, 300:500])


def test_a_damaged_tile_of_the_slide_stops_unless_it_is_tolerated(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [WHOLE], "deflate", (128, 128))
    damage(path, 0, 9, lambda data: bytes(len(data)))
    with open_slide(path) as slide, pytest.raises(SlideError, match="tile column 1, row 1"):
        convert(slide, tmp_path / "a.ome.zarr")
    with open_slide(path, tolerate_bad_tiles=1) as slide:
        done = convert(slide, tmp_path / "a.ome.zarr")
    assert done.bad_tiles == ((0, 1, 1),)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pyramid(tmp_path / "a.tif", [WHOLE], "jpeg-420")
    monkeypatch.chdir(tmp_path)
    text = run("convert", "a.tif", "a.ome.zarr", "--codec", "jpeg", "--mpp", "0.5").stdout
    assert "level 0: 900 x 700 px (copied)" in text
    assert "MB written to" in text
    assert "backend: zarr (OME-Zarr 0.5 (Zarr v3))" in run("info", "a.ome.zarr").stdout
