"""Colours turned to sRGB: against Pillow by hand on the whole image, and against the arithmetic of the profile."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.support.profiles import convert_by_hand, icc_profile
from tests.support.strategies import noise
from wsi_ats.errors import SlideError
from wsi_ats.slides.base import OpenOptions
from wsi_ats.slides.colour import intent_of, to_srgb
from wsi_ats.slides.openslide.slide import OpenSlideAddress


def by_pillow(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """The whole image at once, as a user would do it after reading."""
    image = Image.fromarray(pixels)
    ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.PERCEPTUAL,
        inPlace=True,
    )
    return np.asarray(image)


def write(path: Path, pixels: np.ndarray, profile: bytes | None) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate((pixels, pixels[::2, ::2])):
            tiff.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="zlib",
                subfiletype=index,
                iccprofile=profile,
            )
    return path


def address(path: Path, srgb: bool) -> OpenSlideAddress:
    return OpenSlideAddress(str(path), path.name, OpenOptions(srgb=srgb))


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    pixels = noise(200, 300)
    return write(tmp_path_factory.mktemp("colour") / "wide.tif", pixels, icc_profile()), pixels


def test_the_conversion_is_what_the_profile_means() -> None:
    pixels = noise(128, 128)
    exact = 255 * convert_by_hand(pixels / 255)
    converted = to_srgb(icc_profile(), "wide")(pixels)
    assert np.abs(converted - exact).max() < 2  # Pillow's tables are not exact
    assert np.abs(converted - exact).mean() < 0.4
    assert np.abs(converted.astype(int) - pixels).mean() > 10, "the profile does nothing"


def test_a_slide_in_srgb_is_the_whole_image_converted_by_pillow(slide_file: tuple[Path, np.ndarray]) -> None:
    path, pixels = slide_file
    expected = by_pillow(pixels, icc_profile())
    xy = np.random.default_rng(0).integers([0, 0], [230, 150], (30, 2))
    with address(path, srgb=True).open() as slide:
        assert slide.icc_profile == icc_profile()
        assert np.array_equal(slide.read((0, 0), slide.size), expected)
        assert np.array_equal(
            slide.read((0, 0), (150, 100), 1), by_pillow(pixels[::2, ::2].copy(), icc_profile())
        )
        for region, (x, y) in zip(slide.read_many(xy, (70, 50)), xy, strict=True):
            assert np.array_equal(region, expected[y : y + 50, x : x + 70])
        slide.threads = 1
        assert np.array_equal(slide.read_many(xy[:2], (7, 5))[1], expected[xy[1, 1] :, xy[1, 0] :][:5, :7])


def test_the_background_around_a_slide_is_left_as_it_is(tmp_path: Path) -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    with address(write(tmp_path / "grey.tif", grey, icc_profile()), srgb=True).open() as slide:
        slide.background = (230, 224, 210)
        pixels = slide.read((-10, -10), (84, 84))
    outside = np.ones((84, 84), bool)
    outside[10:74, 10:74] = False
    assert (pixels[outside] == (230, 224, 210)).all()
    assert (pixels[~outside] == by_pillow(grey, icc_profile())[0, 0]).all()
    assert not (pixels[~outside] == 128).any()


def test_off_by_default_and_nothing_without_a_profile(
    slide_file: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, pixels = slide_file
    with address(path, srgb=False).open() as slide:
        assert np.array_equal(slide.read((0, 0), slide.size), pixels)
    with address(write(tmp_path / "plain.tif", pixels, None), srgb=True).open() as slide:
        assert slide.icc_profile is None
        assert np.array_equal(slide.read((0, 0), slide.size), pixels)


def test_a_slide_in_srgb_stays_so_in_other_processes(slide_file: tuple[Path, np.ndarray]) -> None:
    with address(slide_file[0], srgb=True).open() as slide, pickle.loads(pickle.dumps(slide)) as other:  # noqa: S301
        assert np.array_equal(other.read((5, 5), (50, 50)), slide.read((5, 5), (50, 50)))


def test_threads_share_a_conversion() -> None:
    convert = to_srgb(icc_profile(), "wide")
    images = np.random.default_rng(0).integers(0, 255, (64, 90, 70, 3), np.uint8)
    with ThreadPoolExecutor(8) as pool:
        converted = list(pool.map(convert, images))
    assert np.array_equal(converted, [by_pillow(image, icc_profile()) for image in images])


def test_parts_of_an_array_are_converted_whatever_their_strides() -> None:
    pixels = noise(40, 60)
    convert = to_srgb(icc_profile(), "wide")
    assert np.array_equal(convert(pixels[3:20:2, ::-1]), convert(pixels)[3:20:2, ::-1])


@pytest.mark.parametrize(
    "profile",
    [
        b"junk",
        icc_profile()[:100],
        icc_profile()[:-20],
        icc_profile()[:36] + b"xxxx" + icc_profile()[40:],
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
    ids=["junk", "header cut", "end cut", "no signature", "not RGB"],
)
def test_a_profile_that_cannot_be_used_is_an_error_that_names_the_slide(
    profile: bytes, tmp_path: Path
) -> None:
    path = write(tmp_path / "broken.tif", noise(64, 64), profile)
    with pytest.raises(SlideError, match=r"'broken\.tif'.*ICC profile") as caught:
        address(path, srgb=True).open()
    assert "srgb" in caught.value.remedy
    with address(path, srgb=False).open() as slide:
        assert np.array_equal(slide.read((0, 0), (64, 64)), noise(64, 64))


@pytest.mark.parametrize(("asked", "taken"), [(0, 0), (1, 1), (2, 2), (3, 1)])
def test_the_intent_is_the_profiles_own_but_never_absolute(asked: int, taken: int) -> None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile(intent=asked)))
    assert intent_of(profile) == ImageCms.Intent(taken)
