"""Layouts of a TIFF that readers show otherwise than they are meant: read as they are, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.support.tiffs import edit_tag, picture, write_pyramid
from wsi_ats.errors import SlideError
from wsi_ats.slides import open_slide

WHOLE = picture(150, 210)
HALF = np.ascontiguousarray(WHOLE[::2, ::2])
WRONG_REASONS = ("no tissue", "copied completely", "cut short")


def write(path: Path, pixels: np.ndarray, **more: Any) -> Path:
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None, **more}
    tifffile.imwrite(path, pixels, **options)
    return path


def assert_refused(path: Path, said: str) -> None:
    for backend in (None, "openslide"):
        with pytest.raises(SlideError, match=said) as caught:
            open_slide(path, backend)
        assert repr(path.name) in caught.value.message
        assert not any(reason in str(caught.value) for reason in WRONG_REASONS)
        assert caught.value.remedy


def assert_reads(path: Path, levels: list[np.ndarray], backend: str) -> tuple[str, ...]:
    """The pixels of all levels; returns the notes."""
    with open_slide(path) as slide:
        assert slide.backend == backend
        assert len(slide.levels) == len(levels)
        for index, level in enumerate(levels):
            size = slide.levels[index].size.width, slide.levels[index].size.height
            np.testing.assert_array_equal(slide.read((0, 0), size, index), level)
            part = slide.read((64 * 2**index, 0), (9, 9), index)
            np.testing.assert_array_equal(part, level[:9, 64:73])
        return slide.notes


# ---- turned


@pytest.mark.parametrize("kind", ["deflate", "jpeg-420"])
@pytest.mark.parametrize("turned", [2, 3, 4, 5, 6, 7, 8])
def test_a_turned_image_is_not_read_tile_by_tile(kind: str, turned: int, tmp_path: Path) -> None:
    extra = {"extratags": [(274, "H", 1, turned, True)]}
    path = write_pyramid(tmp_path / "a.tif", [WHOLE, HALF], kind, **extra)
    assert_refused(path, f"turned or mirrored .*Orientation is {turned}")


def test_a_level_that_is_turned_is_noticed(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        options = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
        file.write(WHOLE, **options)
        file.write(HALF, subfiletype=1, extratags=[(274, "H", 1, 4, True)], **options)
    assert_refused(tmp_path / "a.tif", "Orientation is 4")


# ---- values


@pytest.mark.parametrize(
    ("pixels", "more", "said"),
    [
        (WHOLE[..., 0], {"photometric": "minisblack"}, r"grey with 1 value"),
        (WHOLE[..., 0], {"photometric": "miniswhite"}, r"grey, white is 0 with 1 value"),
        (WHOLE[..., :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"]}, "grey with 2 value"),
        (WHOLE[..., 0], {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, "palette"),
        (np.dstack([WHOLE, WHOLE[..., 0]]), {"photometric": "separated"}, "CMYK"),
        (WHOLE, {"photometric": "cielab"}, "CIELab"),
        (WHOLE.astype(np.float32), {}, "not unsigned whole numbers"),
        (WHOLE.astype(np.int16), {}, "not unsigned whole numbers"),
        (WHOLE.astype(np.uint32), {}, "32/32/32 bits"),
        (WHOLE.astype(np.uint16) * 16, {}, r"16 bits and do not use them \(the brightest is 6% of white\)"),
        (np.dstack([WHOLE, WHOLE[..., 0]]), {"extrasamples": ["unspecified"]}, "4 values a pixel.* no alpha"),
        (np.dstack([WHOLE, WHOLE[..., :2]]), {"extrasamples": ["unspecified"] * 2}, "5 values a pixel"),
        (np.dstack([WHOLE, 0 * WHOLE[..., 0]]), {"extrasamples": ["unassalpha"]}, "alpha channel is 0"),
        (np.dstack([0 * WHOLE, 0 * WHOLE[..., 0]]), {"extrasamples": ["assocalpha"]}, "alpha channel is 0"),
        (WHOLE, {"tile": None}, r"image 1 \(210 x 150 px\) is stored in strips"),
    ],
    ids=range(15),
)
def test_the_true_reason_is_given(
    pixels: np.ndarray, more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert_refused(write(tmp_path / "a.tif", pixels, **more), said)


def test_bits_in_reverse_order_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", WHOLE, extratags=[(65000, "H", 1, 2, True)])
    with tifffile.TiffFile(path, mode="r+b") as file:
        entry = file.pages[0].tags[65000].offset
    with path.open("r+b") as file:
        file.seek(entry)
        file.write((266).to_bytes(2, "little"))
    assert_refused(path, "FillOrder")


def test_16_bits_that_are_used_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", WHOLE.astype(np.uint16) * 257)
    assert_reads(path, [WHOLE], "openslide")


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_transparent_pixels_lie_on_the_background(kind: str, tmp_path: Path) -> None:
    """Also where the file has them black: red, green and blue times alpha, or as they are."""
    alpha = np.full(WHOLE.shape[:2], 255, np.uint8)
    alpha[:, :70] = 0
    alpha[:, 70:140] = 128
    colours = WHOLE
    if kind == "assocalpha":
        colours = (WHOLE.astype(int) * alpha[..., None] / 255).round().astype(np.uint8)
    path = write(tmp_path / "a.tif", np.dstack([colours, alpha]), extrasamples=[kind])
    share = alpha[..., None] / 255
    expected = WHOLE * share + 255 * (1 - share)
    with open_slide(path) as slide:
        found = slide.read((0, 0), slide.size)
    assert (found[:, :70] == 255).all()
    assert np.abs(found - expected).max() < 4
    np.testing.assert_array_equal(found[:, 140:], WHOLE[:, 140:])


# ---- colours stored one by one


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "zstd"])
def test_planes_of_one_image_are_put_together(compression: str | None, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for index, level in enumerate((WHOLE, HALF)):
            planes = np.ascontiguousarray(np.moveaxis(level, 2, 0))
            options = {"predictor": True} if compression == "lzw" else {}
            file.write(
                planes, photometric="rgb", planarconfig="separate", tile=(64, 64), compression=compression,
                subfiletype=index, metadata=None, **options,
            )  # fmt: skip
    assert assert_reads(tmp_path / "a.tif", [WHOLE, HALF], "tiff") == ()


def write_channels(path: Path, channels: dict[str, Any] | None, **more: Any) -> Path:
    """An OME-TIFF with an image for each of red, green and blue, and levels below each."""
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    metadata |= {} if channels is None else {"Channel": channels}
    options = {"tile": (64, 64), "photometric": "minisblack", "compression": "deflate", **more}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(np.ascontiguousarray(np.moveaxis(WHOLE, 2, 0)), metadata=metadata, subifds=1, **options)
        file.write(np.ascontiguousarray(np.moveaxis(HALF, 2, 0)), subfiletype=1, **options)
    return path


RGB_NOTE = "its three one-channel planes are read as red, green and blue"


@pytest.mark.parametrize(
    "channels",
    [
        None,
        {"Name": ["Red", "Green", "Blue"]},
        {"Name": ["Channel 0", "Channel 1", "Channel 2"], "Color": [-16776961, 16711935, 65535]},
        {"Name": ["Brightfield"] * 3},
    ],
)
def test_three_channels_of_bright_field_are_one_image(
    channels: dict[str, Any] | None, tmp_path: Path
) -> None:
    path = write_channels(tmp_path / "a.ome.tif", channels)
    assert assert_reads(path, [WHOLE, HALF], "tiff") == (RGB_NOTE,)
    with open_slide(path) as slide:
        assert slide.mpp_xy == (0.5, 0.5)
    with pytest.raises(SlideError, match="images of their own"):
        open_slide(path, "openslide")


def test_three_channels_in_jpeg(tmp_path: Path) -> None:
    path = write_channels(tmp_path / "a.ome.tif", None, compression="jpeg")
    with open_slide(path) as slide, tifffile.TiffFile(path) as file:
        planes = [file.pages[number].asarray() for number in range(3)]
        np.testing.assert_array_equal(slide.read((0, 0), slide.size), np.stack(planes, axis=2))


@pytest.mark.parametrize(
    "channels",
    [
        {"Name": ["DAPI", "FITC", "Cy5"]},
        {"Name": ["Blue", "Green", "Red"]},
        {"Color": [65535, 16711935, -16776961]},
        {"Fluor": ["a", "b", "c"]},
        {"EmissionWavelength": [450, 520, 600]},
    ],
)
def test_stains_of_fluorescence_are_no_colours(channels: dict[str, Any], tmp_path: Path) -> None:
    path = write_channels(tmp_path / "a.ome.tif", channels)
    names = r" \(DAPI, FITC, Cy5\)" if channels.get("Name", ["", ""])[0] == "DAPI" else ""
    assert_refused(path, rf"it has 3 channel\(s\) of one value{names}")
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert "bright-field" in caught.value.remedy


@pytest.mark.parametrize("count", [1, 2, 4])
def test_other_numbers_of_channels_are_refused_by_number(count: int, tmp_path: Path) -> None:
    pixels = np.repeat(WHOLE[None, ..., 0], count, axis=0)
    path = write(tmp_path / "a.ome.tif", pixels, photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
    assert_refused(path, rf"it has {count} channel\(s\) of one value")


@pytest.mark.parametrize(("axes", "said"), [("ZYXS", "3 focal planes"), ("TYXS", "3 time points")])
def test_of_a_stack_the_first_plane_is_read_and_said(axes: str, said: str, tmp_path: Path) -> None:
    stack = np.stack([WHOLE, WHOLE[::-1], WHOLE[:, ::-1]])
    path = write(tmp_path / "a.ome.tif", stack, metadata={"axes": axes}, ome=True)
    assert assert_reads(path, [WHOLE], "tiff") == (f"the first of {said} is read",)


def test_focal_planes_without_a_word_are_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for plane in (WHOLE, WHOLE[::-1], WHOLE[:, ::-1]):
            file.write(plane, tile=(64, 64), photometric="rgb", metadata=None)
    (note,) = assert_reads(tmp_path / "a.tif", [WHOLE], "tiff")
    assert note.startswith("2 more image(s) of 210 x 150 px, perhaps focal planes")


# ---- colours of JPEG


@pytest.mark.parametrize(("encoded", "tag"), [("RGB", 6), ("YCBCR", 2)])
def test_a_jpeg_knows_its_colours_better_than_the_tag(encoded: str, tag: int, tmp_path: Path) -> None:
    tile = np.ascontiguousarray(WHOLE[:64, :64])
    data = bytes(
        imagecodecs.jpeg8_encode(tile, 95, colorspace="RGB", outcolorspace=encoded, subsampling="444")
    )
    assert (b"JFIF" in data) == (encoded == "YCBCR")
    options = {"tile": (64, 64), "compression": "jpeg", "photometric": "ycbcr", "metadata": None}
    tifffile.imwrite(
        tmp_path / "a.tif", iter([data]), shape=tile.shape, dtype=np.uint8, subsampling=(1, 1), **options
    )
    edit_tag(tmp_path / "a.tif", 0, "PhotometricInterpretation", tag)
    with open_slide(tmp_path / "a.tif") as slide:
        found = slide.read((0, 0), slide.size)
        assert slide.notes == (
            "the TIFF and its JPEG tiles say different colours (RGB, YCbCr); the tiles are believed",
        )
    assert np.abs(found.astype(int) - tile).mean() < 4
