"""`Reading`, how a slide is read: how many tiles, drawn how, and when it is enough."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_ats.arguments import not_negative, whole_number
from wsi_ats.catalogue import is_random, refuse_unknown_sampler
from wsi_ats.errors import ConfigError

TILES, REPEATS = 64, 16
"""A fixed reading, where nothing else is asked for: tiles, and the rounds that they are dealt out to."""
ADAPTIVE_TILES = 512
"""An adaptive reading: tiles at most."""
GROWTH = 1.5
"""An adaptive reading draws so many times the tiles of the draw before: each look is one more chance to stop by
luck."""


@dataclass(frozen=True)
class Reading:
    """A reading: how a slide is to be read. Raises `ConfigError` where a slide cannot be read like that.

    >>> Reading.of(tiles=32)
    Reading(tiles=32, sampler='systematic', repeats=16, tolerance=None, seed=0)
    >>> Reading.of(tolerance=0.02).tiles
    512
    """

    tiles: int = TILES
    """Tiles to draw a slide; with a tolerance the most to read, for which `Reading.of` has a better default."""
    sampler: str = "systematic"
    """Name of the sampler; "all" reads every tissue tile."""
    repeats: int = REPEATS
    """Rounds that the drawn tiles are dealt out to, for the error of their answer."""
    tolerance: float | None = None
    """Reach of the interval within which reading stops; None: `tiles` are drawn."""
    seed: int = 0
    """Seed of the draws, which depend on it and on the slide's name alone."""

    @classmethod
    def of(
        cls,
        tiles: int | None = None,
        sampler: str = "systematic",
        seed: int = 0,
        repeats: int | None = None,
        tolerance: float | None = None,
    ) -> Reading:
        """A reading in which None stands for what suits a fixed or, with a tolerance, an adaptive one.

        Raises `ConfigError` where a slide cannot be read like that.
        """
        if tiles is None:
            tiles = TILES if tolerance is None else ADAPTIVE_TILES
        return cls(tiles, sampler, REPEATS if repeats is None else repeats, tolerance, seed)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("tiles", self.tiles, 1),
            ("repeats", self.repeats, 1),
            ("seed", self.seed, 0),
        ):
            object.__setattr__(self, name, whole_number(name, value, least))
        refuse_unknown_sampler(self.sampler)
        if self.tolerance is not None:
            self._check_tolerance(self.tolerance)

    def _check_tolerance(self, tolerance: float) -> None:
        not_negative("tolerance", tolerance, "start with 0.05")
        if not is_random(self.sampler):
            raise ConfigError(
                f"tolerance is {tolerance} and the sampler {self.sampler}, which draws nothing at random: no spread to "
                "judge",
                "leave the tolerance away, or use the sampler systematic",
            )
        if min(self.tiles, self.repeats) < 2:
            raise ConfigError(
                f"tolerance is {tolerance}, with tiles {self.tiles} and repeats {self.repeats}: one round alone has no "
                "spread",
                "give at least 2 of both",
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of tiles to draw, one after the other, until it is enough.

        >>> Reading.of(tiles=32).sizes, Reading.of(tolerance=0.02).sizes, Reading.of(tiles=50, tolerance=0.02).sizes
        ((32,), (64, 96, 144, 216, 324, 486, 512), (25, 38, 50))
        """
        if self.tolerance is None:
            return (self.tiles,)
        sizes = [min(TILES, max(2, self.tiles // 2))]
        while sizes[-1] < self.tiles:
            sizes.append(min(int(GROWTH * sizes[-1] + 0.5), self.tiles))
        return tuple(sizes)

    def falls_short(self, reach: float) -> bool:
        """Whether there is a tolerance, and an interval that reaches so far is not within it; nan never is."""
        return self.tolerance is not None and not reach <= self.tolerance
