"""OME-Zarr slides against the arrays that zarr-python wrote: every layout, both formats, damage, URLs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import psutil
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

from tests.ome_zarr import edit, write_image
from tests.range_server import RangeServer
from tests.strategies import noise
from wsi_ats.errors import SlideError
from wsi_ats.slides.base import Opening, Slide
from wsi_ats.slides.memory import MemoryAddress
from wsi_ats.slides.zarr import ZarrAddress, is_zarr

LEVELS = (noise(200, 310, 1), noise(100, 155, 2))


def shards(order: str) -> tuple[int, ...]:
    return tuple({"y": 128, "x": 96, "c": 3}.get(a, 1) for a in order)


V3: dict[str, dict[str, Any]] = {
    "default": {},
    "raw": {"compressors": None},
    "zstd": {"compressors": ZstdCodec(level=1, checksum=True)},
    "blosc zstd": {"compressors": BloscCodec(cname="zstd", shuffle="noshuffle", typesize=1)},
    "blosc lz4 shuffled": {"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=1)},
    "gzip": {"compressors": GzipCodec(level=1)},
    "crc32c": {"compressors": Crc32cCodec()},
    "zstd and crc32c": {"compressors": (ZstdCodec(level=1), Crc32cCodec())},
    "keys with dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "keys of v2": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "turned": {"filters": TransposeCodec(order=(2, 0, 1))},
    "turned twice": {"filters": (TransposeCodec(order=(2, 0, 1)), TransposeCodec(order=(1, 0, 2)))},
    "shards": {"shards": shards},
    "shards turned": {"shards": shards, "filters": TransposeCodec(order=(1, 2, 0))},
    "index first": {
        "serializer": ShardingCodec(chunk_shape=(1, 16, 24), index_location="start"),
        "compressors": None,
    },
    "index unchecked": {
        "serializer": ShardingCodec(chunk_shape=(1, 16, 24), index_codecs=[zarr.codecs.BytesCodec()]),
        "compressors": None,
    },
}
V2: dict[str, dict[str, Any]] = {
    "default": {},
    "raw": {"compressors": None},
    "zstd": {"compressors": numcodecs.Zstd(1)},
    "blosc": {"compressors": numcodecs.Blosc()},
    "lz4": {"compressors": numcodecs.LZ4()},
    "zlib": {"compressors": numcodecs.Zlib(1)},
    "gzip": {"compressors": numcodecs.GZip(1)},
    "nested": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
}


def assert_same(slide: Slide, levels: tuple[np.ndarray, ...], count: int = 5, seed: int = 0) -> None:
    """Random regions of every level, over the border too, by one thread and by two."""
    rng = np.random.default_rng(seed)
    with MemoryAddress(levels).open() as oracle:
        for index, level in enumerate(slide.levels):
            assert level.size == oracle.levels[index].size
            width, height = slide.size
            for threads in (1, 2):
                slide.threads = threads
                size = tuple(rng.integers(1, 150, 2))
                xy = rng.integers([-40, -40], [width + 20, height + 20], (count, 2))
                expected = oracle.read_many(xy, size, index)
                assert np.array_equal(slide.read_many(xy, size, index), expected)
            whole = (level.size.width, level.size.height)
            assert np.array_equal(slide.read((0, 0), whole, index), levels[index])


def opened(path: Path | str, **opening: Any) -> Slide:
    return ZarrAddress(str(path), "s", Opening(**opening)).open()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("storage", list(V3))
def test_zarr_v3(storage: str, channels: int, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS, chunk={"c": channels}, **V3[storage])
    with opened(path) as slide:
        assert slide.backend_reason == "OME-Zarr 0.5 (Zarr v3)"
        assert_same(slide, LEVELS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("storage", list(V2))
def test_zarr_v2(storage: str, channels: int, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS, chunk={"c": channels}, zarr_format=2, **V2[storage])
    with opened(path) as slide:
        assert slide.backend_reason == "OME-Zarr 0.4 (Zarr v2)"
        assert_same(slide, LEVELS)


@pytest.mark.parametrize("order", ["yxc", "tczyx", "xcy", "zyxc", "cxy"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_axes_in_any_order(order: str, zarr_format: int, tmp_path: Path) -> None:
    for channels in (1, 3):
        path = write_image(
            tmp_path / f"{channels}.zarr", LEVELS, order, {"c": channels}, zarr_format=zarr_format
        )
        with opened(path) as slide:
            assert "zarr-python" not in slide.backend_reason
            assert slide.mpp_xy == (0.25, 0.25)
            assert_same(slide, LEVELS)


def test_memory_order_f_of_v2(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS, zarr_format=2)
    for level in "01":
        pixels = zarr.open_array(path / level, mode="r")[:]
        array = zarr.create_array(
            path / level,
            shape=pixels.shape,
            dtype="u1",
            chunks=(3, 50, 40),
            order="F",
            zarr_format=2,
            overwrite=True,
        )
        array[:] = pixels
        assert '"order": "F"' in (path / level / ".zarray").read_text()
    with opened(path) as slide:
        assert "zarr-python" not in slide.backend_reason
        assert_same(slide, LEVELS)


@pytest.mark.parametrize(
    ("storage", "zarr_format", "said"),
    [
        ({"chunk": {"c": 2}}, 3, "chunks of 2 channels"),
        ({"compressors": numcodecs.BZ2(1)}, 2, "codec bz2"),
        ({"filters": numcodecs.Delta("u1")}, 2, "filters delta"),
        ({"chunk": {"c": 2}, "order": "tczyx"}, 2, "chunks of 2 channels"),
        ({"chunk": {"c": 2}, "order": "xcy"}, 3, "chunks of 2 channels"),
    ],
)
def test_what_is_unusual_is_read_with_zarr_python(
    storage: dict[str, Any], zarr_format: int, said: str, tmp_path: Path
) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS, zarr_format=zarr_format, **storage)
    with opened(path) as slide:
        assert f"level 1 with zarr-python: {said}" in slide.backend_reason
        assert_same(slide, LEVELS, 3)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_any_shape_of_slide_chunk_and_shard(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    side = st.integers(1, 70)
    pixels = noise(data.draw(side), data.draw(side), data.draw(st.integers(0, 99)))
    chunk = {"y": data.draw(st.integers(1, 40)), "x": data.draw(st.integers(1, 40))}
    chunk["c"] = data.draw(st.sampled_from([1, 3]))
    many = st.integers(1, 3)
    whole = {"y": chunk["y"] * data.draw(many), "x": chunk["x"] * data.draw(many), "c": 3}
    order = data.draw(st.permutations("yxc").map("".join))
    storage = {"shards": tuple(whole[a] for a in order)} if data.draw(st.booleans()) else {}
    path = write_image(tmp_path_factory.mktemp("z") / "a.zarr", [pixels], order, chunk, **storage)
    with opened(path) as slide:
        assert "zarr-python" not in slide.backend_reason
        assert_same(slide, (pixels,), 4, data.draw(st.integers(0, 99)))


def chunk_files(path: Path, level: str = "0") -> list[Path]:
    return sorted(p for p in (path / level).rglob("*") if p.is_file() and p.suffix != ".json")


@pytest.mark.parametrize(
    ("storage", "channels"), [({}, 3), ({}, 1), ({"shards": shards}, 3), ({"shards": shards}, 1)]
)
@pytest.mark.parametrize("fill", [0, 37])
def test_chunks_that_are_not_stored_have_the_fill_value(
    storage: dict[str, Any], channels: int, fill: int, tmp_path: Path
) -> None:
    pixels = LEVELS[0].copy()
    pixels[64:128, 48:96] = fill  # a chunk of all channels
    pixels[:64, :48, 1] = fill  # one of green alone, where channels have their own
    pixels[128:, :] = fill  # a row of shards
    path = write_image(tmp_path / "a.zarr", [pixels], chunk={"c": channels}, fill_value=fill, **storage)
    full = write_image(tmp_path / "b.zarr", [LEVELS[0]], chunk={"c": channels}, **storage)
    assert len(chunk_files(path)) < len(chunk_files(full))
    with opened(path) as slide:
        assert_same(slide, (pixels,))
        assert (slide.read((-5, -5), (5, 5)) == 255).all()  # beyond the slide is not the fill value


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)


CHECKED = {"compressors": ZstdCodec(level=1, checksum=True), "shards": shards}


@pytest.mark.parametrize(
    "storage",
    [
        {"compressors": ZstdCodec(level=1, checksum=True)},
        {"compressors": Crc32cCodec()},
        {"compressors": (BloscCodec(cname="lz4", typesize=1), Crc32cCodec())},
        CHECKED,
        {"compressors": GzipCodec(level=1)},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_bit_of_a_chunk_with_a_checksum_changes_unnoticed(
    storage: dict[str, Any], channels: int, tmp_path: Path
) -> None:
    path = write_image(tmp_path / "a.zarr", [LEVELS[0]], chunk={"c": channels}, **storage)
    files = chunk_files(path)
    rng = np.random.default_rng(0)
    for _ in range(10):
        file = files[rng.integers(len(files))]
        before = file.read_bytes()
        damage(file, int(rng.integers(len(before))))
        with opened(path) as slide:
            try:
                pixels = slide.read((0, 0), slide.size)
            except SlideError as error:
                said = str(error)
            else:
                said = "as before" if np.array_equal(pixels, LEVELS[0]) else "changed"
        assert said == "as before" or "level 0, tile column" in said
        file.write_bytes(before)


def test_a_damaged_chunk_is_named_and_tolerated_if_asked(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS, **CHECKED)
    # The second shard in x holds the chunks of columns 2 and 3; its first bytes are those of column 2, row 0.
    damage(path / "0/c/0/0/1", 100)
    with opened(path) as slide, pytest.raises(SlideError, match="level 0, tile column 2, row 0 cannot"):
        slide.read((96, 0), (10, 10))
    with opened(path, tolerate_bad_tiles=1) as slide:
        pixels = slide.read((0, 0), slide.size)
        expected = LEVELS[0].copy()
        expected[:64, 96:144] = 255
        assert np.array_equal(pixels, expected)
        assert slide.bad_tiles == ((0, 2, 0),)


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_a_shard_that_was_cut_short(cut: int, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS, **CHECKED)
    shard = path / "0/c/0/0/1"
    shard.write_bytes(shard.read_bytes()[:cut])
    with opened(path) as slide:
        assert np.array_equal(slide.read((0, 0), (96, 100)), LEVELS[0][:100, :96])
        with pytest.raises(SlideError, match=r"tile column 2, row 1 cannot be decoded: .*shard"):
            slide.read((100, 64), (10, 10))


def test_an_index_without_a_checksum_leads_nowhere_dangerous(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [LEVELS[0]], **V3["index unchecked"])
    shard = path / "0/c/0/0/0"
    content = shard.read_bytes()
    for entry in ([5, 2**60], [2**63, 4], [len(content), 64], [2**64 - 1, 64], [0, 2**64 - 1]):
        index = np.frombuffer(content[-16 * 24 :], "<u8").reshape(-1, 2).copy()
        index[0] = np.array(entry, np.uint64)
        shard.write_bytes(content[: -index.nbytes] + index.tobytes())
        with opened(path) as slide, pytest.raises(SlideError, match="tile column 0, row 0"):
            slide.read((0, 0), (4, 4))


def change_array(path: Path, **values: Any) -> None:
    edit(path / "0/zarr.json", lambda metadata: metadata.update(values))


@pytest.mark.parametrize(
    ("pixels", "order", "said"),
    [
        (np.zeros((8, 9, 3), np.uint16), "cyx", "it is uint16 of c 3, y 8, x 9; RGB images are read"),
        (np.zeros((8, 9, 1), np.uint8), "cyx", "c 1, y 8"),
        (np.zeros((8, 9, 4), np.uint8), "yxc", "y 8, x 9, c 4"),
    ],
)
def test_what_is_not_rgb_is_refused(pixels: np.ndarray, order: str, said: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [pixels], order, {"c": 1})
    with pytest.raises(SlideError, match=said):
        opened(path)


def test_images_of_several_planes_are_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [LEVELS[0]], "tczyx")
    zarr.create_array(path / "0", shape=(1, 3, 5, 8, 9), dtype="u1", chunks=(1, 3, 1, 8, 9), overwrite=True)
    with pytest.raises(
        SlideError, match="z 5, y 8, x 9; RGB images are read: uint8, three channels c, one t and z"
    ):
        opened(path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shape": "3"}, "level '0' cannot be used"),
        ({"shape": [3, 0, 9]}, "shape .3, 0, 9. is empty"),
        ({"codecs": []}, "level '0' cannot be used: IndexError"),
        ({"codecs": [{}]}, "level '0' cannot be used: KeyError"),
        ({"fill_value": 256}, "fill_value is 256"),
        ({"fill_value": "NaN"}, "level '0' cannot be used: ValueError"),
        ({"chunk_grid": None}, "level '0' cannot be used"),
        ({"data_type": "uint7"}, "level '0' cannot be used"),
        ({"zarr_format": 2}, "zarr.json has zarr_format 2; that of its group is 3"),
        (
            {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, 64]}}},
            "chunks of .3, 64. do not fit",
        ),
    ],
)
def test_damaged_metadata_is_named(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS)
    change_array(path, **values)
    with pytest.raises(SlideError, match=f"slide 's': .*{said}"):
        opened(path)


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS)
    with pytest.raises(SlideError, match=r"s.: .*No such file|is not a folder|cannot be opened"):
        opened(tmp_path / "none.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlideError, match="no OME-Zarr"):
        opened(tmp_path / "empty")
    with pytest.raises(SlideError, match="is a Zarr array, not the group of an image"):
        opened(path / "0")
    (path / "1/zarr.json").unlink()
    with pytest.raises(SlideError, match=r"level 1/zarr\.json is missing"):
        opened(path)
    (path / "zarr.json").write_text('{"zarr_format": 3')
    with pytest.raises(SlideError, match=r"zarr\.json is damaged"):
        opened(path)


def test_the_first_series_of_bioformats2raw(tmp_path: Path) -> None:
    for zarr_format in (2, 3):
        path = tmp_path / f"{zarr_format}.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
        layout = {"bioformats2raw.layout": 3}
        group.attrs.update({"ome": {"version": "0.5", **layout}} if zarr_format == 3 else layout)
        write_image(path, LEVELS, "tczyx", {"c": 1}, zarr_format, inside="0")
        assert is_zarr(path)
        for place in (path, path / "0"):
            with opened(place) as slide:
                assert_same(slide, LEVELS, 3)


def test_what_is_a_zarr(tmp_path: Path) -> None:
    assert is_zarr(write_image(tmp_path / "a", LEVELS))
    assert is_zarr(write_image(tmp_path / "b", LEVELS, zarr_format=2))
    assert not is_zarr(tmp_path)
    assert not is_zarr(tmp_path / "none")
    assert is_zarr("https://host/a/b.ome.zarr")
    assert is_zarr("s3://bucket/b.zarr/0")
    assert is_zarr("https://host/b.zarr?signature=x")
    assert not is_zarr("https://host/b.svs?from=b.zarr")


def test_a_given_mpp_wins(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS)
    with opened(path) as slide:
        assert (slide.mpp_xy, slide.mpp_source) == ((0.25, 0.25), "ngff scale")
        assert slide.properties["ngff.version"] == "0.5"
    with opened(path, mpp=(0.5, 0.6)) as slide:
        assert (slide.mpp_xy, slide.mpp_source) == ((0.5, 0.6), "given")


def test_it_is_pickled_as_its_address_and_reads_after_a_fork(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS, **CHECKED)
    with opened(path) as slide, pickle.loads(pickle.dumps(slide)) as copy:  # noqa: S301
        assert copy.address == slide.address
        assert_same(copy, LEVELS, 3)
        slide.read((0, 0), (10, 10))
        pid = os.fork()
        if pid == 0:
            same = np.array_equal(slide.read((0, 0), slide.size), LEVELS[0])
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(SlideError, match="is closed"):
        slide.read((0, 0), (10, 10))


def test_many_slides_leave_no_files_open(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS)
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(40):
        with opened(path) as slide:
            slide.read((0, 0), slide.size)
    assert process.num_fds() == before


def test_the_usual_slide_is_read_without_zarr_python(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", LEVELS, **CHECKED)
    code = (
        "import sys; from wsi_ats.slides.zarr import ZarrAddress; "
        f"s = ZarrAddress({str(path)!r}, 's').open(); s.read((0, 0), s.size); print('zarr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_by_url(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", LEVELS, **CHECKED)
    write_image(tmp_path / "b.zarr", LEVELS, "tczyx", {"c": 1}, zarr_format=2)
    write_image(tmp_path / "odd.zarr", LEVELS, chunk={"c": 2})
    with RangeServer(tmp_path, latency=0.02) as server:
        for name in ("a", "b", "odd"):
            with opened(f"{server.url}/{name}.zarr") as slide:
                assert_same(slide, LEVELS, 2)
        with opened(f"{server.url}/a.zarr") as slide:
            server.reset()
            slide.read((0, 0), slide.size)
            # Two round trips: the indices of all shards, then all chunks; fewer requests than chunks.
            counts = server.counts()
            assert counts["requests"] <= 2 * len(chunk_files(tmp_path / "a.zarr"))
            assert counts["at_once"] > 4
        with pytest.raises(SlideError, match="no OME-Zarr"):
            opened(f"{server.url}/none.zarr")
