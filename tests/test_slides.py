from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers import shared_data
from tests.strategies import pyramids
from wsi_ats.errors import ConfigError, SlideError
from wsi_ats.slides import Slide, open_slide
from wsi_ats.slides.openslide import colour_of, mpp_of, opaque

moderate = settings(deadline=None, max_examples=100)
CMU = "slides/aperio-cmu1-small/CMU-1-Small-Region.svs"


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 17) + np.cos(y / 23), np.sin(y / 19), np.cos((x + y) / 31)]
    return np.stack([127 + 60 * wave for wave in waves], axis=2).astype(np.uint8)


def write_tiff(path: Path, levels: list[np.ndarray], mpp: float | None = None, unit: int = 3) -> Path:
    """A lossless tiled pyramid that OpenSlide opens as generic-tiff; unit 3: per centimetre, 2: per inch."""
    per_unit = None if mpp is None else {2: 25400, 3: 10000}[unit] / mpp
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate(levels):
            tiff.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(index > 0),
                resolution=None if per_unit is None else (per_unit, per_unit),
                resolutionunit=None if per_unit is None else unit,
            )
    return path


def slow_read(level: np.ndarray, x: int, y: int, w: int, h: int) -> np.ndarray:
    """Pixel by pixel, white outside."""
    out = np.full((h, w, 3), 255, np.uint8)
    for j in range(h):
        for i in range(w):
            if 0 <= y + j < level.shape[0] and 0 <= x + i < level.shape[1]:
                out[j, i] = level[y + j, x + i]
    return out


# ---- reading, whatever the backend


@moderate
@given(pyramids(), st.data())
def test_read_equals_a_slow_oracle(arrays: list[np.ndarray], data: st.DataObject) -> None:
    slide = open_slide(arrays)
    level = data.draw(st.sampled_from(slide.levels))
    x, y = (data.draw(st.integers(-30, n + 30)) for n in slide.size)
    w, h = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    left, top = (int(np.floor(n / scale + 0.5)) for n, scale in zip((x, y), level.downsample, strict=True))
    expected = slow_read(arrays[level.index], left, top, w, h)
    assert np.array_equal(slide.read((x, y), (w, h), level.index), expected)


@moderate
@given(pyramids(), st.lists(st.tuples(st.integers(-40, 80), st.integers(-40, 80)), max_size=6), st.data())
def test_read_many_equals_reads(
    arrays: list[np.ndarray], corners: list[tuple[int, int]], data: st.DataObject
) -> None:
    slide = open_slide(arrays)
    level = data.draw(st.integers(0, len(slide.levels) - 1))
    xy = np.asarray(corners, np.int64).reshape(-1, 2)
    many = slide.read_many(xy, (9, 7), level)
    assert many.shape == (len(corners), 7, 9, 3)
    assert all(
        np.array_equal(one, slide.read(corner, (9, 7), level))
        for one, corner in zip(many, corners, strict=True)
    )


def test_read_many_fills_the_array_given() -> None:
    slide = open_slide(noise(50, 60))
    out = np.zeros((2, 8, 8, 3), np.uint8)
    xy = np.asarray([[3, 4], [-2, 45]])
    assert slide.read_many(xy, (8, 8), out=out) is out
    assert np.array_equal(out, slide.read_many(xy, (8, 8)))
    with pytest.raises(ConfigError, match=r"\(2, 8, 8, 3\).*\(2, 8, 9, 3\)"):
        slide.read_many(xy, (9, 8), out=out)


def test_bytes_read_counts_the_pixels_inside_the_slide() -> None:
    slide = open_slide(noise(50, 60))
    slide.read((0, 0), (10, 20))
    assert slide.bytes_read == 3 * 10 * 20
    slide.read((55, 40), (10, 20))  # 5 x 10 of it lie on the slide
    slide.read((500, 40), (10, 20))
    assert slide.bytes_read == 3 * (200 + 50)


@pytest.mark.parametrize("level", [-1, 1])
def test_levels_that_do_not_exist_are_refused(level: int) -> None:
    with pytest.raises(ConfigError, match="levels 0 to 0"):
        open_slide(noise(5, 5)).read((0, 0), (2, 2), level)


def test_what_a_slide_says_of_itself() -> None:
    slide = open_slide([noise(40, 60), noise(20, 30)], mpp=(0.25, 0.5), name="mine")
    assert (slide.name, slide.size, slide.backend, slide.mpp) == ("mine", (60, 40), "memory", 0.375)
    assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2)]
    assert repr(slide) == "<Slide 'mine': 60 x 40 px, 2 levels, 0.375 um/px, memory>"
    assert not slide.associated_images
    assert open_slide(noise(4, 4)).mpp is None


def test_a_memory_slide_survives_pickling_and_its_address_opens_it() -> None:
    slide = open_slide(noise(40, 60), mpp=0.5, name="mine")
    unpickled = pickle.loads(pickle.dumps(slide))  # noqa: S301
    for other in (unpickled, slide.address.open()):
        assert (other.name, other.mpp) == ("mine", 0.5)
        assert np.array_equal(other.read((5, 5), (9, 9)), slide.read((5, 5), (9, 9)))


@pytest.mark.parametrize(
    "arrays",
    [[], np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
    ids=["none", "grey", "rgba", "float"],
)
def test_arrays_that_are_no_image_are_refused(arrays: np.ndarray | list[np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="'array'"):
        open_slide(arrays)


@pytest.mark.parametrize("mpp", [0, -0.5, float("nan"), float("inf"), (0.5, 0)])
def test_an_impossible_mpp_is_refused(mpp: float) -> None:
    with pytest.raises(ConfigError, match="mpp="):
        open_slide(noise(4, 4), mpp=mpp)


def test_backends_must_fit_the_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'openslide'"):
        open_slide(noise(4, 4), backend="openslide")
    with pytest.raises(ConfigError, match="'nonsense'"):
        open_slide(tmp_path / "a.svs", backend="nonsense")


# ---- OpenSlide against the arrays that were written


@pytest.fixture(scope="module")
def tiff(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """Lossless noise: 300 x 420 px, and levels of exactly a half and a quarter."""
    levels = [noise(300, 420, 1), noise(150, 210, 2), noise(75, 105, 3)]
    return write_tiff(tmp_path_factory.mktemp("slides") / "noise.tif", levels, mpp=0.5), levels


def test_openslide_equals_the_arrays_overhang_included(tiff: tuple[Path, list[np.ndarray]]) -> None:
    path, levels = tiff
    rng = np.random.default_rng(0)
    with open_slide(path) as slide, open_slide(levels) as oracle:
        assert slide.levels == oracle.levels
        for index, level in enumerate(slide.levels):
            xy = rng.integers([-60, -60], [460, 340], (40, 2))
            xy -= xy % int(level.downsample[0])
            expected = oracle.read_many(xy, (70, 50), index)
            assert np.array_equal(slide.read_many(xy, (70, 50), index), expected)
            assert all(
                np.array_equal(slide.read(tuple(c), (70, 50), index), e)
                for c, e in zip(xy, expected, strict=True)
            )
        assert slide.bytes_read == 2 * oracle.bytes_read


def test_off_the_grid_of_a_level_both_backends_take_the_nearest_pixel(
    tiff: tuple[Path, list[np.ndarray]],
) -> None:
    path, levels = tiff
    with open_slide(path) as slide, open_slide(levels) as oracle:
        for x in range(-5, 6):
            assert np.array_equal(slide.read((x, 7 - x), (20, 20), 2), oracle.read((x, 7 - x), (20, 20), 2))


def test_a_downsample_that_is_no_whole_number_lands_within_a_fraction_of_a_pixel(tmp_path: Path) -> None:
    full = smooth(611, 807)
    small = np.asarray(Image.fromarray(full).resize((201, 152), Image.Resampling.BOX))
    path = write_tiff(tmp_path / "odd.tif", [full, small])
    with open_slide(path) as slide, open_slide([full, small]) as oracle:
        assert slide.levels[1].downsample == (807 / 201, 611 / 152)
        xy = np.random.default_rng(0).integers([0, 0], [640, 440], (30, 2))
        got, expected = (s.read_many(xy, (40, 40), 1).astype(int) for s in (slide, oracle))
        assert np.array_equal(slide.read((0, 0), (201, 152), 1), small)
    # OpenSlide's positions are whole level-0 px: half of one, over which the waves climb this much at most.
    assert np.abs(got - expected).max() <= 60 * 0.5 * (1 / 17 + 1 / 23) + 1


def test_a_tile_that_is_missing_has_the_background_colour(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "gap.tif", [np.zeros((128, 128, 3), np.uint8)])
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = file.pages[0].tags["TileByteCounts"]
        counts.overwrite([0, *counts.value[1:]])
    with open_slide(path) as slide:
        pixels = slide.read((0, 0), (128, 128))
    assert (pixels[:64, :64] == 255).all()
    assert (pixels[64:] == 0).all()
    assert (pixels[:, 64:] == 0).all()


def test_transparent_pixels_are_composed_on_the_background() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(10, 20, 30, 255), (0, 0, 0, 0), (100, 100, 100, 128)]
    pixels = opaque(Image.fromarray(rgba), (200, 220, 240))
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, 1].tolist() == [200, 220, 240]
    assert np.abs(pixels[0, 2].astype(int) - (150, 160, 170)).max() <= 1


@pytest.mark.parametrize(
    ("text", "colour"),
    [("FFFFFF", (255,) * 3), ("e6E0d2", (230, 224, 210)), ("", (255,) * 3), ("white", (255,) * 3)],
)
def test_background_colours(text: str, colour: tuple[int, int, int]) -> None:
    assert colour_of(text) == colour


# ---- mpp


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}, (0.25, 0.26), "openslide.mpp-x"),
        ({"openslide.mpp-x": "0.25"}, None, "none"),
        ({"openslide.mpp-x": "0", "openslide.mpp-y": "0"}, None, "none"),
        ({"openslide.mpp-x": "nan", "openslide.mpp-y": "N/A"}, None, "none"),
        (
            {"tiff.XResolution": "40000", "tiff.YResolution": "20000", "tiff.ResolutionUnit": "centimeter"},
            (0.25, 0.5),
            "tiff.XResolution",
        ),
        (
            {"tiff.XResolution": "50800", "tiff.YResolution": "50800", "tiff.ResolutionUnit": "inch"},
            (0.5, 0.5),
            "tiff.XResolution",
        ),
        ({"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"}, None, "none"),
        ({"tiff.XResolution": "600", "tiff.YResolution": "600", "tiff.ResolutionUnit": "inch"}, None, "none"),
        ({"tiff.XResolution": "1", "tiff.YResolution": "1", "tiff.ResolutionUnit": "none"}, None, "none"),
        ({}, None, "none"),
    ],
)
def test_where_the_mpp_comes_from(
    properties: dict[str, str], mpp: tuple[float, float] | None, source: str
) -> None:
    assert mpp_of(properties) == (mpp, source)


@pytest.mark.parametrize("unit", [2, 3])
def test_mpp_of_a_tiff_and_its_override(tmp_path: Path, unit: int) -> None:
    path = write_tiff(tmp_path / "a.tif", [noise(64, 64)], mpp=0.25, unit=unit)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25, rel=1e-5)
    with open_slide(path, mpp=0.3) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.3, "given")
    with open_slide(write_tiff(tmp_path / "b.tif", [noise(64, 64)])) as slide:
        assert (slide.mpp, slide.mpp_source) == (None, "none")


# ---- failures


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "cut short"])
def test_a_file_that_is_no_slide_is_named_with_cause_and_remedy(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.svs"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        whole = write_tiff(tmp_path / "whole.tif", [noise(256, 256)]).read_bytes()
        path.write_bytes(
            {"empty": b"", "text": b"not a slide\n" * 99, "cut short": whole[: len(whole) // 2]}[kind]
        )
    cause = {"missing": "No such file", "folder": "Is a directory|Permission", "empty": "empty file"}
    with pytest.raises(SlideError, match=cause.get(kind, "no format|cut short")) as caught:
        open_slide(path)
    assert str(path) in caught.value.message
    assert "'bad.svs'" in caught.value.message
    assert caught.value.remedy


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A slide of 2 x 2 tiles whose last tile is garbage."""
    path = write_tiff(tmp_path / "damaged.tif", [noise(128, 128)])
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        start, count = page.dataoffsets[3], page.databytecounts[3]
    content = bytearray(path.read_bytes())
    content[start : start + count] = b"\xa5" * count
    path.write_bytes(content)
    return path


def test_a_failed_read_names_slide_level_and_position_and_the_slide_goes_on(damaged: Path) -> None:
    whole = noise(128, 128)
    with open_slide(damaged) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"'damaged.tif': level 0 .* x=70, y=80 .* 20 x 30 px"):
                slide.read((70, 80), (20, 30))
            assert np.array_equal(slide.read((0, 0), (64, 128)), whole[:, :64])


def test_read_many_fails_where_one_region_does(damaged: Path) -> None:
    with open_slide(damaged) as slide, pytest.raises(SlideError, match="x=64, y=64"):
        slide.read_many(np.asarray([[0, 0], [64, 64], [0, 64]]), (64, 64))


def test_a_closed_slide_says_so_and_keeps_what_it_knows(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0]) as slide:
        pass
    slide.close()
    with pytest.raises(SlideError, match="closed"):
        slide.read((0, 0), (5, 5))
    assert slide.size == (420, 300)
    with slide.address.open() as again:
        assert again.read((0, 0), (5, 5)).shape == (5, 5, 3)


# ---- threads, processes, descriptors


def test_threads_share_a_slide(tiff: tuple[Path, list[np.ndarray]]) -> None:
    path, levels = tiff
    xy = np.random.default_rng(0).integers(-20, 300, (200, 2))
    with open_slide(path) as slide, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda corner: slide.read(tuple(corner), (33, 33)), xy))
        counted = slide.bytes_read
    with open_slide(levels) as oracle:
        assert np.array_equal(read, oracle.read_many(xy, (33, 33)))
        assert counted == oracle.bytes_read


def test_threads_go_on_while_others_meet_a_damaged_tile(damaged: Path) -> None:
    whole = noise(128, 128)

    def attempt(bad: bool) -> bool:
        if not bad:
            return np.array_equal(slide.read((0, 0), (64, 64)), whole[:64, :64])
        with pytest.raises(SlideError):
            slide.read((64, 64), (64, 64))
        return True

    with open_slide(damaged) as slide, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(attempt, [i % 3 == 0 for i in range(120)]))


def test_a_slide_survives_pickling(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0], mpp=0.4) as slide:
        blob = pickle.dumps(slide)
        assert len(blob) < 1000
        with pickle.loads(blob) as other:  # noqa: S301
            assert other.address == slide.address
            assert (other.mpp, other.levels) == (0.4, slide.levels)
            assert np.array_equal(other.read((9, 9), (50, 50)), slide.read((9, 9), (50, 50)))


def test_an_address_holds_in_other_folders(
    tiff: tuple[Path, list[np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiff[0].parent)
    with open_slide(tiff[0].name) as slide:
        blob = pickle.dumps(slide)
    monkeypatch.chdir(tmp_path)
    with pickle.loads(blob) as other:  # noqa: S301
        assert other.name == tiff[0].name


def _corner(slide: Slide) -> np.ndarray:
    return slide.read_many(np.asarray([[9, 9], [100, 80]]), (50, 50))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_slide_survives_a_fork(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0]) as slide:
        expected = _corner(slide)
        reader, writer = multiprocessing.Pipe(duplex=False)
        with slide._lock:  # as if another thread were in the middle of a read
            child = os.fork()
            if child == 0:
                try:
                    writer.send_bytes(_corner(slide).tobytes())
                finally:
                    os._exit(0)
        try:
            assert reader.poll(30), "the child hangs"
            assert reader.recv_bytes() == expected.tobytes()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert np.array_equal(_corner(slide), expected)


@pytest.mark.slow
def test_a_slide_goes_to_a_spawned_process(tiff: tuple[Path, list[np.ndarray]]) -> None:
    with open_slide(tiff[0]) as slide, multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(_corner, (slide,)), _corner(slide))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count descriptors")
def test_no_descriptors_are_left_open(tiff: tuple[Path, list[np.ndarray]], damaged: Path) -> None:
    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def use(path: Path) -> None:
        with open_slide(path) as slide:
            slide.read((0, 0), (60, 60))
        unclosed = open_slide(path)
        unclosed.read_many(np.asarray([[0, 0], [9, 9]]), (50, 50))

    bad = damaged.with_name("text.svs")
    bad.write_text("text")
    gc.collect()
    gc.disable()  # a handle must go when its last user does, not when the collector happens to run
    try:
        before = open_descriptors()
        for _ in range(20):
            use(tiff[0])
            use(damaged)
            with pytest.raises(SlideError):
                open_slide(bad)
            with open_slide(damaged) as slide, pytest.raises(SlideError):
                slide.read((64, 64), (64, 64))
        assert open_descriptors() <= before + 2
    finally:
        gc.enable()


# ---- real slides


def test_aperio_pixels_equal_tifffile() -> None:
    path = shared_data(CMU)
    expected = tifffile.imread(path, key=0)
    with open_slide(path) as slide:
        pixels = slide.read((0, 0), slide.size)
        assert (slide.mpp, slide.mpp_source, slide.properties["openslide.vendor"]) == (
            0.499,
            "openslide.mpp-x",
            "aperio",
        )
    assert np.abs(pixels.astype(int) - expected).max() <= 2  # JPEG decoders may round differently


def test_associated_images_of_an_aperio_slide() -> None:
    with open_slide(shared_data(CMU)) as slide:
        images = slide.associated_images
        assert set(images) == {"label", "macro", "thumbnail"}
        assert images["macro"].shape == (431, 1280, 3)
        assert images["macro"].dtype == np.uint8
        with pytest.raises(KeyError):
            images["nonsense"]


def test_both_encodings_of_a_dicom_slide_show_the_same_image() -> None:
    with (
        open_slide(shared_data("slides/dicom/raw.dicom")) as raw,
        open_slide(shared_data("slides/dicom/jpeg.dicom")) as jpeg,
    ):
        difference = raw.read((0, 0), raw.size).astype(int) - jpeg.read((0, 0), jpeg.size)
    assert 0.5 < np.abs(difference).mean() < 4


def test_a_truncated_aperio_slide_is_an_error(tmp_path: Path) -> None:
    content = shared_data(CMU).read_bytes()
    (tmp_path / "cut.svs").write_bytes(content[: int(len(content) * 0.9)])
    with pytest.raises(SlideError, match="cut short"):
        open_slide(tmp_path / "cut.svs")
