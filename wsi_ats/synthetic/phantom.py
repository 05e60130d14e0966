"""Synthetic H&E slides with planted lesions and benign look-alikes, streamed to disk at any size.

Everything is composed as amounts of haematoxylin and eosin (8 bits each) and turned into colour by one table
a slide. Only full resolution tells a lesion (nuclei of 12 to 16 um) from a decoy (a crowd of nuclei of 6 to 7
um, as in a lymphoid aggregate): at low resolution both are bluish patches of the same range of darkness.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageFilter

from wsi_ats.errors import ConfigError
from wsi_ats.synthetic.nuclei import LESIONAL, SMALL, STROMAL, Scatter
from wsi_ats.synthetic.outlines import Outline, area, irregular, place, rasterise
from wsi_ats.synthetic.pyramid import write_pyramid
from wsi_ats.synthetic.stain import Stain
from wsi_ats.synthetic.texture import clouds, fibres, window
from wsi_ats.synthetic.truth import SlideTruth, mask

BAND = 256  # rows made at a time: the height of a row of tiles
BLOCK = 1024  # columns composed at a time: the amounts of a block stay in the processor's cache
MAP_CELLS = 2048  # the maps of tissue, lesion and decoy have at most this many cells a side
CLUMP_STEP_UM = 4.0  # cell of the map that thins the decoys' nuclei
EDGE = 128  # level of the tissue map at the tissue's border


@dataclass(frozen=True, slots=True)
class Phantom:
    """Settings of a synthetic slide to make.

    `size`: side of the square slide in px, or (width, height); `lesion`: whether there is one;
    `lesion_fraction`: area of the lesions over the area of the tissue; `regions`: how many lesions share that
    area; `decoys`: number of benign look-alikes, each as large as a lesion between 0.5 and 4 % of the tissue;
    `jitter`: spread of the stain between slides (0: none). The same settings give the same bytes.
    """

    size: int | tuple[int, int] = 8192
    mpp: float | int = 0.5
    lesion: bool = True
    lesion_fraction: float = 0.02
    regions: int = 1
    decoys: int = 2
    jitter: float | int = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        width, height = self.shape
        if min(width, height) < 512:
            raise ConfigError(
                f"phantom size = {width} x {height} px; it must be at least 512 px a side",
                remedy="give a larger size",
            )
        if not 0.1 <= self.mpp <= 2.0:
            raise ConfigError(
                f"phantom mpp = {self.mpp} um/px; nuclei are drawn for 0.1 to 2 um/px", remedy="0.5 is usual"
            )
        if not 0 < self.lesion_fraction <= 0.2:
            raise ConfigError(
                f"lesion_fraction = {self.lesion_fraction}; it must be above 0 and at most 0.2",
                remedy="leave it away for the usual",
            )
        if self.regions < 1 or self.decoys < 0 or self.seed < 0 or self.jitter < 0:
            raise ConfigError(
                f"regions = {self.regions} (at least 1), decoys = {self.decoys}, seed = {self.seed}, "
                f"jitter = {self.jitter} (none negative)",
                remedy="leave those out of range away for the usual",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Size (width, height) of the slide in level-0 px."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def write_phantom(
    path: Path | str,
    settings: Phantom,
    downsamples: tuple[int, ...] = (1, 4, 16),
    description: str | None = None,
) -> SlideTruth:
    """Write the slide as a pyramidal TIFF (levels `downsamples`) and return what was planted in it.

    Memory is a few bands of 256 rows, whatever the height. Raises ConfigError where lesions and decoys do not
    fit.
    """
    rng = np.random.default_rng((settings.seed, 1))
    layout = _Layout(settings, rng)
    renderer = _Renderer(settings, layout, rng)
    write_pyramid(
        path,
        renderer.bands(),
        settings.shape,
        settings.mpp,
        downsamples=downsamples,
        description=description,
    )
    return layout.truth


class _Layout:
    """Where tissue, lesions and decoys lie: outlines, and coarse maps in [0, 255] of `step` px a cell."""

    def __init__(self, settings: Phantom, rng: np.random.Generator) -> None:
        width, height = settings.shape
        self.step = 8 * int(np.ceil(max(width, height) / (8 * MAP_CELLS)))
        self.shape = (-(-height // self.step), -(-width // self.step))
        tissue = self._tissue(settings, rng)
        tissue_px = float(tissue.mean()) * width * height
        self.lesions: tuple[Outline, ...] = ()
        self.decoys: tuple[Outline, ...] = ()
        # Away from the border and from each other, so that neither is a clue.
        clearance = min(60, min(width, height) / 40)
        free = _blurred(tissue, clearance / self.step) > 237
        if settings.lesion:
            share = settings.lesion_fraction * tissue_px / settings.regions
            self.lesions = self._planted("lesion", [share] * settings.regions, free, rng)
        sizes = np.exp(rng.uniform(np.log(0.005), np.log(0.04), settings.decoys)) * tissue_px
        self.decoys = self._planted("decoy", sizes.tolist(), free, rng)
        self.truth = SlideTruth(
            (width, height), settings.mpp, float(tissue.mean()), self.lesions, self.decoys
        )
        self.tissue = _blurred(tissue, 60 / self.step)
        self.lesion = _blurred(mask(self.lesions, self.shape, (self.step, self.step)), 8 / self.step)
        self.decoy = _blurred(mask(self.decoys, self.shape, (self.step, self.step)), 8 / self.step)
        self.cellular = np.maximum(self.lesion, self.decoy)

    def _tissue(self, settings: Phantom, rng: np.random.Generator) -> Bool[np.ndarray, "rows cols"]:
        """One piece, or two beside each other, covering about 35 to 55 % of the slide."""
        width, height = settings.shape
        pieces = 1 if rng.random() < 0.7 else 2
        inside = np.zeros(self.shape, bool)
        # A wide slide is filled by a wide piece: drawn in a unit square, then stretched.
        for piece in range(pieces):
            centre = (0.5, 0.5) if pieces == 1 else ((0.29, 0.38), (0.71, 0.62))[piece]
            target = rng.uniform(0.42, 0.55) if pieces == 1 else rng.uniform(0.18, 0.24)
            shift = rng.uniform(-0.02, 0.02, 2)
            outline = irregular(rng, (centre[0] + shift[0], centre[1] + shift[1]), target, 0.1, points=256)
            outline = np.clip(outline, 0.02, 0.98) * (width, height)
            inside |= rasterise(outline, self.shape, (self.step, self.step))
        return inside

    def _planted(
        self, what: str, areas: list[float], free: Bool[np.ndarray, "rows cols"], rng: np.random.Generator
    ) -> tuple[Outline, ...]:
        """Place outlines of the given areas (px^2) in `free`, which loses them and a rim around them."""
        placed: list[Outline] = []
        for target in areas:
            outline = place(rng, free, self.step, target)
            if outline is None:
                raise ConfigError(
                    f"no room in the tissue for {what} {len(placed) + 1} of {len(areas)} ({target:.0f} px^2)",
                    remedy="a larger slide, fewer decoys or regions, or a smaller lesion_fraction",
                )
            placed.append(outline)
            centre = outline.mean(0)
            rim = 1 + 2 * self.step / np.sqrt(area(outline))
            free &= ~rasterise(
                centre + max(1.2, rim) * (outline - centre), self.shape, (self.step, self.step)
            )
        return tuple(placed)


class _Renderer:
    """Composes bands of pixels from the layout."""

    def __init__(self, settings: Phantom, layout: _Layout, rng: np.random.Generator) -> None:
        self._settings, self._layout = settings, layout
        stain = Stain.jittered(rng, settings.jitter)
        self._colours = stain.table()
        self._glass = np.tile(stain.background(), (BAND, BLOCK, 1))
        um = 1 / settings.mpp
        self._fine, self._coarse = fibres(1280, 1.6 * um, 11), fibres(1152, 2.6 * um, 12).T
        # Their common period is beyond any slide. In cells of `_slow_step` px.
        self._slow = (clouds(512, 10.0, 13), clouds(450, 10.0, 15))
        self._slow_step = 16
        self._clumps = clouds(512, 4.0, 14)  # in cells of CLUMP_STEP_UM
        self._offsets = rng.integers(0, 1 << 20, (4, 2))
        width = settings.shape[0]
        self._scatters = [
            (Scatter(kind, settings.mpp, width, (settings.seed, 2, k)), density)
            for k, (kind, density) in enumerate(
                ((STROMAL, self._stromal), (SMALL, self._small), (LESIONAL, self._lesional))
            )
        ]
        self._clumping = rng.uniform(3.0, 6.0)
        self._crowding = rng.uniform(0.8, 1.0, 2)  # lesion, decoy: how full their lattices are on this slide

    def bands(self) -> Iterator[UInt8[np.ndarray, "rows width 3"]]:
        """The slide from top to bottom, 256 rows at a time."""
        height = self._settings.shape[1]
        for top in range(0, height, BAND):
            yield self._band(top, min(BAND, height - top))

    def _band(self, top: int, rows: int) -> UInt8[np.ndarray, "rows width 3"]:
        width = self._settings.shape[0]
        band = np.empty((rows, width, 3), np.uint8)
        near = self._layout.tissue[top // self._layout.step : -(-(top + rows) // self._layout.step)]
        margin = max(scatter.side for scatter, _ in self._scatters)
        nuclei = np.zeros((rows + 2 * margin, width + 2 * margin), np.uint8)
        if near.any():
            for scatter, density in self._scatters:
                scatter.stamp(nuclei, top, density, margin)
        nuclei = nuclei[margin : margin + rows, margin : margin + width]
        for left in range(0, width, BLOCK):
            columns = slice(left // self._layout.step, -(-(left + BLOCK) // self._layout.step))
            part = (slice(None), slice(left, left + BLOCK))
            if near[:, columns].any():
                band[part] = self._block(top, left, nuclei[part])
            else:
                band[part] = self._glass[:rows, : min(BLOCK, width - left)]
        return band

    def _block(
        self, top: int, left: int, nuclei: UInt8[np.ndarray, "rows cols"]
    ) -> UInt8[np.ndarray, "rows cols 3"]:
        """Colour of a block: eosin from fibres and clouds, haematoxylin from haze and nuclei."""
        shape = nuclei.shape
        grain = [
            window(texture, top + int(dy), left + int(dx), shape).astype(np.int16)
            for texture, (dy, dx) in zip((self._fine, self._coarse), self._offsets[:2], strict=True)
        ]
        # Patches of either texture, not their sum: fibres run one way in one place.
        slow, mix = (self._clouds(top, left, shape, k).astype(np.int16) for k in (2, 3))
        fibre = grain[1] + (((grain[0] - grain[1]) * np.clip((mix - 96) * 2, 0, 127)) >> 7)
        tissue = self._upsampled(self._layout.tissue, top, left, shape).astype(np.int16)
        cellular = self._upsampled(self._layout.cellular, top, left, shape).astype(np.int16)
        # Solid where positive, glass where negative: the border and the clefts follow the fibres.
        border = tissue - EDGE + ((slow - 128) >> 1)
        cleft = ((slow + fibre + (cellular >> 1)) >> 1) - 64
        solid = np.clip((np.minimum(border, cleft) + ((fibre - 128) >> 2)) * 16, 0, 255)
        eosin = np.clip(30 + (((fibre - 128) * 90) >> 8) + ((slow - 128) >> 3) - (cellular >> 5), 4, 255)
        haze = np.clip(5 + ((cellular * 3) >> 4) + ((slow - 128) >> 5), 0, 255)
        amounts = np.empty((*shape, 2), np.uint8)
        amounts[..., 0] = (eosin * solid) >> 8
        amounts[..., 1] = np.maximum((haze * solid) >> 8, nuclei)  # no cleft cuts a nucleus
        return np.asarray(np.take(self._colours, amounts.view("<u2")[..., 0], axis=0))

    def _upsampled(
        self, coarse: UInt8[np.ndarray, "y x"], top: int, left: int, shape: tuple[int, int]
    ) -> UInt8[np.ndarray, "rows cols"]:
        """Part of a map of the layout at full resolution; neighbouring parts agree at their seam."""
        step = self._layout.step
        rows = slice(max(0, top // step - 2), -(-(top + shape[0]) // step) + 2)
        cols = slice(max(0, left // step - 2), -(-(left + shape[1]) // step) + 2)
        near = coarse[rows, cols]
        if near.min() == near.max():
            return np.full(shape, near[0, 0], np.uint8)
        return _magnified(near, top / step - rows.start, left / step - cols.start, step, shape)

    def _clouds(self, top: int, left: int, shape: tuple[int, int], k: int) -> UInt8[np.ndarray, "rows cols"]:
        """Slow variation over the slide; `k` picks one of two that differ in where they begin."""
        step = self._slow_step
        y, x = top // step - 2, left // step - 2
        dy, dx = (int(offset) for offset in self._offsets[k])
        near = (-(-shape[0] // step) + 5, -(-shape[1] // step) + 5)
        first, second = (window(texture, y + dy, x + dx, near).astype(np.int16) for texture in self._slow)
        both = np.clip(128 + (((first + second - 256) * 90) >> 7), 0, 255)  # 90 / 128: 1 / sqrt 2
        return _magnified(both.astype(np.uint8), top / step - y, left / step - x, step, shape)

    def _at(
        self, coarse: UInt8[np.ndarray, "y x"], x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
    ) -> UInt8[np.ndarray, " n"]:
        rows = np.clip(y // self._layout.step, 0, self._layout.shape[0] - 1).astype(np.int64)
        cols = np.clip(x // self._layout.step, 0, self._layout.shape[1] - 1).astype(np.int64)
        return np.asarray(coarse[rows, cols])

    def _stromal(self, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        sparse = 200 - np.minimum(self._at(self._layout.cellular, x, y), 200)
        return np.asarray(
            np.where(self._at(self._layout.tissue, x, y) > EDGE + 20, sparse, 0).astype(np.uint8)
        )

    def _small(self, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """Dense in decoys, and here and there in the stroma.

        Clumps of about a lesional nucleus's size make a decoy as grainy as a lesion at low resolution.
        """
        sparse = np.where(self._at(self._layout.tissue, x, y) > EDGE + 20, 4, 0)
        cells = (np.stack([y, x]) * self._settings.mpp / CLUMP_STEP_UM).astype(np.int64)
        clump = self._clumps[cells[0] % len(self._clumps), cells[1] % len(self._clumps)]
        full = np.clip(self._crowding[1] - 0.1 + (clump / 255.0 - 0.5) * self._clumping, 0, 1)
        return np.asarray(np.maximum(sparse, full * self._at(self._layout.decoy, x, y)).astype(np.uint8))

    def _lesional(self, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        return np.asarray((self._crowding[0] * self._at(self._layout.lesion, x, y)).astype(np.uint8))


def _magnified(
    near: UInt8[np.ndarray, "y x"], top: float, left: float, step: int, shape: tuple[int, int]
) -> UInt8[np.ndarray, "rows cols"]:
    """Bilinear magnification of the part of `near` that begins at (top, left), in its cells."""
    box = (left, top, left + shape[1] / step, top + shape[0] / step)
    image = Image.fromarray(near)
    pad_x, pad_y = max(0, int(np.ceil(box[2])) - image.width), max(0, int(np.ceil(box[3])) - image.height)
    if pad_x or pad_y:
        image = Image.fromarray(np.pad(near, ((0, pad_y), (0, pad_x)), mode="edge"))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box=box))


def _blurred(inside: Bool[np.ndarray, "rows cols"], sigma: float) -> UInt8[np.ndarray, "rows cols"]:
    """255 inside, 0 outside, 128 at the border: blurred by about a Gaussian of `sigma` cells."""
    return np.asarray(Image.fromarray(inside.view(np.uint8) * 255).filter(ImageFilter.GaussianBlur(sigma)))
