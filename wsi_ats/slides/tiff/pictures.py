"""Images of a TIFF by their tags alone: what no reader may be given, and which of them can be levels of which.

OpenSlide takes a tile of terabytes at its word and ends the process. It turns every tile in its own place where the
whole image is to be turned, and makes grey, dark or empty pixels of others. So it is given only what passes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsi_ats.geometry import Pyramid
from wsi_ats.slides.channels import BRIGHT_FIELD
from wsi_ats.slides.tiff.index import MAX_GROWTH, MAX_HEADER, MAX_TILE_PIXELS, RGB, YCBCR, Tag, is_tiled
from wsi_ats.slides.tiff.tags import Directory, Refused, Tiff

MAX_SIDE = 1 << 31
MAX_PIXELS = 1 << 42
"""Most pixels of an image: the largest slides have a hundredth of that."""
MAX_TILES = 1 << 24
"""Most tiles of an image: those of a slide of 1,000,000 px a side."""
MAX_PIXELS_A_BYTE = 1 << 10
"""Most pixels of an NDPI's image for each byte of the file: its JPEGs have no tiles, and white ones have 200."""
MAX_BYTES_A_PIXEL = 8
"""Most bytes of a pixel before it is encoded: red, green, blue and alpha of 16 bits."""
UINT, ALPHAS = 1, (1, 2)
"""Values of the tags SampleFormat and ExtraSamples (premultiplied, not premultiplied) that are read."""
PHOTOMETRICS = {0: "grey, white is 0", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr"}
PHOTOMETRICS |= {8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "colour filter array", 34892: "linear raw"}
NAMES = ("label", "macro", "thumbnail", "overview")

REWRITE = "write it again as 8-bit RGB in tiles, for example with `vips tiffsave IN OUT.tif --tile --pyramid`"
RETILE = "write it in tiles, for example with `vips tiffsave IN OUT.tif --tile --pyramid`, or `tiffcp -t IN OUT.tif`"
TURN = (
    "turn the pixels themselves, for example with `vips autorot IN OUT.tif[tile,pyramid]`, or, where the tag is wrong, "
    "set it to 1 (`tiffset -s 274 1 FILE`)"
)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image of a TIFF."""

    number: int
    """Its place in the chain of directories."""
    directories: tuple[Directory, ...]
    """Its directory, or those of its red, green and blue plane."""
    width: int
    height: int
    tiled: bool

    @property
    def directory(self) -> Directory:
        """The first of its directories."""
        return self.directories[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        return self.width, self.height

    @property
    def kind(self) -> tuple[object, ...]:
        """What levels of one pyramid have in common beside their proportions."""
        bits = self.directory.numbers(Tag.BITS)
        return len(self.directories), self.directory.whole(Tag.SAMPLES, 1), tuple(bits.tolist())

    def __str__(self) -> str:
        return f"image {self.number + 1} ({self.width} x {self.height} px)"


def picture_of(tiff: Tiff, directory: Directory, number: int) -> Picture:
    """The image of a directory. Raises Refused where it cannot be: no reader may be asked for it."""
    width, height = directory.whole(Tag.WIDTH), directory.whole(Tag.HEIGHT)
    picture = Picture(number, (directory,), width, height, is_tiled(directory))
    if not (0 <= width <= MAX_SIDE and 0 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise Refused(f"its {picture} is too large to be one")
    for tag in (Tag.DESCRIPTION, Tag.XMP, Tag.ICC_PROFILE):
        directory.check_text(tag)
    if tiff.ndpi and width * height > MAX_PIXELS_A_BYTE * tiff.size:
        raise Refused(f"its {picture} does not fit a file of {tiff.size} bytes")
    if picture.tiled:
        _check_tiles(picture)
    return picture


def _check_tiles(picture: Picture) -> None:
    directory = picture.directory
    tile = directory.whole(Tag.TILE_WIDTH), directory.whole(Tag.TILE_HEIGHT)
    if min(*picture.size, *tile) < 1 or tile[0] * tile[1] > MAX_TILE_PIXELS:
        raise Refused(
            f"its {picture} is in tiles of {tile[0]} x {tile[1]} px; they have at least one and at most "
            f"{MAX_TILE_PIXELS} px"
        )
    if directory.whole(Tag.DEPTH, 1) != 1:
        raise Refused(f"its {picture} is a volume", REWRITE)
    planes = directory.whole(Tag.SAMPLES, 1) if directory.whole(Tag.PLANAR, 1) == 2 else 1
    cols, rows = (-(-side // length) for side, length in zip(picture.size, tile, strict=True))
    counts = directory.count(Tag.TILE_OFFSETS), directory.count(Tag.TILE_COUNTS)
    if cols * rows * planes > MAX_TILES:
        raise Refused(f"its {picture} has {cols * rows * planes} tiles; at most {MAX_TILES} are read")
    if counts != (cols * rows * planes,) * 2:
        raise Refused(
            f"its {picture} has {counts[0]} offsets and {counts[1]} sizes for {cols} x {rows} tiles"
            + (f" of {planes} planes" if planes > 1 else "")
        )


def fits_file(tiff: Tiff, directory: Directory) -> bool:
    """Whether tiles or strips have no more bytes than they can have: OpenSlide allocates what is said of each."""
    longest = MAX_GROWTH * MAX_BYTES_A_PIXEL * _tile_pixels(directory) + MAX_HEADER
    counts = [directory.numbers(tag) for tag in (Tag.TILE_COUNTS, Tag.STRIP_COUNTS)]
    return all(len(n) == 0 or 0 <= n.max() <= min(tiff.size, longest) for n in counts)


def _tile_pixels(directory: Directory) -> int:
    """Pixels of a tile, of the whole image where it has none."""
    whole = directory.whole(Tag.WIDTH), directory.whole(Tag.HEIGHT)
    width, height = (
        (directory.whole(Tag.TILE_WIDTH), directory.whole(Tag.TILE_HEIGHT)) if is_tiled(directory) else whole
    )
    return width * height


def check_pixels(picture: Picture) -> None:
    """Raises Refused, with the reason, where the pixels are none that any reader here shows as they are meant."""
    directory = picture.directory
    samples, photometric = directory.whole(Tag.SAMPLES, 1), directory.whole(Tag.PHOTOMETRIC, -1)
    bits = directory.numbers(Tag.BITS)
    check_orientation(picture)
    if directory.whole(Tag.FILL_ORDER, 1) != 1:
        raise Refused("the bits of its bytes are in reverse order (tag FillOrder)", REWRITE)
    if (directory.numbers(Tag.SAMPLE_FORMAT) != UINT).any():
        raise Refused("its values are not unsigned whole numbers (tag SampleFormat)", REWRITE)
    if len(picture.directories) == 1:
        _check_colours(samples, photometric)
    allowed = (8, 16) if len(picture.directories) == 1 else (8,)
    if len(bits) == 0 or len(set(bits.tolist())) > 1 or bits[0] not in allowed:
        raise Refused(f"its values have {'/'.join(str(n) for n in bits[:8]) or 1} bits, not 8", REWRITE)
    if samples > 4 or (samples == 4 and directory.whole(Tag.EXTRA_SAMPLES) not in ALPHAS):
        raise Refused(
            f"it has {samples} values a pixel, and what is beyond red, green and blue is no alpha", REWRITE
        )


def check_orientation(picture: Picture) -> None:
    """Raises Refused where the image is stored turned or mirrored: OpenSlide turns each tile in its own place."""
    for directory in picture.directories:
        turned = directory.whole(Tag.ORIENTATION, 1)
        if turned != 1:
            raise Refused(
                f"it is stored turned or mirrored (tag Orientation is {turned}); only 1 is read", TURN
            )


def _check_colours(samples: int, photometric: int) -> None:
    what = PHOTOMETRICS.get(photometric, f"unknown ({photometric})")
    if samples < 3 and photometric == 3:
        raise Refused("its colours are those of a palette, not RGB or YCbCr", REWRITE)
    if samples < 3 or photometric in (0, 1):
        raise Refused(f"it is {what} with {samples} value(s) a pixel, not red, green and blue", BRIGHT_FIELD)
    if photometric not in (RGB, YCBCR):
        raise Refused(f"its colours are {what} (tag PhotometricInterpretation), not RGB or YCbCr", REWRITE)


def has_alpha(picture: Picture) -> bool:
    """Whether pixels can be transparent."""
    return picture.directory.whole(Tag.SAMPLES, 1) == 4


def has_16_bits(picture: Picture) -> bool:
    """Whether values have 16 bits, of which nobody knows how many are used."""
    return picture.directory.whole(Tag.BITS, 1) == 16


def levels_of(main: Picture, candidates: Sequence[Picture]) -> tuple[Picture, ...]:
    """The image and those of the candidates that are its levels, finest first."""
    smaller = sorted(candidates, key=lambda picture: -picture.width * picture.height)
    alike = [main, *(each for each in smaller if each is not main and each.kind == main.kind)]
    return tuple(alike[index] for index in Pyramid.fitting([each.size for each in alike]))


def largest(pictures: Sequence[Picture]) -> Picture:
    """The image of most pixels, the first of those."""
    return max(pictures, key=lambda picture: picture.width * picture.height)


def name_in(text: str) -> str:
    """The usual name of an associated image that a text holds; "" for none."""
    return next((name for name in NAMES if name in text[:200].lower()), "")
