"""Windows of JPEG tiles: the pixels of a full decode by imagecodecs, or none; never a crash."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagecodecs import jpeg8_decode, jpeg8_encode
from PIL import Image

from wsi_ats.cli import doctor
from wsi_ats.geometry import Box
from wsi_ats.slides import window
from wsi_ats.slides.window import Compiled, compiled, decode_window

ROOT = Path(__file__).parents[2]
UNTOUCHED = 77
FACTORS = {"4:4:4": "444", "4:2:2": "422", "4:4:0": "440", "4:2:0": "420"}

# Where it is there and gives other pixels, the tests fail.
needs_compiled = pytest.mark.skipif(
    find_spec("wsi_ats.slides._window") is None, reason=f"windowed decode: {compiled().state}"
)


class Stream(NamedTuple):
    """A tile as a TIFF has it, and its pixels by the plain path."""

    data: bytes
    tables: bytes | None
    colourspace: window.Colourspace
    pixels: np.ndarray


def stream(data: bytes, apart: bool = False, colourspace: window.Colourspace = "YCBCR") -> Stream:
    data, tables = tables_apart(data) if apart else (data, None)
    pixels = jpeg8_decode(data, tables=tables, colorspace=colourspace, outcolorspace="RGB")
    return Stream(data, tables, colourspace, pixels)


def tables_apart(jpeg: bytes) -> tuple[bytes, bytes]:
    """The stream without its tables, and the stream of its tables alone: JPEGTables of TIFF."""
    kept, tables, at = jpeg[:2], jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:  # start of scan
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at + 1] in (0xDB, 0xC4):  # quantisation, Huffman
            tables += jpeg[at:end]
        else:
            kept += jpeg[at:end]
        at = end
    return kept + jpeg[at:], tables + b"\xff\xd9"


def picture(height: int, width: int, seed: int = 0, grain: int = 1) -> np.ndarray:
    """Noise in squares of `grain` px: edges at every place that upsampling could get wrong."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (-(-height // grain), -(-width // grain), 3), np.uint8
    )
    return np.ascontiguousarray(coarse.repeat(grain, 0).repeat(grain, 1)[:height, :width])


def by_pillow(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert("CMYK") if image.mode == "RGBA" else image).save(file, "JPEG", **options)
    return file.getvalue()


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Tiles of 1 to 80 px a side, in all that the compiled part takes."""
    side = st.integers(1, 80) | st.sampled_from([16, 32, 64])
    pixels = picture(draw(side), draw(side), draw(st.integers(0, 9)), draw(st.sampled_from([1, 2, 3, 8])))
    factors, quality = draw(st.sampled_from([*FACTORS, "RGB"])), draw(st.integers(1, 100))
    apart, optimize = draw(st.booleans()), draw(st.booleans())
    if factors == "RGB":
        data = bytes(jpeg8_encode(pixels, quality, outcolorspace="RGB", optimize=optimize))
        return stream(data, apart, "RGB")
    if factors == "4:4:0" or draw(st.booleans()):
        data = jpeg8_encode(pixels, quality, subsampling=FACTORS[factors], optimize=optimize)
        return stream(bytes(data), apart)
    restart = draw(st.integers(1, 9))
    data = by_pillow(pixels, quality=quality, subsampling=factors, restart_marker_blocks=restart)
    return stream(data, apart)


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> Box:
    """Windows in a tile, those of one pixel and those at the borders among them."""
    left, right = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    return Box(left, top, right - left, bottom - top)


def check(tile: Stream, box: Box) -> None:
    """The window has the pixels of the whole tile, and nothing else was written."""
    decoded, expected = np.full_like(tile.pixels, UNTOUCHED), np.full_like(tile.pixels, UNTOUCHED)
    rows, columns = slice(box.y, box.y + box.height), slice(box.x, box.x + box.width)
    assert decode_window(tile.data, tile.tables, tile.colourspace, box, decoded)
    expected[rows, columns] = tile.pixels[rows, columns]
    np.testing.assert_array_equal(decoded, expected)


@needs_compiled
@given(st.data())
def test_any_window_has_the_pixels_of_the_whole_tile(data: st.DataObject) -> None:
    tile = data.draw(streams())
    height, width, _ = tile.pixels.shape
    for box in data.draw(st.lists(windows(height, width), min_size=1, max_size=8)):
        if box.width * box.height < width * height:
            check(tile, box)


@needs_compiled
@pytest.mark.parametrize("factors", FACTORS)
def test_every_window_of_one_pixel(factors: str) -> None:
    tile = stream(bytes(jpeg8_encode(picture(35, 37), 90, subsampling=FACTORS[factors])))
    for y in range(35):
        for x in range(37):
            check(tile, Box(x, y, 1, 1))


@needs_compiled
@pytest.mark.parametrize("factors", FACTORS)
def test_windows_of_a_real_tile_size(factors: str) -> None:
    tile = stream(
        bytes(jpeg8_encode(picture(256, 240, grain=3), 80, subsampling=FACTORS[factors])), apart=True
    )
    for x, y in np.random.default_rng(1).integers(0, (239, 255), (40, 2)).tolist():
        check(tile, Box(0, 0, x + 1, y + 1))
        check(tile, Box(x, y, 240 - x, 256 - y))
        check(tile, Box(x, 0, 240 - x, y + 1))


@needs_compiled
def test_the_colour_space_is_the_callers() -> None:
    pixels = picture(48, 48, grain=8)
    as_rgb = stream(bytes(jpeg8_encode(pixels, 80, subsampling="420")), colourspace="RGB")
    assert np.abs(as_rgb.pixels.astype(int) - pixels).mean() > 30  # wrong colours, as asked for
    check(as_rgb, Box(10, 11, 20, 21))


@needs_compiled
def test_memory_that_is_not_bytes() -> None:
    tile = stream(bytes(jpeg8_encode(picture(64, 64), 80)), apart=True)
    check(
        tile._replace(data=memoryview(b"..." + tile.data)[3:], tables=memoryview(tile.tables)),
        Box(3, 4, 5, 6),
    )


def unsupported() -> Iterator[tuple[str, bytes]]:
    pixels = picture(48, 48, grain=4)
    yield "progressive", by_pillow(pixels, progressive=True)
    yield "grey", by_pillow(pixels[..., 0])
    yield "CMYK", by_pillow(np.dstack([pixels, pixels[..., :1]]))
    yield "4:1:1", bytes(jpeg8_encode(pixels, 80, subsampling="411"))
    yield "12 bits", bytes(jpeg8_encode(pixels.astype(np.uint16) * 8, 80, bitspersample=12))
    yield "lossless", bytes(jpeg8_encode(pixels, lossless=True))
    yield "larger", by_pillow(picture(64, 48))
    yield "wider", by_pillow(picture(48, 64))
    yield "smaller", by_pillow(picture(32, 32))


@pytest.mark.parametrize(("name", "data"), [pytest.param(*case, id=case[0]) for case in unsupported()])
def test_other_streams_are_for_the_plain_path(name: str, data: bytes) -> None:
    tile = np.full((48, 48, 3), UNTOUCHED, np.uint8)
    assert not decode_window(data, None, "YCBCR", Box(5, 6, 20, 20), tile)
    assert (tile == UNTOUCHED).all()


def test_a_window_that_is_the_tile_is_for_the_plain_path() -> None:
    tile = np.empty((48, 48, 3), np.uint8)
    assert not decode_window(by_pillow(picture(48, 48)), None, "YCBCR", Box(0, 0, 48, 48), tile)


@needs_compiled
def test_damage_is_for_the_plain_path_to_tell() -> None:
    whole = bytes(jpeg8_encode(picture(64, 64), 80, subsampling="444"))
    tile, quarter = np.empty((64, 64, 3), np.uint8), len(whole) // 4
    for data in (b"", b"\xff", whole[:100], whole[: 2 * quarter], bytes(len(whole)), whole[1:]):
        assert not decode_window(data, None, "YCBCR", Box(0, 56, 8, 8), tile)
    assert not decode_window(whole, whole[: len(whole) // 2], "YCBCR", Box(0, 56, 8, 8), tile)
    assert not decode_window(tables_apart(whole)[0], None, "YCBCR", Box(0, 56, 8, 8), tile)
    # The first rows do not need the rest of the stream.
    assert decode_window(whole[: 3 * quarter], None, "YCBCR", Box(8, 0, 8, 8), tile)
    np.testing.assert_array_equal(tile[:8, 8:16], jpeg8_decode(whole)[:8, 8:16])


@needs_compiled
def test_libjpegs_own_words_for_damage() -> None:
    decode = compiled().decode
    assert decode is not None
    whole = bytes(jpeg8_encode(picture(64, 64), 80))
    pixels = np.empty((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="Not a JPEG file: starts with 0x00 0x00"):
        decode(bytes(9), b"", "YCBCR", 64, 64, 0, 0, pixels)
    with pytest.raises(ValueError, match="Premature end of JPEG file"):
        decode(whole[: len(whole) // 2], b"", "YCBCR", 64, 64, 0, 56, pixels)


@needs_compiled
def test_arrays_and_windows_that_do_not_fit() -> None:
    decode = compiled().decode
    assert decode is not None
    data, pixels = bytes(jpeg8_encode(picture(64, 64), 80)), np.full((8, 8, 3), UNTOUCHED, np.uint8)
    read_only = pixels.copy()
    read_only.flags.writeable = False
    for bad in (
        pixels[..., ::-1],
        pixels[:, ::2],
        pixels[0],
        pixels[..., :2],
        pixels.astype(np.uint16),
        read_only,
    ):
        with pytest.raises(ValueError):
            decode(data, b"", "YCBCR", 64, 64, 0, 0, bad)
    for x, y in ((-1, 0), (0, -1), (57, 0), (0, 57), (2**31 - 1, 0), (0, -(2**31))):
        with pytest.raises(ValueError, match="not inside a tile of 64 x 64 px"):
            decode(data, b"", "YCBCR", 64, 64, x, y, pixels)
    for colours in ("", "CMYK", "YCbCr"):
        with pytest.raises(ValueError, match="neither RGB nor YCBCR"):
            decode(data, b"", colours, 64, 64, 0, 0, pixels)
    with pytest.raises(TypeError):
        decode(data, b"", "YCBCR", 64, 64, 0, 0, "pixels")  # type: ignore[arg-type]
    assert (pixels == UNTOUCHED).all()
    assert decode(data, b"", "YCBCR", 64, 64, 0, 0, pixels[::-1])  # rows may lie in any order
    np.testing.assert_array_equal(pixels[::-1], jpeg8_decode(data)[:8, :8])


@needs_compiled
def test_threads_decode_at_once() -> None:
    tiles = [stream(bytes(jpeg8_encode(picture(256, 256, seed), 80))) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: check(tiles[i % 4], Box(i, i, 100, 90)), range(100)))


@needs_compiled
def test_the_interpreter_goes_on_meanwhile() -> None:
    side, ticks, during = 3000, 0, -1
    data, tile = bytes(jpeg8_encode(picture(side, side), 90)), np.empty((side, side, 3), np.uint8)

    def work() -> None:
        nonlocal during
        before = ticks
        assert decode_window(data, None, "YCBCR", Box(1, 1, side - 1, side - 1), tile)
        during = ticks - before

    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # seconds: a thread runs until it lets go of the lock by itself
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            ticks += 1
            time.sleep(0.001)
    finally:
        sys.setswitchinterval(interval)
    assert during > 5


@needs_compiled
def test_nothing_leaks() -> None:
    whole, tile = bytes(jpeg8_encode(picture(64, 64), 80)), np.empty((64, 64, 3), np.uint8)
    process = psutil.Process()

    def decode_all() -> int:
        for _ in range(1000):
            assert decode_window(whole, None, "YCBCR", Box(1, 2, 30, 30), tile)
            assert not decode_window(whole[: len(whole) // 2], None, "YCBCR", Box(1, 60, 3, 3), tile)
            assert not decode_window(whole, None, "YCBCR", Box(1, 60, 3, 3), tile[:63, :63])
        return process.memory_info().rss

    decode_all()
    before = decode_all()
    assert decode_all() - before < 2**20  # one object of libjpeg a time would be 30 MB


FUZZ = """
import sys, numpy as np
from imagecodecs import jpeg8_decode, jpeg8_encode
from wsi_ats.geometry import Box
from wsi_ats.slides.window import decode_window
from tests.slides.test_window import picture, tables_apart
rng = np.random.default_rng(0)
tile = np.empty((48, 48, 3), np.uint8)
done = 0
for i in range(int(sys.argv[1])):
    factors = ("444", "422", "440", "420")[i % 4]
    data, tables = tables_apart(bytes(jpeg8_encode(picture(48, 48, i % 7), 60, subsampling=factors)))
    parts = [bytearray(data), bytearray(tables)]
    broken = parts[int(rng.random() < 0.3)]
    for _ in range(rng.integers(1, 6)):
        # Headers are a small part of a stream: hit them as often as the rest.
        reach = len(broken) if rng.random() < 0.5 else min(len(broken), 60)
        broken[rng.integers(reach)] = rng.integers(256)
    if rng.random() < 0.2:
        del broken[rng.integers(len(broken)) :]
    x, y = rng.integers(0, 40, 2).tolist()
    done += decode_window(bytes(parts[0]), bytes(parts[1]), "YCBCR", Box(x, y, 8, 8), tile)
print(done)
"""


@needs_compiled
def test_damaged_streams_never_crash_and_say_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, "3000"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert 100 < int(done.stdout) < 2900  # some were hit below the window, or not badly


def test_without_the_compiled_part_tiles_are_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wsi_ats.slides._window", None)  # as if it were not there
    found = compiled.__wrapped__()
    assert found.decode is None
    assert found.state.startswith("not installed, tiles are decoded whole (")
    monkeypatch.setattr(window, "compiled", lambda: found)
    tile = np.full((48, 48, 3), UNTOUCHED, np.uint8)
    assert not decode_window(by_pillow(picture(48, 48)), None, "YCBCR", Box(1, 1, 8, 8), tile)
    assert (tile == UNTOUCHED).all()


@needs_compiled
@pytest.mark.parametrize("axis", [0, 1])
def test_a_libjpeg_with_other_pixels_is_not_used(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    true = compiled().decode
    assert true is not None

    def shifted(*arguments: object) -> bool:
        done, pixels = true(*arguments), arguments[-1]
        pixels[:] = np.roll(pixels, 1, axis)
        return done

    monkeypatch.setattr(window, "import_module", lambda name: SimpleNamespace(decode=shifted))
    found = compiled.__wrapped__()
    assert found == Compiled(None, "its libjpeg gives other pixels than imagecodecs, tiles are decoded whole")
    monkeypatch.setattr(window, "import_module", lambda name: SimpleNamespace(decode=true))
    assert compiled.__wrapped__() == Compiled(true, "compiled")


def test_doctor_says_whether_it_is_there() -> None:
    (check,) = [check for check in doctor.checks() if check.name == "windowed JPEG decode"]
    assert check.ok
    assert check.found == compiled().state


@pytest.mark.parametrize("compiler", ["/bin/false", "/nowhere/cc", None])
def test_building_does_not_need_a_compiler(compiler: str | None, tmp_path: Path) -> None:
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip(
            f"setuptools {setuptools.__version__} cannot read pyproject.toml; pip would fetch a newer one"
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "wsi_ats", tmp_path / "wsi_ats", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment.pop("WSI_ATS_PURE", None)
    if compiler is None:
        environment["WSI_ATS_PURE"] = "1"
    else:
        environment["CC"] = compiler
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("_window*.so"))
    assert ("_window" in done.stderr) == (compiler is not None)  # tried, and told that it failed
