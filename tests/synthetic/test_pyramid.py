"""The pyramid writer against what OpenSlide and tifffile read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_ats.errors import ConfigError
from wsi_ats.synthetic import pyramid
from wsi_ats.synthetic.pyramid import write_pyramid


def smooth_picture(width: int, height: int) -> np.ndarray:
    """A picture that JPEG keeps well: slow waves of one hue, since JPEG halves the resolution of hue."""
    y, x = np.mgrid[:height, :width]
    waves = 110 * np.sin(x / 40) * np.cos(y / 50)
    return np.stack([130 + waves, 120 + waves, 125 + waves], -1).astype(np.uint8)


def bands_of(pixels: np.ndarray, heights: list[int]) -> Iterator[np.ndarray]:
    top = 0
    while top < len(pixels):
        for height in heights:
            if top < len(pixels):
                yield pixels[top : top + height]
                top += height


def box_means(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The obvious way: mean of every factor x factor block, cut off at the border."""
    rows, cols = -(-pixels.shape[0] // factor), -(-pixels.shape[1] // factor)
    out = np.empty((rows, cols, 3))
    for r in range(rows):
        for c in range(cols):
            block = pixels[r * factor : (r + 1) * factor, c * factor : (c + 1) * factor]
            out[r, c] = block.reshape(-1, 3).mean(0)
    return out


@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    heights=st.lists(st.integers(1, 90), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=40)
def test_levels_are_box_means_whatever_the_bands(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, heights: list[int]
) -> None:
    pixels = smooth_picture(width, height)
    path = tmp_path_factory.mktemp("pyramid") / "slide.tif"
    write_pyramid(path, bands_of(pixels, heights), (width, height), 0.5, tile=32, quality=95)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 3
        for page, factor in zip(tiff.pages, (1, 4, 16), strict=True):
            expected = box_means(pixels, factor)
            assert page.shape == expected.shape
            assert np.abs(page.asarray() - expected).max() <= 8  # JPEG


def test_openslide_opens_it_as_a_pyramid_with_its_resolution(tmp_path: Path) -> None:
    pixels = smooth_picture(1500, 1100)
    path = tmp_path / "slide.tif"
    write_pyramid(path, [pixels], (1500, 1100), (0.25, 0.5))
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((1500, 1100), (375, 275), (94, 69))
        assert slide.level_downsamples == pytest.approx((1, 4, 16), rel=0.005)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)
        region = np.asarray(slide.read_region((700, 500), 0, (300, 200)).convert("RGB"))
    assert np.abs(region.astype(int) - pixels[500:700, 700:1000]).max() <= 12
    with tifffile.TiffFile(path) as tiff:
        assert [page.subfiletype for page in tiff.pages] == [0, 1, 1]
        assert not tiff.is_bigtiff


def test_other_downsamples_and_one_level(tmp_path: Path) -> None:
    pixels = smooth_picture(200, 100)
    write_pyramid(tmp_path / "two.tif", [pixels], (200, 100), 1.0, tile=64, downsamples=(1, 2))
    write_pyramid(tmp_path / "one.tif", [pixels], (200, 100), 1.0, tile=64, downsamples=(1,))
    with openslide.OpenSlide(tmp_path / "two.tif") as two, openslide.OpenSlide(tmp_path / "one.tif") as one:
        assert two.level_dimensions == ((200, 100), (100, 50))
        assert one.level_dimensions == ((200, 100),)


def test_plain_tiles_keep_their_own_colours(tmp_path: Path) -> None:
    """Tiles of one colour are encoded once a colour: no tile may get its neighbour's, nor hide a single pixel."""
    pixels = np.full((64, 192, 3), 240, np.uint8)
    pixels[:, 64:128] = (200, 100, 150)
    pixels[40:50, 140:150] = 0
    write_pyramid(tmp_path / "slide.tif", [pixels], (192, 64), 0.5, tile=64, downsamples=(1,))
    read = tifffile.imread(tmp_path / "slide.tif").astype(int)
    assert np.abs(read[:, :64] - 240).max() <= 2
    assert np.abs(read[:, 64:128] - (200, 100, 150)).max() <= 4
    assert read[45, 145].max() < 30
    assert read[10, 180].min() > 230


def test_a_large_slide_is_written_as_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "CLASSIC_TIFF_BYTES", 100_000)
    pixels = smooth_picture(200, 200)
    write_pyramid(tmp_path / "slide.tif", [pixels], (200, 200), 0.5, tile=64)
    with tifffile.TiffFile(tmp_path / "slide.tif") as tiff:
        assert tiff.is_bigtiff
    with openslide.OpenSlide(tmp_path / "slide.tif") as slide:
        assert slide.level_count == 3


def test_spooling_to_a_file_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = smooth_picture(400, 300)
    write_pyramid(tmp_path / "memory.tif", [pixels], (400, 300), 0.5, tile=64)
    monkeypatch.setattr(pyramid, "SPOOL_BYTES", 1)
    write_pyramid(tmp_path / "file.tif", [pixels], (400, 300), 0.5, tile=64)
    assert (tmp_path / "memory.tif").read_bytes() == (tmp_path / "file.tif").read_bytes()


@pytest.mark.parametrize(
    ("shape", "match"),
    [((99, 80, 3), "99 rows, the slide 100"), ((101, 80, 3), "more rows"), ((100, 81, 3), "shape")],
)
def test_bands_that_do_not_add_up_leave_nothing_behind(
    tmp_path: Path, shape: tuple[int, int, int], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        write_pyramid(tmp_path / "slide.tif", [np.zeros(shape, np.uint8)], (80, 100), 0.5)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(b"old")

    def source() -> Iterator[np.ndarray]:
        yield np.zeros((300, 400, 3), np.uint8)
        raise RuntimeError("scanner on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        write_pyramid(path, source(), (400, 600), 0.5)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("settings_", "match"),
    [
        ({"tile": 100}, "multiple of 16"),
        ({"downsamples": (2, 4)}, "first must be 1"),
        ({"downsamples": (1, 4, 6)}, "multiple of 4"),
        ({"downsamples": (1, 3)}, "divides the tile"),
        ({"downsamples": (1, 1)}, "multiple"),
        ({"mpp": 0.0}, "positive"),
        ({"size": (0, 10)}, "positive"),
    ],
)
def test_settings_that_contradict_are_named(tmp_path: Path, settings_: dict[str, object], match: str) -> None:
    arguments = {"size": (10, 10), "mpp": 0.5, **settings_}
    with pytest.raises(ConfigError, match=match):
        write_pyramid(tmp_path / "slide.tif", [np.zeros((10, 10, 3), np.uint8)], **arguments)


def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    """Peak memory of python's and numpy's allocations, for a slide and one eight times as high."""
    import tracemalloc

    def peak(height: int) -> int:
        rng = np.random.default_rng(0)
        band = rng.integers(0, 255, (64, 512, 3), dtype=np.uint8)
        tracemalloc.start()
        write_pyramid(tmp_path / "s.tif", (band for _ in range(height // 64)), (512, height), 0.5, tile=64)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(512)
    low, high = peak(512), peak(4096)
    # What grows: the encoded reduced levels (1/15 of the JPEG data, in memory up to 64 MB) and 12 bytes a tile.
    assert high - low < 0.05 * 512 * 4096 * 3
