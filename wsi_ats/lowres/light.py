"""Light: the colour of a slide's glass, which stain is judged against.

A lamp that is dim and glass, mounting medium or white balance with a tint change every pixel by the same factor, colour
by colour. Divided by the colour of the glass they are gone, and the rule of what is stained holds as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from scipy.ndimage import convolve

from wsi_ats.lowres.patches import BITS, PatchColours, palette

Rgb = tuple[int, int, int]

LUMA = (299, 587, 114)
"""Thousandths of red, green and blue in the luma."""

DARK = 25
"""Luma below which there is too little light to judge a stain by: black padding, scanner artefacts."""

LIT = 60
"""Grey level that all three colours reach where light comes through glass or pale tissue."""

WHITE_LUMA = 250
"""Luma from which a pixel is white: a view has it beyond the slide's edge, so it does not tell of the slide."""

TINT = 0.045
"""Saturation above which glass is tinted; that of common scanners is below."""

DIM = 204
"""Luma below which glass is dim: four fifths of full light."""

ORDINARY = 240
"""Grey level that glass is brought to where its own colour is far from ordinary."""

FAINTEST, STRONGEST_TINT, PINKEST = 125, 0.18, 0.08
"""Bounds of what is taken for glass: least luma, largest saturation, and largest saturation where green is darkest, as
it is in tissue that eosin or haematoxylin has stained. Tissue that is flat and pale is never taken for glass."""

STRONGEST_CAST, PINKEST_CAST, COLDEST_CAST = 0.35, 0.27, 0.6
"""Largest saturations, the second where green is darkest, the third of yellow, green and cyan, of glass that a slide
has where none is found within the bounds above: such glass is told from pale tissue by what is as even and as bright as
nothing else on the slide. Yellow to cyan is no stain's colour where it is even, and would else be taken for pen."""

LEAST_CAST_SHARE = 0.2
"""Least share of the patches that such glass makes up: it is all of the glass of the slide."""

FLAT_FOR_ROUGH = 2
"""How many flat patches of the colour of such glass there must be for one that is rough: tissue has texture."""

LEAST_ROUGH = 0.02
"""Least share of rough patches beside such glass; without, there is nothing on the slide that it could be told from."""

MOST_ABOVE, ABOVE = 0.01, 16
"""Largest share of patches that may be brighter than such glass in any colour, by so many grey levels."""

LEAST_EVEN = 0.05
"""Share of even patches of one colour from which a note asks whether they are glass, where none is seen."""

FAINT_NOTED = 0.3
"""Share of what is textured and too pale for tissue from which a note says so; of H&E it is at most an eighth."""

PALER_NOTED = 0.15
"""Share of the tissue from which a note says that as much is hardly paler than tissue; on slides of common stain it is
a fiftieth at most. Where it is .15, about a tenth of the tissue is lost."""

SHADE = 0.85
"""Share of the light of the brightest glass below which glass lies in the shade."""

LEAST_SHADED = 0.02
"""Share of the glass that must lie in the shade for a slide's light to be uneven."""

INK_LIKE = 0.5
"""Share of the light below which what is even and of the hue of glass may be grey ink, not glass in the shade: it is
ink where few parts are in between, as light falls off by and by."""

GREY_STEP = 12
"""Largest difference, in grey levels of the brightest glass, of a colour that is glass in the shade from grey."""

LEAST_SHARE = 0.02
"""Least share of glass in the patches of a slide, those that are black or blank aside; below, none is known."""

LEAST_OF_BLANK = 1 / 16
"""Least number of patches of glass for one that is blank: on glass as white as the background, what is flat and grey
is not glass."""

MOST_BRIGHTER = 1 / 8
"""Largest share of patches that may be brighter than glass: light is taken away by what lies on it, never added."""


@dataclass(frozen=True, slots=True)
class Light:
    """The light that comes through a slide."""

    glass: Rgb | None = None
    """Colour of the glass; None where none is seen, as on a slide that is all tissue: it is then taken as white."""
    brightest: float | int = field(default=255, compare=False)
    """Luma that the brightest even parts of the view reach."""
    doubtful: Rgb | None = field(default=None, compare=False)
    """Colour of large even parts that count as tissue, where no glass is seen: they may be glass."""
    inky: Rgb | None = field(default=None, compare=False)
    """Colour of large even parts that count as pen, likewise."""
    dimmest: float = field(default=1.0, compare=False)
    """Share of the light that the dimmest glass has of that of the brightest; 1 where the light is even."""
    shaded: float = field(default=0.0, compare=False)
    """Share of the glass that has less than SHADE of it."""

    faint: float = field(default=0.0, compare=False)
    """Share of the view that is textured as tissue is, and too pale to count as such."""
    marks: float = field(default=0.0, compare=False)
    """Share of the view that is even and as dark and grey as ink, where it is too little to be taken for a pen."""
    paler: float = field(default=0.0, compare=False)
    """How much is hardly too pale for tissue, even or not, as a share of what is tissue."""

    @property
    def is_uneven(self) -> bool:
        """Whether the light differs much over the view."""
        return self.shaded > 0

    @property
    def luma(self) -> float:
        """Luma of the glass; 255 where it is not known."""
        return float(luma(np.asarray(self.glass or (255, 255, 255), np.float64)))

    @property
    def saturation(self) -> float:
        """Saturation of the glass; 0 where it is not known."""
        return 0.0 if self.glass is None else (max(self.glass) - min(self.glass)) / max(self.glass)

    @property
    def is_ordinary(self) -> bool:
        """Whether pixels may be judged as they are."""
        return self.saturation <= TINT and self.luma >= DIM

    def even(self, pixels: UInt8[np.ndarray, "*any 3"]) -> UInt8[np.ndarray, "*any 3"]:
        """The pixels as they would be in ordinary light.

        What is brighter than glass can be, as tissue in the middle of a view whose glass lies in its dark corners,
        keeps its hue and saturation: cut off colour by colour it would be white.
        """
        if self.glass is None or self.is_ordinary:
            return pixels
        levels = np.arange(256)
        out = np.empty(pixels.shape, np.int32)
        for channel, glass in enumerate(self.glass):
            out[..., channel] = ((levels * (2 * ORDINARY) + glass) // (2 * glass))[pixels[..., channel]]
        highest = np.maximum(np.maximum(out[..., 0], out[..., 1]), out[..., 2])
        over = highest > 255
        out[over] = out[over] * 255 // highest[over][:, None]
        return out.astype(np.uint8)

    def undone(self, glass: Rgb) -> Rgb:
        """The colour that `even` makes this one of."""
        if self.glass is None or self.is_ordinary:
            return glass
        red, green, blue = (round(own * seen / ORDINARY) for own, seen in zip(self.glass, glass, strict=True))
        return red, green, blue

    @property
    def notes(self) -> tuple[str, ...]:
        """Clauses on light that is out of the ordinary."""
        notes = []
        if self.saturation > TINT and self.glass is not None:
            notes.append(
                "the glass is tinted (RGB {}, {}, {}): so are the colours of the tissue".format(*self.glass)
            )
        if self.luma < DIM:
            notes.append(f"dim lamp: glass at {self.luma / 255:.0%} of full light")
        if self.is_uneven:
            notes.append(
                f"uneven light: glass falls to {self.dimmest:.0%} of its brightest, and {self.shaded:.0%} of it is "
                f"below {SHADE:.0%}; colours in the shade are darker than they are"
            )
        if self.glass is None and self.brightest < FAINTEST:
            notes.append(
                f"no glass is seen, and nothing is brighter than {self.brightest / 255:.0%} of full light"
            )
        if self.doubtful is not None:
            notes.append(
                "nothing on the view is taken for glass: its large even parts (RGB {}, {}, {}) may be tinted glass, "
                "and count as tissue".format(*self.doubtful)
            )
        if self.marks:
            notes.append(
                f"even dark grey on {self.marks:.2%} of the view, too little to be taken for pen: where it is pen or "
                "dirt on tissue, tiles may show it"
            )
        if self.faint >= FAINT_NOTED:
            notes.append(
                f"{self.faint:.0%} of the view is textured as tissue is, but too pale to count as tissue: "
                "nothing is read there"
            )
        elif self.paler >= PALER_NOTED:
            notes.append(
                f"pale stain: beside the tissue, {self.paler:.0%} of its area is hardly paler and counts as glass: "
                "but for small holes, nothing is read there"
            )
        return tuple(notes)


WHITE_LIGHT = Light()
"""The light of a slide without glass."""


def find_lamp(patches: PatchColours) -> Light:
    """The light in which the brightest even parts of a view would be as bright as glass is, if they are dim.

    What is even and what may be glass is said in grey levels, which shrink with the light: in a dim view glass is to be
    looked for in this light. A view that hardly any light comes through stays as it is.
    """
    lumas = luma(palette())
    flat = np.where(lumas >= DARK, patches.flat, 0)
    order = np.argsort(-lumas)
    upto = np.cumsum(flat[order])
    if not upto[-1]:
        return WHITE_LIGHT
    colour = order[np.searchsorted(upto, LEAST_SHARE * upto[-1])]
    brightest = round(float(lumas[colour]))
    # Of a tint its brightest colour, so that none is brought beyond 255.
    level = round(float(palette()[colour].max()))
    return Light((level, level, level) if LIT <= brightest < DIM else None, brightest)


def find_light(patches: PatchColours) -> Light:
    """The light of a view: the brightest colour that many flat patches share and few are brighter than.

    Black and blank patches do not count. Where nothing may be glass, the light is not known.
    """
    colours = palette()
    lumas = luma(colours)
    seen = np.where(lumas >= DARK, patches.flat + patches.rough, 0)
    flat = np.where(_may_be_glass(colours), patches.flat, 0)
    around = _with_neighbours(flat)
    enough = max(LEAST_SHARE * seen.sum(), LEAST_OF_BLANK * patches.blank, around.max() / 4, 1)
    candidates = np.flatnonzero((around >= enough) & (flat > 0))
    if not len(candidates):
        return Light()

    def beside(colour: int) -> Bool[np.ndarray, " n"]:
        """Colours of flat patches that are at most a step from this one."""
        return np.asarray((np.abs(colours - colours[colour]).max(axis=1) <= 8.5) & (flat > 0), bool)

    # The brightest bin of a peak may hold little of it: the fullest of those beside it stands for the peak.
    near = beside(int(candidates[np.argmax(lumas[candidates])]))
    peak = int(np.flatnonzero(near)[np.argmax(flat[near])])
    if seen[lumas > lumas[peak] + 24].sum() > MOST_BRIGHTER * seen.sum():
        return Light()
    return Light(_mean(patches, beside(peak)))


def find_even(patches: PatchColours) -> Rgb | None:
    """The colour that most even patches have, black and blank aside; None where they are too few for glass."""
    lit = luma(palette()) >= DARK
    around = _with_neighbours(np.where(lit, patches.flat, 0))
    peak = int(np.argmax(around))
    if around[peak] < max(LEAST_EVEN * (patches.flat + patches.rough)[lit].sum(), 1):
        return None
    near = np.abs(palette() - palette()[peak]).max(axis=1) <= 8.5
    return _mean(patches, np.asarray(near & (patches.flat > 0), bool))


def find_cast(patches: PatchColours) -> Light:
    """The light of a view whose glass has a stronger tint than `find_light` takes any glass to have.

    Tissue may be as pale and as pink as such glass. So it must be by far the most even colour, with nothing on the
    slide brighter than it in red, green or blue; where any of that is not so, the light is not known.
    """
    colours = palette()
    lit = luma(colours) >= DARK
    inside = np.where(lit, patches.inside, 0)
    flat, rough = (np.where(lit, counts, 0) for counts in (patches.flat, patches.rough))
    may_be = _may_be_glass(colours, PINKEST_CAST, STRONGEST_CAST, COLDEST_CAST)
    around = _with_neighbours(np.where(may_be, flat, 0))
    peak = int(np.argmax(around))
    near = np.asarray(np.abs(colours - colours[peak]).max(axis=1) <= 8.5, bool)
    enough = around[peak] >= max(LEAST_CAST_SHARE * inside.sum(), LEAST_OF_BLANK * patches.blank, 1)
    is_even = flat[near].sum() >= FLAT_FOR_ROUGH * rough[near].sum()
    beside_tissue = rough[~near].sum() >= LEAST_ROUGH * inside.sum()
    above = inside[(colours > colours[peak] + ABOVE).any(axis=1)].sum()
    if not (enough and is_even and beside_tissue and above <= MOST_ABOVE * inside.sum()):
        return Light()
    return Light(_mean(patches, near & (flat > 0)))


def with_shade(light: Light, patches: PatchColours) -> Light:
    """The light, and how uneven it is: what its glass looks like in the shade, in the patches that it was found in.

    Glass in the shade is as even and of the same hue. Under even light hardly any patch is so, but for grey ink.
    """
    if light.glass is None:
        return light
    shares = palette() / np.asarray(light.glass, np.float64)
    share = shares.mean(axis=1)
    is_grey = np.ptp(shares, axis=1) * light.luma <= GREY_STEP
    counts = np.where(is_grey & (luma(palette()) >= DARK), patches.flat, 0)
    least = LEAST_SHADED * counts.sum()
    tenths = np.bincount(np.minimum(10 * share, 10).astype(np.int64), weights=counts, minlength=11)
    bottom = round(10 * INK_LIKE)
    while bottom > 0 and tenths[bottom - 1 : bottom + 1].min() >= least / 2:
        bottom -= 1
    counts[share < bottom / 10] = 0
    in_shade = counts[share < SHADE].sum()
    if in_shade < max(least, 1):
        return light
    order = np.argsort(share)
    dimmest = share[order[np.searchsorted(np.cumsum(counts[order]), least / 4)]]
    return replace(light, dimmest=float(dimmest), shaded=float(in_shade / counts.sum()))


def is_lit(patches: PatchColours) -> bool:
    """Whether light comes through the slide: through a tenth of it at least, black and white aside.

    Fluorescence glows in one colour on black.
    """
    colours = palette()
    lumas = luma(colours)
    seen = np.where((lumas >= DARK) & (lumas < WHITE_LUMA), patches.inside, 0)
    return bool(seen.any() and 10 * seen[colours.min(axis=1) >= LIT].sum() >= seen.sum())


def _mean(patches: PatchColours, colours: Bool[np.ndarray, " n"]) -> Rgb:
    red, green, blue = (round(float(c)) for c in patches.mean(colours))
    return red, green, blue


def _may_be_glass(
    colours: Float64[np.ndarray, "n 3"],
    pinkest: float = PINKEST,
    strongest: float = STRONGEST_TINT,
    coldest: float = STRONGEST_TINT,
) -> Bool[np.ndarray, " n"]:
    red, green, blue = colours.T
    saturation = (colours.max(axis=1) - colours.min(axis=1)) / colours.max(axis=1)
    pink = green < np.minimum(red, blue)
    cold = (green >= 0.9 * red) & (green >= 1.1 * np.minimum(red, blue))
    limit = np.where(pink, pinkest, np.where(cold, coldest, strongest))
    return np.asarray((saturation <= limit) & (luma(colours) >= FAINTEST), bool)


def _with_neighbours(counts: Int64[np.ndarray, " colours"]) -> Int64[np.ndarray, " colours"]:
    """Counts of each colour and those at most one step from it in any of the three."""
    side = 1 << BITS
    cube = convolve(counts.reshape(side, side, side), np.ones((3, 3, 3), np.int64), mode="constant")
    return np.asarray(cube.ravel(), np.int64)


def luma(colours: Float64[np.ndarray, "*any 3"]) -> Float64[np.ndarray, "*any"]:
    """Luma of colours."""
    return np.asarray(colours @ np.asarray(LUMA, np.float64) / 1000, np.float64)
