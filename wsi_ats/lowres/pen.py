"""Pen: the ink of markers on a slide, told from stained tissue by its colour and its evenness.

Colour is judged by what it absorbs: optical density relative to the glass, colour by colour, whose hue does not depend
on how much ink or stain there is (as in the hue-saturation-density model of J. A. van der Laak et al., Cytometry 39,
2000). Haematoxylin and eosin absorb green most, between red and blue: such hues are never those of a pen. Others may be
a pen's or those of another stain (DAB and its blue counterstain, trichromes, Giemsa, silver). A slide decides for each
of these hues: ink is even, tissue is not. So a slide that is blue all over has blue tissue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from wsi_ats.lowres.light import DARK, Light, luma
from wsi_ats.lowres.patches import PatchColours, Patches, codes, palette, spread

HUES = 24
"""Number of hues that are judged each by itself, of 15 degrees; one more is that of grey and black ink."""

FAINTEST = 0.08
"""Least optical density, mean of RGB, of ink."""

LEAST_PATCHES = 12
"""Least number of flat patches of one hue that make a pen."""

LEAST_GREY = 1 / 400
"""Least share of flat grey patches that make a pen: less may be mineral or pigment, and on glass it is no tissue."""

OVER_TISSUE, OVER_RANGE, OVER_SHARE = 0.28, 32, 0.2
"""Least optical density, and largest differences, in grey levels and as a share of the brightness, of a patch that is
ink over tissue, whatever its hue, on a slide with a pen. Flat tissue (colloid, keratin) is paler; dense tissue and
folds differ more for their brightness."""

GREY_INK = 0.6
"""Optical density from which flat grey patches that are too few for a pen are told: pigment, folds and silver are
textured where they are so dark."""

LEAST_MARKS = 1e-4
"""Least share of the patches that they make up."""

GREY = 0.25
"""Chroma below which ink is grey or black: difference of the densities of two colours over the larger one."""

DARK_GREY = 0.3
"""Optical density from which grey may be ink."""

CLEAR = 0.75
"""Chroma from which red, orange and yellow may be a pen's: red light passes, as it does not through DAB or melanin."""

CRIMSON = 0.4
"""Optical density from which a red as that of dense blood may be a pen's."""

PURPLE = 0.28
"""Optical density from which a purple as that of haematoxylin may be a pen's: blue ink over eosin."""

SURE = 1.75
"""How many flat patches for one rough there must be of a grey or purple pen; of others one is enough."""

SURE_IN_SHADE = 4
"""The same where light is uneven; grey and purple pens are not looked for there."""

PIXEL_BITS = 6
"""Bits of each of three colours by which pixels are judged."""

LEAST_PX = 64
"""View px below which a spot of ink's colour is judged as tissue is."""

MARGIN = 4
"""View px around ink that are no tissue: there ink is thin, or mixed with what is beside it, and grey ink, which is
found by patches, may go on."""

MOST_IN_CELL = 1 / 16
"""Share of a cell that ink and its margin may cover; cells with more are no tissue: networks would see the ink."""


@dataclass(frozen=True, slots=True)
class PenRule:
    """A rule of which pixels are ink, one for all blocks of a view."""

    inks: Bool[np.ndarray, " colours"]
    """Whether each colour of the palette (PIXEL_BITS) is that of a pen on this slide."""
    greys: Bool[np.ndarray, " colours"]
    """Whether each is that of a grey or black pen on it; such ink is flat, as dark nuclei and pigment are not."""
    dense: Bool[np.ndarray, " colours"]
    """Whether each is dense enough for ink over tissue."""
    marks: float = 0.0
    """Share of the patches that look like grey ink, where they are too few to be taken for a pen."""

    @property
    def is_needed(self) -> bool:
        """Whether the slide has a pen."""
        return bool(self.inks.any() or self.greys.any())

    def mask(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """True where a pixel is ink; single spots of it may be of tissue."""
        if not self.is_needed:
            return np.zeros(pixels.shape[:2], bool)
        patches = Patches.of(pixels)
        even = patches.is_even(OVER_RANGE) & ~patches.differs_by(OVER_SHARE)
        dense = even & self.dense[codes(patches.highest, PIXEL_BITS)]
        colours = codes(pixels, PIXEL_BITS)
        grey = self.greys[colours] & spread(patches.flat, pixels.shape[:2])
        return np.asarray(self.inks[colours] | grey | spread(dense, pixels.shape[:2]), bool)


_NO_COLOUR = np.zeros(1 << 3 * PIXEL_BITS, bool)
NO_PEN = PenRule(_NO_COLOUR, _NO_COLOUR, _NO_COLOUR)
"""The rule of a slide without a pen."""


def find_pen(patches: PatchColours, light: Light) -> PenRule:
    """The pens of a view: hues that may be ink's, of which at least as many patches are flat as are rough."""
    hue = _hue_of_ink(palette(), light)
    flat, rough = (_count(hue, counts) for counts in (patches.flat, patches.rough))
    sure, least = np.ones(HUES + 1), np.full(HUES + 1, float(LEAST_PATCHES))
    doubtful = [4, 5, HUES]  # purple, of 60 to 90 degrees, and grey
    sure[doubtful] = SURE
    least[HUES] = max(LEAST_PATCHES, LEAST_GREY * (patches.flat.sum() + patches.rough.sum()))
    if light.is_uneven:  # in the shade all is more even and more grey than it is, glass and tissue too
        sure[:], least[doubtful] = SURE_IN_SHADE, np.inf
    found = (flat >= least) & (flat >= sure * rough)
    marks = 0.0 if found[HUES] or light.is_uneven else _marks(hue, patches, light)
    if not found.any():
        return replace(NO_PEN, marks=marks)
    # A pen's hue may lie at the edge of its bin.
    beside = np.zeros(HUES + 1, bool)
    beside[:HUES] = np.roll(found[:HUES], 1) | np.roll(found[:HUES], -1)
    beside &= flat >= rough
    beside[doubtful] = False
    colours = palette(PIXEL_BITS)
    pixel_hue = _hue_of_ink(colours, light)
    of_pen = np.append(found | beside, False)[pixel_hue]
    grey = pixel_hue == HUES
    dense = (_density(colours, light).mean(axis=1) >= OVER_TISSUE) & (not light.is_uneven)
    return PenRule(of_pen & ~grey, of_pen & grey, dense, marks)


def _marks(hue: Int64[np.ndarray, " n"], patches: PatchColours, light: Light) -> float:
    """Share of the patches that are flat, grey and as dark as ink; 0 where they are few, or as many are rough."""
    grey = (hue == HUES) & (_density(palette(), light).mean(axis=1) >= GREY_INK)
    flat, rough = int(patches.flat[grey].sum()), int(patches.rough[grey].sum())
    of = int(patches.flat.sum() + patches.rough.sum())
    return flat / of if flat >= max(LEAST_PATCHES, SURE * rough, LEAST_MARKS * of) else 0.0


def _count(hue: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " hues"]:
    return np.bincount(hue, weights=counts, minlength=HUES + 2)[: HUES + 1].astype(np.int64)


def _hue_of_ink(colours: Float64[np.ndarray, "n 3"], light: Light) -> Int64[np.ndarray, " n"]:
    """The hue that each colour absorbs, as one of HUES; HUES where it is grey, HUES + 1 where it is never ink's."""
    density = _density(colours, light)
    mean, high, low = density.mean(axis=1), density.max(axis=1), density.min(axis=1)
    chroma = (high - low) / np.maximum(high, 1e-6)
    degrees = _hue(density)
    blue_or_green = ((degrees < 60) | (degrees >= 255)) & (chroma >= GREY)
    red_to_yellow = (degrees >= 174) & (degrees < 255) & (chroma >= CLEAR)
    crimson = (degrees >= 150) & (degrees < 174) & (chroma >= CLEAR) & (mean >= CRIMSON)
    purple = (degrees >= 60) & (degrees < 90) & (mean >= PURPLE)
    grey = (chroma < GREY) & (mean >= DARK_GREY)
    coloured = np.where(blue_or_green | red_to_yellow | crimson | purple, degrees * HUES // 360, HUES + 1)
    is_ink = (mean >= FAINTEST) & (luma(colours) >= DARK)
    return np.where(is_ink, np.where(grey, HUES, coloured), HUES + 1).astype(np.int64)


def _density(colours: Float64[np.ndarray, "n 3"], light: Light) -> Float64[np.ndarray, "n 3"]:
    """Optical density of each of the three colours, relative to the glass."""
    glass = np.asarray(light.glass or (255, 255, 255), np.float64)
    return np.asarray(np.maximum(np.log10(glass / np.maximum(colours, 1)), 0), np.float64)


def _hue(density: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, " n"]:
    """Hue in degrees of what is absorbed: 0 red, 120 green, 240 blue."""
    red, green, blue = density.T
    high, low = density.max(axis=1), density.min(axis=1)
    span = np.maximum(high - low, 1e-6)
    degrees = np.where(
        high == red,
        60 * (green - blue) / span,
        np.where(high == green, 120 + 60 * (blue - red) / span, 240 + 60 * (red - green) / span),
    )
    return np.asarray(degrees % 360, np.float64)
