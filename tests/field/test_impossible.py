"""Files that contradict themselves end in an error that names them, at once, and never reach OpenSlide.

OpenSlide allocates what a header says, and ends the process where that fails.
"""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.support.handmade import ASCII, LONG, LONG8, SHORT, directory, tiled, write_handmade
from tests.support.tiffs import edit_tag, picture, write_aperio, write_ome, write_philips, write_pyramid
from wsi_ats.errors import SlideError
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide

LEVELS = [picture(256, 320), np.ascontiguousarray(picture(256, 320)[::2, ::2])]
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.svs": lambda path: write_aperio(path, LEVELS),
    "a.tif": lambda path: write_pyramid(path, LEVELS, "deflate"),
    "a.ome.tif": lambda path: write_ome(path, LEVELS, "deflate"),
    "big.tif": lambda path: write_pyramid(path, LEVELS, "jpeg-420", options={"bigtiff": True}),
    "philips.tiff": lambda path: write_philips(path, LEVELS[0], (1, 2)),
}


@pytest.fixture
def no_openslide(monkeypatch: pytest.MonkeyPatch) -> None:
    def abort(*_: object) -> None:
        raise AssertionError("OpenSlide was given it")

    monkeypatch.setattr(openslide, "OpenSlide", abort)


def assert_refused(path: Path, said: str) -> None:
    """By the reader that is taken, and by OpenSlide's alone: soon, and with little memory."""
    start, before = time.process_time(), peak()
    for backend in (None, "openslide"):
        with pytest.raises(SlideError, match=said) as caught:
            open_slide(path, backend)
        assert repr(path.name) in caught.value.message
        assert caught.value.remedy
    assert peak() < before + (64 << 20)
    assert time.process_time() - start < 5


def peak() -> int:
    """Most bytes that the process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.usefixtures("no_openslide")
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        ("TileWidth", 1 << 30, "in tiles of 1073741824 x"),
        ("TileLength", 0, "x 0 px; they have at least one"),
        ("TileWidth", 1 << 14, "offsets and .* sizes for"),
        ("ImageWidth", 1 << 20, "offsets and .* sizes for"),
        ("ImageLength", 0, "x 0 px"),
        ("ImageWidth", (1 << 32) - 1, "too large to be one"),
    ],
)
def test_sizes_that_cannot_be(name: str, tag: str, value: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    edit_tag(path, 0, tag, value)
    assert_refused(path, said)


@pytest.mark.usefixtures("no_openslide")
def test_also_in_a_level_that_is_not_the_first(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS, "deflate")
    edit_tag(path, 1, "TileWidth", 1 << 29)
    assert_refused(path, r"image 2 .* in tiles of 536870912 x")


@pytest.mark.usefixtures("no_openslide")
def test_texts_and_tiles_without_end(tmp_path: Path) -> None:
    """Files that take no place on the disk, and would take gigabytes of memory."""
    text = (270, ASCII, 100_000_000, 4096)
    path = write_handmade(tmp_path / "text.tif", [*tiled(512, 512, (256, 256), 4, 2048), text], 101 << 20)
    assert_refused(path, "tag 270 has 100000000 values; at most")
    every = tiled(1_280_000, 1_280_000, (128, 128), 10**8, 4096, LONG8)
    path = write_handmade(tmp_path / "tiles.tif", every, 2 << 30, big=True)
    assert_refused(path, "has 100000000 tiles; at most")
    path = write_handmade(
        tmp_path / "ndpi.ndpi", [*tiled(1 << 30, 1 << 11, (0, 0), 1, 0)[:6], (65420, LONG, 1, 1)], 9999
    )
    assert_refused(path, "does not fit a file of 9999 bytes")


@pytest.mark.usefixtures("no_openslide")
def test_chains_without_end(tmp_path: Path) -> None:
    entries = tiled(512, 512, (256, 256), 4, 2048)
    assert_refused(write_handmade(tmp_path / "circle.tif", entries, 9999, following=16), "run in a circle")
    assert_refused(write_handmade(tmp_path / "beyond.tif", entries, 9999, following=1 << 30), "points at")
    chain = b"".join(directory([], 8 + 6 * (n + 1)) for n in range(20_000))
    (tmp_path / "chain.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 8) + chain)
    assert_refused(tmp_path / "chain.tif", "too many")
    (tmp_path / "tags.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, 60_000) + bytes(800_000))
    assert_refused(tmp_path / "tags.tif", "has 60000 tags; at most")
    assert_refused(write_handmade(tmp_path / "none.tif", [], big=True), "without images")


@pytest.mark.parametrize(
    "text",
    [
        "<OME>" + "<a>" * 50_000,
        "<OME>" + "<a>" * 50_000 + "</a>" * 50_000 + "</OME>",
        '<OME><Image><Pixels SizeX="' + "9" * 100_000 + '" SizeC="99999999999"/></Image></OME>',
        '<OME><Image><Pixels SizeX="1e999" SizeZ="-1"><TiffData IFD="-5"/></Pixels></Image></OME>',
        '<OME><Image><Pixels SizeC="999999999" SizeZ="999999999"><TiffData/></Pixels></Image></OME>',
        "Aperio Image Library|MPP = " + "9" * 100_000,
        "Aperio Image Library\n|MPP = \udcff|AppMag = inf",
    ],
    ids=range(7),
)
def test_texts_that_make_no_sense(text: str, tmp_path: Path) -> None:
    more = {"description": text.encode("utf-8", "surrogateescape")}
    path = write_pyramid(tmp_path / "a.tif", [LEVELS[0]], "deflate", **more)
    start = time.process_time()
    slide = opened_or_refused(path)
    if slide is not None:
        assert slide.mpp is None
        np.testing.assert_array_equal(slide.read((0, 0), slide.size), LEVELS[0])
    assert time.process_time() - start < 5


@pytest.mark.parametrize("spacing", ["1e308", "1e-320", "0", "nan", "9" * 5000])
def test_spacings_that_make_no_sense(spacing: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    write_philips(path, LEVELS[0], (1, 2), lambda xml: xml.replace("0.000226907", spacing))
    slide = opened_or_refused(path)
    if slide is not None:
        assert (slide.mpp, slide.size, len(slide.levels)) == (None, (320, 256), 1)


def opened_or_refused(path: Path) -> Slide | None:
    """The slide; None where it was refused by its name."""
    try:
        return open_slide(path)
    except SlideError as error:
        if repr(path.name) not in error.message:
            raise
    return None


CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from pathlib import Path
import numpy as np
from wsi_ats.slides import open_slide
from wsi_ats.errors import SlideError
count = 0
for original in map(Path, sys.argv[1:]):
    data = original.read_bytes()
    mutant = original.with_name("mutant" + original.suffix)
    at = int.from_bytes(data[4:8], "little")
    entries = range(at + 2, at + 2 + 12 * int.from_bytes(data[at : at + 2], "little"), 12)
    for entry in entries:
        if int.from_bytes(data[entry : entry + 2], "little") not in (256, 257, 258, 277, 322, 323, 325):
            continue
        for bit in (*range(0, 96, 7), 64, 74, 86, 94):
            changed = bytearray(data)
            changed[entry + bit // 8] ^= 1 << bit % 8
            mutant.write_bytes(changed)
            for backend in (None, "openslide"):
                try:
                    with open_slide(mutant, backend) as slide:
                        slide.read((0, 0), (64, 64))
                        slide.read((slide.size[0] - 64, slide.size[1] - 64), (64, 64))
                except SlideError as error:
                    assert "mutant" in str(error)
                count += 1
print(count)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by RLIMIT_AS")
def test_bits_that_are_flipped_in_a_directory_never_end_the_process(tmp_path: Path) -> None:
    paths = [tmp_path / "a.svs", tmp_path / "a.tif"]
    write_aperio(paths[0], [LEVELS[0]])
    write_pyramid(paths[1], [LEVELS[0]], "raw", tile=(128, 128))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 400


def test_an_associated_image_without_pixels_does_not_end_the_slide(tmp_path: Path) -> None:
    path = write_aperio(tmp_path / "a.svs", [LEVELS[0]])
    edit_tag(path, 3, "ImageWidth", (1 << 31) - 1)
    with open_slide(path) as slide, pytest.raises(SlideError, match="image 'macro' cannot be read"):
        slide.associated_images["macro"]


def test_short_values_are_read_as_such(tmp_path: Path) -> None:
    """The writer of these files is right where nothing is wrong: its file is read."""
    entries = tiled(512, 512, (256, 256), 4, 2048)
    path = write_handmade(tmp_path / "a.tif", entries, 4096 + 4 * 3 * 256 * 256)
    content = bytearray(path.read_bytes())
    content[2048:2064] = struct.pack("<4I", *(4096 + n * 3 * 256 * 256 for n in range(4)))
    where = content.index(struct.pack("<HHI", 258, SHORT, 3)) + 8
    content[where : where + 4] = struct.pack("<I", 3000)
    content[3000:3006] = struct.pack("<3H", 8, 8, 8)
    where = content.index(struct.pack("<HHI", 325, LONG, 4)) + 8
    content[where : where + 4] = struct.pack("<I", 2100)
    content[2100:2116] = struct.pack("<4I", *[3 * 256 * 256] * 4)
    path.write_bytes(content)
    with open_slide(path) as slide:
        assert (slide.read((0, 0), slide.size) == 0).all()
